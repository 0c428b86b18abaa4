"""Small networks on the digits that come with scikit-learn, from a GAN through M1 to the fakes a student trains on."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.subjects import ratio_config
from cgankd.bank import build as bank
from cgankd.config import BankConfig, CganConfig, DataConfig
from cgankd.data.dataset import Dataset
from cgankd.data.readers.digits import load_digits
from cgankd.fit.device import PLAIN, Plan
from cgankd.fit.loop import Loop
from cgankd.gan.sample import make_draw
from cgankd.gan.train import train_cgan
from cgankd.labels.task import ClassTask
from cgankd.nets.features import FeatureNet
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.density_ratio import RatioNets, make_ratio, train_ratio
from cgankd.ratio.features import FrozenExtractor, Reals, train_features
from cgankd.ratio.partners import FakeSource
from cgankd.rng import seed_all
from cgankd.types import Split

BATCH = 64
POOL: dict[str, int] = {"pool_size": 512, "pool_refresh_steps": 50}
"""Each fake is seen 6.25 times."""
PUBLISHED_POOL: dict[str, int] = {"pool_size": BATCH, "pool_refresh_steps": 1}
"""The published step: a batch of fakes drawn anew at each."""
LONG_POOL: dict[str, int] = {"pool_size": 512, "pool_refresh_steps": 100}
"""Each fake is seen 12.5 times, as in the row `ratio_step`."""


def digits() -> tuple[Dataset, ClassTask]:
    """20 training images a class."""
    cfg = DataConfig(
        task="class", source="digits", root="cgankd/data", image_size=16, channels=1, train_per_label=20, num_train=None,
        val_per_label=10, num_val=None, test_share=None, num_test=None, label_min=None, label_max=None,
    )  # fmt: skip
    data = load_digits(cfg, 0)
    return data, ClassTask(data.info)


@dataclass(frozen=True)
class Way:
    """How small networks are trained: in which arithmetic, how their students are computed, and at quick sizes or not."""

    precision: Any
    quick: bool
    plan: Plan = PLAIN


class Gan:
    """A small GAN trained in a precision: its weights, and its settings."""

    def __init__(self, data: Dataset, task: ClassTask, seed: int, way: Way) -> None:
        self.cfg = CganConfig(
            width=8, z_dim=32, embed_dim=16, num_steps=10 if way.quick else 200, d_steps=1, batch_size=32, lr_g=3e-4, lr_d=4e-4,
            beta1=0.0, beta2=0.99, ema=0.99, ema_start=50, diffaugment="translation,cutout", cutout_share=0.35,
            diversity_weight=3.0, precision=way.precision, vicinity=None, label_input=None,
        )  # fmt: skip
        seed_all(seed, "embed")
        vicinity, embed = task.vicinity(data.train.labels), task.label_embed(self.cfg.embed_dim)
        self.net, self.embed, _ = train_cgan(data.train, task, vicinity, embed, self.cfg, Loop(seed))


def subsampled_fakes(
    gan: Gan, data: Dataset, task: ClassTask, seed: int, way: Way, pool: dict[str, int] = POOL
) -> Split:
    """Fakes of a GAN that passed M1, drawn and judged in a precision; the ratio network meets fakes of a pool."""
    vicinity, train = task.vicinity(data.train.labels), data.train
    draw = make_draw(gan.net, gan.embed, z_dim=gan.cfg.z_dim, precision=way.precision)
    few = 5 if way.quick else 200
    settings = ratio_config(
        quick=True, feature_width=64, feature_channels=8, feature_steps=few // 2 + 1, hidden=(64, 32), num_steps=few,
        batch_size=BATCH, eval_every_steps=few, precision=way.precision, learning_rate=1e-3, ratio_penalty=0.5,
        penalty_per_label=True, **pool,
    )  # fmt: skip
    seed_all(seed, "ratio")
    features = FeatureNet(1, 16, 8, 64, task.num_outputs, decode=False)
    reals = Reals(train, data.val)
    train_features(features, reals, task, settings, plain_view, Loop(seed))
    run = FrozenExtractor(features.requires_grad_(False), way.precision)
    mlp = RatioMLP(gan.cfg.embed_dim, 64, settings.hidden, 0.5)
    nets = RatioNets(mlp, copy.deepcopy(gan.embed).requires_grad_(True))
    source = FakeSource(draw, run, partial(run.judge, task=task), vicinity, math.inf, settings.max_redraws)
    train_ratio(nets, source, reals, task, settings, Loop(seed))
    return cut_bank(bank.Scorer(draw, make_ratio(nets, run), no_teacher, task), seed, way.quick)


def plain_view(unit_BCHW: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
    """The images as they are."""
    return unit_BCHW


def no_teacher(images_BCHW: Any) -> torch.Tensor:
    """Equal outputs: M2 is off."""
    return torch.zeros(len(images_BCHW), 10)


def cut_bank(scorer: bank.Scorer, seed: int, quick: bool) -> Split:
    """The subsampled bank, as the bank stage cuts it."""
    cfg = BankConfig(
        num_fakes=40 if quick else 400, subsample=True, filter=False, replace=False, rho=1.0, filter_scope="label",
        label_bin=None, num_conditions=None, bound_quantile=0.95, burn_in=50, max_draws_factor=1000.0, batch_size=50,
        block_size=50, refuse_worthless=False,
    )  # fmt: skip
    task = scorer.task
    source = bank.Source(scorer, bank.arrange(task, torch.arange(10), cfg, seed=seed), cfg, seed)
    limits = bank.burn_in(source)
    blocks = list(bank.grow_pool(source, limits, ["subsample"]))
    asked, ratio, error, uniform = (
        torch.cat([getattr(s, name) for s in blocks]) for name in ("asked", "ratio", "teacher_error", "uniform")
    )
    columns = bank.Columns(task.filter_groups(asked), ratio, error, uniform)
    rows = bank.select("subsample", columns, limits, source.conditions.quota_G)
    return Split(torch.cat([s.images for s in blocks])[rows], asked[rows])
