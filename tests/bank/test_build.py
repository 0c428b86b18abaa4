from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cgankd.bank.build import (
    SELECTIONS,
    Columns,
    EmptyBankError,
    Limits,
    ScoreFn,
    Scorer,
    Scores,
    Source,
    arrange,
    asked_labels,
    bank_report,
    burn_in,
    grow_pool,
    passes,
    select,
    selection_name,
)
from cgankd.bank.selections import freeze
from cgankd.config import BankConfig
from cgankd.types import Task
from tests.bank.toys import bank_config, class_task, scalar_task

ALL = tuple(SELECTIONS)


def draw(label_B: Tensor, gen: torch.Generator) -> Tensor:
    return torch.randint(0, 256, (len(label_B), 1, 2, 2), generator=gen).to(torch.uint8)


def ratio(images: Tensor, label_B: Tensor) -> Tensor:
    return images[:, 0, 0, 0].float() / 128  # mean about 1, maximum about 2


def class_teacher(images: Tensor) -> Tensor:
    return images[:, 0, 1].float() / 64


def scalar_teacher(images: Tensor) -> Tensor:
    return images[:, 0, 1, :1].float() / 255


def class_scorer(num_fn: object = ratio) -> ScoreFn:
    return Scorer(draw, num_fn, class_teacher, class_task(2))


def grow(
    cfg: BankConfig, selections: Collection[str] = ALL, seed: int = 0, scorer: ScoreFn | None = None
) -> tuple[list[Scores], Limits, Tensor]:
    task, scorer = class_task(2), scorer or class_scorer()
    source = Source(scorer, arrange(task, torch.arange(2), cfg, seed=seed), cfg, seed)
    limits = burn_in(source)
    return list(grow_pool(source, limits, selections)), limits, source.conditions.quota_G


def columns_of(blocks: list[Scores], task: Task) -> Columns:
    asked = torch.cat([b.asked for b in blocks])
    stack = [torch.cat([getattr(b, n) for b in blocks]) for n in ("ratio", "teacher_error", "uniform")]
    return Columns(task.filter_groups(asked), *stack)


def test_a_pair_of_switches_names_its_selection() -> None:
    assert [selection_name(*switches) for switches in SELECTIONS.values()] == list(ALL)


@pytest.mark.parametrize("scope", ["label", "global"])
def test_every_selection_has_exactly_its_quota_evenly_over_the_classes(scope: str) -> None:
    blocks, limits, quota = grow(bank_config(num_fakes=61, filter_scope=scope))
    columns = columns_of(blocks, class_task(2))
    assert quota.tolist() == [30, 31]
    for name in ALL:
        rows = select(name, columns, limits, quota)
        assert torch.bincount(columns.group[rows]).tolist() == [30, 31]
        assert bool(passes(name, columns, limits)[rows].all()) and bool((rows.diff() > 0).all())


def test_raw_takes_the_first_draws_and_wastes_none() -> None:
    blocks, limits, quota = grow(bank_config(num_fakes=128), ["raw"])
    assert sum(map(len, blocks)) == 128
    assert select("raw", columns_of(blocks, class_task(2)), limits, quota).tolist() == list(range(128))


def test_the_draws_depend_on_the_seed_alone_and_not_on_which_selections_are_wanted() -> None:
    def kept(selections: Collection[str], seed: int) -> set[bytes]:
        blocks, limits, quota = grow(bank_config(), selections, seed)
        rows = select("subsample", columns_of(blocks, class_task(2)), limits, quota)
        images = torch.cat([b.images for b in blocks])[rows]
        return {image.numpy().tobytes() for image in images}

    assert kept(["subsample"], 0) == kept(ALL, 0) == kept(ALL, 0)
    assert kept(["subsample"], 0) != kept(["subsample"], 1)


def test_a_block_can_be_drawn_again_from_its_group_and_shard() -> None:
    blocks, _, _ = grow(bank_config())
    labels = [int(b.asked[0]) for b in blocks]
    assert all(bool((b.asked == label).all()) for b, label in zip(blocks, labels, strict=True))
    assert len({(label, b.shard) for b, label in zip(blocks, labels, strict=True)}) == len(blocks)


def test_limits_are_those_of_the_burn_in_by_numpy() -> None:
    rng = np.random.default_rng(0)
    group, r, error = rng.integers(0, 3, 600), rng.exponential(size=600), rng.exponential(size=600)
    u = rng.random(600)
    columns = Columns(*(torch.from_numpy(a) for a in (group, r, error, u)))
    for scope in ("label", "global"):
        limits = freeze(columns, 3, bank_config(rho=0.7, bound_quantile=0.95, filter_scope=scope))
        bound = np.array([np.quantile(r[group == g], 0.95) for g in range(3)])
        accepted = u <= r / bound[group]
        assert limits.bound_G.numpy() == pytest.approx(bound)
        for name, among in (("filter_only", np.ones(600, bool)), ("filter", accepted)):
            cuts = [among & ((group == g) | (scope == "global")) for g in range(3)]
            expected = [np.quantile(error[cut], 0.7, method="higher") for cut in cuts]
            assert limits.cutoff[name].numpy() == pytest.approx(expected)
        assert limits.passed["subsample"].tolist() == [int((accepted & (group == g)).sum()) for g in range(3)]
        assert limits.tried.tolist() == np.bincount(group).tolist()
        assert limits.exceedance_share == pytest.approx((r > bound[group]).mean())


@pytest.mark.parametrize("scope", ["label", "global"])
def test_bounds_of_single_labels_share_the_cutoff_of_their_bin(scope: str) -> None:
    rng = np.random.default_rng(1)
    task = scalar_task(num_conditions=8, label_bin=5.0)  # two bins of four labels
    cfg = bank_config(bound_scope="label", rho=0.6, filter_scope=scope, label_bin=5.0, num_conditions=8, num_fakes=64)
    label_K = task.conditions(torch.tensor([0.0, 10.0]))
    conditions = arrange(task, label_K, cfg, seed=0)
    assert sorted(conditions.labels) == list(range(8)) and conditions.quota_G.tolist() == [8] * 8
    assert all(conditions.labels[g].tolist() == [float(label_K[g])] for g in range(8))
    asked = label_K[torch.from_numpy(rng.integers(0, 8, 800))]
    group = conditions.grouping.groups(asked)
    assert torch.equal(label_K[group], asked)
    r, error, u = rng.exponential(size=800), rng.exponential(size=800), rng.random(800)
    limits = freeze(Columns(group, *map(torch.from_numpy, (r, error, u))), 8, cfg, conditions.grouping.bins())
    g = group.numpy()
    bound = np.array([r[g == k].max() for k in range(8)])
    assert limits.bound_G.numpy() == pytest.approx(bound)
    accepted, bins = u <= r / bound[g], g // 4 if scope == "label" else np.zeros(800, int)
    cut = [np.quantile(error[accepted & (bins == b)], 0.6, method="higher") for b in range(int(bins.max()) + 1)]
    assert limits.cutoff["filter"].numpy() == pytest.approx([cut[k // 4 if scope == "label" else 0] for k in range(8)])


def test_scalar_quota_is_even_over_the_bins_and_labels_are_spread_within_a_bin() -> None:
    task, cfg = scalar_task(num_conditions=400, label_bin=2.5), bank_config(num_fakes=80)
    condition_K = task.conditions(torch.empty(0))
    conditions = arrange(task, condition_K, cfg, seed=0)
    assert conditions.quota_G.tolist() == [20, 20, 20, 20]
    source = Source(Scorer(draw, ratio, scalar_teacher, task), conditions, cfg, 0)
    limits = burn_in(source)
    blocks = list(grow_pool(source, limits, ALL))
    columns, asked = columns_of(blocks, task), torch.cat([b.asked for b in blocks])
    for name in ("raw", "filter"):
        rows = select(name, columns, limits, conditions.quota_G)
        assert torch.bincount(columns.group[rows]).tolist() == [20] * 4
        first = asked[rows][columns.group[rows] == 0]
        assert 0.6 < float(first.mean()) < 1.9 and float(first.max()) > 1.5, "not the low end of the bin only"
    assert set(asked.tolist()) <= set(condition_K.tolist())
    predicted = torch.cat([b.predicted for b in blocks])
    assert predicted.dtype == asked.dtype == torch.float32
    errors = (predicted - asked).abs()
    assert torch.allclose(errors, columns.error)


def test_labels_may_be_asked_as_often_as_they_are_trained_on() -> None:
    rng = np.random.default_rng(2)
    task, cfg = scalar_task(num_conditions=50, label_bin=2.5), bank_config(num_fakes=400, label_shares="training")
    cfg = replace(cfg, num_conditions=50)
    ages = np.concatenate([rng.uniform(0, 2.4, 900), rng.uniform(5.1, 7.4, 90), rng.uniform(7.6, 10, 10)]).astype("f4")
    rng.shuffle(ages)
    found = asked_labels(task, torch.from_numpy(ages), cfg)
    wanted = np.quantile(ages, (np.arange(50) + 0.5) / 50, method="inverted_cdf")
    assert found.tolist() == wanted.tolist()
    quota = arrange(task, found, cfg, seed=0).quota_G
    # 45 of the 50 quantiles lie in the first bin, none in the second, and the ten last labels above them all.
    assert quota.tolist() == [360, 0, 40]
    assert torch.equal(asked_labels(task, found, replace(cfg, label_shares="even")), task.conditions(found))

    many, scope = class_task(3), bank_config(num_fakes=100, label_shares="training", bound_scope="label")
    label_N = torch.tensor([2] * 30 + [0] * 10)
    assert arrange(many, asked_labels(many, label_N, scope), scope, seed=0).quota_G.tolist() == [25, 75], "by label"
    two, by_class = class_task(2), bank_config(num_fakes=100, label_shares="training")
    conditions = arrange(two, asked_labels(two, torch.ones(30, dtype=torch.int64), by_class), by_class, seed=0)
    assert conditions.quota_G.tolist() == [0, 100] and sorted(conditions.labels) == [1]
    source = Source(Scorer(draw, ratio, class_teacher, two), conditions, by_class, 0)
    limits = burn_in(source)
    blocks = list(grow_pool(source, limits, ("raw",)))
    rows = select("raw", columns_of(blocks, two), limits, conditions.quota_G)
    assert torch.bincount(torch.cat([b.asked for b in blocks])[rows], minlength=2).tolist() == [0, 100]


@given(st.integers(1, 2000), st.integers(1, 12))
@settings(deadline=None)
def test_the_quota_sums_to_num_fakes_and_differs_by_at_most_one(num_fakes: int, num_classes: int) -> None:
    task = class_task(num_classes)
    quota = arrange(task, torch.arange(num_classes), bank_config(num_fakes=num_fakes), seed=0).quota_G
    assert int(quota.sum()) == num_fakes and int(quota.max() - quota.min()) <= 1


def test_a_larger_bank_or_another_rho_begins_with_the_same_draws() -> None:
    def draws(**changes: object) -> dict[int, Tensor]:
        blocks, _, _ = grow(bank_config(**changes))
        return {c: torch.cat([b.images for b in blocks if int(b.asked[0]) == c]) for c in (0, 1)}

    small, large, strict = draws(num_fakes=70), draws(num_fakes=500), draws(num_fakes=70, rho=0.3)
    for label, images in small.items():
        assert len(images) < len(large[label]) and torch.equal(large[label][: len(images)], images)
        assert len(images) < len(strict[label]) and torch.equal(strict[label][: len(images)], images)


def rare(images: Tensor, label_B: Tensor) -> Tensor:
    """A ratio that hardly ever accepts label 1."""
    value = images[:, 0, 0, 0].float() / 128
    return torch.where((label_B == 1) & (value < 1.9), 0.01 * value, value)


def test_a_dead_ratio_is_refused_before_drawing_and_spares_the_other_selections() -> None:
    zero = class_scorer(lambda images, label_B: torch.zeros(len(images)))
    with pytest.raises(EmptyBankError, match="'subsample' accepts nothing, because all 400"):
        grow(bank_config(), ALL, scorer=zero)
    blocks, limits, quota = grow(bank_config(), ["raw", "filter_only"], scorer=zero)
    assert limits.dead_groups() == [0, 1]
    columns = columns_of(blocks, class_task(2))
    assert len(select("filter_only", columns, limits, quota)) == 60
    assert len(select("subsample", columns, limits, quota)) == 0


def test_nan_scores_name_the_stage() -> None:
    broken = class_scorer(lambda images, label_B: torch.full((len(images),), float("nan")))
    with pytest.raises(ValueError, match="ratio: NaN scores for 32 of 32 fakes"):
        grow(bank_config(), ["raw"], scorer=broken)


def test_log_counts_up_to_all_quotas() -> None:
    seen: list[tuple[int, int]] = []
    task, cfg, scorer = class_task(2), bank_config(num_fakes=600), class_scorer()
    source = Source(scorer, arrange(task, torch.arange(2), cfg, seed=0), cfg, 0)
    limits = burn_in(source)
    log = lambda step, values, total: seen.append((step, total))  # noqa: E731
    list(grow_pool(source, limits, ALL, log))
    assert seen[-1] == (2400, 2400) and len(seen) <= 101
    assert [s for s, _ in seen] == sorted({s for s, _ in seen})


def test_the_report_by_numpy() -> None:
    blocks, limits, quota = grow(bank_config())
    columns = columns_of(blocks, class_task(2))
    asked, predicted = (torch.cat([getattr(b, n) for b in blocks]) for n in ("asked", "predicted"))
    rows = {name: select(name, columns, limits, quota) for name in ("raw", "filter")}
    report = bank_report(columns, asked, predicted, limits, rows)
    r, error, u = (c.double().numpy() for c in (columns.ratio, columns.error, columns.uniform))
    accepted = u * limits.bound_G.numpy()[columns.group] <= r
    kept = accepted & (error <= limits.cutoff["filter"].numpy()[columns.group])
    assert report["draws"] == len(r) and report["burn_in_draws"] == 400
    assert report["filter.acceptance"] == pytest.approx(kept.mean())
    assert report["filter.dropped_share"] == pytest.approx(1 - kept.sum() / accepted.sum())
    chosen = rows["filter"].numpy()
    assert report["filter.teacher_error_mean"] == pytest.approx(error[chosen].mean())
    assert report["filter.teacher_error_median"] == pytest.approx(np.median(error[chosen]))
    assert report["filter.changed_share"] == pytest.approx((predicted != asked).numpy()[chosen].mean())
    assert report["filter.teacher_error_mean"] < report["raw.teacher_error_mean"]
    assert "subsample.kept" not in report and all(isinstance(v, float) for v in report.values())
