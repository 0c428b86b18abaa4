"""The published ways of making a bank, one pass and a running bound, against loops written out in plain numpy."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor

from cgankd.bank.build import (
    SELECTIONS,
    Columns,
    Conditions,
    EmptyBankError,
    Limits,
    Scorer,
    Scores,
    Source,
    arrange,
    bank_report,
    burn_in,
    grow_pool,
    passes,
    select,
)
from cgankd.bank.m1_subsample import running_bound
from cgankd.config import BankConfig, ConfigError
from tests.bank.test_build import columns_of, draw
from tests.bank.toys import bank_config, class_task

ALL, TASK = tuple(SELECTIONS), class_task(3)
SMALL: dict[str, object] = {"burn_in": 12, "num_fakes": 240}
Grown = tuple[list[Scores], Columns, Limits, Conditions]


def heavy(images: Tensor, label_B: Tensor) -> Tensor:
    """Ratios with a Pareto tail, so that a short burn-in knows little of their maximum."""
    u = (images[:, 0, 0, 0].float() * 256 + images[:, 0, 0, 1].float() + 0.5) / 65536
    return 0.3 * (1 - u) ** -0.4


def teacher(images: Tensor) -> Tensor:
    return images[:, 0].flatten(1)[:, 1:].float() / 64


def grow(cfg: BankConfig, selections: tuple[str, ...] = ALL, ratio: object = heavy) -> Grown:
    source = Source(Scorer(draw, ratio, teacher, TASK), arrange(TASK, torch.arange(3), cfg, seed=0), cfg, 0)
    limits = burn_in(source)
    blocks = list(grow_pool(source, limits, selections))
    return blocks, columns_of(blocks, TASK), limits, source.conditions


def kept_by_numpy(columns: Columns, limits: Limits, quota: np.ndarray, running: bool, use_filter: bool) -> list[int]:
    """One fake after the other: raise the bound, reject by it, filter, stop at the group's quota."""
    bound, have, kept = limits.bound_G.numpy().astype(float).copy(), np.zeros(len(quota), int), []
    rows = zip(
        *(c.numpy().tolist() for c in (columns.group, columns.ratio, columns.error, columns.uniform)), strict=True
    )
    for i, (g, r, error, u) in enumerate(rows):
        if running and r > bound[g]:
            bound[g] = r
        passed = r > 0 and u <= r / bound[g] and (not use_filter or error <= float(limits.cutoff["filter"][g]))
        if passed and have[g] < quota[g]:
            have[g] += 1
            kept.append(i)
    return kept


@pytest.mark.parametrize("refill", [True, False])
@pytest.mark.parametrize("bound", ["frozen", "running"])
def test_both_bounds_with_and_without_refill_by_numpy(bound: str, refill: bool) -> None:
    _, columns, limits, conditions = grow(bank_config(bound=bound, refill=refill, **SMALL))
    assert limits.running == (bound == "running")
    for name, use_filter in (("subsample", False), ("filter", True)):
        expected = kept_by_numpy(columns, limits, conditions.quota_G.numpy(), bound == "running", use_filter)
        assert select(name, columns, limits, conditions.quota_G).tolist() == expected
        assert len(expected) == 240 if refill else 0 < len(expected) < 240


def test_the_two_bounds_differ_on_heavy_tails_and_only_after_the_first_raise() -> None:
    _, columns, limits, _ = grow(bank_config(bound="running", **SMALL))
    frozen = dataclasses.replace(limits, running=False)
    one, other = passes("subsample", columns, limits), passes("subsample", columns, frozen)
    assert bool((other | ~one).all()) and int(one.sum()) < 0.9 * int(other.sum()), "a raised bound accepts less"
    for group in range(3):
        rows = (columns.group == group).nonzero()[:, 0]
        first = int((columns.ratio[rows] > limits.bound_G[group]).nonzero()[0])
        assert torch.equal(one[rows[:first]], other[rows[:first]])
        assert bool(one[rows[first]]), "the fake that raises the bound is tested under its own ratio, and accepted"


def test_the_running_bound_is_the_same_whether_taken_block_by_block_or_over_the_pool() -> None:
    blocks, columns, limits, _ = grow(bank_config(bound="running", **SMALL))
    here, parts = dict.fromkeys(range(3), limits), []
    for block in blocks:
        group = int(block.asked[0])
        parts.append(passes("filter", block.columns(group), here[group]))
        here[group] = here[group].after(block.columns(group))
    assert torch.equal(torch.cat(parts), passes("filter", columns, limits))
    top = [max(float(limits.bound_G[g]), float(columns.ratio[columns.group == g].max())) for g in range(3)]
    assert [float(here[g].bound_G[g]) for g in range(3)] == top and top != limits.bound_G.tolist()


def test_a_running_bound_by_hand_keeps_groups_apart() -> None:
    ratio, group = torch.tensor([1.0, 9.0, 3.0, 2.0, 4.0]), torch.tensor([0, 1, 0, 0, 0])
    assert running_bound(ratio, group, torch.tensor([2.0, 5.0]).double()).tolist() == [2.0, 9.0, 3.0, 3.0, 4.0]


def test_what_is_wanted_beside_it_does_not_move_a_running_selection() -> None:
    def kept(*selections: str) -> bytes:
        blocks, columns, limits, conditions = grow(bank_config(bound="running", **SMALL), selections)
        rows = select("subsample", columns, limits, conditions.quota_G)
        group, images = columns.group[rows], torch.cat([b.images for b in blocks])[rows]
        return b"".join(images[group == g].numpy().tobytes() for g in range(3))

    assert kept("subsample") == kept(*ALL)


def test_one_pass_draws_exactly_the_shares_and_they_are_what_refilling_looks_at_first() -> None:
    changes: dict[str, object] = {**SMALL, "num_fakes": 100}
    once, columns, limits, conditions = grow(bank_config(refill=False, **changes))
    again, more, _, _ = grow(bank_config(**changes))
    assert torch.bincount(columns.group).tolist() == conditions.quota_G.tolist() == [33, 33, 34]
    assert max(map(len, once)) == 32, "33 are a whole block and one"
    for group in range(3):
        for column in ("images", "uniform"):
            parts = [torch.cat([getattr(b, column) for b in bs if int(b.asked[0]) == group]) for bs in (once, again)]
            assert torch.equal(parts[0], parts[1][: len(parts[0])]) and len(parts[1]) > len(parts[0])
    rows = {name: select(name, columns, limits, conditions.quota_G) for name in ALL}
    asked, predicted = (torch.cat([getattr(b, n) for b in once]) for n in ("asked", "predicted"))
    report = bank_report(columns, asked, predicted, limits, rows)
    assert report["draws"] == report["raw.kept"] == 100
    for name in ("subsample", "filter_only", "filter"):
        assert report[f"{name}.kept"] == round(100 * report[f"{name}.acceptance"]) < 100


def test_one_pass_has_no_quota_error_and_a_clear_one_where_nothing_passes_at_all() -> None:
    def dead(images: Tensor, label_B: Tensor) -> Tensor:
        return torch.where(label_B == 1, heavy(images, label_B), 0.0)

    _, columns, limits, conditions = grow(bank_config(refill=False, **SMALL), ratio=dead)
    assert set(columns.group[select("filter", columns, limits, conditions.quota_G)].tolist()) == {1}
    _, columns, limits, conditions = grow(bank_config(**SMALL), ("subsample",), dead)
    assert columns.group.unique().tolist() == [1], "nothing is drawn where M1 can accept nothing"
    assert len(select("subsample", columns, limits, conditions.quota_G)) == 80
    _, columns, _, _ = grow(bank_config(bound="running", max_draws_factor=2.0, **SMALL), ("subsample",), dead)
    assert torch.bincount(columns.group).tolist()[::2] == [160, 160], "a running bound may rise yet, up to the cap"

    zero = lambda images, label_B: torch.zeros(len(images))  # noqa: E731
    assert issubclass(EmptyBankError, ConfigError)
    with pytest.raises(ConfigError, match=r"nothing passes selection 'subsample' among the 240 .*bank\.refill: false"):
        grow(bank_config(refill=False, **SMALL), ratio=zero)
    assert len(grow(bank_config(refill=False, **SMALL), ("raw", "filter_only"), zero)[0])


def test_a_running_bound_of_zero_rises_with_the_first_ratio_above_it() -> None:
    late = Limits(torch.zeros(1).double(), {}, torch.tensor([5]), {}, 0.0, running=True)
    ratio = torch.tensor([0.0, 2.0, 1.0, 1.0])
    columns = Columns(torch.zeros(4, dtype=torch.int64), ratio, ratio, torch.tensor([0.0, 1.0, 0.4, 0.6]))
    assert passes("subsample", columns, late).tolist() == [False, True, True, False]


@pytest.mark.parametrize("bound", ["frozen", "running"])
def test_one_pass_counts_its_draws_and_what_passes(bound: str) -> None:
    cfg, seen = bank_config(refill=False, bound=bound, **SMALL), list[tuple[int, int, dict[str, float]]]()
    source = Source(Scorer(draw, heavy, teacher, TASK), arrange(TASK, torch.arange(3), cfg, seed=0), cfg, 0)
    limits = burn_in(source)
    log = lambda step, values, total: seen.append((step, total, dict(values)))  # noqa: E731
    columns = columns_of(list(grow_pool(source, limits, ALL, log)), TASK)
    fewest = float(passes("filter", columns, limits).sum())
    assert seen[-1] == (240, 240, {"draws": 240.0, "kept": fewest})
    assert [step for step, _, _ in seen] == sorted({step for step, _, _ in seen}) and len(seen) > 3


def test_a_running_bound_wants_the_maximum() -> None:
    with pytest.raises(ConfigError, match=r"bank\.bound_quantile must be 1 where bank\.bound is running, but is 0\.95"):
        bank_config(bound="running", bound_quantile=0.95)
    assert bank_config(bound="frozen", bound_quantile=0.95).refill


def test_the_defaults_are_as_before_the_two_settings_came() -> None:
    blocks, columns, limits, conditions = grow(bank_config(**SMALL))
    said = hashlib.sha256()
    for block in blocks:
        for name in ("images", "asked", "uniform"):
            said.update(getattr(block, name).numpy().tobytes())
    for name in ALL:
        said.update(select(name, columns, limits, conditions.quota_G).numpy().tobytes())
    explicit = grow(bank_config(refill=True, bound="frozen", **SMALL))[1]
    assert torch.equal(explicit.ratio, columns.ratio)
    assert (len(columns), said.hexdigest()[:16]) == BEFORE


BEFORE = (992, "4b4dc6a661ed030d")
"""Fakes drawn, and the digest of draws and rows, by the code before bank.refill and bank.bound."""
