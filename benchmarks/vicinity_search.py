"""Real partners for 512 target labels among 100,000 labels, in the soft vicinity of CcGAN."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.subjects import VICINITY
from benchmarks.timing import Agreement, Case, Side, Work, main, repeated
from cgankd.labels.vicinity import Kernel, SoftVicinity
from cgankd.rng import generator

KERNEL = Kernel(label_sigma=0.05, kappa=0.1, largest_gap=0.02, median_gap=0.001)


def make(quick: bool) -> tuple[Tensor, Tensor, SoftVicinity]:
    """Labels, targets and the sorted search."""
    num, batch = (1000, 32) if quick else (100_000, 512)
    label_N = 80 * torch.rand(num, generator=generator("labels"))
    target_B = 80 * torch.rand(batch, generator=generator("targets"))
    return label_N, target_B, SoftVicinity(label_N, KERNEL, 0.0, 80.0, VICINITY.weight_floor)


def scan(label_N: Tensor, target_B: Tensor, radius: float, gen: torch.Generator) -> list[int]:
    """The plain way: a pass over all labels for each target, the nearest one where the interval is empty."""
    found = []
    for target in target_B:
        distance_N = (label_N - target).abs()
        inside = torch.nonzero(distance_N <= radius)[:, 0]
        pick = torch.randint(len(inside), (1,), generator=gen) if len(inside) else None
        found.append(int(inside[pick]) if pick is not None else int(distance_N.argmin()))
    return found


def build(side: Side, quick: bool) -> Work:
    label_N, target_B, vicinity = make(quick)
    gen = generator("vicinity")
    if side == "plain":
        return Work(repeated(partial(scan, label_N, target_B, vicinity.radius, gen)), len(target_B), "fp32")
    return Work(repeated(lambda: vicinity.pair(target_B, gen)), len(target_B), "fp32")


def agree(quick: bool) -> list[Agreement]:
    """Partners of both ways lie in the same interval, and the mean distance is the same up to the draw."""
    label_N, target_B, vicinity = make(quick)
    many_B = target_B.repeat(8)
    fast_B = (label_N[vicinity.pair(many_B, generator("fast")).index] - many_B).abs()
    plain_B = (label_N[scan(label_N, many_B, vicinity.radius, generator("plain"))] - many_B).abs()
    outside = float((fast_B > vicinity.radius).sum() - (plain_B > vicinity.radius).sum())
    means = abs(float(fast_B.mean() - plain_B.mean())) / float(plain_B.mean())
    return [Agreement("partners outside, difference", abs(outside), 0.0), Agreement("mean distance", means, 0.2)]


CASE = Case(
    "vicinity_search",
    "Vicinity search, 512 targets among 100,000 labels",
    None,
    build,
    agree,
    repeats={"plain": 5, "fast": 50},
)

if __name__ == "__main__":
    main(CASE)
