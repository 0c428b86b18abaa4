"""Stage `teacher`: ordinary supervised training on the real training images, or a teacher that the user brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from cgankd.config import TeacherConfig, to_dict
from cgankd.data.augment import augment
from cgankd.data.batches import Mixture
from cgankd.data.mix import Mixing
from cgankd.data.store.datasets import read_split
from cgankd.fit.device import Plan
from cgankd.fit.loop import Loop
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, fit_predictor, make_predict, mean_score
from cgankd.labels.task import make_task
from cgankd.rng import derive, seed_all
from cgankd.types import DatasetInfo, Split, Task
from pipelines.networks.own_teacher import check_channels, find_file, load_own_teacher, other_unit
from pipelines.networks.predictor import build_predictor
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
        loop = Loop(ctx.seed, ctx.plan, ctx.progress("teacher"), ctx.checkpoint("teacher"))
        net, config = trained(cfg, info, task, train, val, loop)
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
    cfg: TeacherConfig, info: DatasetInfo, task: Task, train: Split, val: Split, loop: Loop
) -> tuple[nn.Module, dict[str, Any]]:
    """teacher.net after its training, and the config that rebuilds it; `loop` has the seed of the whole run."""
    check_channels(cfg, info)
    seed_all(loop.seed, "teacher")
    config: dict[str, Any] = {"net": cfg.net, "width": cfg.width, "precision": cfg.precision}
    if cfg.mean is not None and cfg.std is not None:
        config |= {"mean": list(cfg.mean), "std": list(cfg.std)}
    net = build_predictor(config, info, task.num_outputs, pretrained=cfg.pretrained)
    seed = derive(loop.seed, "teacher")
    data = Mixture(train, None, real_share=None, batch_size=cfg.batch_size, seed=seed)
    mixing = None if cfg.mix == "none" else Mixing(cfg, "any", task.mixed_labels, seed)
    fit_predictor(
        net,
        Plain(task),
        Feed(data.batch, lambda unit, gen: augment(unit, cfg.augment, gen), mixing),
        cfg,
        replace(loop, seed=seed),
        validate=lambda n: mean_score(task, make_predict(n, cfg.precision), val),
    )
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
