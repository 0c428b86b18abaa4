"""Training of a last layer alone: the features below it are computed once for a few augmented views, its steps take seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cgankd.config import ConfigError, FitConfig
from cgankd.data.batches import Mixture, chunks
from cgankd.data.pixels import to_unit
from cgankd.fit.device import autocast, channels_last
from cgankd.fit.loop import Loop
from cgankd.fit.predictor import make_optimizer
from cgankd.fit.schedule import make_schedule
from cgankd.fit.watch import Watch, with_setback
from cgankd.rng import generator, seed_all
from cgankd.types import Images, LogFn, PredictFn, Task, silent

AugmentFn = Callable[[Tensor, torch.Generator], Tensor]
CHUNK = 128
"""Images whose features are computed at a time."""


@dataclass(frozen=True)
class HeadFeed:
    """What a last layer is trained on: the rows of each step, how their images are augmented, images to validate on."""

    data: Mixture
    augment: AugmentFn
    val: Images
    shown: LogFn = silent
    """Where the features report, in images passed through the net, views counted."""


@torch.no_grad()
def features(
    net: nn.Module,
    images_NCHW: Images,
    augment: AugmentFn | None,
    cfg: FitConfig,
    loop: Loop,
    passed: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Input of the last layer [V, N, F] of `head_views` views of each image, or of the one plain view.

    Every view is a function of (seed, view, place of its first image); `passed` hears how many images each pass was of.
    Raises ConfigError where the net shows none.
    """
    views = []
    for view in range(1 if augment is None else cfg.head_views):
        parts = []
        for place, chunk in enumerate(chunks(images_NCHW, CHUNK)):
            unit = to_unit(chunk.to(loop.plan.device))
            if augment is not None:
                unit = augment(unit, generator(loop.seed, "head view", view, place))
            with autocast(cfg.precision, loop.plan.device):
                out = net.outputs(unit.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
            if out.pooled is None or not isinstance(out.head, nn.Linear):
                raise ConfigError(
                    f"tune head needs a net whose last layer is linear, and {cfg.net} has none; set tune to all"
                )
            parts.append(out.pooled.float().cpu())
            passed(len(unit))
        views.append(torch.cat(parts))
    return torch.stack(views)


def fit_head(
    net: nn.Module, task: Task, feed: HeadFeed, cfg: FitConfig, loop: Loop, validate: Callable[[PredictFn], float]
) -> None:
    """Train the last layer of `net` in place for `cfg.num_steps` steps on hard labels; all below it stays as it is.

    `validate` scores a predictor on `feed.val`. A resumed run computes the features anew and ends on the same weights.
    Numbers that are not finite are dealt with as `with_setback` says. Raises Diverged, and ConfigError where the net's last
    layer is not linear.
    """
    plan, data = loop.plan, feed.data
    channels_last(net).to(plan.device).eval()
    splits = [split for split in (data.real, data.bank) if split is not None]
    total, done = len(feed.val) + cfg.head_views * sum(len(split.images) for split in splits), 0

    def passed(count: int) -> None:
        nonlocal done
        done += count
        feed.shown(done, {}, total)

    val_NF = features(net, feed.val, None, cfg, loop, passed)[0]
    sets = [features(net, split.images, feed.augment, cfg, loop, passed) for split in splits]
    feature_VNF = torch.cat(sets, dim=1)
    net.to("cpu")
    head = net.outputs(to_unit(data.real.images[:1])).head  # type: ignore[operator]
    section = f"{loop.section}." if loop.section else ""
    with_setback(
        loop,
        f"{section}learning_rate",
        [head],
        lambda: _fit(head, task, (feature_VNF, val_NF), data, cfg, loop, validate),
        f"{section}precision",
    )


def _fit(
    head: nn.Module,
    task: Task,
    features: tuple[Tensor, Tensor],
    data: Mixture,
    cfg: FitConfig,
    loop: Loop,
    validate: Callable[[PredictFn], float],
) -> None:
    seed, (feature_VNF, val_NF) = loop.seed, features
    optimizer = make_optimizer(head, cfg, rates=[(p, cfg.head_rate) for p in head.parameters()])
    factor = make_schedule(cfg.schedule, cfg.num_steps, cfg.milestones)
    start, state = 0, loop.state()
    if state is not None:
        head.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])
    log_every, save_every = max(1, cfg.num_steps // 50), loop.save_every or max(200, cfg.num_steps // 5)
    watch = Watch(loop, lambda: {"net": head.state_dict(), "optimizer": optimizer.state_dict()})
    for step in range(start, cfg.num_steps):
        seed_all(seed, "fit", step)
        batch = data.batch(step)
        view_B = torch.randint(len(feature_VNF), batch.index_B.shape, generator=generator(seed, "augment", step))
        for group in optimizer.param_groups:
            group["lr"] = cfg.learning_rate * factor(step) * group.get("rate", 1.0) * loop.rate
        loss = task.loss(head(feature_VNF[view_B, batch.index_B]), batch.labels_B)
        done = step + 1
        watch.see(loss, done)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if done % log_every == 0 or done == cfg.num_steps:
            values = {"loss": loss.item()}
            if done % (5 * log_every) == 0 or done == cfg.num_steps:
                values["val"] = validate(answering(head, val_NF))
            loop.log(done, values, cfg.num_steps)
        if loop.saves(done, cfg.num_steps, save_every, last=False):
            watch.save(done, {"step": done, "net": head.state_dict(), "optimizer": optimizer.state_dict()})
    watch.check_state()


def answering(head: nn.Module, feature_NF: Tensor) -> PredictFn:
    """What a last layer says of images whose features are known."""

    @torch.no_grad()
    def predict(images_BCHW: Images) -> Tensor:
        assert len(images_BCHW) == len(feature_NF), "the images whose features these are"
        out_NO: Tensor = head(feature_NF)
        return out_NO

    return predict
