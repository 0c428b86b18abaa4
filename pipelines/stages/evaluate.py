"""Stage `evaluate`: the only reader of the test split; means, paired intervals, verdict and the student to ship."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from cgankd.config.distill import arm_label, distiller_label
from cgankd.data.store.datasets import read_split
from cgankd.fit.predictor import make_predict, mean_score
from cgankd.labels.task import make_task
from cgankd.measure.predictive import mean_sd, paired_gain
from cgankd.measure.verdict import best_arm, choose, verdict
from cgankd.types import Headline
from pipelines.files.artifacts import read_record
from pipelines.networks.distilled import load_student
from pipelines.networks.predictor import load_predictor
from pipelines.pictures import stages as pictures
from pipelines.runtime.context import Context
from pipelines.runtime.machine import image_memory
from pipelines.stages.same_data import info_of
from pipelines.stages.table import render
from pipelines.tracking.names import evaluate_names


def run(ctx: Context) -> None:
    """Score every student on test; the arm to ship was settled by validation scores before the test split is read."""
    dataset, teacher_path, students, _ = ctx.inputs(
        "dataset.h5", "teacher.safetensors", "students", "students/runs.json"
    )
    runs = read_record(students / "runs.json", ("arms", "seeds", "settings", "teacher_val"))
    info = info_of(dataset, ctx.cfg.data)
    task = make_task(info, ctx.cfg)
    val = {name: [run["val"] for run in arm["runs"]] for name, arm in runs["arms"].items()}
    uses_bank = {name: bool(arm["switches"]["bank"]) for name, arm in runs["arms"].items()}
    choice = choose(val, uses_bank, task.headline)

    split = read_split(dataset, "test", image_memory(ctx.cfg.data))
    teacher, teacher_config = load_predictor(teacher_path, info, task)
    many = len(split)
    predict = make_predict(teacher, teacher_config["precision"], plan=ctx.plan, expected=many)
    teacher_test = mean_score(task, predict, split)
    log, total = ctx.progress("test"), sum(len(arm["runs"]) for arm in runs["arms"].values())
    test: dict[str, list[float]] = {name: [] for name in val}
    best: dict[str, dict[str, Any]] = {}

    def score(file: str) -> float:
        net, config = load_student(students / file, info, task)
        return mean_score(task, make_predict(net, config["precision"], plan=ctx.plan, expected=many), split)

    for name, arm in runs["arms"].items():
        for run_ in arm["runs"]:
            test[name].append(score(run_["file"]))
            log(sum(map(len, test.values())), {}, total)
        kept = [run_["best"] for run_ in arm["runs"] if "best" in run_]
        if kept:
            best[name] = _best([score(one["file"]) for one in kept], [one["step"] for one in kept])

    confidence = ctx.cfg.evaluate.confidence
    result = {
        "headline": asdict(task.headline),
        "confidence": confidence,
        "num_seeds": len(runs["seeds"]),
        "seeds": runs["seeds"],
        "dataset": ctx.digests["dataset.h5"],
        "student": {key: runs["settings"][key] for key in ("net", "width", "protocol")}
        | {"distiller": distiller_label(runs["settings"])},
        "steps": runs["settings"]["num_steps"],
        "batch_size": runs["settings"]["batch_size"],
        "teacher": teacher_test,
        "teacher_val": runs["teacher_val"],
        "arms": {
            name: _scores(test[name], val[name])
            | {"uses_bank": uses_bank[name]}
            | _gains(name, test, choice.best_real, task.headline, confidence)
            | {"distiller": arm_label(runs["settings"], runs["arms"][name]["switches"])}
            | ({"best": best[name]} if name in best else {})
            for name in test
        },
        "chosen_arm": choice.chosen,
        "best_real_arm": choice.best_real,
        "best_bank_arm": choice.best_bank,
        "verdict": verdict(choice, test, task.headline, confidence),
    }
    ctx.write_json("evaluate", result)
    ctx.tracker.metrics(evaluate_names(result))
    ctx.tracker.tags({"chosen_arm": choice.chosen})
    ctx.tracker.verdict(result["verdict"])
    _ship(ctx, runs, choice.chosen, test, task.headline)
    ctx.picture("arms", pictures.arms_with_intervals(result))
    ctx.picture("gains", pictures.gains_with_intervals(result))
    ctx.show(render(result))


def _scores(test: list[float], val: list[float]) -> dict[str, Any]:
    """Test and validation scores of an arm over its seeds."""
    mean, sd = mean_sd(test)
    val_mean, val_sd = mean_sd(val)
    return {"mean": mean, "sd": sd, "values": test, "val_mean": val_mean, "val_sd": val_sd}


def _gains(
    name: str, test: dict[str, list[float]], best_real: str, headline: Headline, confidence: float
) -> dict[str, float]:
    """Paired gains of an arm over plain training on real images, and over the best arm without fakes."""
    entry: dict[str, float] = {}
    for key, rival in (("gain", "real"), ("rival_gain", best_real)):
        if name != rival and name != "real":
            gain = paired_gain(
                test[rival], test[name], higher_is_better=headline.higher_is_better, confidence=confidence
            )
            entry |= {key: gain.gain, f"{key}_low": gain.low, f"{key}_high": gain.high}
    return entry


def _best(values: list[float], steps: list[int]) -> dict[str, Any]:
    """Test scores of the weights of the best validation points, and at which steps those were."""
    mean, sd = mean_sd(values)
    return {"mean": mean, "sd": sd, "values": values, "steps": steps}


def _ship(ctx: Context, runs: dict[str, Any], chosen: str, test: dict[str, list[float]], headline: Headline) -> None:
    """Copy the chosen arm's best seed on validation to artifacts/student.safetensors with all that rebuilds it."""
    scores = [run["val"] for run in runs["arms"][chosen]["runs"]]
    seed_names = [str(i) for i in range(len(scores))]
    best = int(best_arm(seed_names, dict(zip(seed_names, [[s] for s in scores], strict=True)), headline))
    run = runs["arms"][chosen]["runs"][best]
    weights, config = ctx.load_weights(f"students/{run['file']}")
    config |= {"arm": chosen, "seed": run["seed"], "val": run["val"], "test": test[chosen][best]}
    assert math.isfinite(config["test"])
    ctx.save_weights("student", weights, config | {"settings": runs["settings"]})
    ctx.say(f"ship artifacts/student.safetensors: arm {chosen}, seed {run['seed']} (its best on validation)")
