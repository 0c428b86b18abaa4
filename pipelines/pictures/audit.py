"""Pictures of an audit: the closest pairs, how close fakes are, and distances over labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from pipelines.pictures.style import (
    BANK_COLOUR,
    BLACK,
    REAL_COLOUR,
    STYLE,
    Array,
    array,
    draw_histograms,
    one_axes,
    show_mosaic,
    wrapped,
)


def closest_pairs(
    fakes_BCHW: Tensor, reals_BCHW: Tensor, captions: Sequence[str], title: str, *, columns: int = 8
) -> Figure:
    """Each fake beside the training image nearest to it, closest pair first, with a caption under each pair."""
    rows = max(1, -(-len(fakes_BCHW) // columns))
    with rc_context(STYLE):
        figure = Figure(figsize=(1.5 * columns, 1.15 * rows + 0.9), layout="constrained")
        for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
            axes.axis("off")
            if i < len(fakes_BCHW):
                show_mosaic(axes, torch.stack([fakes_BCHW[i], reals_BCHW[i]]), 2)
                axes.text(0.5, -0.06, captions[i], fontsize=7, ha="center", va="top", transform=axes.transAxes)
        figure.suptitle(wrapped(title, 15 * columns), fontsize=10, x=0.01, ha="left")
    return figure


def nearest_histogram(distances: Mapping[str, Tensor], limit: float, title: str) -> Figure:
    """Distances to the nearest training image of fakes, validation images, and training images among themselves.

    As many bins as the smallest of the groups can fill, or its outline would be a comb.
    """
    groups = {name: array(values[torch.isfinite(values)]) for name, values in distances.items()}
    top = max([float(np.quantile(values, 0.99)) for values in groups.values() if values.size] or [1.0])
    fewest = min([values.size for values in groups.values() if values.size] or [1])
    bins = int(np.clip(np.ceil(2 * np.sqrt(fewest)), 8, 50))
    with rc_context(STYLE):
        figure, axes = one_axes()
        draw_histograms(axes, groups, np.linspace(0.0, max(top, 1.1 * limit), bins + 1))
        axes.axvline(limit, color=BLACK, linestyle="--", linewidth=1.4, label=f"suspiciously close: under {limit:.3g}")
        axes.set_xlabel("distance to the nearest training image; the last bin holds all beyond")
        axes.set_title(title)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return figure


def distance_by_label(
    panels: Mapping[str, Mapping[str, Mapping[float, float]]], names: Sequence[str] | None, xlabel: str, title: str
) -> Figure:
    """One panel a measure with a series for the bank and one for real images, in that order.

    Bars where labels have names, lines over the label otherwise.
    """
    colours = (BANK_COLOUR, REAL_COLOUR)
    with rc_context(STYLE):
        figure = Figure(figsize=(8.5, 2.7 * len(panels) + 0.6), layout="constrained")
        for axes, (measure, series) in zip(
            figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True
        ):
            for i, (name, values) in enumerate(series.items()):
                at: Array = np.asarray(sorted(values), dtype=np.float64)
                height = [values[x] for x in sorted(values)]
                if names is None:
                    axes.plot(at, height, color=colours[i], marker=".", linewidth=1.5, label=name)
                else:
                    width = 0.8 / len(series)
                    axes.bar(at + (i - (len(series) - 1) / 2) * width, height, width, color=colours[i], label=name)
            if names is not None and len(names) <= 40:
                axes.set_xticks(range(len(names)), list(names))
            axes.set_ylabel(measure)
            axes.legend(fontsize=9)
            axes.set_xlabel(xlabel)
        figure.suptitle(wrapped(title, 100), fontsize=11, x=0.01, ha="left")
    return figure
