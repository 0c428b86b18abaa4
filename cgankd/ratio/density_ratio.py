"""M1, step 2b: the density ratio r(x given y) = p_real / p_fake, fitted by the cSP loss (arXiv 2103.11166)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.config import RatioConfig
from cgankd.fit.device import autocast, device_of
from cgankd.fit.loop import Loop
from cgankd.fit.ranks import backward, spread, sum_gradients
from cgankd.fit.schedule import make_schedule
from cgankd.fit.watch import Watch, with_setback
from cgankd.nets.gans.label_embed import embed_labels
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.features import FeatureFn, Reals, feature_rows
from cgankd.ratio.partners import FakeSource, draw_pool
from cgankd.rng import generator, seed_all
from cgankd.types import Images, RatioFn, Task

EVAL_FAKES = 1000
"""Fakes in the fixed evaluation pool (more where the validation split is larger)."""
REPORT_FAKES = 4000
"""Most fresh fakes used for the final report and for the calibration."""
CHUNK = 1024
"""Rows in one pass outside training."""


def ratio_loss(r_real_B: Tensor, r_fake_B: Tensor, penalty: float, group_fake_B: Tensor | None = None) -> Tensor:
    """cSP loss: mean_fake[s(r) r - softplus(r)] - mean_real[s(r)] + penalty (mean_fake r - 1)^2, s = sigmoid.

    Its minimiser is r = p_real / p_fake. With groups [B] given, the penalty is the average of (mean in a group - 1)^2.
    """
    fit: Tensor = (torch.sigmoid(r_fake_B) * r_fake_B - F.softplus(r_fake_B)).mean() - torch.sigmoid(r_real_B).mean()
    mean_G = r_fake_B.mean()[None]
    if group_fake_B is not None:
        _, slot_B, count_G = torch.unique(group_fake_B, return_inverse=True, return_counts=True)
        sum_G = r_fake_B.new_zeros(len(count_G)).index_add(0, slot_B, r_fake_B)
        mean_G = sum_G / count_G
    return fit + penalty * (mean_G - 1.0).square().mean()


FLAT_LOSS = float(ratio_loss(torch.ones(1), torch.ones(1), 0.0))
"""Loss of the ratio that is 1 everywhere: a fitted ratio must be below it to carry information."""


@dataclass(frozen=True)
class RatioNets:
    """The ratio network and the label embedding it reads, which is trained with it where it is learned.

    The embedding must not be the generator's own module.
    """

    mlp: RatioMLP
    embed: nn.Module


class Mirrored:
    """Images [N, C, H, W] turned left to right, as they are asked for."""

    def __init__(self, images_NCHW: Images) -> None:
        self.images_NCHW = images_NCHW
        self.shape, self.dtype, self.ndim = images_NCHW.shape, images_NCHW.dtype, images_NCHW.ndim

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self.images_NCHW[rows].flip(-1)


def train_ratio(
    nets: RatioNets, source: FakeSource, reals: Reals, task: Task, cfg: RatioConfig, loop: Loop
) -> dict[str, float]:
    """Fit the ratio in place, keep the weights best on validation, calibrate `mlp.scale`; see `ratio_report`.

    A pool of one batch refreshed each step is the published procedure; a larger one spares the generator. The networks train
    on the plan's device and are left on the processor. Numbers that are not finite are dealt with as `with_setback` says.
    Raises Diverged, and ValueError where every fake leaves the vicinity.
    """
    loop, moved = replace(loop, who="density ratio"), [nets.mlp, nets.embed]
    return with_setback(
        loop,
        "ratio.learning_rate",
        moved,
        lambda: _fit(nets, source, reals, task, cfg, loop),
        "ratio.precision",
    )


def _fit(
    nets: RatioNets, source: FakeSource, reals: Reals, task: Task, cfg: RatioConfig, loop: Loop
) -> dict[str, float]:
    mlp, embed, train, val = nets.mlp, nets.embed, reals.train, reals.val
    total, seed, device = cfg.num_steps, loop.seed, loop.plan.device
    real_NF, val_NF = feature_rows(source.features, train.images, reals.rows), source.features(val.images)
    mirrored_NF = feature_rows(source.features, Mirrored(train.images), reals.rows) if cfg.flip else None
    num_eval = max(EVAL_FAKES, len(val))
    held = draw_pool(source, val.labels, num_eval, generator(seed, "ratio evaluation"))
    held_label_P = val.labels[held.partner]
    # Reals and fakes of the loss that chooses have one law of labels.
    judged_M = held.partner if source.targets == "distinct" else torch.arange(len(val))
    mlp.to(device)
    embed.to(device)
    learned = list(mlp.parameters()) + (list(embed.parameters()) if embed.trained_with_gan else [])
    betas = (cfg.beta1, cfg.beta2)
    optimizer = torch.optim.Adam(learned, lr=cfg.learning_rate, betas=betas, weight_decay=cfg.weight_decay, fused=True)
    both = nn.ModuleDict({"mlp": mlp, "embed": embed})
    factor = make_schedule(cfg.schedule, total, cfg.milestones)
    start, best_loss, best_step, best = 0, float("inf"), 0, copy.deepcopy(both.state_dict())
    val_loss = FLAT_LOSS  # of the ratio before the first evaluation, about 1 everywhere
    state = loop.state()
    if state is not None:
        both.load_state_dict(state["both"])
        optimizer.load_state_dict(state["optimizer"])
        start, best_loss, best_step, best = (state[k] for k in ("step", "best_loss", "best_step", "best"))
        val_loss = state["val_loss"]

    watch = Watch(loop, lambda: {"both": both.state_dict(), "optimizer": optimizer.state_dict()})
    (pool, pool_turn), run = (None, -1), spread(mlp)
    for step in range(start, total):
        turn = step // cfg.pool_refresh_steps if cfg.pool_refresh_steps else 0
        if pool is None or turn != pool_turn:
            pool = draw_pool(source, train.labels, cfg.pool_size, generator(seed, "ratio pool", turn))
            pool_turn = turn
        seed_all(seed, "ratio", step)
        both.train()
        row_B = torch.randperm(len(pool), generator=generator(seed, "ratio batch", step))[: cfg.batch_size]
        real_B = pool.partner[row_B]
        label_B = train.labels[real_B]
        real_BF = real_NF[real_B]
        if mirrored_NF is not None:
            flipped_B = torch.rand(len(real_B), generator=generator(seed, "ratio flip", step)) < 0.5
            real_BF = torch.where(flipped_B[:, None], mirrored_NF[real_B], real_BF)
        features_2BF = torch.cat([real_BF, pool.features[row_B]]).to(device)
        for settings in optimizer.param_groups:
            settings["lr"] = cfg.learning_rate * factor(step) * loop.rate
        with autocast(cfg.precision, device):
            h_BE = embed_labels(embed, label_B)
            r_2B = run(torch.cat([h_BE, h_BE]), features_2BF)
        r_real_B, r_fake_B = r_2B.chunk(2)
        group_B = task.filter_groups(label_B).to(device) if cfg.penalty_per_label else None
        loss = ratio_loss(r_real_B, r_fake_B, cfg.ratio_penalty, group_B)
        watch.see(loss, step + 1)
        optimizer.zero_grad(set_to_none=True)
        backward(loss)
        sum_gradients(optimizer)
        optimizer.step()

        done = step + 1
        if done % cfg.eval_every_steps == 0 or done == total:
            r_val_M = ratio_of(nets, val_NF[judged_M], val.labels[judged_M])
            r_held_P = ratio_of(nets, held.features, held_label_P)
            held_group_P = task.filter_groups(held_label_P) if cfg.penalty_per_label else None
            val_loss = float(ratio_loss(r_val_M, r_held_P, cfg.ratio_penalty, held_group_P))
            watch.check({"val_loss": val_loss})
            if val_loss < best_loss:
                best_loss, best_step, best = val_loss, done, copy.deepcopy(both.state_dict())
        if done % max(1, total // 100) == 0 or done == total:
            values = {"loss": loss.item(), "real": r_real_B.mean().item(), "fake": r_fake_B.mean().item()}
            watch.check(values)
            loop.log(done, values | {"val_loss": val_loss}, total)
        if loop.saves(done, total):
            kept: dict[str, object] = {
                "best_loss": best_loss,
                "best_step": best_step,
                "best": best,
                "val_loss": val_loss,
            }
            watch.save(done, {"step": done, **watch.state(), **kept})

    both.load_state_dict(best)
    watch.check_state()
    both.eval()
    report = ratio_report(nets, source, real_NF, train.labels, generator(seed, "ratio report"))
    report |= {"mean_val_real": float(ratio_of(nets, val_NF, val.labels).mean())}
    report |= {"val_loss": best_loss, "flat_loss": FLAT_LOSS, "best_step": float(best_step)}
    both.to("cpu")
    return report | {"redrawn_share": held.redrawn_share, "dropped_share": held.dropped_share}


def ratio_report(
    nets: RatioNets, source: FakeSource, real_NF: Tensor, label_N: Tensor, gen: torch.Generator
) -> dict[str, float]:
    """Uncalibrated mean ratios and the share of exact zeros on fresh fakes; sets `mlp.scale` to 1 / mean on fakes.

    The labels asked for are training labels, drawn at random, each used as it is when the bank is sampled.
    """
    num = min(REPORT_FAKES, max(EVAL_FAKES, len(label_N)))
    asked_M = label_N[torch.randint(len(label_N), (num,), generator=gen)]
    asked = torch.split(asked_M, CHUNK)
    r_M = torch.cat([ratio_of(nets, source.features(source.draw(label_B, gen)), label_B) for label_B in asked])
    mean_fake = float(r_M.mean())
    nets.mlp.scale.fill_(1.0 / mean_fake if mean_fake > 0 else 1.0)
    return {
        "mean_fake": mean_fake,
        "zero_share": float((r_M == 0).float().mean()),
        "scale": float(nets.mlp.scale),
        "mean_train_real": float(ratio_of(nets, real_NF, label_N).mean()),
    }


@torch.no_grad()
def ratio_of(nets: RatioNets, features_NF: Tensor, label_N: Tensor) -> Tensor:
    """Uncalibrated ratios [N] of features already computed, without dropout; computed where the networks are."""
    mlp, embed, device = nets.mlp, nets.embed, device_of(nets.mlp)
    mlp.eval()
    embed.eval()
    chunks = zip(torch.split(features_NF, CHUNK), torch.split(label_N, CHUNK), strict=True)
    parts = [mlp(embed_labels(embed, y), f.to(device)).cpu() for f, y in chunks]
    return torch.cat(parts)


def make_ratio(nets: RatioNets, features: FeatureFn) -> RatioFn:
    """r(x given y) [B] of uint8 images, calibrated by `mlp.scale` so that its mean on fakes is 1."""

    def ratio(images_BCHW: Images, label_B: Tensor) -> Tensor:
        return ratio_of(nets, features(images_BCHW), label_B) * nets.mlp.scale.cpu()

    return ratio
