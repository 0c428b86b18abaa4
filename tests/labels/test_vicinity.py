"""Vicinities against brute force over the whole training set, and the kernel rules against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cgankd.config import VicinityConfig
from cgankd.labels.kernel import Kernel, kernel_rules
from cgankd.labels.vicinity import DrawnVicinity, ExactMatch, HardVicinity, SoftVicinity
from cgankd.rng import generator

CFG = VicinityConfig(
    kind="soft",
    label_sigma=None,
    kappa=None,
    kappa_multiplier=2.0,
    gap_quantile=1.0,
    weight_floor=1e-3,
    draw="proportional",
)
KERNEL = Kernel(label_sigma=2.0, kappa=1.0, largest_gap=1.0, median_gap=0.5)


def labels(seed: int, num: int = 60) -> torch.Tensor:
    return (torch.rand(num, generator=generator(seed, "labels")) * 90).round(decimals=1)


def test_kernel_rules_follow_their_formulas() -> None:
    y = labels(0)
    kernel = kernel_rules(y, CFG)
    array = y.double().numpy()
    gaps = np.diff(np.unique(array))
    assert kernel.label_sigma == pytest.approx(1.06 * array.std(ddof=1) * 60**-0.2)
    assert kernel.kappa == pytest.approx(2.0 * gaps.max())
    assert kernel.nu == pytest.approx(1 / kernel.kappa**2)
    assert kernel.median_gap == pytest.approx(torch.from_numpy(gaps).median().item())


def test_kernel_rules_yield_to_set_values_and_gap_quantile() -> None:
    y = labels(0)
    import dataclasses

    fixed = kernel_rules(y, dataclasses.replace(CFG, kappa=1.5, label_sigma=0.7))
    assert (fixed.kappa, fixed.label_sigma) == (1.5, 0.7)
    gaps = np.diff(np.unique(y.double().numpy()))
    half = kernel_rules(y, dataclasses.replace(CFG, gap_quantile=0.5))
    assert half.kappa == pytest.approx(2 * np.quantile(gaps, 0.5))


def test_equal_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="all training labels are equal"):
        kernel_rules(torch.ones(5), CFG)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), kappa=st.floats(0.05, 10))
def test_hard_partners_lie_within_kappa_wherever_there_are_any(seed: int, kappa: float) -> None:
    y = labels(seed)
    vicinity = HardVicinity(y, Kernel(3.0, kappa, 1.0, 1.0), 0.0, 90.0)
    gen = generator(seed)
    target = vicinity.targets(200, gen)
    pairing = vicinity.pair(target, gen)
    distance = (y[pairing.index] - target).abs()
    nearest = (y[None] - target[:, None]).abs().amin(1)
    reachable = nearest <= kappa - 1e-4
    assert (distance[reachable] <= kappa + 1e-4).all()
    assert (pairing.weight[reachable] == 1).all()
    lonely = nearest > kappa + 1e-4
    assert (pairing.weight[lonely] == 0).all()
    torch.testing.assert_close(distance[lonely], nearest[lonely])


def test_hard_partners_are_uniform_over_the_interval() -> None:
    y = torch.tensor([1.0, 1.2, 1.4, 5.0, 9.0])
    vicinity = HardVicinity(y, Kernel(0.1, 0.5, 1.0, 1.0), 0.0, 10.0)
    index = vicinity.pair(torch.full((30_000,), 1.2), generator(3)).index
    share = torch.bincount(index, minlength=5) / 30_000
    np.testing.assert_allclose(share.numpy(), [1 / 3, 1 / 3, 1 / 3, 0, 0], atol=0.01)


def test_soft_weights_and_radius_follow_the_kernel() -> None:
    y = labels(5)
    vicinity = SoftVicinity(y, KERNEL, 0.0, 90.0, 1e-3)
    assert vicinity.radius == pytest.approx(math.sqrt(math.log(1000)))
    gen = generator(5)
    target = vicinity.targets(500, gen)
    pairing = vicinity.pair(target, gen)
    np.testing.assert_allclose(
        pairing.weight.numpy(), np.exp(-((y[pairing.index] - target).numpy() ** 2)), rtol=1e-5, atol=1e-12
    )
    inside = (y[None] - target[:, None]).abs().amin(1) < vicinity.radius - 1e-3
    assert (pairing.weight[inside] >= 1e-3 * 0.99).all()
    fake, weight = vicinity.fake_labels(target, gen)
    assert ((fake - target).abs() <= vicinity.radius + 1e-4).all()
    np.testing.assert_allclose(weight.numpy(), np.exp(-((fake - target).numpy() ** 2)), rtol=1e-5, atol=1e-12)


def test_drawn_partners_follow_the_normalised_weights() -> None:
    """Shares against w_i / sum w written out in numpy, with two images of one label and one beyond the radius."""
    y = torch.tensor([10.0, 10.5, 10.5, 11.0, 12.5, 20.0])
    vicinity = DrawnVicinity(y, KERNEL, 0.0, 90.0, 1e-3)
    pairing = vicinity.pair(torch.full((60_000,), 10.4), generator(6))
    weight = np.exp(-((y.numpy() - 10.4) ** 2)) * (np.abs(y.numpy() - 10.4) <= vicinity.radius)
    share = torch.bincount(pairing.index, minlength=6) / 60_000
    np.testing.assert_allclose(share.numpy(), weight / weight.sum(), atol=0.008)
    assert share[5] == 0 and (pairing.weight == 1).all()


def test_a_drawn_partner_in_a_label_gap_is_the_nearest_with_its_small_weight() -> None:
    vicinity = DrawnVicinity(torch.tensor([60.0, 10.0]), KERNEL, 0.0, 90.0, 1e-3)
    pairing = vicinity.pair(torch.tensor([57.0, 10.2, 13.0]), generator(7))
    assert pairing.index.tolist() == [0, 1, 1]
    np.testing.assert_allclose(pairing.weight.numpy(), [math.exp(-9), 1, math.exp(-9)], rtol=1e-4)


def test_drawn_and_uniform_draws_estimate_one_expectation() -> None:
    """E_w[y] of partners and fake labels: draws of weight one against weighted uniform draws, the published way."""
    y = labels(8, num=200)
    target = torch.full((40_000,), 30.0)
    drawn, uniform = (kind(y, KERNEL, 0.0, 90.0, 1e-3) for kind in (DrawnVicinity, SoftVicinity))
    for method in ("partner", "fake"):
        means = []
        for vicinity in (drawn, uniform):
            if method == "partner":
                pairing = vicinity.pair(target, generator(9))
                value, weight = y[pairing.index] - 30, pairing.weight
            else:
                label, weight = vicinity.fake_labels(target, generator(9))
                value = label - 30
            means += [(weight * value).sum() / weight.sum(), (weight * value**2).sum() / weight.sum()]
        np.testing.assert_allclose(means[:2], means[2:], atol=0.02)


def test_drawn_fake_labels_are_a_truncated_normal_within_the_range() -> None:
    """Kolmogorov-Smirnov against scipy's truncated normal, at the edge of the range where half of it is cut."""
    vicinity = DrawnVicinity(labels(1), KERNEL, 0.0, 90.0, 1e-3)
    sd = math.sqrt(0.5)
    label, weight = vicinity.fake_labels(torch.full((20_000,), 89.8, dtype=torch.float64), generator(4))
    law = stats.truncnorm(-vicinity.radius / sd, 0.2 / sd, loc=89.8, scale=sd)
    assert stats.kstest(label.numpy(), law.cdf).pvalue > 0.01
    assert label.max() <= 90 and (weight == 1).all()


def test_targets_are_noisy_training_labels_within_the_range() -> None:
    y = torch.full((10,), 45.0)
    vicinity = HardVicinity(y, KERNEL, 0.0, 90.0)
    target = vicinity.targets(20_000, generator(1))
    assert target.mean().item() == pytest.approx(45, abs=0.1)
    assert target.std().item() == pytest.approx(2.0, abs=0.05)
    edge = HardVicinity(torch.zeros(10), KERNEL, 0.0, 90.0).targets(1000, generator(2))
    assert edge.min() == 0.0


def test_neighbours_are_uniform_within_the_radius() -> None:
    vicinity = SoftVicinity(labels(1), KERNEL, 0.0, 90.0, 1e-3)
    near = vicinity.neighbours(torch.full((20_000,), 30.0), 6.0, generator(9))
    assert near.min() >= 24 and near.max() <= 36
    assert near.std().item() == pytest.approx(12 / math.sqrt(12), rel=0.03)


def test_exact_match_pairs_within_the_class_and_uniformly() -> None:
    y = torch.tensor([2, 0, 1, 0, 2, 2])
    vicinity = ExactMatch(y)
    gen = generator(4)
    target = vicinity.targets(30_000, gen)
    np.testing.assert_allclose(torch.bincount(target).numpy() / 30_000, [2 / 6, 1 / 6, 3 / 6], atol=0.01)
    pairing = vicinity.pair(target, gen)
    assert torch.equal(y[pairing.index], target)
    assert (pairing.weight == 1).all()
    share = torch.bincount(pairing.index[target == 2], minlength=6) / (target == 2).sum()
    np.testing.assert_allclose(share.numpy(), [1 / 3, 0, 0, 0, 1 / 3, 1 / 3], atol=0.02)
    same, weight = vicinity.fake_labels(target, gen)
    assert torch.equal(same, target) and (weight == 1).all()
    assert torch.equal(vicinity.neighbours(target, 5.0, gen), target)


def round_the_circle(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.rad2deg(torch.angle(torch.exp(1j * torch.deg2rad(y.double() - target.double())))).abs()


ROUND = Kernel(4.0, 6.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "vicinity",
    [
        HardVicinity(torch.arange(0.0, 360.0), ROUND, 0.0, 360.0, 360.0),
        SoftVicinity(torch.arange(0.0, 360.0), ROUND, 0.0, 360.0, 1e-3, 360.0),
        DrawnVicinity(torch.arange(0.0, 360.0), ROUND, 0.0, 360.0, 1e-3, 360.0),
    ],
    ids=["hard", "soft", "drawn"],
)
def test_on_a_circle_every_label_has_neighbours_on_both_sides(vicinity: HardVicinity | SoftVicinity) -> None:
    y, num = torch.arange(0.0, 360.0), 4000
    for centre in (0.5, 359.5, 180.5):
        target = torch.full((num,), centre)
        pairing = vicinity.pair(target, generator("pair"))
        labels, weights = vicinity.fake_labels(target, generator("fake"))
        radius = getattr(vicinity, "radius", 6.0)
        for found in (y[pairing.index], labels, vicinity.neighbours(target, 6.0, generator("near"))):
            assert round_the_circle(found, target).max() <= max(radius, 6.0) + 1e-3
            assert ((found >= 0) & (found <= 360)).all()
            side = torch.remainder(found - target, 360.0) < 180
            assert 0.45 < side.double().mean() < 0.55, "as many on either side of the seam"
        expected = torch.exp(-ROUND.nu * round_the_circle(y[pairing.index], target) ** 2)
        if isinstance(vicinity, SoftVicinity) and not isinstance(vicinity, DrawnVicinity):
            torch.testing.assert_close(pairing.weight.double(), expected, rtol=1e-3, atol=1e-5)
        else:
            assert (pairing.weight == 1).all() and (weights == 1).all()
    spread = vicinity.targets(20000, generator("targets"))
    assert torch.histc(spread, 8, 0, 360).min() > 0.9 * 2500


def test_a_circle_smaller_than_the_vicinity_holds_each_image_once() -> None:
    y = torch.tensor([0.0, 1.0, 2.0, 3.0])
    vicinity = DrawnVicinity(y, Kernel(1.0, 50.0, 1.0, 1.0), 0.0, 4.0, 1e-3, 4.0)
    index = vicinity.pair(torch.full((8000,), 0.1), generator("small")).index
    assert torch.bincount(index, minlength=4).min() > 1800


def test_the_gap_across_the_seam_counts_on_a_circle() -> None:
    y = torch.tensor([10.0, 11.0, 12.0, 350.0])
    assert kernel_rules(y, CFG).largest_gap == 338.0
    assert kernel_rules(torch.tensor([5.0, 100.0, 200.0, 300.0]), CFG, 360.0).largest_gap == 100.0
    assert kernel_rules(torch.tensor([100.0, 150.0, 200.0]), CFG, 360.0).largest_gap == 260.0
