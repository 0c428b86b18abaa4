from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cgankd.bank.m1_subsample import accept, bound, exceedances

unit = st.floats(0, 1, width=32)
ratio = st.floats(0, 50, width=32)
rows = st.lists(st.tuples(ratio, ratio, unit), min_size=1, max_size=40)


def columns(values: list[tuple[float, ...]]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(column) for column in zip(*values, strict=True))


@given(rows)
@settings(deadline=None)
def test_accept_never_keeps_a_uniform_above_the_ratio_over_the_bound(values: list[tuple[float, ...]]) -> None:
    r_B, bound_B, u_B = columns(values)
    for kept, (r, m, u) in zip(accept(r_B, bound_B, u_B).tolist(), values, strict=True):
        assert kept == (r > 0 and m > 0 and np.float64(u) <= np.float64(r) / np.float64(m))


@given(rows, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_accept_is_permutation_equivariant(values: list[tuple[float, ...]], random: object) -> None:
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    plain = accept(*columns(values))
    assert torch.equal(accept(*(c[order] for c in columns(values))), plain[order])


def test_a_zero_bound_or_a_zero_ratio_accepts_nothing_even_at_a_uniform_of_zero() -> None:
    r_B, u_B = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.zeros(4)
    assert accept(r_B, torch.tensor([0.0, 1.0, 0.0, 1.0]), u_B).tolist() == [False, False, False, True]


def test_rejection_with_the_true_ratio_recovers_p_at_rate_one_over_the_bound() -> None:
    gen = torch.Generator().manual_seed(0)
    x_N = 1.5 * torch.randn(60_000, generator=gen).double()
    p, q = stats.norm(0.5, 1.0), stats.norm(0.0, 1.5)
    r_N = torch.from_numpy(p.pdf(x_N.numpy()) / q.pdf(x_N.numpy()))
    grid = np.linspace(-8, 8, 20_001)
    true_bound = float((p.pdf(grid) / q.pdf(grid)).max())
    estimated = bound(r_N[:5000], torch.zeros(5000, dtype=torch.int64), 1, 1.0)
    assert float(estimated) == pytest.approx(true_bound, rel=1e-3)
    kept = accept(r_N, estimated.expand(len(r_N)), torch.rand(len(r_N), generator=gen))
    assert float(kept.double().mean()) == pytest.approx(1 / true_bound, rel=0.02)
    assert stats.kstest(x_N[kept].numpy(), p.cdf).pvalue > 0.01
    assert stats.kstest(x_N[: int(kept.sum())].numpy(), p.cdf).pvalue < 1e-6, "the test has power"


@pytest.mark.parametrize("quantile", [1.0, 0.95])
def test_bound_is_numpys_quantile_in_each_group(quantile: float) -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.exponential(size=500).astype(np.float32), rng.integers(0, 4, 500)
    found = bound(torch.from_numpy(values), torch.from_numpy(groups), 4, quantile).numpy()
    assert found == pytest.approx([np.quantile(values[groups == g].astype(float), quantile) for g in range(4)])


def test_bound_of_dead_empty_and_nearly_dead_groups() -> None:
    ratio_N = torch.tensor([0.0] * 100 + [0.0] * 99 + [3.0])
    group_N = torch.tensor([0] * 100 + [2] * 100)
    # All zero; no draws; a 0.95-quantile of zero though one ratio is 3, where the maximum is taken.
    assert bound(ratio_N, group_N, 3, 0.95).tolist() == [0.0, 0.0, 3.0]


def test_exceedances_count_ratios_above_the_bound() -> None:
    assert exceedances(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([3.0, 3.0, 3.0, 3.0])) == 0.25
    assert exceedances(torch.empty(0), torch.empty(0)) == 0.0
