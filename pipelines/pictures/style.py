"""One style for every picture, and the parts they are drawn from.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A"
SERIES = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
DASHES = ("-", "--", "-.", ":")
REAL_COLOUR, BANK_COLOUR = BLUE, RED
UNLABELLED_COLOUR, BOTH_COLOUR = GREEN, PURPLE
DIAMOND: dict[str, Any] = {"fmt": "D", "markersize": 6, "capsize": 4, "linewidth": 2}
STYLE: dict[Any, Any] = {
    "figure.dpi": 120,
    "savefig.dpi": 120,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "text.parse_math": False,
}
LONGEST = 13
"""Letters of a name beside a small picture."""
MOST_BARS, TICK_LETTERS = 40, 90
"""Bars that are named one by one, and letters that have room below them; longer names stand upright."""
Array = NDArray[Any]


def array(values: Tensor | Array | Sequence[float]) -> Array:
    """Numbers as a flat float64 array."""
    plain = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return np.asarray(plain, dtype=np.float64).ravel()


def mosaic(images_NCHW: Tensor, columns: int) -> Array:
    """uint8 images side by side with a white line between them, [height, width, 3]; missing ones stay white."""
    images = images_NCHW.detach().cpu().permute(0, 2, 3, 1).numpy()
    if images.shape[3] == 1:
        images = images.repeat(3, axis=3)
    count, height, width = images.shape[:3]
    rows = -(-count // columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        canvas[top : top + height, left : left + width] = image
    return canvas


def show_mosaic(axes: Axes, images_NCHW: Tensor, columns: int) -> None:
    """Images as a grid without ticks, pixels unblurred."""
    axes.imshow(mosaic(images_NCHW, columns), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def wrapped(text: str, width: int) -> str:
    """Text broken into lines of at most `width` letters."""
    return "\n".join(textwrap.wrap(text, width))


def one_axes(width: float = 7.5, height: float = 4.2) -> tuple[Figure, Axes]:
    """A figure with one plot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def draw_histograms(axes: Axes, groups: Mapping[str, Array], edges: Array) -> None:
    """Outlines of the shares (%) of each group in equal bins; values beyond the edges count in the outer bins."""
    middle_step = edges[1] - edges[0]
    for i, (name, values) in enumerate(groups.items()):
        if not values.size:
            continue
        # Nudged inside: a value on the last edge must not fall out by rounding.
        inside = np.clip(np.nan_to_num(values, nan=edges[0]), edges[0], edges[-1] - 1e-6 * middle_step)
        share = 100.0 * np.histogram(inside, edges)[0] / values.size
        colour = SERIES[i % len(SERIES)]
        axes.stairs(share, edges, color=colour, fill=True, alpha=0.15)
        axes.stairs(share, edges, color=colour, linewidth=1.6, label=f"{name} ({values.size:,})")
    axes.set_ylabel("share of the group (%)")


def label_texts(labels: Tensor, class_names: Sequence[str] = (), *, digits: int = 4) -> list[str]:
    """Labels as they stand beside a small picture: names of classes, cut where they are long, or numbers."""
    return [shortened(class_names[round(y)]) if class_names else f"{y:.{digits}g}" for y in labels.tolist()]


def shortened(text: str) -> str:
    """A name in one line that fits below a small picture."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def draw_bars(axes: Axes, groups: Mapping[str, Array], class_names: Sequence[str] = ()) -> None:
    """Bars side by side of the share (%) of each whole-number label, or class by its name."""
    present = np.unique(np.concatenate(list(groups.values())))
    width = 0.8 / max(1, len(groups))
    for i, (name, values) in enumerate(groups.items()):
        share = [100.0 * float(np.mean(values == label)) if values.size else 0.0 for label in present]
        place = np.arange(len(present)) + (i - (len(groups) - 1) / 2) * width
        axes.bar(place, share, width, color=SERIES[i % len(SERIES)], label=f"{name} ({values.size:,})")
    if len(present) <= MOST_BARS:
        texts = [shortened(class_names[int(label)]) if class_names else f"{label:g}" for label in present]
        lying = sum(map(len, texts)) + 2 * len(texts) > TICK_LETTERS
        axes.set_xticks(np.arange(len(present)), texts, rotation=90 if lying else 0)


def mark_range(axes: Axes, marks: Array, text: str) -> None:
    """A line at one bound, or a band from the least to the greatest of several."""
    if not marks.size:
        return
    low, high = float(marks.min()), float(marks.max())
    if high > low:
        axes.axvspan(low, high, color=GREY, alpha=0.2, linewidth=0, label=f"{text}, {low:.3g} to {high:.3g} by label")
    else:
        axes.axvline(low, color=BLACK, linestyle="--", linewidth=1.4, label=f"{text} {low:.3g}")


def name_rows(axes: Axes, names: Sequence[str], marks: Mapping[str, str]) -> None:
    """Names at the left, first on top; marked ones in bold with their mark."""
    texts = [f"{name} ({marks[name]})" if name in marks else name for name in names]
    axes.set_yticks(range(len(names)), texts)
    for text, name in zip(axes.get_yticklabels(), names, strict=True):
        text.set_fontweight("bold" if name in marks else "normal")
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.grid(axis="y", visible=False)


def place_legend(figure: Figure, keys: Iterable[Artist], title: str) -> None:
    """A legend in one line under the plot."""
    figure.legend(
        handles=list(keys),
        loc="outside lower left",
        ncols=4,
        fontsize=9,
        title=title,
        title_fontsize=9,
        alignment="left",
    )
