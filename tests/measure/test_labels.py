from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import pdist

from cgankd.measure import labels
from cgankd.rng import generator


def test_total_variation_of_marginals() -> None:
    a, b = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 1, 4])
    assert labels.total_variation(a, b) == pytest.approx((0.5 + 0.25 + 0.25) / 2)
    assert labels.total_variation(a, a.repeat(3)) == 0.0
    assert labels.total_variation(a, torch.tensor([7])) == 1.0


@settings(max_examples=20, deadline=None)
@given(
    a=st.lists(st.floats(0, 90, width=32), min_size=1, max_size=20),
    b=st.lists(st.floats(0, 90, width=32), min_size=1, max_size=20),
)
def test_label_distance_is_the_area_between_distribution_functions(a: list[float], b: list[float]) -> None:
    ends = np.sort(np.array(a + b))
    area = 0.0
    for low, high in zip(ends, ends[1:], strict=False):
        area += abs(np.mean(np.array(a) <= low) - np.mean(np.array(b) <= low)) * (high - low)
    found = labels.label_distance(torch.tensor(a), torch.tensor(b))
    assert found == pytest.approx(area, rel=1e-6, abs=1e-5)
    assert found == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-6, abs=1e-5)


def test_entropy_is_scipys() -> None:
    category = torch.tensor([0, 3, 3, 3, 5, 5])
    assert labels.entropy(category) == pytest.approx(stats.entropy([1, 3, 2]))
    assert labels.entropy(torch.arange(8)) == pytest.approx(np.log(8))
    assert labels.entropy(torch.zeros(5, dtype=torch.int64)) == 0.0


def test_group_entropy_compares_equal_sizes() -> None:
    group = torch.tensor([0] * 100 + [1] * 100 + [2])
    category = torch.cat([torch.arange(100), torch.full((100,), 4), torch.tensor([0])])
    found = labels.group_entropy(group, category, {0: 8, 1: 8, 2: 8, 5: 3}, generator("x"))
    # Group 0: 8 different categories; group 1: one; group 2 has too few rows, group 5 none.
    assert found == pytest.approx(np.log(8) / 2)
    assert labels.group_entropy(group, category, {2: 8}, generator("x")) is None


def test_pixel_diversity_is_the_mean_over_all_pairs_of_a_group() -> None:
    images = torch.randint(0, 256, (30, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    group = torch.arange(30) % 3
    group[0] = 7  # alone: belongs to no pair
    flat = images.double().flatten(1).numpy() / 255 / 4  # RMS over 16 pixels
    # Each image is as likely to be the first of a pair, so groups count by their size.
    wanted = [(pdist(flat[group.numpy() == g]).mean(), int((group == g).sum())) for g in range(3)]
    expected = sum(d * n for d, n in wanted) / sum(n for _, n in wanted)
    found = labels.pixel_diversity(images, group, generator("pairs"), num_pairs=20_000)
    assert found == pytest.approx(expected, rel=0.01)
    same = images[:1].expand(6, -1, -1, -1)
    assert labels.pixel_diversity(same, torch.zeros(6).long(), generator("pairs")) == 0.0
    assert labels.pixel_diversity(images[:3], torch.arange(3), generator("pairs")) is None


def test_the_distance_on_a_circle_takes_the_shorter_way() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.uniform(0, 10, 6), rng.uniform(0, 10, 6)
    # Equal weights: mass goes from sorted place i to i + k round the circle, for the best k.
    sides = np.sort(left), np.concatenate([np.sort(right) - 10, np.sort(right), np.sort(right) + 10])
    best = min(np.abs(sides[0] - sides[1][k : k + 6]).mean() for k in range(13))
    found = labels.label_distance(torch.tensor(left), torch.tensor(right), 10.0)
    assert found == pytest.approx(best)
    a, b = torch.tensor([9.9, 9.8]), torch.tensor([0.1, 0.2])
    assert labels.label_distance(a, b, 10.0) == pytest.approx(0.3, abs=1e-6)
    assert labels.label_distance(a, b) == pytest.approx(9.7, abs=1e-5)
    assert labels.label_distance(a, a, 10.0) == 0
