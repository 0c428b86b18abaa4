"""M1, step 2b: the density ratio r(x given y) = p_real / p_fake, fitted by the cSP loss (arXiv 2103.11166)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.config import RatioConfig
from cgankd.fit.device import PLAIN, Plan, autocast, device_of
from cgankd.nets.gans.label_embed import embed_labels
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.features import FeatureFn, JudgeFn, RowsFn, feature_rows
from cgankd.ratio.partners import FakeSource, draw_pool
from cgankd.rng import generator, seed_all
from cgankd.types import Checkpoint, Draw, Images, LogFn, RatioFn, Split, Task, Vicinity, silent

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


def train_ratio(
    mlp: RatioMLP,
    embed: nn.Module,
    features: FeatureFn,
    train: Split,
    val: Split,
    task: Task,
    vicinity: Vicinity,
    draw: Draw,
    judge: JudgeFn,
    cfg: RatioConfig,
    zeta: float,
    *,
    seed: int,
    log: LogFn = silent,
    checkpoint: Checkpoint | None = None,
    rows: RowsFn = torch.empty,
    plan: Plan = PLAIN,
) -> dict[str, float]:
    """Fit the ratio in place, keep the weights best on validation, calibrate `mlp.scale`; see `ratio_report`.

    `embed` must not be the generator's own module: where it is learned, this loop moves it together with the MLP.
    zeta is the vicinity in raw units, infinite for exact matching, which asks for no `judge`. A pool of one batch
    refreshed each step is the published procedure; a larger one spares the generator. Raises ValueError where the loss is
    not finite or every fake leaves the vicinity. The features of all training images are kept in `rows(N, F)`. The networks
    train on the plan's device and are left on the processor.
    """
    total, device = cfg.num_steps, plan.device
    source = FakeSource(draw, features, judge, vicinity, zeta, cfg.max_redraws)
    real_NF, val_NF = feature_rows(features, train.images, rows), features(val.images)
    num_eval = max(EVAL_FAKES, len(val))
    held = draw_pool(source, val.labels, num_eval, generator(seed, "ratio evaluation"))
    held_label_P = val.labels[held.partner]
    mlp.to(device)
    embed.to(device)
    learned = list(mlp.parameters()) + (list(embed.parameters()) if embed.trained_with_gan else [])
    betas = (cfg.beta1, cfg.beta2)
    optimizer = torch.optim.Adam(learned, lr=cfg.learning_rate, betas=betas, weight_decay=cfg.weight_decay, fused=True)
    both = nn.ModuleDict({"mlp": mlp, "embed": embed})
    start, best_loss, best_step, best = 0, float("inf"), 0, copy.deepcopy(both.state_dict())
    val_loss = FLAT_LOSS  # of the ratio before the first evaluation, about 1 everywhere
    state: Any = checkpoint.load() if checkpoint else None
    if state is not None:
        both.load_state_dict(state["both"])
        optimizer.load_state_dict(state["optimizer"])
        start, best_loss, best_step, best = (state[k] for k in ("step", "best_loss", "best_step", "best"))
        val_loss = state["val_loss"]

    pool, pool_turn = None, -1
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
        features_2BF = torch.cat([real_NF[real_B], pool.features[row_B]]).to(device)
        with autocast(cfg.precision, device):
            h_BE = embed_labels(embed, label_B)
            r_2B = mlp(torch.cat([h_BE, h_BE]), features_2BF)
        r_real_B, r_fake_B = r_2B.chunk(2)
        group_B = task.filter_groups(label_B).to(device) if cfg.penalty_per_label else None
        loss = ratio_loss(r_real_B, r_fake_B, cfg.ratio_penalty, group_B)
        if not torch.isfinite(loss):
            raise ValueError(
                f"ratio.learning_rate: the ratio loss is {loss.item()} at step {step}; lower the rate or set "
                "ratio.precision to fp32"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

        done = step + 1
        if done % cfg.eval_every_steps == 0 or done == total:
            r_val_N = ratio_of(mlp, embed, val_NF, val.labels)
            r_held_P = ratio_of(mlp, embed, held.features, held_label_P)
            held_group_P = task.filter_groups(held_label_P) if cfg.penalty_per_label else None
            val_loss = float(ratio_loss(r_val_N, r_held_P, cfg.ratio_penalty, held_group_P))
            if val_loss < best_loss:
                best_loss, best_step, best = val_loss, done, copy.deepcopy(both.state_dict())
        if done % max(1, total // 100) == 0 or done == total:
            values = {"loss": loss.item(), "real": r_real_B.mean().item(), "fake": r_fake_B.mean().item()}
            log(done, values | {"val_loss": val_loss}, total)
        if checkpoint and (done % max(50, total // 10) == 0 or done == total):
            kept: dict[str, object] = {
                "best_loss": best_loss,
                "best_step": best_step,
                "best": best,
                "val_loss": val_loss,
            }
            kept |= {"step": done, "both": both.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.save(done, kept)

    both.load_state_dict(best)
    both.eval()
    report = ratio_report(mlp, embed, features, real_NF, train.labels, draw, generator(seed, "ratio report"))
    report |= {"mean_val_real": float(ratio_of(mlp, embed, val_NF, val.labels).mean())}
    report |= {"val_loss": best_loss, "flat_loss": FLAT_LOSS, "best_step": float(best_step)}
    both.to("cpu")
    return report | {"redrawn_share": held.redrawn_share, "dropped_share": held.dropped_share}


def ratio_report(
    mlp: RatioMLP,
    embed: nn.Module,
    features: FeatureFn,
    real_NF: Tensor,
    label_N: Tensor,
    draw: Draw,
    gen: torch.Generator,
) -> dict[str, float]:
    """Uncalibrated mean ratios and the share of exact zeros on fresh fakes; sets `mlp.scale` to 1 / mean on fakes.

    The labels asked for are training labels, drawn at random, each used as it is when the bank is sampled.
    """
    num = min(REPORT_FAKES, max(EVAL_FAKES, len(label_N)))
    asked_M = label_N[torch.randint(len(label_N), (num,), generator=gen)]
    r_M = torch.cat([ratio_of(mlp, embed, features(draw(ask, gen)), ask) for ask in torch.split(asked_M, CHUNK)])
    mean_fake = float(r_M.mean())
    mlp.scale.fill_(1.0 / mean_fake if mean_fake > 0 else 1.0)
    return {
        "mean_fake": mean_fake,
        "zero_share": float((r_M == 0).float().mean()),
        "scale": float(mlp.scale),
        "mean_train_real": float(ratio_of(mlp, embed, real_NF, label_N).mean()),
    }


@torch.no_grad()
def ratio_of(mlp: RatioMLP, embed: nn.Module, features_NF: Tensor, label_N: Tensor) -> Tensor:
    """Uncalibrated ratios [N] of features already computed, without dropout; computed where the networks are."""
    device = device_of(mlp)
    mlp.eval()
    embed.eval()
    chunks = zip(torch.split(features_NF, CHUNK), torch.split(label_N, CHUNK), strict=True)
    parts = [mlp(embed_labels(embed, y), f.to(device)).cpu() for f, y in chunks]
    return torch.cat(parts)


def make_ratio(mlp: RatioMLP, embed: nn.Module, features: FeatureFn) -> RatioFn:
    """r(x given y) [B] of uint8 images, calibrated by `mlp.scale` so that its mean on fakes is 1."""

    def ratio(images_BCHW: Images, label_B: Tensor) -> Tensor:
        return ratio_of(mlp, embed, features(images_BCHW), label_B) * mlp.scale.cpu()

    return ratio
