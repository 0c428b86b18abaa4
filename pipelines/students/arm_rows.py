"""Which rows of the pool an arm learns from, with which labels, and how much the teacher counts on each."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cgankd.bank.build import selection_name
from cgankd.config import ArmConfig, ConfigError, StudentConfig
from cgankd.data.batches import TwoSources
from cgankd.data.store.banks import read_pool_scores, read_pool_stream
from cgankd.data.store.stream import MemoryBudget
from cgankd.labels.ensemble import spread_weights
from cgankd.types import Split


def bank_rows(pool: Path, arm: ArmConfig) -> Tensor:
    """Rows of the pool [M] that the M1/M2 switches of an arm select: of fakes, then of unlabelled images."""
    scores = read_pool_scores(pool, but=("teacher_output",))
    return torch.cat([scores[flag].bool().nonzero()[:, 0] for flag in flags_of(arm)])


def flags_of(arm: ArmConfig) -> list[str]:
    """The columns of a pool that say which rows an arm takes, one for each source."""
    selection = selection_name(arm.subsample, arm.filter)
    sources = (("in_hard_" if arm.hard else "in_", arm.bank), ("unlabelled_", arm.unlabelled))
    return [f"{prefix}{selection}" for prefix, used in sources if used]


def bank_split(pool: Path, arm: ArmConfig, memory: MemoryBudget | None = None) -> Split:
    """The fakes of an arm, labels asked or replaced, and its unlabelled images with the teacher's; their images are streamed
    where `memory` has no room for them.
    """
    scores, rows = read_pool_scores(pool, but=("teacher_output",)), bank_rows(pool, arm)
    labels = scores["predicted" if arm.replace else "asked"][rows]
    images = read_pool_stream(pool, rows, memory)
    if arm.bank and arm.unlabelled:
        return TwoSources(images, labels, int((scores["source"][rows] == 0).sum()))
    return Split(images, labels)


def soft_weights(pool: Path, arm: ArmConfig, cfg: StudentConfig) -> Tensor | None:
    """How much the teacher's answer counts on each fake of an arm [M], by student.spread_weight; None where all count alike.

    So they do in arms of mixtures or stored views, which have no disagreement of their own.
    """
    if not arm.uses_pool or cfg.spread_weight == 0 or not cfg.shows_single(arm):
        return None
    spread = read_pool_scores(pool, but=("teacher_output",)).get("teacher_spread")
    if spread is None:
        raise ConfigError(
            f"student.spread_weight is {cfg.spread_weight:g}, but artifacts/pool.h5 was scored by a teacher without members that"
            " could disagree (auto keeps one where their mean is no better); set student.spread_weight to 0, or"
            " teacher.members to 2 or more"
        )
    return spread_weights(spread[bank_rows(pool, arm)], cfg.spread_weight)
