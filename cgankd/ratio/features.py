"""M1, step 1: the feature space in which the density ratio is taken (arXiv 2103.11166)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.config import RatioConfig
from cgankd.data import pixels
from cgankd.data.batches import chunks
from cgankd.fit.device import PLAIN, Plan, autocast, channels_last, device_of
from cgankd.fit.loop import Loop
from cgankd.fit.pieces import Halves
from cgankd.fit.ranks import backward, spread, sum_gradients
from cgankd.fit.schedule import make_schedule
from cgankd.fit.watch import Watch, check_outputs, with_setback
from cgankd.labels.targets import Rows
from cgankd.nets.features import Extractor
from cgankd.rng import generator
from cgankd.types import Images, Split, Task

FeatureFn = Callable[[Images], Tensor]
"""uint8 images [B, C, H, W] to float32 standardised features [B, F]."""
JudgeFn = Callable[[Images], tuple[Tensor, Tensor]]
"""uint8 images [B, C, H, W] to float32 standardised features [B, F] and predicted labels [B] in raw units."""
AugmentFn = Callable[[Tensor, torch.Generator], Tensor]
"""Augment a batch of [0, 1] pixels."""

RowsFn = Callable[[int, int], Tensor]
"""An empty float32 tensor of so many rows and columns: in memory, or where there is room for one that is too large."""

CHUNK = 256
"""Images in one pass outside training, to bound memory."""


@dataclass(frozen=True)
class Reals:
    """The real images that M1 is fitted on, those that choose the best weights, and where features [N, F] of all the
    first are kept.
    """

    train: Split
    val: Split
    rows: RowsFn = torch.empty


def feature_loss(
    net: Callable[..., Any], x_BCHW: Tensor, label_B: Tensor, task: Task, cfg: RatioConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """label_weight * label loss + reconstruct_weight * pixel MSE + l1_weight * mean |features|, and its parts.

    x_BCHW is in [-1, 1]; the pixel term is left out where the net has no decoder.
    """
    features_BF, out_BO, recon_BCHW = net(x_BCHW)
    parts = {"label": task.loss(out_BO, label_B), "l1": features_BF.abs().mean()}
    loss = cfg.label_weight * parts["label"] + cfg.l1_weight * parts["l1"]
    if recon_BCHW is not None:
        parts["reconstruct"] = F.mse_loss(recon_BCHW, x_BCHW)
        loss = loss + cfg.reconstruct_weight * parts["reconstruct"]
    return loss, parts


def make_optimizer(net: Extractor, cfg: RatioConfig) -> torch.optim.Optimizer:
    """Adam, or SGD with a momentum of 0.9."""
    rate, decay = cfg.feature_learning_rate, cfg.feature_weight_decay
    if cfg.feature_optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), rate, momentum=0.9, weight_decay=decay)
    betas = (cfg.feature_beta1, 0.999)
    return torch.optim.Adam(net.parameters(), rate, betas, weight_decay=decay, fused=True)


def train_features(
    net: Extractor,
    reals: Reals,
    task: Task,
    cfg: RatioConfig,
    augment: AugmentFn,
    loop: Loop,
) -> dict[str, float]:
    """Train the extractor in place, keep the weights best on validation, then fit its `scale` to the training features.

    Returns the validation headline, the loss parts and how much of the feature space is alive.
    Numbers that are not finite are dealt with as `with_setback` says. Raises Diverged.
    """
    loop = replace(loop, who="feature extractor")
    return with_setback(
        loop,
        "ratio.feature_learning_rate",
        [net],
        lambda: _fit(net, reals, task, cfg, augment, loop),
        "ratio.precision",
    )


def _fit(
    net: Extractor, reals: Reals, task: Task, cfg: RatioConfig, augment: AugmentFn, loop: Loop
) -> dict[str, float]:
    train, val = reals.train, reals.val
    total, every = cfg.feature_steps, max(1, cfg.feature_steps // 20)
    plan, device = loop.plan, loop.plan.device
    channels_last(net).to(device)
    optimizer = make_optimizer(net, cfg)
    schedule = make_schedule(cfg.feature_schedule, total, cfg.feature_milestones)
    start, best_score, best_step, best_net = 0, float("inf"), 0, copy.deepcopy(net.state_dict())
    state = loop.state()
    if state is not None:
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        start, best_score, best_step, best_net = (state[k] for k in ("step", "best_score", "best_step", "best_net"))

    watch = Watch(loop, lambda: {"net": net.state_dict(), "optimizer": optimizer.state_dict()})
    net.train()
    rows = Rows(task.targets(train.labels), cfg.targets, task.period)
    run: Callable[..., Any] | None = None
    for step in range(start, total):
        gen = generator(loop.seed, "features", step)
        row_B = rows.draw(cfg.feature_batch_size, gen)
        x_BCHW = pixels.unit_to_signed(augment(pixels.to_unit(train.images[row_B].to(device)), gen))
        plan.step()
        for group in optimizer.param_groups:
            group["lr"] = cfg.feature_learning_rate * schedule(step) * loop.rate
        with autocast(cfg.precision, device):
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
            # All steps count, done or not, so that a resumed training computes as one that was never stopped.
            images = total * cfg.feature_batch_size
            run = run or spread(
                plan.compiled(net, "feature training", (x_BCHW,), images=images, passes=3, graphs=False)
            )
            loss, parts = feature_loss(run, x_BCHW, train.labels[row_B].to(device), task, cfg)
        watch.see(loss, step + 1)
        optimizer.zero_grad(set_to_none=True)
        backward(loss)
        sum_gradients(optimizer)
        optimizer.step()

        done = step + 1
        if done % every == 0 or done == total:
            watch.check()
            score = validation_score(net, val, task, cfg.precision)
            signed = -score if task.headline.higher_is_better else score
            # On a tie the later weights win: early zeros on a small validation split mean little.
            if signed <= best_score:
                best_score, best_step, best_net = signed, done, copy.deepcopy(net.state_dict())
            loop.log(done, {"loss": loss.item(), **{k: v.item() for k, v in parts.items()}, "val": score}, total)
        if loop.saves(done, total):
            kept = {"best_score": best_score, "best_step": best_step, "best_net": best_net}
            watch.save(done, {"step": done, **watch.state(), **kept})

    net.load_state_dict(best_net)
    net.scale.fit(feature_rows(lambda images: raw_features(net, images, cfg.precision), train.images, reals.rows))
    watch.check_state()
    report = features_report(net, val, task, cfg) | {"best_step": float(best_step)}
    net.to("cpu")
    return report


def take_features(net: Extractor, reals: Reals, task: Task, cfg: RatioConfig) -> dict[str, float]:
    """Fit the scale of an extractor that is not trained to the training images; flat numbers of it on validation images."""
    train = reals.train.images
    net.scale.fit(feature_rows(lambda images: raw_features(net, images, cfg.precision), train, reals.rows))
    return features_report(net, reals.val, task, cfg)


def features_report(net: Extractor, val: Split, task: Task, cfg: RatioConfig) -> dict[str, float]:
    """Flat numbers of a trained extractor on the validation split."""
    features_NF = raw_features(net, val.images, cfg.precision)
    report = {
        "val_score": validation_score(net, val, task, cfg.precision),
        "feature_width": float(net.feature_width),
        "active_share": float((features_NF > 0).float().mean()),
        "dead_unit_share": float((features_NF <= 0).all(dim=0).float().mean()),
    }
    if net.decoder is not None:
        report["val_reconstruct_mse"] = reconstruction_error(net, val.images, cfg.precision)
    return report


@torch.no_grad()
def forward_u8(
    net: Extractor,
    images_BCHW: Tensor,
    precision: str,
    run: Callable[..., Any] | None = None,
    *,
    decode: bool = False,
    halves: Halves | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One evaluation pass over uint8 images, where the net is; its mode is put back. `run` is the net, perhaps compiled, which
    `halves` cuts a batch for where memory runs out.
    """
    was_training, device = net.training, device_of(net)
    net.eval()
    with autocast(precision, device):
        x_BCHW, forward = signed_input(images_BCHW, device), run or net
        result: tuple[Tensor, Tensor, Tensor | None] = (
            forward(x_BCHW, decode) if halves is None else halves(lambda x_PCHW: forward(x_PCHW, decode), x_BCHW)
        )
    net.train(was_training)
    return result


def signed_input(images_BCHW: Tensor, device: str = "cpu") -> Tensor:
    """uint8 images as an extractor takes them: pixels in [-1, 1], channels last."""
    return pixels.to_signed(images_BCHW.to(device)).contiguous(memory_format=torch.channels_last)


def raw_features(net: Extractor, images_BCHW: Images, precision: str) -> Tensor:
    """Features [B, F] before standardising."""
    return torch.cat([forward_u8(net, chunk, precision)[0].cpu() for chunk in chunks(images_BCHW, CHUNK)])


def feature_rows(features: FeatureFn, images_NCHW: Images, rows: RowsFn = torch.empty) -> Tensor:
    """Features [N, F] of a whole set in `rows(N, F)`; besides, memory does not grow with the set."""
    start, out_NF = 0, None
    for chunk in chunks(images_NCHW, CHUNK):
        features_BF = features(chunk)
        if out_NF is None:
            out_NF = rows(len(images_NCHW), features_BF.shape[1])
        out_NF[start : start + len(chunk)] = features_BF
        start += len(chunk)
    assert out_NF is not None, "there is at least one chunk"
    return out_NF


def validation_score(net: Extractor, val: Split, task: Task, precision: str) -> float:
    """Mean headline of the label head. Raises NotFinite."""
    out_NO = torch.cat([forward_u8(net, chunk, precision)[1].cpu() for chunk in chunks(val.images, CHUNK)])
    check_outputs(out_NO, "ratio.feature_learning_rate")
    return float(task.score(out_NO, val.labels).mean())


def reconstruction_error(net: Extractor, images_BCHW: Images, precision: str) -> float:
    """Mean squared error of the decoder in [-1, 1] pixels."""
    total = 0.0
    for chunk in chunks(images_BCHW, CHUNK):
        recon_BCHW = forward_u8(net, chunk, precision, decode=True)[2]
        assert recon_BCHW is not None, "the net has a decoder"
        total += float((recon_BCHW.cpu() - pixels.to_signed(chunk)).square().mean()) * len(chunk)
    return total / len(images_BCHW)


class FrozenExtractor:
    """A trained extractor as a function of uint8 images: standardised, clamped features [B, F], without its decoder.

    `expected` images are to come, by which `plan` decides whether to compile; another device than the processor gets a
    copy of the net.
    """

    def __init__(self, net: Extractor, precision: str, plan: Plan = PLAIN, expected: int = 0) -> None:
        self.net = net if plan.device == "cpu" else copy.deepcopy(net).to(plan.device)
        self.precision, self.plan, self.expected = precision, plan, expected
        self.halves = Halves(plan.say)
        self.run: Callable[..., Any] | None = None

    def __call__(self, images_BCHW: Images) -> Tensor:
        """Features [B, F]."""
        return self.outputs(images_BCHW)[0]

    @torch.no_grad()
    def outputs(self, images_BCHW: Images) -> tuple[Tensor, Tensor]:
        """Features [B, F] and outputs of the label head [B, O], in one pass."""
        device, parts = self.plan.device, []
        for chunk in chunks(images_BCHW, CHUNK):
            if self.run is None:
                example = (signed_input(chunk, device), False)
                self.run = self.plan.inference(self.net, "features", example, images=self.expected, batch_size=CHUNK)
            self.plan.step()
            features_BF, out_BO, _ = forward_u8(self.net, chunk, self.precision, self.run, halves=self.halves)
            parts.append((self.net.scale(features_BF).cpu(), out_BO.cpu()))
        features, outs = zip(*parts, strict=True)
        return torch.cat(features), torch.cat(outs)

    def judge(self, images_BCHW: Images, task: Task) -> tuple[Tensor, Tensor]:
        """Features [B, F] and predicted labels [B] in raw units, in one pass."""
        features_BF, out_BO = self.outputs(images_BCHW)
        return features_BF, task.predict(out_BO)
