"""The laws of target labels against closed forms: distinct labels, intervals cut at the ends of the range, circles."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from cgankd.labels.kernel import Kernel
from cgankd.labels.targets import Rows, base_labels, truncated_normal
from cgankd.labels.vicinity import DrawnVicinity, ExactMatch, HardVicinity, ScalarVicinity, SoftVicinity
from cgankd.rng import generator
from tests.gan.toys import scalar_toy

NARROW = Kernel(label_sigma=1e-6, kappa=1.0, largest_gap=1.0, median_gap=1.0)
AGES = torch.tensor([1.0] * 50 + [2.0] * 10 + [30.0] * 39 + [60.0])
"""100 images of four ages: one of them is 60."""


def kinds(
    label_N: torch.Tensor, kernel: Kernel, low: float, high: float, period: float | None = None
) -> list[ScalarVicinity]:
    return [
        HardVicinity(label_N, kernel, low, high, period),
        SoftVicinity(label_N, kernel, low, high, 1e-3, period),
        DrawnVicinity(label_N, kernel, low, high, 1e-3, period),
    ]


def shares(drawn: torch.Tensor, values: list[float]) -> list[float]:
    return [float(((drawn - value).abs() < 0.01).double().mean()) for value in values]


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_distinct_targets_have_every_label_equally_often(kind: int) -> None:
    vicinity = kinds(AGES, NARROW, 1.0, 60.0)[kind]
    marginal = shares(vicinity.targets(40_000, generator("m")), [1, 2, 30, 60])
    np.testing.assert_allclose(marginal, [0.5, 0.1, 0.39, 0.01], atol=0.01)
    even = shares(vicinity.with_targets("distinct").targets(40_000, generator("d")), [1, 2, 30, 60])
    np.testing.assert_allclose(even, [0.25] * 4, atol=0.01)


def test_distinct_targets_of_classes_and_the_marginal_draws_as_they_were() -> None:
    y = torch.tensor([4, 0, 0, 0, 2, 2])
    even = torch.bincount(ExactMatch(y).with_targets("distinct").targets(30_000, generator(1)), minlength=5) / 30_000
    np.testing.assert_allclose(even.numpy(), [1 / 3, 0, 1 / 3, 0, 1 / 3], atol=0.01)
    for same in (ExactMatch(y), ExactMatch(y).with_targets("marginal")):
        assert torch.equal(same.targets(9, generator(2)), y[torch.randint(6, (9,), generator=generator(2))])


def test_both_ends_of_a_circle_are_one_label() -> None:
    y = torch.tensor([0.0, 360.0, 360.0, 90.0, 180.0])
    assert sorted(base_labels(y, "distinct", 360.0).tolist()) in ([0.0, 90.0, 180.0], [90.0, 180.0, 360.0])
    assert base_labels(y, "distinct").tolist() == [0.0, 90.0, 180.0, 360.0]
    count = torch.bincount(Rows(y, "distinct", 360.0).draw(30_000, generator(3)), minlength=5) / 30_000
    np.testing.assert_allclose(count.numpy(), [1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 3], atol=0.01)


def test_rows_of_distinct_labels_are_any_of_their_images() -> None:
    rows = Rows(AGES, "distinct")
    drawn = rows.draw(40_000, generator(4))
    np.testing.assert_allclose(shares(AGES[drawn], [1, 2, 30, 60]), [0.25] * 4, atol=0.01)
    among = torch.bincount(drawn, minlength=100)[AGES == 2].double()
    np.testing.assert_allclose((among / among.sum()).numpy(), np.full(10, 0.1), atol=0.01)
    count = torch.bincount(AGES[rows.spread(402, generator(5))].long())[[1, 2, 30, 60]]
    assert sorted(count.tolist()) == [100, 100, 101, 101], "spread as evenly as the number allows"


def test_rows_of_the_marginal_are_drawn_as_they_were() -> None:
    rows = Rows(AGES, "marginal")
    assert torch.equal(rows.draw(7, generator(6)), torch.randint(100, (7,), generator=generator(6)))
    expected = torch.randperm(100, generator=generator(7))[torch.arange(130) % 100]
    assert torch.equal(rows.spread(130, generator(7)), expected)


AT_TWO = torch.full((40_000,), 2.0)


def test_a_clipped_interval_has_an_atom_at_the_end_and_a_cut_one_has_none() -> None:
    """At target age 2, radius 5: [-3, 7] clipped asks for 1 in four of ten draws; cut, it is uniform on [1, 7]."""
    y = torch.arange(1.0, 61.0)
    hard = HardVicinity(y, Kernel(2.0, 5.0, 1.0, 1.0), 1.0, 60.0)
    clipped, _ = hard.fake_labels(AT_TWO, generator(8))
    assert float((clipped == 1.0).double().mean()) == pytest.approx(0.4, abs=0.01)
    cut, weight = hard.with_targets("marginal", "cut").fake_labels(AT_TWO, generator(8))
    assert not bool((cut == 1.0).any()) and bool((weight == 1).all())
    assert stats.kstest(cut.numpy(), stats.uniform(1, 6).cdf).pvalue > 0.01


def test_a_cut_soft_interval_is_uniform_and_weighted_from_the_target() -> None:
    soft = SoftVicinity(torch.arange(1.0, 61.0), Kernel(2.0, 2.0, 1.0, 1.0), 1.0, 60.0, 1e-3).with_targets(
        "distinct", "cut"
    )
    target = torch.full((30_000,), 59.5)
    label, weight = soft.fake_labels(target, generator(9))
    low = 59.5 - 2 * math.sqrt(math.log(1000))
    assert stats.kstest(label.numpy(), stats.uniform(low, 60 - low).cdf).pvalue > 0.01
    np.testing.assert_allclose(weight.numpy(), np.exp(-((label - target).numpy() ** 2) / 4), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_cut_targets_lie_beyond_the_ends_as_far_as_their_neighbours_reach(kind: int) -> None:
    """A training label at the end plus N(0, sigma^2), cut at one radius beyond: scipy's truncated normal, no atom."""
    kernel = Kernel(3.0, 2.0, 1.0, 1.0)
    vicinity = kinds(torch.full((20,), 1.0), kernel, 1.0, 60.0)[kind].with_targets("marginal", "cut")
    target = vicinity.targets(20_000, generator(10))
    assert len(torch.unique(target)) > 19_000, "no label is asked for twice, but by chance"
    law = stats.truncnorm(-vicinity.radius / 3.0, (59 + vicinity.radius) / 3.0, loc=1.0, scale=3.0)
    assert stats.kstest(target.numpy(), law.cdf).pvalue > 0.01
    assert target.dtype == torch.float32 and float(target.min()) < 0.0
    labels, _ = vicinity.fake_labels(target, generator(11))
    assert float(labels.min()) >= 1.0 and float(labels.max()) <= 60.0
    near = vicinity.neighbours(torch.full((5000,), 1.0), 4.0, generator(12))
    assert stats.kstest(near.numpy(), stats.uniform(1, 4).cdf).pvalue > 0.01
    asked = vicinity.asked(5000, generator(10))
    assert float(asked.min()) == 1.0, "labels asked of a finished generator stay in the range"


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_nothing_is_cut_on_a_circle(kind: int) -> None:
    y, kernel = torch.arange(0.0, 360.0, 5.0), Kernel(10.0, 20.0, 5.0, 5.0)
    plain = kinds(y, kernel, 0.0, 360.0, 360.0)[kind]
    cut = plain.with_targets("marginal", "cut")
    for draw in (
        lambda v: v.targets(500, generator("a")),
        lambda v: v.fake_labels(torch.full((500,), 358.0), generator("b"))[0],
        lambda v: v.neighbours(torch.full((500,), 2.0), 30.0, generator("c")),
    ):
        assert torch.equal(draw(plain), draw(cut))
    spread = plain.with_targets("distinct", "cut").targets(20_000, generator("d"))
    assert torch.histc(spread, 8, 0, 360).min() > 0.9 * 2500


def test_turning_the_circle_turns_distinct_targets() -> None:
    y, kernel = torch.tensor([10.0, 10.0, 10.0, 100.0, 250.0]), Kernel(10.0, 20.0, 5.0, 5.0)
    turned = torch.remainder(y + 170.0, 360.0)
    first, second = (
        HardVicinity(labels, kernel, 0.0, 360.0, 360.0).with_targets("distinct").targets(30_000, generator(13, "turn"))
        for labels in (y, turned)
    )
    angle = torch.deg2rad(torch.stack([first + 170.0, second]).double())
    for harmonic in (1, 2, 3):  # the moments of a law on a circle
        means = torch.exp(1j * harmonic * angle).mean(dim=1)
        assert abs(complex(means[0] - means[1])) < 0.02


def test_the_embedding_tells_labels_beyond_the_ends_apart_where_they_are_cut() -> None:
    task = scalar_toy()[1]
    task.vicinity_cfg = replace(task.vicinity_cfg, ends="cut")
    beyond = torch.tensor([-4.0, 0.0])
    assert not torch.equal(*task.label_embed(16)(beyond))
    task.vicinity_cfg = replace(task.vicinity_cfg, ends="clip")
    assert torch.equal(*task.label_embed(16)(beyond))


def test_a_truncated_normal_survives_far_tails_and_the_ends_of_the_levels() -> None:
    level = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    found = truncated_normal(torch.zeros(3), 1.0, -60.0, 60.0, level)
    assert found.tolist() == [-60.0, 0.0, 60.0]
    np.testing.assert_allclose(
        truncated_normal(torch.full((3,), 2.0), 0.5, 1.0, 2.0, torch.tensor([0.1, 0.5, 0.9])).numpy(),
        stats.truncnorm(-2.0, 0.0, loc=2.0, scale=0.5).ppf([0.1, 0.5, 0.9]),
        rtol=1e-6,
    )
