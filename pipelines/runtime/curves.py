"""The values a loop reports on its way, kept as rows by step and written as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any


class Curves:
    """The points of one loop: rows of values by step, and those not yet sent to the trackers."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.waiting: dict[str, list[tuple[int, float]]] = {}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One report of the loop; one that goes back to an earlier step forgets what came after that."""
        if self.rows and step < next(reversed(self.rows)):
            self.rows = {at: row for at, row in self.rows.items() if at <= step}
        if values:
            self.rows.setdefault(step, {}).update({k: float(v) for k, v in values.items()})
        for name, value in values.items():
            self.waiting.setdefault(name, []).append((step, float(value)))

    def take(self) -> dict[str, list[tuple[int, float]]]:
        """The points not yet sent, which count as sent from now on."""
        waiting, self.waiting = self.waiting, {}
        return waiting

    def dump(self) -> list[list[object]]:
        """All rows in the plain form that a resume file keeps."""
        return [[step, dict(values)] for step, values in self.rows.items()]

    def restore(self, rows: Sequence[Any]) -> None:
        """Take up the rows that were saved; those that this run has told already are not told again."""
        told, self.rows = self.rows, {}
        for step, values in rows or ():
            if told.get(int(step)) == dict(values):
                self.rows[int(step)] = dict(values)
            else:
                self.add(int(step), values)

    def csv(self) -> str:
        """Columns step and every value, in the order they first appear; a cell without a value is empty."""
        names = list(dict.fromkeys(name for values in self.rows.values() for name in values))
        rows = [[step, *(values.get(name, "") for name in names)] for step, values in sorted(self.rows.items())]
        return csv_text(["step", *names], rows)


def csv_text(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Comma-separated text with Unix line ends."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def file_name(name: str) -> str:
    """A name as a file name: "base students" -> "base_students"."""
    return re.sub(r"[^\w.-]+", "_", name)


def series_csv(series: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> str:
    """CSV from series -> (steps, values): a column step and one for each series."""
    table: dict[int, dict[str, float]] = {}
    for key, (steps, values) in series.items():
        for step, value in zip(steps, values, strict=True):
            table.setdefault(step, {})[key] = value
    rows = [[step, *(row.get(key, "") for key in series)] for step, row in sorted(table.items())]
    return csv_text(["step", *series], rows)
