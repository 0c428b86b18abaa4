from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgankd.bank.m2_filter import cutoff, keep

rho_values = st.floats(0.01, 1.0)
rows = st.lists(st.tuples(st.floats(0, 100, width=32), st.integers(0, 3)), min_size=1, max_size=60)


def columns(values: list[tuple[float, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    error, group = zip(*values, strict=True)
    return torch.tensor(error), torch.tensor(group)


@given(rows)
@settings(deadline=None)
def test_rho_one_keeps_all(values: list[tuple[float, int]]) -> None:
    error, group = columns(values)
    assert keep(error, group, cutoff(error, group, 4, 1.0)).all()
    beyond = torch.full_like(error, 1e30)
    assert keep(beyond, group, cutoff(error, group, 4, 1.0)).all(), "also fakes worse than any of the burn-in"


@given(rows, rho_values)
@settings(deadline=None)
def test_at_least_ceil_rho_n_of_each_group_stay_and_as_few_as_a_quantile_allows(
    values: list[tuple[float, int]], rho: float
) -> None:
    error, group = columns(values)
    kept = keep(error, group, cutoff(error, group, 4, rho))
    for g in group.unique().tolist():
        num, stay = int((group == g).sum()), int(kept[group == g].sum())
        assert stay >= math.ceil(rho * num - 1e-9)
        if rho < 1 and len(error[group == g].unique()) == num:
            assert stay <= math.ceil(rho * (num - 1) + 1e-9) + 1


@given(rows, rho_values, rho_values)
@settings(deadline=None)
def test_keep_is_monotone_in_rho(values: list[tuple[float, int]], rho_a: float, rho_b: float) -> None:
    error, group = columns(values)
    small, large = (keep(error, group, cutoff(error, group, 4, rho)) for rho in sorted((rho_a, rho_b)))
    assert bool((large | ~small).all())


@given(rows, rho_values, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_cutoff_and_keep_are_permutation_equivariant(
    values: list[tuple[float, int]], rho: float, random: object
) -> None:
    error, group = columns(values)
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    plain, shuffled = cutoff(error, group, 4, rho), cutoff(error[order], group[order], 4, rho)
    assert torch.equal(plain, shuffled)
    assert torch.equal(keep(error[order], group[order], shuffled), keep(error, group, plain)[order])


@pytest.mark.parametrize("rho", [0.3, 0.7, 0.95])
def test_cutoff_is_numpys_higher_quantile(rho: float) -> None:
    rng = np.random.default_rng(1)
    values, groups = rng.exponential(size=300).astype(np.float32), rng.integers(0, 3, 300)
    found = cutoff(torch.from_numpy(values), torch.from_numpy(groups), 3, rho).numpy()
    expected = [np.sort(values[groups == g])[math.ceil(rho * ((groups == g).sum() - 1))] for g in range(3)]
    assert found.tolist() == [float(e) for e in expected]


def test_an_empty_group_takes_the_quantile_over_all_groups() -> None:
    error, group = torch.arange(11.0), torch.tensor([0] * 6 + [2] * 5)
    assert cutoff(error, group, 3, 0.5).tolist() == [3.0, 5.0, 8.0]


def test_no_errors_at_all_keep_nothing() -> None:
    nothing = cutoff(torch.empty(0), torch.empty(0, dtype=torch.int64), 2, 0.5)
    assert not keep(torch.zeros(2), torch.tensor([0, 1]), nothing).any()


def test_the_strict_filter_is_the_authors() -> None:
    """np.quantile between two errors, and only what is below it: even rho = 1 drops the largest."""
    rng = np.random.default_rng(3)
    error, group = rng.exponential(size=90), rng.integers(0, 3, 90)
    columns_ = torch.from_numpy(error), torch.from_numpy(group)
    for rho in (0.5, 0.7, 0.93, 1.0):
        cut = np.array([np.quantile(error[group == g], rho) for g in range(3)])
        found = cutoff(*columns_, 3, rho, strict=True)
        assert found.numpy() == pytest.approx(cut)
        assert keep(*columns_, found, strict=True).numpy().tolist() == (error < cut[group]).tolist()
    assert int(keep(*columns_, cutoff(*columns_, 3, 1.0, strict=True), strict=True).sum()) == 87
    assert int(keep(*columns_, cutoff(*columns_, 3, 1.0)).sum()) == 90
