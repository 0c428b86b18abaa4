from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cgankd.measure.two_sample import auc, two_sample


@settings(max_examples=30, deadline=None)
@given(scores=st.lists(st.integers(0, 6), min_size=4, max_size=30), positives=st.integers(1, 3))
def test_auc_is_sklearns_with_ties(scores: list[int], positives: int) -> None:
    score, positive = torch.tensor(scores).double(), torch.arange(len(scores)) % (positives + 1) == 0
    assert auc(score, positive) == pytest.approx(roc_auc_score(positive.numpy(), score.numpy()))


def normal(n: int, shift: float, seed: int) -> torch.Tensor:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    x[:, 0] += shift
    return x


def test_two_gaussians_are_told_apart_as_well_as_theory_allows() -> None:
    """Unit Gaussians d apart: the best AUC is Phi(d / sqrt 2), the total variation distance 2 Phi(d / 2) - 1."""
    d = 1.5
    found = two_sample(normal(1500, 0.0, 0), normal(1500, d, 1), seed=0)

    def phi(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    assert found.auc == pytest.approx(phi(d / math.sqrt(2)), abs=0.02)
    assert found.gap == pytest.approx(2 * phi(d / 2) - 1, abs=0.04)


def test_one_distribution_cannot_be_told_apart_whatever_the_sizes() -> None:
    found = two_sample(normal(800, 0.0, 0), normal(200, 0.0, 1), seed=0)
    assert found.auc == pytest.approx(0.5, abs=0.07) and found.gap == pytest.approx(0.0, abs=0.1)
    assert found == two_sample(normal(800, 0.0, 0), normal(200, 0.0, 1), seed=0)


def test_rows_are_judged_by_a_classifier_that_has_not_seen_them() -> None:
    """More features than rows: the training rows are always separable, unseen ones are not."""
    gen = torch.Generator().manual_seed(0)
    assert two_sample(torch.randn(20, 200, generator=gen), torch.randn(20, 200, generator=gen), seed=0).auc < 0.8
