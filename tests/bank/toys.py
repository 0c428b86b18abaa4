"""Small tasks, settings and an interruptible checkpoint for the tests of the bank."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import torch

from cgankd.config import BankConfig, RatioConfig, VicinityConfig
from cgankd.labels.task import ClassTask, ScalarTask
from cgankd.types import DatasetInfo

RATIO = RatioConfig(
    feature_width=32,
    feature_channels=8,
    feature_steps=60,
    feature_batch_size=32,
    feature_learning_rate=3e-3,
    feature_augment="none",
    reconstruct_weight=0.0,
    l1_weight=0.0,
    label_weight=1.0,
    hidden=(32, 16),
    dropout=0.0,
    num_steps=100,
    batch_size=64,
    learning_rate=1e-3,
    beta1=0.5,
    beta2=0.999,
    weight_decay=1e-4,
    ratio_penalty=0.1,
    penalty_per_label=False,
    vicinity_drop=None,
    max_redraws=3,
    pool_size=256,
    pool_refresh_steps=0,
    eval_every_steps=20,
    precision="fp32",
)
BANK = BankConfig(
    num_fakes=60,
    subsample=True,
    filter=True,
    replace=True,
    rho=0.8,
    filter_scope="label",
    label_bin=None,
    num_conditions=None,
    bound_quantile=1.0,
    burn_in=200,
    max_draws_factor=100.0,
    batch_size=32,
    refuse_worthless=True,
    block_size=32,
)
VICINITY = VicinityConfig(
    kind="soft",
    label_sigma=0.5,
    kappa=1.0,
    kappa_multiplier=2.0,
    gap_quantile=1.0,
    weight_floor=1e-3,
    draw="proportional",
)


def ratio_config(**changes: Any) -> RatioConfig:
    return dataclasses.replace(RATIO, **changes)


def bank_config(**changes: Any) -> BankConfig:
    return dataclasses.replace(BANK, **changes)


def info(kind: str, **changes: Any) -> DatasetInfo:
    base = DatasetInfo(kind, "toy", "unit", channels=1, image_size=16, pixel_mean=(0.5,), pixel_std=(0.5,))
    return dataclasses.replace(base, **changes)


def class_task(num_classes: int) -> ClassTask:
    return ClassTask(info("class", class_names=tuple(map(str, range(num_classes)))))


def scalar_task(num_conditions: int = 20, label_bin: float = 2.5) -> ScalarTask:
    return ScalarTask(info("scalar", label_min=0.0, label_max=10.0), VICINITY, label_bin, num_conditions)


class Interrupted(Exception):
    """Stands for a killed process."""


class MemoryCheckpoint:
    """A checkpoint through torch.save and weights_only that kills the loop at the first save from `kill_at` on."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.bytes: bytes | None = None

    def load(self) -> dict[str, object] | None:
        if self.bytes is None:
            return None
        state: dict[str, object] = torch.load(io.BytesIO(self.bytes), weights_only=True)
        return state

    def save(self, step: int, state: dict[str, object]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.bytes = buffer.getvalue()
        if self.kill_at is not None and step >= self.kill_at:
            self.kill_at = None
            raise Interrupted
