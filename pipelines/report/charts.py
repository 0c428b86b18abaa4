"""Charts as inline SVG: they take their colours from the page, so they are right in light and dark, and need no script.

Every chart has a title and a description for readers who do not see it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from scipy.special import stdtrit

from cgankd.measure.places import places
from cgankd.measure.predictive import mean_sd

WIDTH, NARROW = 760, 470
"""Widths of charts in their own units: of a whole column, and of half a column, so that text stays readable."""
MARKS_APART, LETTER = 30.0, 6.6
"""Lines nearer than this share their sides for names; width of a letter of small text."""
Array = NDArray[Any]


@dataclass(frozen=True)
class Interval:
    """A row of a chart of intervals: the middle with its ends, the values behind it, a colour 0 to 3 of the page."""

    label: str
    middle: float
    low: float
    high: float
    values: tuple[float, ...]
    colour: int = 0
    strong: bool = False

    @staticmethod
    def of_values(
        label: str, values: Sequence[float], confidence: float, *, colour: int = 0, strong: bool = False
    ) -> Interval:
        """Mean of values, one a seed, with its Student t interval; without one where there is a single value."""
        middle, half = sum(values) / len(values), 0.0
        if len(values) > 1:
            half = float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * mean_sd(values)[1] / math.sqrt(len(values))
        return Interval(label, middle, middle - half, middle + half, tuple(values), colour, strong)


def figure(height: float, title: str, said: str, body: str, width: float = WIDTH) -> Markup:
    """An SVG that fills its column, with what it shows in words."""
    kind = "chart half" if width <= NARROW else "chart" if width <= WIDTH else "chart full"
    n = f"{zlib.crc32((title + said).encode()):08x}"  # ids of a page differ where charts do
    return Markup(
        f'<svg class="{kind}" role="img" viewBox="0 0 {width:g} {height:g}" aria-labelledby="t{n} d{n}">'
        f'<title id="t{n}">{escape(title)}</title><desc id="d{n}">{escape(said)}</desc>{body}</svg>'
    )


def text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> str:
    """A line of text; `kind` names classes of the style sheet."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def difference_unit(unit: str) -> str:
    """The unit of a difference: points between percentages, as the verdict says."""
    return "points" if unit == "%" else unit


def y_title(middle: float, words: str) -> str:
    """The title of a y axis, at the left edge and upwards."""
    return (
        f'<text x="14" y="{middle:.1f}" transform="rotate(-90 14 {middle:.1f})" text-anchor="middle"'
        f' class="small">{escape(words)}</text>'
    )


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers between two ends, at most `most`."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (factor * step) <= most)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def intervals(
    rows: Sequence[Interval], axis: str, *, title: str, mark: float | None = None, mark_name: str = ""
) -> Markup:
    """Rows of diamonds with their interval and, faint, the values behind; `mark` is a line across all rows."""
    left, top, step = 16.0 + 8.2 * min(30, max([len(row.label) for row in rows] + [8])), 12.0, 30.0
    ends = [value for row in rows for value in (row.low, row.high, *row.values)] + ([mark] if mark is not None else [])
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    room = 0.06 * (high - low) or 1.0
    low, high = low - room, high + room
    bottom = top + step * len(rows)

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDTH - left - 16)

    body = []
    for tick in ticks(low, high):
        body.append(line(x(tick), top, x(tick), bottom, "grid"))
        body.append(text(x(tick), bottom + 18, f"{tick:g}", anchor="middle", kind="small"))
    if mark is not None:
        body.append(line(x(mark), top, x(mark), bottom, "mark"))
        if mark_name:
            body.append(text(x(mark) + 5, top + 2, mark_name, kind="small"))
    for i, row in enumerate(rows):
        y = top + step * (i + 0.5)
        body.append(text(left - 10, y + 5, row.label, anchor="end", kind="strong" if row.strong else ""))
        body += [
            f'<circle cx="{x(v):.1f}" cy="{y - 6:.1f}" r="2.6" class="fill{row.colour} faint"/>' for v in row.values
        ]
        body.append(line(x(row.low), y + 4, x(row.high), y + 4, f"line{row.colour}"))
        body += [line(x(end), y, x(end), y + 8, f"line{row.colour}") for end in (row.low, row.high)]
        m = x(row.middle)
        body.append(f'<path d="M{m - 6:.1f} {y + 4:.1f}l6 -6l6 6l-6 6z" class="fill{row.colour}"/>')
    body.append(text((left + WIDTH) / 2, bottom + 38, axis, anchor="middle", kind="small"))
    dec = places(row.high - row.low for row in rows)
    said = "; ".join(f"{row.label} {row.middle:.{dec}f} [{row.low:.{dec}f}, {row.high:.{dec}f}]" for row in rows)
    return figure(bottom + 46, title, said, "".join(body))


def histogram(
    groups: Mapping[str, Array], axis: str, *, title: str, marks: Mapping[str, float], top_quantile: float = 0.995
) -> Markup:
    """Shares of each group in 40 equal bins from 0 up to a quantile; what lies beyond is put in words, as a bin of it
    would be the highest of all. `marks` are named lines."""
    everything = np.concatenate([*groups.values(), np.zeros(1)])
    high = max([float(np.quantile(everything, top_quantile)), *(1.05 * m for m in marks.values())]) or 1.0
    edges = np.linspace(0.0, high, 41)
    shares = {
        name: 100.0 * np.histogram(np.clip(values, 0.0, None), edges)[0] / max(1, len(values))
        for name, values in groups.items()
    }
    beyond = {name: 100.0 * float(np.mean(values > high)) for name, values in groups.items() if len(values)}
    most = max([float(share.max()) for share in shares.values() if len(share)] + [1.0])
    rows = len(marks) + any(beyond.values())
    left, top, bottom = 58.0, 14.0 + 18.0 * rows, 218.0 + 18.0 * rows

    def x(value: float) -> float:
        return left + value / high * (NARROW - left - 14)

    def y(share: float) -> float:
        return bottom - share / most * (bottom - top)

    body = [line(left, y(tick), NARROW - 14, y(tick), "grid") for tick in ticks(0, most, 5)]
    body += [text(left - 8, y(tick) + 4, f"{tick:g}", anchor="end", kind="small") for tick in ticks(0, most, 5)]
    body += [text(x(tick), bottom + 18, f"{tick:g}", anchor="middle", kind="small") for tick in ticks(0, high, 5)]
    body.append(y_title((top + bottom) / 2, "share of each group (%)"))
    for i, share in enumerate(shares.values()):
        points = [f"M{x(0):.1f} {bottom:.1f}"]
        for a, b, value in zip(edges, edges[1:], share, strict=False):
            points.append(f"L{x(a):.1f} {y(value):.1f}L{x(b):.1f} {y(value):.1f}")
        points.append(f"L{x(high):.1f} {bottom:.1f}z")
        body.append(f'<path d="{"".join(points)}" class="area{i % 4}"/>')
    said = [f"{name}: {len(v)} values, mean {float(np.mean(v)):.3g}" for name, v in groups.items() if len(v)]
    if any(beyond.values()):
        words = f"beyond {high:.2g}: " + ", ".join(f"{name} {share:.1f} %" for name, share in beyond.items())
        body.append(text(NARROW - 14, 18, words, anchor="end", kind="small"))
        said.append(words)
    body += mark_lines({name: x(mark) for name, mark in marks.items()}, 18.0 * (rows - len(marks)), bottom)
    body.append(text((left + NARROW) / 2, bottom + 38, axis, anchor="middle", kind="small"))
    return figure(bottom + 46, title, f"{'; '.join(said)}. Shares in % of each group.", "".join(body), NARROW)


def mark_lines(places: Mapping[str, float], top: float, bottom: float) -> list[str]:
    """Named upright lines, one row of text each; names of lines that nearly coincide stand on either side of them."""
    body: list[str] = []
    for i, (name, at) in enumerate(sorted(places.items(), key=lambda item: item[1])):
        near = [other for other in places.values() if abs(other - at) < MARKS_APART]
        right = at <= NARROW / 2
        if len(near) > 1 and at in (min(near), max(near)):
            wide = LETTER * len(name) + 6
            right = at == max(near) and at + wide < NARROW or at - wide < 0
        start = max(near) + 6 if right else min(near) - 6
        body.append(line(at, top + 6 + 18 * i, at, bottom, "mark"))
        body.append(text(start, top + 18 + 18 * i, name, anchor="start" if right else "end", kind="small"))
    return body


def bars(
    labels: Sequence[str], groups: Mapping[str, Sequence[float]], axis: str, upwards: str, *, title: str
) -> Markup:
    """Bars side by side, one group a colour, for each label; labels are thinned where they would touch."""
    most = 1.08 * max([value for values in groups.values() for value in values] + [1e-9])
    left, top, bottom = 62.0, 12.0, 190.0
    wide = (WIDTH - left - 14) / max(1, len(labels))
    each = 0.8 * wide / max(1, len(groups))

    def y(value: float) -> float:
        return bottom - value / most * (bottom - top)

    body = [line(left, y(tick), WIDTH - 14, y(tick), "grid") for tick in ticks(0, most, 4)]
    body += [text(left - 8, y(tick) + 4, f"{tick:g}", anchor="end", kind="small") for tick in ticks(0, most, 4)]
    body.append(y_title((top + bottom) / 2, upwards))
    for g, values in enumerate(groups.values()):
        for i, value in enumerate(values):
            at = left + wide * (i + 0.1) + each * g
            high = bottom - y(value)
            body.append(
                f'<rect x="{at:.1f}" y="{y(value):.1f}" width="{each:.1f}" height="{high:.1f}" class="fill{g % 4}"/>'
            )
    longest = max([len(label) for label in labels] + [1])
    every = max(1, math.ceil(8.0 * longest / wide))
    for i in range(0, len(labels), every):
        body.append(text(left + wide * (i + 0.5), bottom + 18, labels[i], anchor="middle", kind="small"))
    body.append(text((left + WIDTH) / 2, bottom + 38, axis, anchor="middle", kind="small"))
    said = "; ".join(
        f"{name}: " + ", ".join(f"{label} {value:.3g}" for label, value in zip(labels, values, strict=True))
        for name, values in groups.items()
    )
    return figure(bottom + 46, title, said, "".join(body))


@dataclass(frozen=True)
class Node:
    """A stage in the picture of the pipeline; `state` is done, stale or missing."""

    name: str
    lines: tuple[str, str]
    state: str


PLACES = {
    "prepare": (0, 0.5),
    "teacher": (1, 0.0),
    "cgan": (1, 1.0),
    "ratio": (2, 1.0),
    "bank": (3, 0.5),
    "student": (4, 0.5),
    "evaluate": (5, 0.5),
}
"""Column and row of each stage."""
WORDS = {"done": "done", "stale": "settings changed since", "missing": "not run yet"}


def pipeline(nodes: Sequence[Node], edges: Sequence[tuple[str, str]]) -> Markup:
    """Stages as boxes with a time and a number each, and what feeds what."""
    wide, high, gap_x, gap_y = 142.0, 76.0, 30.0, 104.0
    width = 6 * wide + 5 * gap_x + 4

    def place(name: str) -> tuple[float, float]:
        column, row = PLACES[name]
        return 2 + column * (wide + gap_x), 4 + row * gap_y

    body = []
    for source, target in edges:
        (x1, y1), (x2, y2) = place(source), place(target)
        x1, y1, y2 = x1 + wide, y1 + high / 2, y2 + high / 2
        middle = x2 - gap_x / 2
        body.append(f'<path d="M{x1:.1f} {y1:.1f}H{middle:.1f}V{y2:.1f}H{x2 - 5:.1f}" class="edge"/>')
        body.append(f'<path d="M{x2 - 1:.1f} {y2:.1f}l-7 -4v8z" class="arrow"/>')
    for node in nodes:
        x, y = place(node.name)
        body.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide}" height="{high}" rx="9" class="box {node.state}"/>')
        body.append(text(x + 12, y + 24, node.name, kind="node"))
        body += [text(x + 12, y + 45 + 19 * i, words, kind="nodeline") for i, words in enumerate(node.lines)]
    said = "; ".join(f"{node.name} ({WORDS[node.state]}): {', '.join(filter(None, node.lines))}" for node in nodes)
    return figure(gap_y + high + 8, "The pipeline", said, "".join(body), width)


def array_of(values: Any) -> Array:
    """A tensor as a flat float64 array."""
    return np.asarray(values, dtype=np.float64).ravel()
