"""One student run in a worker process: an arm's switches and a seed in, weights and validation score out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cgankd.config import ArmConfig, Config, ConfigError, to_dict
from cgankd.data.augment import augment
from cgankd.data.store.datasets import read_info, read_split
from cgankd.data.store.stream import MemoryBudget
from cgankd.distill.table import TeacherTable, rows_of
from cgankd.fit.best import Best
from cgankd.fit.course import Setback
from cgankd.fit.device import CompileMode, Plan
from cgankd.fit.head import HeadFeed, fit_head
from cgankd.fit.loop import Loop
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, Objective, fit_predictor, make_predict
from cgankd.fit.tuning import freeze
from cgankd.fit.watch import sound
from cgankd.labels.task import make_task
from cgankd.measure.groups import group_scores
from cgankd.rng import derive, seed_all
from cgankd.types import PredictFn, Split
from pipelines.files.artifacts import ResumeFile, config_path, delete_progress, load_weights, save_weights
from pipelines.files.distillers import own_field
from pipelines.files.kept_runs import read_sealed, write_sealed
from pipelines.files.writing import SHORT_S
from pipelines.locks.holding import one_at_a_time
from pipelines.networks.predictor import training_bytes
from pipelines.networks.weights import Weights, start
from pipelines.students.arm_rows import bank_rows, bank_split, soft_weights
from pipelines.students.distil_arm import Student, distilled_run, train_phases
from pipelines.students.stored_views import Source, mixing_of, stored_views, view_facts
from pipelines.students.teacher_outputs import cached_table, end_to_end, table_of_pool


def score_key(headline: str) -> str:
    """Under which key the validation score that evaluate.headline asks for is recorded."""
    return "val_balanced" if headline == "balanced" else "val"


@dataclass(frozen=True)
class Job:
    """All that one run needs; `out` carries the fingerprint of it, so a finished file can be trusted."""

    name: str
    arm: ArmConfig
    seed: int
    stage: str
    config: Config
    dataset: Path
    teacher: Path
    pool: Path
    out: Path
    init: Path | None
    memory_bytes: float
    """What this run may fill with images at rest; changes no number."""
    teacher_key: dict[str, str]
    """Digests of all that the teacher's outputs on the images of this run depend on."""
    compile: CompileMode = "off"
    device: str = "cpu"
    weights: Weights | None = None
    """The file that student.weights names."""

    @property
    def record(self) -> Path:
        return self.out.with_suffix(".json")

    @property
    def best(self) -> Path:
        """The weights of the best validation point, where student.keep_best asks for them."""
        return self.out.with_name(f"{self.out.stem}-best.safetensors")

    def finished(self) -> bool:
        """Weights and record are there as they were written (the record last); what is damaged counts for none."""
        return read_sealed(self.record, self._keys) is not None

    @property
    def _keys(self) -> tuple[str, ...]:
        return ("val", "val_balanced", "curves", *(["best"] if self.config.student.keep_best else []))

    def mark_used(self) -> None:
        """Give a finished run the time of now, by which pipelines.files.kept_runs tells what is longest unused, and
        forget how far it once was."""
        self.record.touch()
        delete_progress(self.out.parent, f"{self.out.stem}-*.resume")

    def read(self) -> dict[str, Any]:
        """Validation score and curves. Raises ConfigError."""
        found = read_sealed(self.record, self._keys)
        if found is None:
            raise ConfigError(f"{self.record} or a file of its run was damaged meanwhile; run `cgankd student` again")
        return found

    def result(self) -> dict[str, Any]:
        record = self.read()
        found = record | {"weights": str(self.out), "seed": self.seed}
        return found | ({"best_weights": str(self.best)} if "best" in record else {})

    def checkpoint(
        self,
        phase: str,
        on_save: Callable[[], object] = lambda: None,
        on_load: Callable[[int, Any], None] = lambda step, companion: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> ResumeFile:
        """Resume storage of one training of this run, beside `out`, whose name is the fingerprint."""
        path = self.out.with_name(f"{self.out.stem}-{phase.replace('.', '-')}.resume")
        return ResumeFile(path, self.out.stem, say, on_save, on_load)

    def starting_from(self, init: Path) -> Job:
        return replace(self, init=init)

    def need_bytes(self) -> float:
        """Main memory that the run needs, about."""
        cfg, info = self.config.student, read_info(self.dataset)
        num_outputs = make_task(info, self.config, cfg.scalar_loss).num_outputs
        files = self.dataset.stat().st_size + (self.pool.stat().st_size if self.arm.uses_pool else 0)
        return training_bytes(cfg, info, num_outputs, min(files, self.memory_bytes), self.device)


def teacher_tables(
    job: Job, predict: PredictFn, num_outputs: int, train: Split, bank: Split | None
) -> list[TeacherTable]:
    """The teacher's outputs on real images, then fakes, from the files that all runs share; see student.teacher_cache.

    Of fakes the float16 outputs in the pool serve where half precision is asked for. In full precision real images
    and fakes are one table, so that the teacher sees the same batches as if they were one set in memory.
    """
    folder, precision, bank_images = job.out.parent.parent / "teacher", job.config.student.teacher_cache, None
    extra: list[TeacherTable] = []
    if bank is not None:
        rows = bank_rows(job.pool, job.arm)
        found = table_of_pool(job.pool, rows, job.teacher_key["teacher"], precision)
        extra = [] if found is None else [found]
        bank_images = bank.images if found is None else None
    extras = () if bank_images is not None else ("bank", "unlabelled")
    facts = {k: v for k, v in job.teacher_key.items() if k not in extras}
    images = end_to_end(train.images, bank_images)
    return [cached_table(folder, facts, predict, images, precision, num_outputs), *extra]


def teacher_lookup(
    job: Job, num_outputs: int, train: Split, bank: Split | None
) -> Callable[[PredictFn], Callable[[Tensor], Tensor]]:
    """From the teacher to its outputs [B, O] on the un-augmented images at rows [B], computed once for all runs."""

    def lookup(predict: PredictFn) -> Callable[[Tensor], Tensor]:
        tables = teacher_tables(job, predict, num_outputs, train, bank)
        return lambda index_B: rows_of(tables, index_B)

    return lookup


def train_job(job: Job) -> list[str]:
    """Train one student and write its weights and record. Same job, same bytes, whatever runs beside it: where a search or a
    worker of a killed stage is at the same student, it is waited for and its student taken.

    Returns what was said of compilation and of the weights it started from, for the log of the stage.
    """
    with one_at_a_time(job.out.with_suffix(".lock")) as waited:
        return [] if waited and job.finished() else _train(job)


def _train(job: Job) -> list[str]:
    begun_s = time.monotonic()
    cfg, said = job.config.student.for_arm(job.arm), list[str]()
    plan = Plan(job.device, job.compile, said.append)
    info = read_info(job.dataset)
    task = make_task(info, job.config, job.config.student.scalar_loss)
    memory = MemoryBudget(job.memory_bytes)
    val, train = read_split(job.dataset, "val", memory), read_split(job.dataset, "train", memory)
    bank = bank_split(job.pool, job.arm, memory) if job.arm.uses_pool else None
    # The seed is shared by all arms: same initialisation, same order of real images, so that differences pair up.
    seed = derive(job.config.seed, "student", job.seed, job.stage)
    seed_all(seed, "init")
    net, config = start("student", cfg, info, task.num_outputs, job.weights, said.append)
    if job.init is not None:
        net.load_state_dict(load_weights(job.init)[0])
    fit = cfg.base if job.stage == "base" else cfg
    spec = cfg.strong_augment if job.arm.strong else cfg.augment
    more: Mapping[str, list[tuple[int, float]]] = {}
    setbacks = list[Setback]()
    even = task.filter_groups if cfg.balances(job.arm) else None
    source = Source(train, bank, even)
    student = Student(net, config, info, task, source.mixture(fit, seed), fit, seed, plan)
    student = replace(student, mix=mixing_of(fit, task, seed))
    lookup: Callable[[PredictFn], Callable[[Tensor], Tensor]] = teacher_lookup(job, task.num_outputs, train, bank)
    if cfg.num_views:
        facts = view_facts(job.teacher_key, job.arm)
        views = stored_views(job.out.parent.parent, source, fit, task, (job.config.seed, seed), facts)
        student = replace(student, mix=None, views=views.batches)
        clean = partial(teacher_tables, job, num_outputs=task.num_outputs, train=train, bank=bank)
        lookup = partial(views.lookup, clean=clean)
    objective: Objective = Plain(task)
    inference: nn.Module = net
    feed = Feed(student.batch_of, lambda unit, gen: augment(unit, spec, gen), student.mix)
    freeze(net, cfg.tune)  # before a KD loss is built, whose early phases then leave it alone too
    if job.arm.kd:
        student = replace(student, soft_weight_M=soft_weights(job.pool, job.arm, cfg))
        run = distilled_run(student, job.teacher, lookup, own_field(job.name, job.arm))
        setbacks = train_phases(run, student, feed.augment, job.checkpoint)
        objective, inference, feed = run.objective, run.inference, replace(feed, batch_of=run.batch_of)
        more = run.curves
        if run.record is not None:
            config["distilled"] = run.record
    best = Best(inference, higher_is_better=task.headline.higher_is_better) if cfg.keep_best else None
    by = job.config.evaluate.headline
    history = History(best, by)

    def scored(predict: PredictFn) -> float:
        scores = group_scores(task, sound(predict), val)
        history.balanced = scores.balanced
        return scores.mean

    def warn(text: str) -> None:
        if text.startswith("warning"):  # what resumes is told by nobody's log, as before
            said.append(text)

    who = f"student {job.name} (seed {job.seed})"
    kept = job.checkpoint("train", history.state, history.load, warn)
    loop = Loop(seed, plan, history.log, kept, who=who, section="student")
    if cfg.tune == "head" and not job.arm.kd:
        fit_head(net, task, HeadFeed(student.data, feed.augment, val.images), fit, loop, scored)
    else:
        validate = lambda net: scored(make_predict(inference, cfg.precision))  # noqa: E731
        fit_predictor(net, objective, feed, fit, loop, validate=validate)
    # As it was validated in training: on the same device, in the same arithmetic.
    predict = make_predict(inference, cfg.precision, plan=Plan(job.device))
    scores = group_scores(task, sound(predict, "student.learning_rate"), val)
    inference.to("cpu")
    long = time.monotonic() - begun_s > SHORT_S
    config |= {"info": to_dict(info), "arm": job.name, "seed": job.seed}
    save_weights(job.out, inference, config, synced=long)
    files = [job.out]
    record: dict[str, Any] = {
        "val": scores.mean,
        "val_balanced": scores.balanced,
        "curves": history.curves | dict(more),
    }
    setbacks += [loop.course.setback] if loop.course.setback is not None else []
    if setbacks:
        record["setbacks"] = [vars(found) for found in setbacks]
    if best is not None:
        save_weights(job.best, best.weights, config | {"step": best.step}, synced=long)
        files.append(job.best)
        record["best"] = {"val": best.score, "step": best.step}
    write_sealed(job.record, record, [p for file in files for p in (file, config_path(file))], synced=long)
    job.mark_used()
    return said


class History:
    """The curves of a training and its best point, which a resumed run takes up where they were."""

    def __init__(self, best: Best | None, headline: str = "mean") -> None:
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.best = best
        self.headline = headline
        """What the best point is taken by: evaluate.headline."""
        self.balanced: float | None = None
        """The balanced validation score of the point that is logged next."""

    def log(self, step: int, values: Mapping[str, float], total: int) -> None:
        """One more point of each curve; called right after validation, so that the weights are those of the score.

        A training that goes back to an earlier step forgets what came after that.
        """
        if any(points and points[-1][0] >= step for points in self.curves.values()):
            self.curves = {name: [point for point in points if point[0] < step] for name, points in self.curves.items()}
            if self.best is not None and self.best.step >= step:
                self.best.forget()
        points = dict(values)
        if "val" in values and self.balanced is not None:
            points["val_balanced"] = self.balanced
        for name, value in points.items():
            self.curves.setdefault(name, []).append((step, float(value)))
        if self.best is not None and "val" in values:
            self.best.see(step, float(points[score_key(self.headline)]))

    def state(self) -> dict[str, Any]:
        """What a resume file keeps beside the training's own state."""
        return {"curves": self.curves, "best": None if self.best is None else self.best.state()}

    def load(self, step: int, state: Mapping[str, Any]) -> None:
        """Go on from a resume file written after `step` steps."""
        self.curves = {name: [(int(at), float(v)) for at, v in points] for name, points in state["curves"].items()}
        if self.best is not None:
            self.best.load(state["best"])
