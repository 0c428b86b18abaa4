"""Stage `teacher`: ordinary supervised training on the real training images."""

from __future__ import annotations

from functools import partial

from cgankd.config import to_dict
from cgankd.data.augment import augment
from cgankd.data.batches import Mixture
from cgankd.data.store import read_info, read_split
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import fit_predictor, make_predict, mean_score
from cgankd.rng import derive, seed_all
from cgankd.task import make_task
from pipelines.context import Context
from pipelines.networks import build_predictor


def run(ctx: Context) -> None:
    """Train f_t on D^r; its validation score is reported, nothing is selected on it."""
    cfg = ctx.cfg.teacher
    (path,) = ctx.inputs("dataset.h5")
    info = read_info(path)
    task = make_task(info, ctx.cfg)
    train, val = read_split(path, "train"), read_split(path, "val")
    seed_all(ctx.seed, "teacher")
    config = {"net": cfg.net, "width": cfg.width, "precision": cfg.precision}
    net = build_predictor(config, info, task)
    seed = derive(ctx.seed, "teacher")
    data = Mixture(train, None, real_share=None, batch_size=cfg.batch_size, seed=seed)
    fit_predictor(
        net,
        Plain(task),
        data.batch,
        lambda unit, gen: augment(unit, cfg.augment, gen),
        cfg,
        seed=seed,
        validate=lambda n: mean_score(task, make_predict(n, cfg.precision), val),
        log=ctx.progress("teacher"),
        checkpoint=ctx.checkpoint("teacher"),
    )
    score = partial(mean_score, task, make_predict(net, cfg.precision))
    metrics = {"train": score(train), "val": score(val), "parameters": sum(p.numel() for p in net.parameters())}
    ctx.metrics(metrics)
    ctx.say(
        f"teacher {cfg.net}: {metrics['train']:.2f} {task.headline.unit} on training,"
        f" {metrics['val']:.2f} {task.headline.unit} on validation images"
    )
    ctx.save_weights("teacher", net, config | {"info": to_dict(info)})
