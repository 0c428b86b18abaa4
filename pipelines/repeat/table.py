"""The table of `cgankd repeat`: every arm over the draws, and the arms that each draw chose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

CHOSEN = {"best_real": "best real-only", "best_bank": "best with fakes", "ships": "ships"}
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
    table.add_column("arm", no_wrap=True)
    for name in ("test", "gain over real", "over best real-only"):
        table.add_column(name, justify="right", no_wrap=True)
    teacher = result["teacher"]
    table.add_row("teacher", f"{teacher['mean']:.2f}", f"[{teacher['low']:.2f},{teacher['high']:.2f}]", "")
    table.add_section()
    rows = dict(result["arms"])
    rows |= {CHOSEN[key]: result["chosen"][key] for key in CHOSEN if key in result["chosen"]}
    for place, (name, row) in enumerate(rows.items()):
        if place == len(result["arms"]):
            table.add_section()
        cells = [f"{row['mean']:.2f}+-{row['sd']:.2f}", interval(row, "gain"), interval(row, "rival_gain")]
        table.add_row(name, *cells)
    note = "The last rows are the arms that each draw chose on its validation images: " + "; ".join(
        f"{CHOSEN[key]} {', '.join(row['arms'])}" for key, row in result["chosen"].items()
    )
    return Group(table, Text(result["verdict"], style="bold"), Text(note + ".", style="dim"))


def interval(row: Mapping[str, Any], key: str) -> str:
    """A gain with its interval; empty for an arm over itself."""
    return f"{row[key]:+.2f} [{row[f'{key}_low']:+.2f},{row[f'{key}_high']:+.2f}]" if key in row else ""
