"""The one training loop for teacher and student: what differs is the objective and where batches come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from cgankd.config import FitConfig
from cgankd.data.batches import Batch, chunks
from cgankd.data.pixels import to_unit
from cgankd.fit.device import PLAIN, Plan, autocast, channels_last
from cgankd.fit.schedule import make_schedule
from cgankd.rng import generator, seed_all
from cgankd.types import Checkpoint, Images, LogFn, PredictFn, Split, Task, silent


class Objective(Protocol):
    """Net outputs, the augmented images they came from and their batch, to {"loss": ..., parts}."""

    def __call__(self, out_BO: Tensor, unit_BCHW: Tensor, batch: Batch) -> Mapping[str, Tensor]: ...


def make_optimizer(net: nn.Module, cfg: FitConfig) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or AdamW; weight decay on weights of two or more dimensions only."""
    decay = [p for p in net.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in net.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": cfg.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=cfg.learning_rate, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=cfg.learning_rate, fused=True)


def fit_predictor(
    net: nn.Module,
    objective: Objective,
    batch_of: Callable[[int], Batch],
    augment: Callable[[Tensor, torch.Generator], Tensor],
    cfg: FitConfig,
    *,
    seed: int,
    validate: Callable[[nn.Module], float] | None = None,
    log: LogFn = silent,
    checkpoint: Checkpoint | None = None,
    plan: Plan = PLAIN,
) -> None:
    """Train `net` in place for `cfg.num_steps` steps; images [B, C, H, W] uint8 come from `batch_of(step)`.

    Every draw is a function of (seed, step), so a run resumed from `checkpoint` ends on the same weights.
    Raises ValueError when the loss is no longer finite.
    """
    channels_last(net)
    optimizer = make_optimizer(net, cfg)
    factor = make_schedule(cfg.schedule, cfg.num_steps, cfg.milestones)
    start = 0
    run: Callable[..., Tensor] | None = None
    state = checkpoint.load() if checkpoint else None
    if state is not None:
        net.load_state_dict(state["net"])  # type: ignore[arg-type]
        optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        start = int(state["step"])  # type: ignore[call-overload]
    log_every = max(1, cfg.num_steps // 50)
    save_every = max(200, cfg.num_steps // 5)
    left = cfg.num_steps - start
    for step in range(start, cfg.num_steps):
        net.train()
        seed_all(seed, "fit", step)
        batch = batch_of(step)
        unit_BCHW = augment(to_unit(batch.images_BCHW), generator(seed, "augment", step))
        for group in optimizer.param_groups:
            group["lr"] = cfg.learning_rate * factor(step)
        with autocast(cfg.precision):
            x_BCHW = unit_BCHW.contiguous(memory_format=torch.channels_last)
            run = run or plan.compiled(net, "predictor", (x_BCHW,), images=left * len(x_BCHW), passes=3)
            out_BO = run(x_BCHW)
        parts = objective(out_BO.float(), unit_BCHW, batch)
        optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        done = step + 1
        if done % log_every == 0 or done == cfg.num_steps:
            values = {name: value.item() for name, value in parts.items()}
            if not values["loss"] < float("inf"):
                raise ValueError(f"training loss became {values['loss']} at step {done}; lower learning_rate")
            if validate and (done % (5 * log_every) == 0 or done == cfg.num_steps):
                values["val"] = validate(net)
            log(done, values, cfg.num_steps)
        if checkpoint and done % save_every == 0 and done < cfg.num_steps:
            checkpoint.save(done, {"step": done, "net": net.state_dict(), "optimizer": optimizer.state_dict()})


def make_predict(
    net: nn.Module, precision: str, batch_size: int = 512, *, plan: Plan = PLAIN, expected: int = 0
) -> PredictFn:
    """A net in eval mode as a function of uint8 images [B, C, H, W] giving float32 outputs [B, O].

    `expected` images are to come, by which `plan` decides whether to compile; its device gets the net.
    """
    device = plan.device
    run: Callable[..., Tensor] | None = None
    if device != "cpu":
        net.to(device)

    @torch.inference_mode()
    def predict(images_BCHW: Images) -> Tensor:
        nonlocal run
        was_training = net.training
        net.eval()
        parts = []
        with autocast(precision, device):
            for chunk in chunks(images_BCHW, batch_size):
                x_BCHW = to_unit(chunk.to(device)).contiguous(memory_format=torch.channels_last)
                run = run or plan.compiled(net, "predictor", (x_BCHW,), images=expected)
                parts.append(run(x_BCHW).float().cpu())
        net.train(was_training)
        return torch.cat(parts)

    return predict


def mean_score(task: Task, predict: PredictFn, split: Split) -> float:
    """The headline of a predictor on a split: mean of `task.score`."""
    return float(task.score(predict(split.images), split.labels).double().mean())
