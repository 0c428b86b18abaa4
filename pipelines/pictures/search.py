"""Pictures of a search: its history, what mattered, and the gain against one knob. In the style of those of the stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cgankd.measure.predictive import Gain
from pipelines.pictures.style import BLACK, BLUE, GREY, RED, STYLE, name_rows, one_axes, wrapped


def history(
    complete: Mapping[int, float],
    pruned: Mapping[str, Sequence[int]],
    default: int | None,
    ylabel: str,
    *,
    higher: bool,
) -> Figure:
    """Scores by number of trial of full students, the best so far, and marks below where trials were pruned.

    `pruned` is when (such as "1/9 of the steps") -> numbers of trials, earliest first. What shortened students score
    cannot be set beside the others, so it is not drawn.
    """
    last = max([*complete, *(number for numbers in pruned.values() for number in numbers)], default=0)
    with rc_context(STYLE):
        figure, axes = one_axes()
        if complete:
            numbers = np.array(sorted(complete))
            scores = np.array([complete[number] for number in numbers])
            axes.plot(numbers, scores, "o", color=BLUE, label="complete")
            best = np.maximum.accumulate(scores) if higher else np.minimum.accumulate(scores)
            axes.step([*numbers, last], [*best, best[-1]], where="post", color=RED, linewidth=1.6, label="best so far")
            axes.margins(y=0.1 + 0.05 * len(pruned))  # room for the marks
        below = axes.get_xaxis_transform()
        for i, (when, trials) in enumerate(pruned.items()):
            height = 0.02 + 0.04 * i
            shade = 0.35 + 0.65 * (i + 1) / len(pruned)
            label = f"pruned after {when} ({len(trials)})" if when else f"could not be trained ({len(trials)})"
            axes.plot(trials, [height] * len(trials), "|", color=BLACK, alpha=shade / 2, transform=below, label=label)
        if default is not None and default in complete:
            axes.axhline(complete[default], color=BLACK, linestyle="--", linewidth=1.2, label="params.yaml as it was")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trial")
        axes.set_ylabel(ylabel)
        axes.set_title(f"History of the search ({'higher' if higher else 'lower'} is better)")
        axes.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return figure


def importances(shares: Mapping[str, float]) -> Figure:
    """How much of what tells good trials from others each knob explains, most important first; sums to 1."""
    names = sorted(shares, key=lambda name: -shares[name])
    with rc_context(STYLE):
        figure = Figure(figsize=(7.5, 0.4 * len(names) + 1.4), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(names)), [shares[name] for name in names], color=BLUE)
        name_rows(axes, names, {})
        axes.set_xlabel("importance (share, PED-ANOVA)")
        axes.set_title("Importance of the knobs")
    return figure


def front(points: Sequence[tuple[int, float, float]], best: Sequence[int], labels: tuple[str, str]) -> Figure:
    """Trials as (number, score, size): those that no other beats in both are joined and numbered."""
    with rc_context(STYLE):
        figure, axes = one_axes()
        axes.plot([p[2] for p in points], [p[1] for p in points], "o", color=GREY, label="complete")
        joined = sorted((size, score, number) for number, score, size in points if number in best)
        axes.plot([p[0] for p in joined], [p[1] for p in joined], "o-", color=RED, label="best of its size")
        for size, score, number in joined:
            axes.annotate(str(number), (size, score), textcoords="offset points", xytext=(4, 4), fontsize=9)
        axes.set_xlabel(labels[1])
        axes.set_ylabel(labels[0])
        axes.set_title("Score against size, by trial number")
        axes.legend(fontsize=9)
    return figure


def gain_curve(
    points: Mapping[float, Gain],
    current: float,
    labels: tuple[str, str],
    title: str,
    *,
    confidence: float,
    log: bool = False,
) -> Figure:
    """Paired gain with its interval against the values of one knob, the present value marked."""
    places = sorted(points)
    gains = [points[x] for x in places]
    with rc_context(STYLE):
        figure, axes = one_axes()
        axes.fill_between(places, [g.low for g in gains], [g.high for g in gains], color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(
            places, [g.gain for g in gains], "o-", color=BLUE, label=f"mean over seeds, {100 * confidence:.0f} % band"
        )
        for x, g in zip(places, gains, strict=True):
            axes.plot([x] * len(g.values), g.values, ".", color=GREY, markersize=4)
        axes.plot([], [], ".", color=GREY, label="one seed")
        axes.axhline(0.0, color=BLACK, linewidth=1.2)
        axes.axvline(current, color=RED, linestyle="--", linewidth=1.2, label=f"set to {current:.4g}")
        if log:
            axes.set_xscale("log")
            axes.set_xticks(places, [f"{x:g}" for x in places])
            axes.minorticks_off()
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.set_title(wrapped(title, 80))
        axes.legend(fontsize=9)
    return figure
