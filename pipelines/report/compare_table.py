"""A comparison as a table: for the terminal, as tidy CSV, and as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cgankd.config import BESIDE
from cgankd.measure.places import places
from cgankd.measure.predictive import Gain
from pipelines.files.writing import file_meant, replacing
from pipelines.report.charts import Interval, difference_unit, intervals
from pipelines.report.compare import difference, notes, over_real
from pipelines.report.page import render_page
from pipelines.report.records import Record
from pipelines.runtime.curves import csv_text

RUN_COLUMNS = ("run", "found", "arm", "uses_bank", "distiller", "student", "seeds", "dataset", "split", "unit")
SCORE_COLUMNS = ("val_mean", "mean", "sd", "over_real", "over_real_low", "over_real_high")
DIFFERENCE_COLUMNS = ("against", "difference", "difference_low", "difference_high", "paired")


def arm_names(records: Sequence[Record]) -> list[str]:
    """Every arm of any record, in the order they first appear."""
    return list(dict.fromkeys(name for one in records for name in one.arms))


def gain_text(gain: Gain | None, decimals: int = 2) -> str:
    """ "+1.23 [+0.45, +2.01]"; "equal" where every seed gave the same number, as when an arm did not change."""
    if gain is None:
        return ""
    if gain.values and not any(gain.values):
        return "equal"
    return f"{gain.gain:+z.{decimals}f} [{gain.low:+z.{decimals}f}, {gain.high:+z.{decimals}f}]"


def facts(one: Record) -> dict[str, str]:
    """What a run is, in words."""
    seeds = "not known" if one.seeds is None else f"{len(one.seeds)}: {' '.join(map(str, one.seeds))}"
    return {
        "found": one.found,
        "data set": (one.dataset or "not known")[:16],
        "student": one.student,
        "distiller (arms with KD)": one.distiller,
        "seeds": seeds,
        "steps x batch": one.steps,
        "scored on": f"{one.headline['name']} ({one.headline['unit']})",
        "teacher": "" if one.teacher is None else f"{one.teacher:.{places([one.teacher])}f}",
        "ships (by validation)": one.chosen or "",
    }


def changed(records: Sequence[Record]) -> dict[str, list[str]]:
    """Settings that results depend on and that differ between the records: dotted name -> one text a record."""
    if not all(one.settings for one in records):
        return {}
    keys = sorted({key for one in records for key in one.settings if key.split(".")[0] not in (*BESIDE, "tracking")})
    found = {}
    for key in keys:
        values = [_meaning(one.settings.get(key)) for one in records]
        if any(value != values[0] for value in values):
            found[key] = [str(one.settings.get(key, "not set")) for one in records]
    return found


def _meaning(value: Any) -> Any:
    """The value; None for a switch that is off and an empty section too, which say what a missing line says."""
    return None if value is False or value == {} else value


def terminal(records: Sequence[Record]) -> Group:
    """A rich renderable: the runs, the arms with their differences, and what to know of them."""
    runs = Table(box=box.SIMPLE_HEAD, padding=0)
    runs.add_column("run")
    for one in records:
        runs.add_column(escape(one.name), overflow="fold")
    described = [facts(one) for one in records]
    for key in described[0]:
        runs.add_row(key, *(escape(values[key]) for values in described))
    for key, values in changed(records).items():
        runs.add_row(escape(key), *(escape(value) for value in values), style="yellow")
    arms = Table(box=box.SIMPLE_HEAD, padding=0)
    for title in arm_header(records):
        arms.add_column(escape(title), justify="left" if title in ("arm", "KD") else "right")
    for row in arm_rows(records):
        arms.add_row(*(escape(cell) for cell in row))
    verdicts = [Text(f"{one.name}: {one.verdict}") for one in records if one.verdict]
    return Group(runs, arms, *verdicts, *(Text(text, style="dim") for text in notes(list(records))))


def arm_header(records: Sequence[Record]) -> list[str]:
    """Titles of the table of arms."""
    titles = ["arm", "KD"]
    for i, one in enumerate(records):
        titles.append(f"{one.name} (* ships)" if one.chosen else one.name)
        if i == 0 and len(records) == 1:
            titles += ["val", "gain over real"]
        elif i > 0:
            titles.append(f"{one.name} - {records[0].name}" if len(records) > 2 else "difference")
    return titles


def arm_rows(records: Sequence[Record]) -> list[list[str]]:
    """Cells of the table of arms."""
    rows = []
    dec = places(arm.mean for one in records for name, arm in one.arms.items() if name == "real")
    for name in arm_names(records):
        kinds = {one.arms[name].distiller for one in records if name in one.arms}
        row = [name, ", ".join(sorted(kind for kind in kinds if kind))]
        for i, one in enumerate(records):
            arm = one.arms.get(name)
            row.append(f"{arm.mean:.{dec}f}+-{arm.sd:.{dec}f}{'*' if name == one.chosen else ''}" if arm else "")
            if i == 0 and len(records) == 1:
                row += [f"{arm.val_mean:.{dec}f}" if arm else "", gain_text(over_real(one, name), dec)]
            elif i > 0:
                found = difference(records[0], one, name)
                row.append(gain_text(found.gain if found else None, dec))
        rows.append(row)
    return rows


def tidy(records: Sequence[Record]) -> str:
    """CSV with one row a run and arm."""
    rows: list[list[object]] = []
    for one in records:
        for name, arm in one.arms.items():
            row: list[object] = [one.name, one.found, name, arm.uses_bank, arm.distiller, one.student]
            row += [" ".join(map(str, one.seeds or ())), one.dataset, one.split, one.headline["unit"]]
            row += [arm.val_mean, arm.mean, arm.sd if len(arm.values) > 1 else None]
            gain = over_real(one, name)
            row += [gain.gain, gain.low, gain.high] if gain else [None] * 3
            found = difference(records[0], one, name) if one is not records[0] else None
            row += (
                [records[0].name, found.gain.gain, found.gain.low, found.gain.high, found.paired]
                if found
                else [None] * 5
            )
            rows.append(["" if cell is None else cell for cell in row])
    return csv_text([*RUN_COLUMNS, *SCORE_COLUMNS, *DIFFERENCE_COLUMNS], rows)


def page(records: Sequence[Record]) -> str:
    """The HTML page: the same tables, and every arm's mean with its interval, run beside run."""
    first = records[0]
    charts = []
    scored = [one for one in records if one.headline["unit"] == first.headline["unit"] and one.split == first.split]
    rows = []
    for name in arm_names(records):
        for i, one in enumerate(scored):
            if name in one.arms:
                label = f"{name}, {one.name}" if len(scored) > 1 else name
                rows.append(Interval.of_values(label, one.arms[name].values, first.confidence, colour=i % 4))
    unit = f"{first.headline['name']} ({first.headline['unit']})"
    better = "right" if first.headline["higher_is_better"] else "left"
    title = f"Every arm with its {100 * first.confidence:.0f} % interval over seeds"
    charts.append((title, intervals(rows, f"{unit}, better to the {better}", title=title)))
    gains = []
    for name in arm_names(records):
        for i, one in enumerate(records[1:], 1):
            found = difference(first, one, name)
            if found:
                label = f"{name}, {one.name}" if len(records) > 2 else name
                gains.append(Interval(label, found.gain.gain, found.gain.low, found.gain.high, (), colour=i % 4))
    if gains:
        title = f"What each arm gains over the same arm of {first.name}"
        axis = f"gain ({difference_unit(first.headline['unit'])}), right of zero is better"
        charts.append((title, intervals(gains, axis, title=title, mark=0.0)))
    described = [facts(one) for one in records]
    context: dict[str, Any] = {
        "title": page_title(records),
        "names": [one.name for one in records],
        "facts": {key: [values[key] for values in described] for key in described[0]},
        "changed": changed(records),
        "header": arm_header(records),
        "rows": [[cell.replace("+-", " \u00b1 ") for cell in row] for row in arm_rows(records)],
        "verdicts": [(one.name, one.verdict) for one in records if one.verdict],
        "notes": notes(list(records)),
        "charts": charts,
    }
    return render_page("comparison.html", context)


def page_title(records: Sequence[Record]) -> str:
    """What the page is about: one run by its preset, as "workspace" says nothing in a browser's tab; two by name."""
    if len(records) == 1:
        preset = records[0].settings.get("tracking.preset")
        return f"{preset}: arms of {records[0].name}" if preset else f"Arms of {records[0].name}"
    return " and ".join(one.name for one in records) if len(records) == 2 else f"{len(records)} runs"


def write(records: Sequence[Record], csv_path: Path | None, html_path: Path | None) -> None:
    """Write the CSV and HTML beside the terminal table."""
    named = [(file_meant(path), text) for path, text in ((csv_path, tidy), (html_path, page)) if path is not None]
    for path, text in named:
        with replacing(path, named=True) as temporary:
            temporary.write_text(text(records), encoding="utf-8")
