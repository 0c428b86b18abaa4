"""The one training loop for teacher and student: what differs is the objective and where batches come from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cgankd.config import FitConfig
from cgankd.data.batches import Batch, chunks
from cgankd.data.pixels import to_unit
from cgankd.fit.device import PLAIN, Forward, Plan, autocast, channels_last, device_of
from cgankd.fit.loop import Loop
from cgankd.fit.pieces import Halves, Losses, Steps
from cgankd.fit.ranks import sum_gradients
from cgankd.fit.schedule import make_schedule
from cgankd.fit.tuning import freeze, head_rates, set_training
from cgankd.fit.watch import Watch, with_setback
from cgankd.rng import generator, seed_all
from cgankd.types import Images, PredictFn, Split, Task

CACHED_PIXELS = 32 * 96 * 96
"""Pixels of a batch that a net enlarges itself."""


class Objective(Protocol):
    """What a training minimises: the net, the augmented images and their batch, to {"loss": ..., parts}.

    `extra` holds modules of its own that move or are kept with the net (None where there are none); `parameters` are
    those of `extra` that the optimiser moves, `no_decay` the ones among them without weight decay, `rates` those with a
    learning rate of their own, as a multiple of the net's.
    """

    extra: nn.Module | None

    def parameters(self) -> list[nn.Parameter]: ...

    def no_decay(self) -> list[nn.Parameter]: ...

    def rates(self) -> list[tuple[nn.Parameter, float]]: ...

    def __call__(self, net: Forward, unit_BCHW: Tensor, batch: Batch, step: int) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Feed:
    """What a training is shown: the batch of each step, how its images [B, C, H, W] in [0, 1] are augmented, then mixed."""

    batch_of: Callable[[int], Batch]
    augment: Callable[[Tensor, torch.Generator], Tensor]
    mix: Callable[[Tensor, Batch, int], tuple[Tensor, Batch]] | None = None
    """Augmented images, their batch and the step to mixtures and the batch with their labels; None = none are mixed."""


def make_optimizer(
    net: nn.Module,
    cfg: FitConfig,
    extra: Sequence[nn.Parameter] = (),
    no_decay: Sequence[nn.Parameter] = (),
    rates: Sequence[tuple[nn.Parameter, float]] = (),
) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or AdamW; weight decay on weights of two or more dimensions only.

    `extra` parameters move with those of the net; `no_decay` names parameters that take no weight decay whatever their
    shape. `rates` gives parameters a multiple of the learning rate, kept as `rate` of their group.
    """
    exempt, seen = {id(p) for p in no_decay}, {id(p) for p in net.parameters()}
    rate_of = {id(p): rate for p, rate in rates}
    moving = [p for p in net.parameters() if p.requires_grad] + [p for p in extra if id(p) not in seen]
    groups: list[dict[str, Any]] = []
    for rate in (1.0, *sorted(set(rate_of.values()) - {1.0})):
        ours = [p for p in moving if rate_of.get(id(p), 1.0) == rate]
        decay = [p for p in ours if p.ndim > 1 and id(p) not in exempt]
        plain = [p for p in ours if p.ndim <= 1 or id(p) in exempt]
        own = {} if rate == 1.0 else {"rate": rate, "lr": cfg.learning_rate * rate}
        groups += [
            {"params": decay, "weight_decay": cfg.weight_decay} | own,
            {"params": plain, "weight_decay": 0.0} | own,
        ]
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=cfg.learning_rate, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=cfg.learning_rate, fused=True)


def fit_predictor(
    net: nn.Module,
    objective: Objective,
    feed: Feed,
    cfg: FitConfig,
    loop: Loop,
    *,
    validate: Callable[[nn.Module], float | None] | None = None,
    keep_last: bool = False,
) -> None:
    """Train `net` in place for `cfg.num_steps` steps; `cfg.tune` says how much of it moves.

    Every draw is a function of (seed, step), so a resumed run ends on the same weights. It is saved every `loop.save_every`
    steps (None = every 200 or a fifth of the training, whichever is more) and every minute; with `keep_last` the finished state
    is saved too, so that a later training need not repeat this one. All is computed on the plan's device; draws are made on the
    processor, so that every device sees the same batches, and the net is left there.
    Losses, weights or outputs that are not finite are dealt with as `with_setback` says; `validate` may raise NotFinite, and
    gives None where there is nothing to log. Raises Diverged.
    """
    nets = [module for module in (net, objective.extra) if module is not None]
    for module in nets:
        channels_last(module).to(loop.plan.device)
    frozen = freeze(net, cfg.tune)
    section = f"{loop.section}." if loop.section else ""
    with_setback(
        loop,
        f"{section}learning_rate",
        nets,
        lambda: _fit(net, objective, feed, cfg, loop, validate=validate, keep_last=keep_last),
        f"{section}precision",
    )
    for p in frozen:
        p.requires_grad_(True)
    for module in nets:
        module.to("cpu")


def _fit(
    net: nn.Module,
    objective: Objective,
    feed: Feed,
    cfg: FitConfig,
    loop: Loop,
    *,
    validate: Callable[[nn.Module], float | None] | None,
    keep_last: bool,
) -> None:
    seed, plan, device, extra = loop.seed, loop.plan, loop.plan.device, objective.extra
    rates = [*head_rates(net, cfg.head_rate), *objective.rates()]
    optimizer = make_optimizer(net, cfg, objective.parameters(), objective.no_decay(), rates)
    factor = make_schedule(cfg.schedule, cfg.num_steps, cfg.milestones)
    start = 0
    state = loop.state()
    if state is not None:
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        if extra is not None:
            extra.load_state_dict(state["extra"])
        start = int(state["step"])
    log_every = max(1, cfg.num_steps // 50)
    save_every = max(200, cfg.num_steps // 5)

    def kept() -> dict[str, object]:
        state: dict[str, object] = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
        return state if extra is None else state | {"extra": extra.state_dict()}

    watch = Watch(loop, kept)
    # All steps count, done or not, so that a resumed training computes as one that was never stopped.
    forward = Forward(net, cfg.precision, plan, cfg.num_steps * cfg.batch_size)
    steps = Steps(net, bool(getattr(objective, "by_image", False)), plan.say)
    for step in range(start, cfg.num_steps):
        set_training(net, cfg.tune)
        if extra is not None:
            extra.train()
        seed_all(seed, "fit", step)
        plan.step()
        batch = feed.batch_of(step).to(device)
        unit_BCHW = feed.augment(to_unit(batch.images_BCHW), generator(seed, "augment", step))
        if feed.mix is not None:
            unit_BCHW, batch = feed.mix(unit_BCHW, batch, step)
        for group in optimizer.param_groups:
            group["lr"] = cfg.learning_rate * factor(step) * group.get("rate", 1.0) * loop.rate
        losses, done = judged(objective, forward, step, len(unit_BCHW)), step + 1
        parts = watch.around(steps.gradient, losses, unit_BCHW, batch, optimizer.zero_grad)
        watch.see(parts["loss"], done)
        sum_gradients(optimizer)
        optimizer.step()
        if done % log_every == 0 or done == cfg.num_steps:
            values = {name: value.item() for name, value in parts.items()}
            watch.check({"loss": values["loss"]})
            if validate and (done % (5 * log_every) == 0 or done == cfg.num_steps):
                score = validate(net)
                values |= {} if score is None else {"val": score}
            loop.log(done, values, cfg.num_steps)
        if loop.saves(done, cfg.num_steps, save_every, last=keep_last):
            watch.save(done, {"step": done} | kept())
    watch.check_state()


def judged(objective: Objective, forward: Forward, step: int, full: int) -> Losses:
    """The objective at a step on a batch of `full` images, or on pieces of it."""

    def losses(unit_BCHW: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        if len(unit_BCHW) < full and forward.plan.device != "cpu":
            forward.run = forward.net  # gradients of pieces add up over replays of a graph, which would overwrite them
        return objective(forward, unit_BCHW, batch, step)

    return losses


def make_predict(
    net: nn.Module, precision: str, batch_size: int = 512, *, plan: Plan = PLAIN, expected: int = 0
) -> PredictFn:
    """A net in eval mode as a function of uint8 images [B, C, H, W] giving float32 outputs [B, O].

    `expected` images are to come, by which `plan` decides whether to compile; its device gets the net. The net is
    used where it is, so that one in training is validated there. On the processor a net that enlarges its images gets fewer
    at a time, which is faster: see `fitting_batch`.
    """
    run: Callable[..., Tensor] | None = None
    halves = Halves(plan.say)
    if plan.device != "cpu":
        net.to(plan.device)
    else:
        batch_size = min(batch_size, fitting_batch(net))

    @torch.inference_mode()
    def predict(images_BCHW: Images) -> Tensor:
        nonlocal run
        was_training = net.training
        net.eval()
        parts, device = [], device_of(net)
        with autocast(precision, device):
            for chunk in chunks(images_BCHW, batch_size):
                x_BCHW = to_unit(chunk.to(device)).contiguous(memory_format=torch.channels_last)
                run = run or plan.inference(net, "predictor", (x_BCHW,), images=expected, batch_size=batch_size)
                plan.step()
                parts.append(halves(run, x_BCHW).float().cpu())
        net.train(was_training)
        return torch.cat(parts)

    return predict


def fitting_batch(net: nn.Module) -> int:
    """Images at a time whose maps stay in the processor's cache, for nets that enlarge them; no limit for others.

    EfficientNet-Lite0 at 96 px answers 240 to 270 images a second of one core with 16 to 32 at a time, 150 with 512.
    """
    found = [getattr(module, "input_size", None) for module in net.modules()]
    sides = [side for side in found if isinstance(side, int)]
    return max(8, CACHED_PIXELS // max(sides) ** 2) if sides else sys.maxsize


def mean_score(task: Task, predict: PredictFn, split: Split) -> float:
    """The headline of a predictor on a split: mean of `task.score`."""
    return float(task.score(predict(split.images), split.labels).double().mean())
