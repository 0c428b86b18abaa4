"""Taking whole groups of images so that their labels come as near to wanted numbers as whole groups allow.

Large groups are placed first, in a seeded order among those of one size, each where it is missed most; then single groups
change places, and pairs of them, while that brings the numbers nearer. Deterministic, and blind to the order of the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cgankd.rng import generator

SLACK = 0.05
"""Pairs of groups change places only while the numbers are off by more than this share, so that other seeds give other
splits even of a few groups."""
MOST_MOVES = 2000
MOST_SWAPPED = 2_000_000
"""Numbers in the table of all pairs that could change places; with more groups than fit, single ones suffice."""
OF_ALL = 2.0
"""Weight of the number of images in all beside those of each kind."""

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Wanted:
    """How many images of each kind [K] (a class, a stretch of labels) to take, which may be fractions.

    `each` says that some group of each kind must be taken and `keep` groups of it stay; without it that holds of all kinds
    together.
    """

    num_K: Sequence[float]
    keep: int
    each: bool


@dataclass
class _State:
    """Images and groups that were taken, by kind; the last kind stands for all images."""

    group_P: Indices
    kind_P: Indices
    count_P: Numbers
    want_K: Numbers
    need_K: Numbers
    keep_K: Numbers
    taken_G: NDArray[np.bool_]
    over_K: Numbers = field(init=False)
    inside_K: Numbers = field(init=False)
    outside_K: Numbers = field(init=False)

    def __post_init__(self) -> None:
        self.weigh()

    def weigh(self) -> None:
        """Count anew what was taken."""
        size, own_P = len(self.want_K), self.taken_G[self.group_P]
        self.over_K = np.bincount(self.kind_P, self.count_P * own_P, size) - self.want_K
        self.inside_K = np.bincount(self.kind_P, own_P, size).astype(np.float64)
        self.outside_K = np.bincount(self.kind_P, ~own_P, size).astype(np.float64)

    @property
    def weight_K(self) -> Numbers:
        weights = np.ones(len(self.want_K))
        weights[-1] = OF_ALL
        return weights

    def cost(self, over: Numbers, inside: Numbers, outside: Numbers, kinds: Indices | slice) -> Numbers:
        """How bad it is that kinds are off by so many images; a kind that is missing on one side counts above all else."""
        short = np.maximum(0, self.need_K[kinds] - inside) + np.maximum(0, self.keep_K[kinds] - outside)
        cost: Numbers = self.weight_K[kinds] * np.abs(over) + 10.0 * self.count_P.sum() * short
        return cost

    def off(self) -> float:
        """The cost of what is taken now."""
        return float(self.cost(self.over_K, self.inside_K, self.outside_K, slice(None)).sum())

    def move(self) -> bool:
        """Let the one group change sides that helps most; False where none does."""
        kinds = self.kind_P
        sign_P = np.where(self.taken_G[self.group_P], -1.0, 1.0)
        now = self.cost(self.over_K[kinds], self.inside_K[kinds], self.outside_K[kinds], kinds)
        then = self.cost(
            self.over_K[kinds] + sign_P * self.count_P,
            self.inside_K[kinds] + sign_P,
            self.outside_K[kinds] - sign_P,
            kinds,
        )
        change_G = np.bincount(self.group_P, then - now, len(self.taken_G))
        best = int(change_G.argmin())
        if change_G[best] > -1e-6:
            return False
        self.taken_G[best] = ~self.taken_G[best]
        self.weigh()
        return True

    def swap(self) -> bool:
        """Let the two groups change places that helps most; False where none does or there are too many to try."""
        inside, outside = np.flatnonzero(self.taken_G), np.flatnonzero(~self.taken_G)
        size = len(self.want_K)
        if not 0 < len(inside) * len(outside) * size <= MOST_SWAPPED:
            return False
        count_GK = np.zeros((len(self.taken_G), size))
        count_GK[self.group_P, self.kind_P] = self.count_P
        change_ABK = count_GK[outside][None] - count_GK[inside][:, None]
        member_GK = (count_GK > 0).astype(np.float64)
        member_ABK = member_GK[outside][None] - member_GK[inside][:, None]
        cost_AB = self.cost(
            self.over_K + change_ABK, self.inside_K + member_ABK, self.outside_K - member_ABK, slice(None)
        ).sum(2)
        best = np.unravel_index(int(cost_AB.argmin()), cost_AB.shape)
        if cost_AB[best] > self.off() - 1e-6:
            return False
        self.taken_G[[inside[best[0]], outside[best[1]]]] = [False, True]
        self.weigh()
        return True


def take_groups(group_N: Tensor, kind_N: Tensor, wanted: Wanted, *keys: int | str) -> Tensor:
    """Which images [N] are taken: those of whole groups, as near to the wanted numbers as these allow.

    `keys` seed the order of groups of one size. What the wanted numbers ask for may be out of reach; the caller looks.
    """
    groups, place_N = np.unique(group_N.numpy(), return_inverse=True)
    size = len(wanted.num_K)
    pair_P, count_P = np.unique(place_N.astype(np.int64) * size + kind_N.numpy(), return_counts=True)
    size_G = np.bincount(place_N, minlength=len(groups))
    ones = np.ones(size) if wanted.each else np.zeros(size)
    want_K = np.append(np.asarray(wanted.num_K, np.float64), float(sum(wanted.num_K)))
    state = _State(
        group_P=np.concatenate([pair_P // size, np.arange(len(groups))]),
        kind_P=np.concatenate([pair_P % size, np.full(len(groups), size)]),
        count_P=np.concatenate([count_P, size_G]).astype(np.float64),
        want_K=want_K,
        need_K=np.append(ones, 1.0) * (want_K > 0),
        keep_K=np.append(ones, 1.0) * wanted.keep,
        taken_G=np.zeros(len(groups), dtype=np.bool_),
    )
    _place(state, size_G, torch.randperm(len(groups), generator=generator(*keys)).numpy())
    for _ in range(MOST_MOVES):
        if state.move() or (state.off() > SLACK * want_K[-1] and state.swap()):
            continue
        break
    return torch.from_numpy(state.taken_G[place_N])


def _place(state: _State, size_G: Indices, order_G: Indices) -> None:
    """Put each group, large ones first, where the squared lack of its kinds, as a share of all wanted there, falls most."""
    bucket_G = np.floor(np.log2(size_G))
    by_group = np.argsort(state.group_P, kind="stable")
    bounds = np.searchsorted(state.group_P[by_group], np.arange(len(size_G) + 1))
    total_K = state.over_K + state.want_K + np.bincount(state.kind_P, state.count_P, len(state.want_K))
    sides = (state.want_K.copy(), total_K - state.want_K)
    scales = tuple(np.maximum(side, 0.5) for side in sides)
    for group in np.lexsort((order_G, -bucket_G)):
        pairs = by_group[bounds[group] : bounds[group + 1]]
        kinds, counts = state.kind_P[pairs], state.count_P[pairs]
        gains = [
            float(((2 * lack[kinds] - counts) * counts / scale[kinds]).sum())
            for lack, scale in zip(sides, scales, strict=True)
        ]
        inside = gains[0] > gains[1]
        state.taken_G[group] = inside
        sides[0 if inside else 1][kinds] -= counts
    state.weigh()
