"""Fakes where they help: rounds of draws near the latents of fakes on which a probe student and the teacher differ most.

Each round trains a probe on the fakes so far. The hardness of a fake is the divergence of probe and teacher (`Task.divergence`),
times a weight that falls where the members of the teacher disagree. In each filter group the quarter of the fakes with the
greatest hardness are parents, each asked equally often. A rank has no scale, so that nats and label units go the same way, and
a few fakes that neither net understands cannot take all draws, as they would if parents were drawn in proportion to hardness.

A child has its parent's label and the latent z' = sqrt(1 - s^2) z + s e, e from N(0, I). For a parent drawn from N(0, I) that is
a draw from N(0, I) again, correlated by sqrt(1 - s^2) with its parent's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from cgankd.bank.build import Source
from cgankd.bank.scores import Scorer, Scores
from cgankd.rng import generator

PARENT_SHARE = 0.25
"""Share of the fakes of a group, the hardest, that are parents."""
LatentsOf = Callable[[int, int], Tensor]
"""Group and block to the latents [B, Z] that it was drawn with."""


@runtime_checkable
class LatentDraw(Protocol):
    """A Draw that draws z from N(0, I) in R^Z for each label, and then makes the image of z and the label."""

    @property
    def z_dim(self) -> int: ...

    def at(self, z_BZ: Tensor, label_B: Tensor) -> Tensor:
        """uint8 images [B, C, H, W] of latents and labels in raw units."""

    def __call__(self, label_B: Tensor, gen: torch.Generator) -> Tensor:
        """`at` torch.randn(B, Z), the first thing that is drawn from `gen`."""


def hardness(divergence_M: Tensor, spread_M: Tensor | None) -> Tensor:
    """d exp(-v / mean v) of divergences d [M] and disagreements v [M] of the teacher's members; d where it has none."""
    if spread_M is None or not float(spread_M.mean()) > 0:
        return divergence_M.double()
    return divergence_M.double() * torch.exp(-spread_M.double() / spread_M.double().mean())


def parents_of(hardness_M: Tensor, group_M: Tensor) -> dict[int, Tensor]:
    """Group -> places of its hardest ceil(PARENT_SHARE n) fakes, the hardest first; the earlier one of two alike."""
    found = {}
    for group in torch.unique(group_M).tolist():
        members = torch.nonzero(group_M == group)[:, 0]
        order = hardness_M[members].argsort(descending=True, stable=True)
        found[group] = members[order[: math.ceil(PARENT_SHARE * len(members))]]
    return found


def near(z_BZ: Tensor, noise_BZ: Tensor, s: float) -> Tensor:
    """z' = sqrt(1 - s^2) z + s e."""
    return math.sqrt(1 - s**2) * z_BZ + s * noise_BZ


def round_quotas(have_G: Tensor, rounds: int) -> list[Tensor]:
    """`have_G` [G] cut into as many parts as rounds, which differ by at most one in each group; earlier ones are larger."""
    edges = [(have_G * count + rounds - 1) // rounds for count in range(rounds + 1)]
    return [high - low for low, high in zip(edges, edges[1:], strict=False)]


def first_of_groups(group_M: Tensor, quota_G: Tensor) -> Tensor:
    """Places (int64, ascending) of the first quota rows of each group."""
    parts = [torch.nonzero(group_M == group)[:, 0][: int(quota)] for group, quota in enumerate(quota_G)]
    return torch.cat(parts).sort().values


@dataclass(frozen=True)
class Parents:
    """The parents of a group: latents [P, Z] and labels [P]."""

    z_PZ: Tensor
    label_P: Tensor


@dataclass(frozen=True)
class NearSource(Source):
    """Scored fakes near parents, with the quotas of one round as conditions; a group without parents has none.

    A block is a function of (seed, selection, round, group, block) and the parents.
    """

    draw: LatentDraw
    parents: Mapping[int, Parents]
    selection: str
    round: int

    def blocks(self, group: int, cap: int) -> Iterator[Scores]:
        """The scored blocks of a group in draw order, up to `cap` fakes."""
        size = self.cfg.block_size
        for block in range(math.ceil(cap / size) if group in self.parents else 0):
            num = min(size, cap - block * size)
            gen, z_BZ, label_B = self._children(group, block, num)
            assert isinstance(self.score_fn, Scorer)
            yield self.score_fn.at(z_BZ, label_B, gen, block, partial(self.draw.at, z_BZ, label_B))

    def latents(self, group: int, block: int) -> Tensor:
        """The latents [B, Z] of a block."""
        size = self.cfg.block_size
        return self._children(group, block, min(size, self.cap(group) - block * size))[1]

    def _children(self, group: int, block: int, num: int) -> tuple[torch.Generator, Tensor, Tensor]:
        """The generator behind the noise, latents and labels; the parents take turns."""
        parents = self.parents[group]
        place_B = (block * self.cfg.block_size + torch.arange(num)) % len(parents.label_P)
        gen = generator(self.seed, "hard", self.selection, self.round, group, block)
        noise_BZ = torch.randn(num, parents.z_PZ.shape[1], generator=gen)
        return gen, near(parents.z_PZ[place_B], noise_BZ, self.cfg.near), parents.label_P[place_B]


def plain_latents(source: Source, z_dim: int, group: int, block: int) -> Tensor:
    """The latents [B, Z] that a plain block was drawn with, by the generator that it was drawn with."""
    size = source.cfg.block_size
    num = min(size, source.cap(group) - block * size)
    return torch.randn(num, z_dim, generator=generator(source.seed, "bank", group, block))


@dataclass(frozen=True)
class Places:
    """Where rows [N] of a pool were drawn: filter group, block within it, and place within the block."""

    group: Tensor
    block: Tensor
    place: Tensor

    @classmethod
    def of(cls, group_N: Tensor, block_N: Tensor) -> Places:
        """Of rows in draw order, blocks one after the other from their first fake on."""
        new_N = torch.ones(len(group_N), dtype=torch.bool)
        new_N[1:] = (group_N[1:] != group_N[:-1]) | (block_N[1:] != block_N[:-1])
        row_N = torch.arange(len(group_N))
        return cls(group_N, block_N, row_N - torch.where(new_N, row_N, 0).cummax(0).values)

    def take(self, rows: Tensor) -> Places:
        """Those of some rows [M]."""
        return Places(self.group[rows], self.block[rows], self.place[rows])

    def latents(self, of_block: LatentsOf, z_dim: int) -> Tensor:
        """The latents [N, Z] of the rows; `of_block` gives those of a group's block."""
        z_NZ = torch.empty(len(self.group), z_dim)
        for group, block in torch.unique(torch.stack([self.group, self.block.long()], 1), dim=0).tolist():
            rows = torch.nonzero((self.group == group) & (self.block == block))[:, 0]
            z_NZ[rows] = of_block(group, block)[self.place[rows]]
        return z_NZ


def near_source(
    source: Source, draw: LatentDraw, quota_G: Tensor, parents: Mapping[int, Parents], key: tuple[str, int]
) -> NearSource:
    """A source of children for one selection and round, `key`; it draws on until the quotas [G] are filled, for equal numbers."""
    quota_G = torch.where(torch.tensor([group in parents for group in range(len(quota_G))]), quota_G, 0)
    conditions, cfg = replace(source.conditions, quota_G=quota_G), replace(source.cfg, refill=True)
    return NearSource(source.score_fn, conditions, cfg, source.seed, draw, parents, *key)
