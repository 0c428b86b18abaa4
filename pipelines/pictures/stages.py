"""Every picture: what a stage hands over as arrays becomes a matplotlib Figure here, in one style.

The only file that knows matplotlib. Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.special import stdtrit
from torch import Tensor

from pipelines.pictures.style import (
    BANK_COLOUR,
    BLACK,
    BLUE,
    BOTH_COLOUR,
    DASHES,
    DIAMOND,
    GREY,
    ORANGE,
    REAL_COLOUR,
    SERIES,
    STYLE,
    UNLABELLED_COLOUR,
    array,
    draw_bars,
    draw_histograms,
    mark_range,
    name_rows,
    one_axes,
    place_legend,
    show_mosaic,
    wrapped,
)


def contact_sheet(images_NCHW: Tensor, labels: Sequence[str], title: str, *, columns: int = 10) -> Figure:
    """Images with their label under each."""
    rows = max(1, -(-len(images_NCHW) // columns))
    with rc_context(STYLE):
        figure = Figure(figsize=(0.85 * columns, 1.02 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for i, axes in enumerate(grid.flat):
            axes.axis("off")
            if i < len(images_NCHW):
                show_mosaic(axes, images_NCHW[i : i + 1], 1)
                axes.text(0.5, -0.05, labels[i], fontsize=8, ha="center", va="top", transform=axes.transAxes)
        figure.suptitle(wrapped(title, 11 * columns), fontsize=11, x=0.01, ha="left")
    return figure


def sample_grid(images_NCHW: Tensor, labels: Sequence[str], title: str, *, columns: int = 10) -> Figure:
    """Rows of `columns` images, one label a row (written at its left)."""
    rows = -(-len(images_NCHW) // columns)
    height, width = images_NCHW.shape[2:]
    with rc_context(STYLE):
        figure = Figure(figsize=(0.62 * columns + 1.0, 0.62 * rows * height / width + 0.6), layout="constrained")
        axes = figure.subplots()
        show_mosaic(axes, images_NCHW, columns)
        axes.set_yticks([row * (height + 1) + (height - 1) / 2 for row in range(rows)], list(labels[:rows]))
        axes.tick_params(length=0)
        axes.set_title(wrapped(title, 9 * columns))
    return figure


def accepted_rejected(panels: Sequence[tuple[str, Tensor, Sequence[str]]], *, columns: int = 12) -> Figure:
    """Panels of fakes one above the other, each (title, images, one caption an image): kept, dropped by M1, by M2."""
    # A panel without images keeps no more than the line that says so.
    heights = [-(-len(images) // columns) or 0.1 for _, images, _ in panels]
    with rc_context(STYLE):
        figure = Figure(figsize=(0.9 * columns, 1.3 * sum(heights) + 0.35 * len(panels) + 0.3), layout="constrained")
        figure.suptitle("Fakes kept and dropped: y label asked, r density ratio, e teacher error", x=0.01, ha="left")
        parts = figure.subfigures(len(panels), 1, height_ratios=[h + 0.3 for h in heights], squeeze=False)
        for part, rows, (title, images, captions) in zip(parts[:, 0], heights, panels, strict=True):
            text = title if len(images) else f"{title} (none to show)"
            part.suptitle(text, fontsize=10, x=0.01, ha="left", weight="bold")
            for i, axes in enumerate(part.subplots(max(1, int(rows)), columns, squeeze=False).flat):
                axes.axis("off")
                if i < len(images):
                    show_mosaic(axes, images[i : i + 1], 1)
                    axes.text(0.5, -0.06, captions[i], fontsize=7, ha="center", va="top", transform=axes.transAxes)
    return figure


def ratio_histogram(ratios: Mapping[str, Tensor], bounds: Tensor | Sequence[float] = ()) -> Figure:
    """Density ratios r of each group (fakes, real images), with the rejection bound or the range of bounds marked."""
    groups = {name: array(values) for name, values in ratios.items()}
    top = float(np.quantile(np.concatenate([*groups.values(), np.zeros(1)]), 0.995)) or 1.0
    marks = array(bounds)
    marks = marks[np.isfinite(marks)]
    if marks.size:
        top = max(top, 1.05 * float(marks.max()))
    with rc_context(STYLE):
        figure, axes = one_axes()
        draw_histograms(axes, groups, np.linspace(0.0, top, 51))
        axes.axvline(1.0, color=BLACK, linewidth=1, linestyle=":", label="r = 1")
        mark_range(axes, marks, "rejection bound")
        axes.set_xlabel("density ratio r(x given y); the last bin holds all beyond")
        axes.set_title("M1: how real images and fakes score (higher = more like real)")
        axes.legend()
    return figure


def error_histogram(errors: Mapping[str, Tensor], cutoffs: Tensor | Sequence[float] = (), *, unit: str = "") -> Figure:
    """Teacher errors of each group (kept, dropped, validation images), with M2's cutoff or the range of cutoffs."""
    groups = {name: array(values) for name, values in errors.items()}
    marks = array(cutoffs)
    marks = marks[np.isfinite(marks)]
    everything = np.concatenate([*groups.values(), np.zeros(1)])
    top = max(float(np.quantile(everything, 0.99)), 1.2 * float(marks.max()) if marks.size else 0.0) or 1.0
    with rc_context(STYLE):
        figure, axes = one_axes()
        draw_histograms(axes, groups, np.linspace(0.0, top, 51))
        mark_range(axes, marks, "cutoff")
        shown_unit = f" ({unit})" if unit else ""
        axes.set_xlabel(f"teacher error against the asked label{shown_unit}; the last bin holds all beyond")
        axes.set_title("M2: fakes on which the teacher disagrees most are dropped")
        axes.legend()
    return figure


def label_marginal(real_N: Tensor, bank_M: Tensor, *, unit: str = "", class_names: Sequence[str] = ()) -> Figure:
    """How often each label occurs in the training images and in the bank: bars for classes, else a histogram."""
    groups = {"training images": array(real_N), "bank": array(bank_M)}
    with rc_context(STYLE):
        figure, axes = one_axes()
        if real_N.is_floating_point() or bank_M.is_floating_point():
            everything = np.concatenate(list(groups.values()))
            draw_histograms(axes, groups, np.linspace(everything.min(), everything.max() + 1e-6, 41))
        else:
            draw_bars(axes, groups, class_names)
        axes.set_xlabel(f"label{f' ({unit})' if unit else ''}")
        axes.set_ylabel("share of the set (%)")
        axes.set_title("Labels of the training images and of the bank")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return figure


def learning_curves(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], ylabel: str) -> Figure:
    """One line a series, name -> (steps, values); series are named at the right end as well as in the legend."""
    with rc_context(STYLE):
        # A legend of many arms is as high as the figure has to be.
        figure, axes = one_axes(width=8.5, height=max(4.2, 0.19 * len(curves) + 0.8))
        for i, (name, (steps, values)) in enumerate(curves.items()):
            dash = DASHES[(i // len(SERIES)) % len(DASHES)]
            axes.plot(steps, values, color=SERIES[i % len(SERIES)], linestyle=dash, linewidth=1.5, label=name)
        everything = np.concatenate([np.asarray(values, dtype=float) for _, values in curves.values()] or [np.zeros(1)])
        everything = everything[np.isfinite(everything)]
        if everything.size:
            # The first steps are far off and would flatten all that matters.
            low, high = float(everything.min()), float(np.quantile(everything, 0.95))
            room = 0.08 * (high - low) or 1.0
            axes.set_ylim(low - room, high + room)
        axes.set_xlabel("step")
        axes.set_ylabel(ylabel)
        axes.set_title("Learning curves, mean over seeds")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return figure


FAMILIES = {
    (False, False): (REAL_COLOUR, "real images only"),
    (True, False): (BANK_COLOUR, "with the bank"),
    (False, True): (UNLABELLED_COLOUR, "with unlabelled images"),
    (True, True): (BOTH_COLOUR, "with both"),
}
"""Whether an arm uses the bank, and unlabelled images -> its colour, and the words for it."""


def family_of(arm: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether an arm of an evaluate.json uses the bank, and unlabelled images."""
    return bool(arm["uses_bank"]), bool(arm.get("uses_unlabelled"))


def arms_with_intervals(result: Mapping[str, Any]) -> Figure:
    """Test scores of every arm of an evaluate.json: a dot a seed, the mean with its t interval, the teacher's line."""
    arms, headline = result["arms"], result["headline"]
    names = list(arms)
    with rc_context(STYLE):
        figure = Figure(figsize=(9.0, 0.42 * len(names) + 2.3), layout="constrained")
        axes = figure.subplots()
        for row, name in enumerate(names):
            values = np.asarray(arms[name]["values"], dtype=float)
            colour = FAMILIES[family_of(arms[name])][0]
            n = len(values)
            half = 0.0
            if n > 1:
                half = float(stdtrit(n - 1, 0.5 + result["confidence"] / 2) * values.std(ddof=1) / np.sqrt(n))
            axes.plot(values, np.full(n, row - 0.18), "o", color=colour, alpha=0.45, markersize=4, markeredgewidth=0)
            axes.errorbar(values.mean(), row + 0.06, xerr=half, color=colour, **DIAMOND)
        axes.axvline(result["teacher"], color=BLACK, linestyle="--", linewidth=1.2)
        name_rows(axes, names, {result["chosen_arm"]: "ship"})
        better = "right" if headline["higher_is_better"] else "left"
        axes.set_xlabel(f"{headline['name']} ({headline['unit']}), better to the {better}")
        figure.suptitle(wrapped(str(result["verdict"]), 100), weight="bold", fontsize=10, x=0.01, ha="left")
        there = {family_of(arm) for arm in arms.values()} | {(False, False), (True, False)}
        keys = [
            *(
                Line2D([], [], color=colour, marker="D", linestyle="", label=words)
                for family, (colour, words) in FAMILIES.items()
                if family in there
            ),
            Line2D([], [], color=GREY, marker="o", linestyle="", markersize=4, label="one seed"),
            Line2D([], [], color=BLACK, linestyle="--", label="teacher"),
        ]
        place_legend(figure, keys, f"diamonds: mean and {100 * result['confidence']:.0f} % interval over seeds")
    return figure


def gains_with_intervals(result: Mapping[str, Any]) -> Figure:
    """Paired gains of every arm over `real` and the best real-only arm, with intervals; right of zero is better."""
    arms, headline = result["arms"], result["headline"]
    names = [name for name in arms if "gain" in arms[name] or "rival_gain" in arms[name]]
    rivals = [("gain", "over real", BLUE, -0.12)]
    if result["best_real_arm"] != "real":
        rivals.append(("rival_gain", f"over {result['best_real_arm']}", ORANGE, 0.14))
    with rc_context(STYLE):
        figure = Figure(figsize=(9.0, 0.42 * max(1, len(names)) + 2.0), layout="constrained")
        axes = figure.subplots()
        for row, name in enumerate(names):
            for key, _, colour, shift in rivals:
                if key in arms[name]:
                    middle, low, high = (arms[name][k] for k in (key, f"{key}_low", f"{key}_high"))
                    filled = colour if low > 0 or high < 0 else "white"
                    spread = [[middle - low], [high - middle]]
                    axes.errorbar(middle, row + shift, xerr=spread, color=colour, markerfacecolor=filled, **DIAMOND)
        axes.axvline(0.0, color=BLACK, linewidth=1.2)
        name_rows(axes, names, {result["chosen_arm"]: "ship"})
        axes.set_xlabel(f"paired gain in {headline['name']} ({headline['unit']}), right of zero is better")
        axes.set_title("What each arm gains, seed by seed")
        keys = [Line2D([], [], color=colour, marker="D", label=text) for _, text, colour, _ in rivals]
        place_legend(figure, keys, f"{100 * result['confidence']:.0f} % paired intervals; hollow: zero lies inside")
    return figure


CHOSEN_ROWS = {
    "best_real": "best real-only",
    "best_unlabelled": "best unlabelled",
    "best_bank": "best with fakes",
    "best_both": "best with both",
    "ships": "what ships",
}
"""What rows are called whose arm each draw chose."""
CHOSEN_COLOURS = {"best unlabelled": UNLABELLED_COLOUR, "best with both": BOTH_COLOUR}
"""Of those rows that are not in the colour of fakes."""


def gains_over_draws(result: Mapping[str, Any]) -> Figure:
    """Gains of every arm over the best real-only arm of each draw: a dot a draw, the mean with its interval over draws."""
    chosen = {CHOSEN_ROWS.get(name, name): row for name, row in result["chosen"].items()}
    rows = {name: row for name, row in {**result["arms"], **chosen}.items() if "rival_gain" in row}
    headline = result["headline"]
    with rc_context(STYLE):
        figure = Figure(figsize=(9.0, 0.42 * max(1, len(rows)) + 2.0), layout="constrained")
        axes = figure.subplots()
        for place, (name, row) in enumerate(rows.items()):
            middle, low, high = (row[f"rival_gain{end}"] for end in ("", "_low", "_high"))
            colour = FAMILIES[family_of(row)][0] if "uses_bank" in row else CHOSEN_COLOURS.get(name, BANK_COLOUR)
            filled = colour if low > 0 or high < 0 else "white"
            axes.plot(row["rival_gain_values"], [place + 0.2] * result["num_draws"], ".", color=GREY, markersize=5)
            spread = [[middle - low], [high - middle]]
            axes.errorbar(middle, place - 0.1, xerr=spread, color=colour, markerfacecolor=filled, **DIAMOND)
        axes.axvline(0.0, color=BLACK, linewidth=1.2)
        name_rows(axes, list(rows), {})
        axes.set_xlabel(f"gain in {headline['name']} ({headline['unit']}), right of zero is better")
        axes.set_title(f"Over the best real-only arm of each of {result['num_draws']} draws")
        level = f"{100 * result['confidence']:.0f} %"
        keys = [Line2D([], [], color=GREY, marker=".", linestyle="", label="one draw")]
        place_legend(figure, keys, f"{level} intervals over draws; hollow: zero lies inside")
    return figure
