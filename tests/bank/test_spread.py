"""The disagreement of a teacher's members as a column of the pool, and as what the filter looks at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cgankd.bank.build import Columns, bank_report, freeze, passes
from cgankd.bank.scores import Scorer, Scores
from cgankd.data.store.banks import BankWriter, read_pool_scores, write_bank
from cgankd.labels.task import ClassTask
from cgankd.types import DatasetInfo
from tests.bank.toys import bank_config


def drawn(num: int = 900) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    names = ("ratio", "error", "spread")
    return {"group": rng.integers(0, 3, num), "uniform": rng.random(num)} | {
        n: rng.exponential(size=num) for n in names
    }


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("by", ["error", "spread", "both"])
def test_the_filter_keeps_what_lies_below_the_quantile_of_each(by: str, strict: bool) -> None:
    """By numpy: quantiles within the groups, among the fakes that M1 accepts."""
    a = drawn()
    columns = Columns(**{name: torch.from_numpy(values) for name, values in a.items()})
    limits = freeze(columns, 3, bank_config(rho=0.7, filter_by=by, filter_strict=strict, bound_quantile=0.95))
    bound = np.array([np.quantile(a["ratio"][a["group"] == g], 0.95) for g in range(3)])
    accepted = a["uniform"] <= a["ratio"] / bound[a["group"]]
    for name, among in (("filter_only", np.ones(900, bool)), ("filter", accepted)):
        expected = among.copy()
        for column in ("error", "spread") if by == "both" else (by,):
            for g in range(3):
                here = a["group"] == g
                cut = np.quantile(a[column][among & here], 0.7, method="linear" if strict else "higher")
                expected[here] &= (a[column][here] < cut) if strict else (a[column][here] <= cut)
        assert passes(name, columns, limits).numpy().tolist() == expected.tolist()
        share = expected.sum() / among.sum()
        assert share == pytest.approx(0.7, abs=0.01) if by != "both" else 0.4 < share < 0.6  # they do not depend here
    rows = {"filter": passes("filter", columns, limits).nonzero()[:, 0]}
    report = bank_report(columns, columns.group, columns.group, limits, rows)
    assert report["filter.teacher_spread_mean"] == pytest.approx(a["spread"][rows["filter"].numpy()].mean())


def test_a_block_holds_the_spread_that_its_members_have(tmp_path: Path) -> None:
    """The teacher's last column is the spread; outputs and errors are those of the others; bank and pool keep it."""
    info = DatasetInfo("class", "x", "", 1, 16, (0.5,), (0.5,), ("a", "b"))
    task = ClassTask(info)
    both = torch.tensor([[1.0, 2.0, 0.25], [3.0, 1.0, 0.5], [0.0, 0.0, 0.75]])

    def never(images: object) -> torch.Tensor:
        raise AssertionError("one pass is enough")

    scorer = Scorer(
        lambda label, gen: torch.zeros(len(label), 1, 16, 16, dtype=torch.uint8),
        lambda images, label: torch.ones(len(label)),
        never,
        task,
        lambda images: both,
    )
    label = torch.tensor([0, 0, 1])
    scores = scorer(label, torch.Generator(), 0)
    assert torch.equal(scores.teacher_spread, both[:, 2]) and torch.equal(scores.teacher_output, both[:, :2].half())
    assert torch.equal(scores.teacher_error, task.error(both[:, :2], label))
    assert torch.equal(scores.columns(0).spread, both[:, 2]) and torch.equal(scores.head(2).teacher_spread, both[:2, 2])
    joined = Columns.joined([scores.columns(0), scores.head(1).columns(0)])
    assert joined.spread is not None and joined.spread.tolist() == [0.25, 0.5, 0.75, 0.25]
    pool, bank = tmp_path / "pool.h5", tmp_path / "bank.h5"
    with BankWriter(pool, (1, 16, 16), 2, torch.int64, spread=True) as writer:
        writer.append(scores.rows())
        writer.close({})
    write_bank(bank, pool, torch.tensor([2, 0]), label[:2], {})
    assert read_pool_scores(pool)["teacher_spread"].tolist() == [0.25, 0.5, 0.75]
    assert read_pool_scores(bank)["teacher_spread"].tolist() == [0.75, 0.25]


def test_without_members_there_is_no_column(tmp_path: Path) -> None:
    label = torch.tensor([0, 1])
    zero = torch.zeros(2)
    images = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    scores = Scores(images, label, label, zero, zero, torch.zeros(2, 2).half(), zero, 0)
    assert scores.head(1).teacher_spread is None and Columns.joined([scores.columns(0)] * 2).spread is None
    with BankWriter(tmp_path / "pool.h5", (1, 16, 16), 2, torch.int64) as writer:
        writer.append(scores.rows())
        writer.close({})
    write_bank(tmp_path / "bank.h5", tmp_path / "pool.h5", label, label, {})
    assert all("teacher_spread" not in read_pool_scores(tmp_path / name) for name in ("pool.h5", "bank.h5"))
