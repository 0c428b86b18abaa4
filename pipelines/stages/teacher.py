"""Stage `teacher`: ordinary supervised training on the real training images, or a teacher that the user brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgankd.config import TeacherConfig, to_dict
from cgankd.data.augment import augment
from cgankd.data.batches import Mixture
from cgankd.data.store.datasets import read_split
from cgankd.fit.device import Plan
from cgankd.fit.head import HeadFeed, fit_head
from cgankd.fit.loop import Loop
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, fit_predictor, make_predict, mean_score
from cgankd.labels.task import make_task
from cgankd.rng import derive, seed_all
from cgankd.types import DatasetInfo, Split, Task
from pipelines.networks.own_teacher import find_file, load_own_teacher, other_unit
from pipelines.networks.weights import find_weights, start
from pipelines.runtime.context import Context
from pipelines.runtime.machine import image_memory
from pipelines.stages.same_data import info_of


def run(ctx: Context) -> None:
    """Train f_t on D^r, or take the one of teacher.file; its validation score is reported, nothing is selected on it."""
    cfg = ctx.cfg.teacher
    (path,) = ctx.inputs("dataset.h5")
    info = info_of(path, ctx.cfg.data)
    task = make_task(info, ctx.cfg, cfg.scalar_loss)
    memory = image_memory(ctx.cfg.data)
    val, train = read_split(path, "val", memory), read_split(path, "train", memory)
    if cfg.file is None:
        weights = find_weights("teacher", cfg, ctx.workdir)
        if weights is not None:
            ctx.digests["teacher.weights"] = weights.digest
            ctx.tracker.tags({"input.teacher_weights": weights.digest[:12]})
        loop = Loop(ctx.seed, ctx.plan, ctx.progress("teacher"), ctx.checkpoint("teacher"))
        begin = partial(start, "teacher", cfg, info, task.num_outputs, weights, ctx.say)
        net, config = trained(cfg, task, begin, train, val, loop)
    else:
        found = find_file(cfg, ctx.workdir)
        ctx.tracker.tags({"input.teacher_file": found[1][:12]})
        net, config = taken(cfg, found, info, task, val, ctx.plan, ctx.say)
    score = partial(mean_score, task, make_predict(net, cfg.precision, plan=ctx.plan))
    metrics = {"train": score(train), "val": score(val), "parameters": sum(p.numel() for p in net.parameters())}
    if cfg.file is not None:
        ctx.progress("teacher")(1, {"val": metrics["val"]}, 1)  # the curve is an output of the stage
    ctx.metrics(metrics)
    ctx.say(
        f"teacher {cfg.net if cfg.file is None else cfg.file}: {metrics['train']:.2f} {task.headline.unit} on training,"
        f" {metrics['val']:.2f} {task.headline.unit} on validation images"
    )
    ctx.save_weights("teacher", net.to("cpu"), config | {"info": to_dict(info)})


def trained(
    cfg: TeacherConfig,
    task: Task,
    begin: Callable[[], tuple[nn.Module, dict[str, Any]]],
    train: Split,
    val: Split,
    loop: Loop,
) -> tuple[nn.Module, dict[str, Any]]:
    """The net that `begin` makes after its training, and the config that rebuilds it; `loop` has the seed of the whole run."""
    seed_all(loop.seed, "teacher")
    net, config = begin()
    seed = derive(loop.seed, "teacher")
    data = Mixture(train, None, real_share=None, batch_size=cfg.batch_size, seed=seed)
    loop = replace(loop, seed=seed)

    def view(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
        return augment(unit_BCHW, cfg.augment, gen)

    if cfg.tune == "head":
        fit_head(net, task, HeadFeed(data, view, val.images), cfg, loop, lambda predict: mean_score(task, predict, val))
        return net, config
    validate = lambda n: mean_score(task, make_predict(n, cfg.precision), val)  # noqa: E731
    fit_predictor(net, Plain(task), Feed(data.batch, view), cfg, loop, validate=validate)
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
    net, config = load_own_teacher(cfg, file, info, task, val.images[:])
    other = other_unit(cfg.output_unit, info, task, make_predict(net, cfg.precision, plan=plan), val)
    if other is not None:
        say(f"warning: {other}")
    if cfg.file_digest is None:
        say(f"note: set teacher.file_digest to {digest[:16]}, so that DVC and this stage notice another file")
    return net, config | {"file": file.name, "file_digest": digest}
