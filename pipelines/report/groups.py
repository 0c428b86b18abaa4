"""The report's table of classes or label ranges: how many images each has, and how wrong the nets are on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One class or label range: its images in train, val and test, and a test score for each column (None: no test image)."""

    name: str
    images: tuple[int, int, int]
    scores: tuple[float | None, ...]


@dataclass(frozen=True)
class GroupTable:
    """Rows in the order of the labels, what the columns of scores are of, and how many rows there are in all."""

    kind: str
    columns: tuple[str, ...]
    rows: list[Row]
    num: int
    most: float
    """The largest score, for the length of the bars."""


def group_table(result: dict[str, Any], shown: int) -> GroupTable | None:
    """The table from an evaluate.json, the `shown` rows that the arm that ships is worst at; None for an older one."""
    if "groups" not in result:
        return None
    groups, arms, chosen = result["groups"], result["arms"], result["chosen_arm"]
    names = dict.fromkeys(("real", result["best_real_arm"], chosen))
    columns = {"teacher": groups["teacher"]} | {name: arms[name]["groups"] for name in names}
    columns["shipped student"] = result["shipped"]["groups"]
    counts = zip(groups["num_train"], groups["num_val"], groups["num_test"], strict=True)
    values = zip(*columns.values(), strict=True)
    rows = [Row(name, n, v) for name, n, v in zip(groups["names"], counts, values, strict=True) if any(n)]
    place = list(columns).index(chosen)
    worst = sorted(rows, key=lambda row: -1.0 if row.scores[place] is None else -float(row.scores[place] or 0.0))
    kept = {id(row) for row in worst[:shown]}
    most = max([score for row in rows for score in row.scores if score is not None] + [1e-12])
    return GroupTable(groups["kind"], tuple(columns), [row for row in rows if id(row) in kept], len(rows), most)
