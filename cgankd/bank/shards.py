"""A bank in shards: which blocks of fakes a shard draws, and about how many the quotas will ask for.

A block is a function of (seed, group, block), whoever draws it, so that what a shard draws is what the whole bank would. How
many blocks a group takes is known only once all are scored: a shard goes by the acceptance of its own part of the burn-in.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cgankd.bank.build import Source, limits_of
from cgankd.bank.selections import Columns, Limits
from cgankd.types import LogFn, silent

DEVIATIONS = 2.0
"""Standard deviations of the count of accepted fakes that a shard draws beyond what it expects, so that few are lacking."""


@dataclass(frozen=True)
class Part:
    """The part of a bank that one of several shards draws; `shard` counts from 0."""

    shard: int
    shards: int

    def __post_init__(self) -> None:
        assert 0 <= self.shard < self.shards, "the shard is one of them"

    def has(self, group: int, block: int) -> bool:
        """Whether a block is this shard's; neighbours in a group, and the first of neighbouring groups, are of different ones."""
        return (group + block) % self.shards == self.shard

    def __str__(self) -> str:
        return f"{self.shard} of {self.shards}"


def foresee(source: Source, limits: Limits | None, selections: Collection[str]) -> Tensor:
    """Blocks [G] of each group that its quota will take for the selection with the lowest acceptance.

    Acceptance is taken by the rule of succession, (passed + 1) / (tried + 2); of a group without a burn-in that of all groups.
    """
    quota_G, size, cfg = source.conditions.quota_G, source.cfg.block_size, source.cfg
    blocks_G = torch.zeros_like(quota_G)
    for group in sorted(source.conditions.labels):
        quota = int(quota_G[group])
        if quota == 0:
            continue
        draws: float = quota
        if cfg.refill:
            share = min((acceptance(limits, name, group) for name in selections), default=1.0)
            draws = (quota + DEVIATIONS * math.sqrt(quota * (1 - share))) / share
        blocks_G[group] = math.ceil(min(draws, source.cap(group)) / size)
    return blocks_G


def acceptance(limits: Limits | None, selection: str, group: int) -> float:
    """The share of a group's draws that pass, as far as a burn-in tells; a half where there is none."""
    if limits is None:
        return 0.5
    passed, tried = limits.passed[selection], limits.tried
    if int(tried[group]):
        return (float(passed[group]) + 1) / (float(tried[group]) + 2)
    return (float(passed.sum()) + 1) / (float(tried.sum()) + 2)


def draw_part(source: Source, part: Part, selections: Collection[str], log: LogFn = silent) -> dict[str, int]:
    """Draw and score the blocks of a part, which the scorer of the source keeps; how many fakes of burn-in and bank."""
    groups = sorted(source.conditions.labels)
    burned: list[Columns] = []
    for done, group in enumerate(groups, 1):
        burned += [scores.columns(group) for scores in source.burn_in_blocks(group, partial(part.has, group))]
        log(done, {}, 2 * len(groups))
    limits = limits_of(Columns.joined(burned), source) if burned else None
    blocks_G, drawn = foresee(source, limits, selections), 0
    for done, group in enumerate(groups, 1):
        cap = min(int(blocks_G[group]) * source.cfg.block_size, source.cap(group))
        for scores in source.blocks_of(group, cap, partial(part.has, group)):
            drawn += len(scores)
        log(len(groups) + done, {}, 2 * len(groups))
    return {"burn_in": sum(map(len, burned)), "fakes": drawn}
