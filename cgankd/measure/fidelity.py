"""How far two sets of images are from each other in a feature space: FID, KID, precision and recall, over labels.

All of them take features [N, F] already computed; large sets may be memory-mapped, only pieces of them are held. FID
is biased upwards at small n, and its covariance has no full rank where n is below F: compare it at equal n only, and
read KID there, which is unbiased.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cgankd.labels.circle import wrapped

CHUNK = 4096
"""Rows of a feature set held in float64 at a time."""
Distance = Callable[[Tensor, Tensor], float]
"""A number for two feature sets [N, F] and [M, F]."""


@dataclass(frozen=True)
class Moments:
    """Mean [F] and covariance [F, F] (n - 1) of a feature set, in float64, and its size."""

    count: int
    mean: Tensor
    covariance: Tensor


def moments(features_NF: Tensor) -> Moments:
    """Mean and covariance of features [N, F], N >= 2, in two passes over pieces."""
    count, width = features_NF.shape
    assert count >= 2, "a covariance needs two rows"
    pieces = torch.split(features_NF, CHUNK)
    mean_F = sum((piece.double().sum(0) for piece in pieces), torch.zeros(width, dtype=torch.float64)) / count
    scatter_FF = torch.zeros(width, width, dtype=torch.float64)
    for piece in pieces:
        centred = piece.double() - mean_F
        scatter_FF += centred.T @ centred
    return Moments(count, mean_F, scatter_FF / (count - 1))


def frechet(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of two Gaussians, |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (arXiv 1706.08500).

    The trace of the root is taken from the symmetric C_a^(1/2) C_b C_a^(1/2), which has the same eigenvalues and,
    unlike the product, real ones also where the covariances are singular.
    """
    value, vector = torch.linalg.eigh(a.covariance)
    root = vector * value.clamp(min=0).sqrt() @ vector.T
    inner = root @ b.covariance @ root
    cross = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
    trace = a.covariance.trace() + b.covariance.trace() - 2 * cross
    # Rounding can leave a trace of -1e-14 for equal sets.
    return float((a.mean - b.mean).square().sum() + trace.clamp(min=0))


def fid(real_NF: Tensor, fake_MF: Tensor) -> float:
    """Frechet distance of two feature sets; called FID only on Inception features, so name the space beside it.

    With fewer rows than features in one set the covariances are never formed: see `frechet_thin`.
    """
    if min(len(real_NF), len(fake_MF)) < real_NF.shape[1]:
        return frechet_thin(*sorted((real_NF, fake_MF), key=len))
    return frechet(moments(real_NF), moments(fake_MF))


def frechet_thin(few_NF: Tensor, many_MF: Tensor) -> float:
    """The same distance through the N x N matrix A C_b A^T / (N - 1), A the centred rows of the smaller set.

    Its eigenvalues are those of C_a C_b that are not zero, so a window of 20 images costs nothing however many features
    there are.
    """
    n, m = len(few_NF), len(many_MF)
    few = few_NF.double()
    mean_a = few.mean(0)
    few = few - mean_a
    pieces = torch.split(many_MF, CHUNK)
    mean_b = sum((piece.double().sum(0) for piece in pieces), torch.zeros_like(mean_a)) / m
    inner_NN, trace = torch.zeros(n, n, dtype=torch.float64), few.square().sum() / (n - 1)
    for piece in pieces:
        centred = piece.double() - mean_b
        product = few @ centred.T
        inner_NN += product @ product.T / ((n - 1) * (m - 1))
        trace += centred.square().sum() / (m - 1)
    trace -= 2 * torch.linalg.eigvalsh(inner_NN).clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + trace.clamp(min=0))


def polynomial_mmd(real_NF: Tensor, fake_MF: Tensor) -> float:
    """Unbiased MMD^2 with kernel (x . y / F + 1)^3: mean_{i != j} k(x_i, x_j) + same of y - 2 mean k(x_i, y_j).

    Both sets are held whole in float64. May be negative, since its mean is 0 for sets from one distribution.
    """
    x_NF, y_MF = real_NF.double(), fake_MF.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        gram = kernel(a, a)
        return (gram.sum() - gram.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(within(x_NF) + within(y_MF) - 2 * kernel(x_NF, y_MF).mean())


def kid(real_NF: Tensor, fake_MF: Tensor, gen: torch.Generator, *, subset: int = 1000, num_subsets: int = 50) -> float:
    """Kernel Inception Distance (arXiv 1801.01401) of two feature sets, N, M >= 2.

    Sets of at most `subset` rows are compared whole; of larger ones, the mean over `num_subsets` random subsets.
    """
    if max(len(real_NF), len(fake_MF)) <= subset:
        return polynomial_mmd(real_NF, fake_MF)
    found = []
    for _ in range(num_subsets):
        real, fake = (f[torch.randperm(len(f), generator=gen)[:subset]] for f in (real_NF, fake_MF))
        found.append(polynomial_mmd(real, fake))
    return float(torch.tensor(found, dtype=torch.float64).mean())


def coverage_of(manifold_NF: Tensor, points_MF: Tensor, k: int = 3) -> float:
    """Share of points within the reach of a set: |p - a_i| <= distance of a_i to its k-th neighbour, for some i.

    Equation 1 of Kynkaanniemi et al., arXiv 1904.06991. Needs N > k.
    """
    a_NF, p_MF = manifold_NF.double(), points_MF.double()
    assert len(a_NF) > k, "the k-th neighbour needs more than k rows"
    reach = [torch.cdist(piece, a_NF).kthvalue(k + 1, dim=1).values for piece in torch.split(a_NF, CHUNK // 4)]
    reach_N = torch.cat(reach)  # the nearest row is the row itself, hence k + 1
    inside = [(torch.cdist(piece, a_NF) <= reach_N).any(dim=1) for piece in torch.split(p_MF, CHUNK // 4)]
    return float(torch.cat(inside).double().mean())


def precision_recall(real_NF: Tensor, fake_MF: Tensor, k: int = 3) -> tuple[float, float]:
    """Share of fakes within the reach of the real images, and of real images within that of the fakes.

    Improved precision and recall of arXiv 1904.06991; both depend on the sizes, so compare at equal N and M.
    """
    return coverage_of(real_NF, fake_MF, k), coverage_of(fake_MF, real_NF, k)


@dataclass(frozen=True)
class Labelled:
    """A feature set [N, F] with a number a row [N]: its label in raw units, or its group."""

    features: Tensor
    label: Tensor

    def where(self, mask_N: Tensor) -> Tensor:
        """Features [R, F] of the rows of a mask."""
        return self.features[mask_N.nonzero()[:, 0]]


def by_group(real: Labelled, fake: Labelled, distance: Distance, least: int = 2) -> dict[int, float]:
    """A distance within each group (class or label bin) that has `least` rows on both sides; others are left out.

    The mean of the values is the intra-label FID or KID.
    """
    found = {}
    for group in torch.unique(real.label).tolist():
        real_RF, fake_RF = real.where(real.label == group), fake.where(fake.label == group)
        if min(len(real_RF), len(fake_RF)) >= least:
            found[group] = distance(real_RF, fake_RF)
    return found


def sliding(
    real: Labelled,
    fake: Labelled,
    window: tuple[Tensor, float],
    distance: Distance,
    least: int = 2,
    period: float | None = None,
) -> dict[float, float]:
    """A distance of the images whose label is within +-radius of each centre (sliding FID of arXiv 2011.07466).

    `window` is the centres [K] and the radius, like the labels and the `period` of a circle in raw units. Centres whose window
    holds fewer than `least` rows on a side are left out.
    """
    found = {}
    centres, radius = window
    for centre in centres.tolist():
        real_RF, fake_RF = (side.where(wrapped(side.label - centre, period).abs() <= radius) for side in (real, fake))
        if min(len(real_RF), len(fake_RF)) >= least:
            found[centre] = distance(real_RF, fake_RF)
    return found
