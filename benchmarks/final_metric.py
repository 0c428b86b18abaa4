"""The final metric under both arithmetics: test error of the same small students, seed by seed, plain against fast.

Plain: fp32, eager. Fast: bf16 and channels-last, the students compiled; GAN and M1 are too short to be worth a compilation
and stay eager, as they would in a stage (biggan_step and ccgan_step compare the compiled step). Three subjects on the digits
that come with scikit-learn: a student on real images; a student on the fakes of one GAN that went through M1; and the whole
path GAN, M1, student, run anew for each seed. Differences are paired by seed; two trainings that differ in the last bits
drift apart as two seeds do, so that the interval, not the single difference, says whether the arithmetic moves the result:
it must lie within TOLERANCE of zero.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.subjects import ratio_config
from benchmarks.timing import Side, child, fast_plan
from cgankd.bank import build as bank
from cgankd.bank.m1_features import make_features, make_predict_label, train_features
from cgankd.bank.m1_ratio import make_ratio, train_ratio
from cgankd.config import BankConfig, CganConfig, DataConfig, TeacherConfig
from cgankd.data.augment import augment
from cgankd.data.batches import Mixture
from cgankd.data.dataset import Dataset
from cgankd.data.digits import load_digits
from cgankd.fit.device import PLAIN, Plan
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import fit_predictor, make_predict, mean_score
from cgankd.gan.sample import make_draw
from cgankd.gan.train import train_cgan
from cgankd.measure.predictive import mean_sd, paired_gain
from cgankd.nets.features import FeatureNet
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.nets.zoo import make_predictor
from cgankd.rng import seed_all
from cgankd.task import ClassTask
from cgankd.types import Split
from pipelines.machine import set_threads

TITLE = "Test error in % of small students on the digits, fp32 eager against bf16, channels-last, students compiled"
SEEDS = tuple(range(8))
TOLERANCE = 1.5
"""Points: the whole interval of the difference must lie within this of zero, so that few or wild seeds prove nothing."""


def digits() -> tuple[Dataset, ClassTask]:
    """20 training images a class."""
    cfg = DataConfig(
        task="class", source="digits", root="", image_size=16, channels=1, train_per_label=20, num_train=None,
        val_per_label=10, num_val=None, test_share=None, num_test=None, label_min=None, label_max=None,
    )  # fmt: skip
    data = load_digits(cfg, 0)
    return data, ClassTask(data.info)


def student_error(
    side: Side, data: Dataset, task: ClassTask, fakes: Split | None, seed: int, plan: Plan, quick: bool
) -> float:
    """Test error in % of a student on real images, or half of them fakes."""
    seed_all(seed, "student")
    info = data.info
    net = make_predictor(
        "convnet",
        num_outputs=task.num_outputs,
        channels=1,
        image_size=16,
        width=8,
        mean=info.pixel_mean,
        std=info.pixel_std,
    )
    cfg = TeacherConfig(
        net="convnet", width=8, num_steps=20 if quick else 300, batch_size=64, optimizer="adamw", learning_rate=0.003,
        weight_decay=0.01, schedule="onecycle", augment="shift", precision=precision(side),
    )  # fmt: skip
    mixture = Mixture(data.train, fakes, real_share=None if fakes is None else 0.5, batch_size=64, seed=seed)
    shift = partial(shifted, cfg.augment)
    fit_predictor(net, Plain(task), mixture.batch, shift, cfg, seed=seed, plan=plan)
    return mean_score(task, make_predict(net, cfg.precision), data.test)


def shifted(names: str, unit_BCHW: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
    """Augmented images [B, C, H, W]."""
    return augment(unit_BCHW, names, gen)


def precision(side: Side) -> Any:
    """bf16 on the fast side even where the machine has no units for it: the question is what it does to the result."""
    return "fp32" if side == "plain" else "bf16"


def subsampled_fakes(side: Side, data: Dataset, task: ClassTask, seed: int, quick: bool) -> Split:
    """Fakes of a small GAN that passed M1."""
    vicinity, train, kind = task.vicinity(data.train.labels), data.train, precision(side)
    cfg = CganConfig(
        width=8, z_dim=32, embed_dim=16, num_steps=10 if quick else 200, d_steps=1, batch_size=32, lr_g=3e-4, lr_d=4e-4,
        beta1=0.0, beta2=0.99, ema=0.99, ema_start=50, diffaugment="translation,cutout", cutout_share=0.35,
        diversity_weight=3.0, precision=kind, vicinity=None, label_input=None,
    )  # fmt: skip
    seed_all(seed, "embed")
    net, embed, _ = train_cgan(train, task, vicinity, task.label_embed(cfg.embed_dim), cfg, seed=seed)
    draw = make_draw(net, embed, z_dim=cfg.z_dim, precision=kind)
    few = 5 if quick else 100
    settings = ratio_config(
        quick=True, feature_width=64, feature_channels=8, feature_steps=few, hidden=(64, 32), num_steps=few, batch_size=64,
        pool_size=512, pool_refresh_steps=50, eval_every_steps=few, precision=kind, learning_rate=1e-3,
        ratio_penalty=0.5, penalty_per_label=True,
    )  # fmt: skip
    seed_all(seed, "ratio")
    features = FeatureNet(1, 16, 8, 64, task.num_outputs, decode=False)
    train_features(features, train, data.val, task, settings, plain_view, seed=seed)
    features.requires_grad_(False)
    run: Any = make_features(features, kind)
    mlp, predict_label = RatioMLP(cfg.embed_dim, 64, settings.hidden, 0.5), make_predict_label(features, task, kind)
    embed.requires_grad_(True)
    train_ratio(mlp, embed, run, train, data.val, task, vicinity, draw, predict_label, settings, math.inf, seed=seed)
    return cut_bank(partial(bank.score, draw, make_ratio(mlp, embed, run), no_teacher, task), task, seed, quick)


def plain_view(unit_BCHW: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
    """The images as they are."""
    return unit_BCHW


def no_teacher(images_BCHW: Any) -> torch.Tensor:
    """Equal outputs: M2 is off."""
    return torch.zeros(len(images_BCHW), 10)


def cut_bank(score_fn: bank.ScoreFn, task: ClassTask, seed: int, quick: bool) -> Split:
    """The subsampled bank, as the bank stage cuts it."""
    cfg = BankConfig(
        num_fakes=40 if quick else 400, subsample=True, filter=False, replace=False, rho=1.0, filter_scope="label",
        label_bin=None, num_conditions=None, bound_quantile=0.95, burn_in=50, max_draws_factor=1000.0, batch_size=50,
        block_size=50, refuse_worthless=False,
    )  # fmt: skip
    conditions = bank.arrange(task, torch.arange(10), cfg, seed=seed)
    limits = bank.burn_in(score_fn, conditions, cfg, seed=seed)
    blocks = list(bank.grow_pool(score_fn, conditions, limits, cfg, ["subsample"], seed=seed))
    asked, ratio, error, uniform = (
        torch.cat([getattr(s, name) for s in blocks]) for name in ("asked", "ratio", "teacher_error", "uniform")
    )
    columns = bank.Columns(task.filter_groups(asked), ratio, error, uniform)
    rows = bank.select("subsample", columns, limits, conditions.quota_G)
    return Split(torch.cat([s.images for s in blocks])[rows], asked[rows])


def errors(side: Side, quick: bool) -> dict[str, list[float]]:
    """Test errors of each subject, one a seed."""
    data, task = digits()
    plan = PLAIN if side == "plain" else replace(fast_plan(quick), device="cpu")
    seeds = SEEDS[:2] if quick else SEEDS
    banks = [subsampled_fakes(side, data, task, seed, quick) for seed in seeds]
    student = partial(student_error, side, data, task, plan=plan, quick=quick)
    return {
        "student on real images": [student(None, seed) for seed in seeds],
        "student on the fakes of one GAN after M1": [student(banks[0], seed) for seed in seeds],
        "GAN, M1 and student, anew for each seed": [
            student(fakes, seed) for fakes, seed in zip(banks, seeds, strict=True)
        ],
    }


def compare(quick: bool) -> dict[str, Any]:
    """Both sides and their paired differences with 95 % intervals."""
    if quick:
        plain, fast = errors("plain", True), errors("fast", True)
    else:
        plain, fast = (
            child("final_metric", ["--part", side], large_blocks=side == "fast") for side in ("plain", "fast")
        )
    rows = [row(name, plain[name], fast[name]) for name in plain]
    holds = quick or all(found["holds"] for found in rows)
    return {"name": "final_metric", "title": TITLE, "quick": quick, "rows": rows, "holds": holds}


def row(name: str, plain: list[float], fast: list[float]) -> dict[str, Any]:
    """Means, spreads, fast minus plain with its Student t interval over the seeds, and whether the metric is unchanged."""
    difference = paired_gain(plain, fast, higher_is_better=True, confidence=0.95)
    low, high = difference.low, difference.high
    return {
        "name": name, "plain": plain, "fast": fast, "difference": difference.gain, "low": low, "high": high,
        "holds": low >= -TOLERANCE and high <= TOLERANCE,
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        f"| subject | plain, mean (sd) | fast, mean (sd) | fast - plain | 95 % interval | within {TOLERANCE} points |",
        "|---|---|---|---|---|---|",
    ]
    for one in found["rows"]:
        means = ["{:.2f} ({:.2f})".format(*mean_sd(one[side])) for side in ("plain", "fast")]
        span = f"{one['low']:+.2f} to {one['high']:+.2f}"
        verdict = "yes" if one["holds"] else "NO"
        lines.append(f"| {one['name']} | {' | '.join(means)} | {one['difference']:+.2f} | {span} | {verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--part", choices=("plain", "fast"), help="one side alone, as JSON")
    options = parser.parse_args()
    set_threads()
    print(json.dumps(errors(options.part, options.quick)) if options.part else table(compare(options.quick)))
