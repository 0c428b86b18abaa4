"""The picture of `cgankd sizes`: validation score against a cost, a line a net, the front, and the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from pipelines.pictures.style import BLACK, GREY, SERIES, STYLE, one_axes, place_legend, wrapped

LINES = ("-", "--")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SCALE = {"bytes": (1000.0, "kB"), "ram": (1000.0, "kB"), "multiplications": (1e6, "millions"), "ms": (1.0, "")}


FRONT: dict[str, Any] = {"color": BLACK, "linewidth": 5, "alpha": 0.15}
TEACHER: dict[str, Any] = {"color": GREY, "linestyle": ":", "linewidth": 1.6}


def error_against(result: Mapping[str, Any], axis: str) -> Figure:
    """Mean and sd over seeds of every size of which this cost is known: filled by the first arm, hollow and dashed by the one
    beside it.
    """
    key, headline = result["costs"][axis], result["headline"]
    per, unit = SCALE[axis]
    known = [row for row in result["sizes"] if key in row["costs"]]
    nets = list(dict.fromkeys(row["net"] for row in known))
    with rc_context(STYLE):
        figure, axes = one_axes(7.5, 5.2)
        for place, net in enumerate(nets):
            rows = sorted((row for row in known if row["net"] == net), key=lambda row: row["costs"][key])
            colour, marker = SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]
            for number, arm in enumerate(result["arms"]):
                xs = [row["costs"][key] / per for row in rows]
                found = [row["arms"][arm] for row in rows]
                axes.errorbar(
                    xs,
                    [one["val_mean"] for one in found],
                    [one["val_sd"] for one in found],
                    color=colour,
                    marker=marker,
                    linestyle=LINES[number],
                    markerfacecolor=(colour, "white")[number],
                    linewidth=1.2,
                    elinewidth=0.8,
                    capsize=2,
                    alpha=(1.0, 0.7)[number],
                )
        by_name = {row["name"]: row for row in known}
        best = [by_name[name] for name in result["fronts"][axis]]
        points = [(row["costs"][key] / per, row["val"]) for row in best]
        axes.plot([p[0] for p in points], [p[1] for p in points], **FRONT)
        for row, (x, y) in zip(best, points, strict=True):
            axes.annotate(row["name"], (x, y), textcoords="offset points", xytext=(3, -12), fontsize=8)
        axes.axhline(result["teacher"]["val"], **TEACHER)
        axes.set_xscale("log")
        ticks = sorted({row["costs"][key] / per for row in known})
        axes.set_xticks(_apart(ticks), [f"{x:.3g}" for x in _apart(ticks)])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
        axes.set_xlabel(wrapped(f"{result['costs_are'][key]}{f' ({unit})' if unit else ''}", 80))
        axes.set_ylabel(f"{headline['name']} ({headline['unit']})")
        better = "higher" if headline["higher_is_better"] else "lower"
        axes.set_title(f"How small? {len(result['seeds'])} seeds, mean and sd ({better} is better)")
        place_legend(figure, _key(nets, result["arms"]), "")
    return figure


def _key(nets: Sequence[str], arms: Sequence[str]) -> list[Line2D]:
    """What colours, fillings and lines stand for."""
    shown = [
        Line2D([], [], color=SERIES[i % len(SERIES)], marker=MARKERS[i % len(MARKERS)], linestyle="", label=net)
        for i, net in enumerate(nets)
    ]
    for i, arm in enumerate(arms):
        own: dict[str, Any] = {"linestyle": LINES[i], "markerfacecolor": (BLACK, "white")[i]}
        shown.append(Line2D([], [], color=BLACK, marker="o", linewidth=1.2, label=f"by {arm}", **own))
    return [*shown, Line2D([], [], label="Pareto front", **FRONT), Line2D([], [], label="teacher", **TEACHER)]


def _apart(ticks: list[float]) -> list[float]:
    """Those that are at least a quarter larger than the last one kept, so that their texts do not meet."""
    kept = ticks[:1]
    for tick in ticks[1:]:
        if tick >= 1.25 * kept[-1]:
            kept.append(tick)
    return kept
