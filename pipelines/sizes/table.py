"""The tables of `cgankd sizes`: what each size costs, and what it answers on validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cgankd.measure.places import places, with_ends

HEADS = {
    "int8_bytes": "int8 LiteRT",
    "onnx_bytes": "float ONNX",
    "arena": "arena, int8",
    "held_bytes": "maps, int8",
    "multiplications": "mult.",
    "ms": "ms",
}


def render(result: Mapping[str, Any]) -> RenderableType:
    """A rich renderable of a sizes.json dict."""
    remarks = [Text(f"{row['name']}: {row['remark']}") for row in by_bytes(result) if "remark" in row]
    parts: list[RenderableType] = [_costs(result), _scores(result), *remarks, Text(result["verdict"], style="bold")]
    return Group(*parts)


def _table(title: str, caption: str, columns: list[str]) -> Table:
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=0, title_style="bold")
    table.add_column("student", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _costs(result: Mapping[str, Any]) -> Table:
    """Numbers, files, multiplications, room and time."""
    keys = [key for key in HEADS if any(key in row["costs"] for row in result["sizes"])]
    front = {key: result["fronts"][axis] for axis, key in result["costs"].items()}
    caption = "; ".join(f"{HEADS[key]}: {text}" for key, text in result["costs_are"].items())
    caption += "; *: on the front, no other is at once as good and as cheap by this cost"
    table = _table("What each costs", caption, ["numbers", *(HEADS[key] for key in keys)])
    for row in by_bytes(result):
        marks = ["*" if row["name"] in front.get(key, ()) else " " for key in keys]
        cells = [_cell(key, row["costs"].get(key)) + mark for key, mark in zip(keys, marks, strict=True)]
        table.add_row(row["name"], f"{row['costs']['parameters']:,.0f}", *cells)
    table.add_section()
    table.add_row("teacher", f"{result['teacher']['parameters']:,}", *("" for _ in keys))
    return table


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return ""
    if key == "ms":
        return f"{value:.3f}"
    return f"{value / 1e6:.2f} M" if key == "multiplications" else f"{value / 1000:,.1f} kB"


def _scores(result: Mapping[str, Any]) -> Table:
    """Validation scores of the arms and the paired gain; bold: the one that is needed."""
    headline, arms = result["headline"], result["arms"]
    better = "higher" if headline["higher_is_better"] else "lower"
    title = f"{headline['name'].capitalize()} in {headline['unit']} ({better} is better)"
    level = 100 * result["confidence"]
    caption = f"mean+-sd over {len(result['seeds'])} seeds; gain of {arms[0]} with its {level:.0f} % paired interval"
    gains = ["gain"] if len(arms) == 2 else []
    int8 = ["int8 val"] if any("int8_val" in row for row in result["sizes"]) else []
    if int8:
        caption += "; int8 val: mean of the better arm with what the int8 file of its first seed loses"
    table = _table(title, caption, [*arms, *gains, *int8])
    dec = places([row["val"] for row in result["sizes"]])
    for row in by_bytes(result):
        cells = [f"{row['arms'][n]['val_mean']:.{dec}f}+-{row['arms'][n]['val_sd']:.{dec}f}" for n in arms]
        cells += [with_ends(row, "gain", dec, comma=",")] if gains else []
        cells += [f"{row['int8_val']:.{dec}f}" if "int8_val" in row else ""] if int8 else []
        table.add_row(Text(row["name"], style="bold" if row["name"] == result["enough"] else ""), *cells)
    table.add_section()
    table.add_row("teacher", f"{result['teacher']['val']:.{dec}f}", *("" for _ in (*arms[1:], *gains, *int8)))
    return table


def by_bytes(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows, the smallest file first, those without such a file last."""
    key = result["costs"]["bytes"]
    return sorted(result["sizes"], key=lambda row: (row["costs"].get(key, math.inf), row["name"]))
