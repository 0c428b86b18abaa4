"""Stage `student` (M3): train every arm over every seed on real images, or real images and the bank's fakes."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cgankd.bank.build import selection_name
from cgankd.config import ArmConfig, to_dict
from cgankd.config.distill import arm_label
from cgankd.data.store.banks import read_attributes, read_pool_scores
from cgankd.data.store.datasets import read_info, read_split
from cgankd.data.store.writing import sync_all
from cgankd.fit.course import Setback
from cgankd.fit.predictor import make_predict
from cgankd.labels.task import make_task
from cgankd.measure.places import places
from cgankd.measure.verdict import best_arm
from pipelines.engines.choice import run_jobs, share_of
from pipelines.engines.local import Crew
from pipelines.files.artifacts import file_digest, fingerprint, source_digest
from pipelines.files.kept_runs import prune
from pipelines.networks.predictor import load_predictor
from pipelines.networks.weights import find_weights
from pipelines.pictures import stages as pictures
from pipelines.runtime.context import Context
from pipelines.runtime.machine import image_memory, side_by_side
from pipelines.stages.same_data import info_of
from pipelines.students.run_arm import Job, score_key, train_job
from pipelines.tracking.names import child_name

RUN_CODE = ("cgankd", "pipelines/students", "pipelines/networks", "pipelines/files/distillers.py")
"""What a run's numbers depend on."""

KD_SETTINGS = (
    "distiller", "distiller_options", "distillers", "task_weight", "temperature", "soft_weight", "teacher_view",
    "teacher_cache", "spread_weight",
)  # fmt: skip
"""Settings of the student section that only arms with `kd` read."""


def run(ctx: Context) -> None:
    """All arms take the same steps, batch and samples; runs finished before a kill are kept and not repeated."""
    cfg = ctx.cfg.student
    dataset, teacher, pool = ctx.inputs("dataset.h5", "teacher.safetensors", "pool.h5")
    info = info_of(dataset, ctx.cfg.data)
    task = make_task(info, ctx.cfg)
    runner = Runner(ctx, dataset, teacher, pool)
    arms = dict(cfg.arms)
    results = runner.train(arms)
    by = score_key(ctx.cfg.evaluate.headline)
    plain = {name: arm for name, arm in arms.items() if not arm.kd}
    families = {
        "with fakes": [name for name, arm in plain.items() if arm.bank and not arm.unlabelled],
        "with unlabelled images": [name for name, arm in plain.items() if arm.unlabelled and not arm.bank],
        "with fakes and unlabelled images": [name for name, arm in plain.items() if arm.unlabelled and arm.bank],
    }
    for words, names in families.items() if cfg.best_with_kd else ():
        if not names:
            continue
        best = best_arm(names, {name: [run[by] for run in results[name]] for name in names}, task.headline)
        name = f"{best}_kd"
        if name not in arms:
            ctx.say(f"best arm {words} on validation: {best}; training it with KD on top as {name}")
            arms[name] = ArmConfig(**(to_dict(arms[best]) | {"kd": True}))
            results |= runner.train({name: arms[name]})
    longer = {factor: runner.train(arms, factor) for factor in cfg.step_factors}
    _save(ctx, arms, results, runner, longer)
    for name, setback in runner.setbacks.items():
        ctx.setback(name, setback)
    gone, size = prune(runner.cache, runner.used, time.time())
    if gone:
        ctx.say(f"{gone} runs of other settings, longest unused, are no longer kept for reuse ({size / 1e9:.2g} GB)")
    unit = task.headline.unit
    ctx.tracker.tags({"unit": unit, "higher_is_better": str(task.headline.higher_is_better).lower()})
    for name, runs in results.items():
        values, even = (
            torch.tensor([run[key] for run in runs], dtype=torch.float64) for key in ("val", "val_balanced")
        )
        ctx.metrics({f"{name}.val_mean": float(values.mean()), f"{name}.val_sd": float(values.std())})
        ctx.metrics({f"{name}.val_balanced_mean": float(even.mean()), f"{name}.val_balanced_sd": float(even.std())})
        ctx.tracker.metrics({f"val/{name}": float(values.mean()), f"val_sd/{name}": float(values.std())})
        ctx.tracker.metrics({f"val_balanced/{name}": float(even.mean())})
        dec = places([float(values.mean())])
        ctx.say(
            f"{name:>16}: validation {values.mean():.{dec}f} +- {values.std():.{dec}f} {unit} over {len(runs)} seeds"
        )
    curves = {name: _mean_curve(runs, by) for name, runs in results.items()}
    what = "balanced validation" if by == "val_balanced" else "validation"
    ctx.picture("learning_curves", pictures.learning_curves(curves, f"{what} {task.headline.name[5:]} ({unit})"))
    ctx.curve_table("learning_curves", curves)


class Runner:
    """Trains jobs in worker processes of one thread each, so that the numbers do not depend on how many there are."""

    def __init__(self, ctx: Context, dataset: Path, teacher: Path, pool: Path) -> None:
        self.ctx, self.dataset, self.teacher, self.pool = ctx, dataset, teacher, pool
        self.info = read_info(dataset)
        self.task = make_task(self.info, ctx.cfg)
        self.teacher_net, self.teacher_config = load_predictor(teacher, self.info, self.task)
        self.cache = ctx.path("resume") / "student"
        self.cache.mkdir(parents=True, exist_ok=True)
        self.digests = {
            "dataset": file_digest(dataset),
            "teacher": file_digest(teacher),
            "code": source_digest(*RUN_CODE),
        }
        self.weights = find_weights("student", ctx.cfg.student, ctx.workdir)
        self.bank_digests = bank_digests(pool)
        self.memory = image_memory(ctx.cfg.data, ctx.cfg.student.workers or side_by_side(ctx.plan.device))
        self.used: set[str] = set()
        """Fingerprints of the runs that were asked for."""
        self.setbacks: dict[str, Setback] = {}
        """Those of the runs that had one, by arm and seed."""

    def job(self, name: str, arm: ArmConfig, seed: int, stage: str = "arm", factor: int = 1) -> Job:
        """One run with the fingerprint of all that its numbers depend on: the real arms do not depend on the bank.

        `factor` multiplies its steps.
        """
        cfg = self.ctx.cfg
        if factor != 1:
            cfg = replace(cfg, student=replace(cfg.student, num_steps=factor * cfg.student.num_steps))
        settings = to_dict(cfg.student.for_arm(arm))
        # Arms without KD stay as they are whatever loss the others take.
        for key in ("arms", "seeds", "workers", "best_with_kd", "step_factors", *(() if arm.kd else KD_SETTINGS)):
            settings.pop(key, None)
        if not arm.uses_pool:
            settings.pop("spread_weight", None)
        inputs: dict[str, Any] = {
            "data": self.digests["dataset"],
            "code": self.digests["code"],
            "stage": stage,
            "torch": torch.__version__,
            "compile": self.ctx.plan.compile,
            "device": self.ctx.plan.device,
        }
        if arm.kd:
            inputs["teacher"] = self.digests["teacher"]
        if self.weights is not None:
            inputs["weights"] = self.weights.digest
        if cfg.bank.label_bin is not None:  # the ranges of balanced scores and balanced batches
            inputs["label_bin"] = cfg.bank.label_bin
        if cfg.student.keep_best and cfg.evaluate.headline != "mean":
            inputs["headline"] = cfg.evaluate.headline
        selection = selection_name(arm.subsample, arm.filter)
        for source, what, used in (("bank", "fakes", arm.bank), ("unlabelled", "unlabelled images", arm.unlabelled)):
            key = f"{'hard_' if arm.hard else ''}{selection}" if source == "bank" else f"unlabelled {selection}"
            if not used:
                continue
            if key not in self.bank_digests:
                raise ValueError(
                    f"student.arms.{name} needs the {what} selected as {key.split()[-1]!r}, which artifacts/pool.h5 lacks;"
                    " run `cgankd bank` again (the bank stage reads student.arms)"
                )
            inputs[source] = self.bank_digests[key]
        key = fingerprint({"student": settings, "arm": to_dict(arm), "seed": [cfg.seed, seed], "inputs": inputs})
        return Job(
            name=name,
            arm=arm,
            seed=seed,
            stage=stage,
            config=cfg,
            dataset=self.dataset,
            teacher=self.teacher,
            pool=self.pool,
            out=self.cache / f"{key}.safetensors",
            init=None,
            memory_bytes=self.memory.left,
            weights=self.weights,
            teacher_key={
                "teacher": self.digests["teacher"],
                **{k: str(inputs.get(k)) for k in ("data", "bank", "code", "compile", "device")},
                **({"unlabelled": inputs["unlabelled"]} if arm.unlabelled else {}),
            },
            compile=self.ctx.plan.compile,
            device=self.ctx.plan.device,
        )

    def train(self, arms: dict[str, ArmConfig], factor: int = 1) -> dict[str, list[dict[str, Any]]]:
        """Every arm at every seed, for `factor` times the steps; returns arm -> one result a seed, in the order of
        student.seeds."""
        cfg = self.ctx.cfg.student
        bases: dict[int, Job] = {}
        if cfg.protocol == "finetune":
            bases = {seed: self.job("base", ArmConfig(), seed, stage="base") for seed in cfg.seeds}
            self.run(list(bases.values()), "base students")
        # Seed by seed: workers side by side that train one arm would wait for each other's stored views.
        pairs = [(name, seed) for seed in cfg.seeds for name in arms]
        jobs = {(name, seed): self.job(name, arms[name], seed, factor=factor) for name, seed in pairs}
        if bases:
            jobs = {key: job.starting_from(bases[key[1]].out) for key, job in jobs.items()}
        self.run(list(jobs.values()), "students" if factor == 1 else f"students, {factor} times the steps")
        for job in (*bases.values(), *jobs.values()):
            job.mark_used()
            self.used.add(job.out.stem)
            more = "" if factor == 1 else f" x{factor}"
            for number, found in enumerate(job.read().get("setbacks", []), start=1):
                name = f"{job.name} seed {job.seed}{more}" + (f" part {number}" if number > 1 else "")
                self.setbacks[name] = Setback(**found)
        return {name: [jobs[name, seed].result() for seed in cfg.seeds] for name in arms}

    def run(self, jobs: list[Job], title: str) -> None:
        """Train what of these is not finished, side by side."""
        todo = [job for job in jobs if not job.finished()]
        log = self.ctx.progress(title)
        if len(todo) < len(jobs):
            self.ctx.say(f"{len(jobs) - len(todo)} of {len(jobs)} runs were finished before under equal settings: kept")
        workers = self.ctx.cfg.student.workers or side_by_side(self.ctx.plan.device)
        # The arm with most images at rest, of each net; nothing else that differs between arms takes much memory.
        kinds = {(j.arm.uses_pool, j.config.student.net, j.config.student.width): j for j in todo}
        need = max((j.need_bytes() for j in kinds.values()), default=None)
        crew = Crew(workers, "students", need, gpus=share_of(self.ctx.plan.device))
        run_jobs(train_job, todo, crew, lambda count: log(count, {}, len(todo)), self.ctx.say)


def bank_digests(pool: Path) -> dict[str, str]:
    """One digest a selection of the pool, over what its fakes are: their generator, labels and teacher errors.

    The images themselves are a function of those, so an arm whose fakes stay the same is not trained again when
    another arm's selection changes. Of unlabelled images ("unlabelled raw") their file stands in the generator's place.
    """
    scores, made = read_pool_scores(pool, but=("teacher_output",)), read_attributes(pool)
    digests = {}
    for key, rows in scores.items():
        if key.startswith(("in_", "unlabelled_")):
            source = str(made["cgan"] if key.startswith("in_") else made["unlabelled"])
            digest = hashlib.sha256(source.encode())
            for column in ("asked", "predicted", "teacher_error", "uniform"):
                digest.update(scores[column][rows.bool()].numpy().tobytes())
            digests[key.removeprefix("in_").replace("unlabelled_", "unlabelled ", 1)] = digest.hexdigest()
    return digests


Results = dict[str, list[dict[str, Any]]]
"""Arm -> one result a seed."""


def _save(
    ctx: Context, arms: dict[str, ArmConfig], results: Results, runner: Runner, longer: dict[int, Results]
) -> None:
    """artifacts/students/: safetensors and config.json of each run, runs.json with validation scores; child runs.

    `longer` are the runs of more steps by their factor, which have no child runs.
    """
    cfg = ctx.cfg.student
    settings = to_dict(cfg) | {"arms": {name: to_dict(arm) for name, arm in cfg.arms.items()}}
    record: dict[str, Any] = {"seeds": list(cfg.seeds), "settings": settings, "arms": {}}
    predict = make_predict(runner.teacher_net, runner.teacher_config["precision"], plan=ctx.plan)
    val = read_split(runner.dataset, "val", image_memory(ctx.cfg.data))
    record["teacher_val"] = float(runner.task.score(predict(val.images), val.labels).double().mean())
    for name, runs in results.items():
        entries = []
        loss = {"distiller": arm_label(record["settings"], to_dict(arms[name])) or "none"}
        for result in runs:
            file = f"student-{name}-{result['seed']}.safetensors"
            ctx.copy_weights(Path(result["weights"]), f"students/{file}")
            entry: dict[str, Any] = {"seed": result["seed"], "val": result["val"], "file": file}
            if "best" in result:
                best_file = f"student-{name}-{result['seed']}-best.safetensors"
                ctx.copy_weights(Path(result["best_weights"]), f"students/{best_file}")
                entry["best"] = result["best"] | {"file": best_file}
            entries.append(entry)
            child = ctx.tracker.child(
                f"{name} seed {result['seed']}",
                {"arm": name, "seed": result["seed"]} | to_dict(arms[name]),
                {"arm": name, "seed": str(result["seed"]), "group": child_name(ctx.tracker.name, name)} | loss,
            )
            for curve, points in result["curves"].items():
                child.curve(f"student/{curve}", points)
            child.metrics({"result/val": result["val"]})
            if "best" in result:
                child.metrics({f"result/best_{key}": float(value) for key, value in result["best"].items()})
            child.dataset(f"{ctx.cfg.data.source}/dataset.h5", runner.digests["dataset"], "training")
            child.close("FINISHED")
        record["arms"][name] = {"switches": to_dict(arms[name]), "runs": entries}
    for factor, found in longer.items():
        for name, runs in found.items():
            entries = []
            for result in runs:
                file = f"student-{name}-{result['seed']}-x{factor}.safetensors"
                ctx.copy_weights(Path(result["weights"]), f"students/{file}")
                kept = {key: result[key] for key in ("seed", "val", "val_balanced")}
                entries.append(kept | {"file": file})
            record["arms"][name].setdefault("longer", {})[str(factor)] = entries
    sync_all(ctx.new("students"))
    ctx.write_artifact_json("students/runs.json", record)


def _mean_curve(runs: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    points = [run["curves"][key] for run in runs]
    steps = [int(step) for step, _ in points[0]]
    return steps, [sum(run[i][1] for run in points) / len(points) for i in range(len(steps))]
