"""The table of `cgankd repeat`: every arm over the draws, and the arms that each draw chose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cgankd.measure.places import places_of, with_ends

CHOSEN = {
    "best_real": "best real-only",
    "best_unlabelled": "best unlabelled",
    "best_bank": "best with fakes",
    "best_both": "best with both",
    "ships": "ships",
}
"""Rows whose arm is chosen in each draw on its validation images."""


def render(result: Mapping[str, Any]) -> Group:
    """A rich renderable of a repeat.json dict."""
    headline = result["headline"]
    better = "higher" if headline["higher_is_better"] else "lower"
    table = Table(
        title=f"{headline['name']} in {headline['unit']} over {result['num_draws']} draws ({better} is better)",
        caption=f"mean+-sd over draws, each the mean of {result['num_students']} students; gains with"
        f" {100 * result['confidence']:.0f} % intervals over draws",
        box=box.SIMPLE_HEAD,
        padding=0,
        title_style="bold",
    )
    table.add_column("arm", overflow="fold")
    for name in ("test", "gain over real", "over best real-only"):
        table.add_column(name, justify="right", no_wrap=True)
    teacher, dec = result["teacher"], places_of(result)
    ends = f"[{teacher['low']:.{dec}f},{teacher['high']:.{dec}f}]"
    table.add_row("teacher", f"{teacher['mean']:.{dec}f}", ends, "")
    table.add_section()
    rows = dict(result["arms"])
    rows |= {CHOSEN[key]: result["chosen"][key] for key in CHOSEN if key in result["chosen"]}
    for place, (name, row) in enumerate(rows.items()):
        if place == len(result["arms"]):
            table.add_section()
        gains = (with_ends(row, key, dec, comma=",") if key in row else "" for key in ("gain", "rival_gain"))
        table.add_row(name, f"{row['mean']:.{dec}f}+-{row['sd']:.{dec}f}", *gains)
    note = "The last rows are the arms that each draw chose on its validation images: " + "; ".join(
        f"{CHOSEN[key]} {', '.join(result['chosen'][key]['arms'])}" for key in CHOSEN if key in result["chosen"]
    )
    beside = [
        f"{name} {with_ends(row, 'unlabelled_gain', dec)}"
        for name, row in rows.items()
        if "unlabelled_gain" in row and (name == CHOSEN["best_both"] or _has_both(row))
    ]
    if beside:  # a further column would not fit 80 letters
        note += f". Gains over the best arm with unlabelled images alone of each draw: {'; '.join(beside)}"
    return Group(table, Text(result["verdict"], style="bold"), Text(note + ".", style="dim"))


def _has_both(row: Mapping[str, Any]) -> bool:
    """Whether a row is of an arm with fakes and unlabelled images; the row of what each draw chose does not say."""
    return bool(row.get("uses_bank") and row.get("uses_unlabelled"))
