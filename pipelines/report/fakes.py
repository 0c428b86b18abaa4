"""The fakes in the report: who was kept, who was dropped and by which step, and how good the fakes of each label are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cgankd.config import Config
from cgankd.data.store.banks import of_fakes, read_pool_images, read_pool_scores
from cgankd.data.store.datasets import read_info, read_split
from cgankd.data.store.stream import MemoryBudget
from cgankd.gan.diversity import pair_distances
from cgankd.labels.task import make_task
from cgankd.rng import generator
from cgankd.types import DatasetInfo, Split, Task
from pipelines.files.made import check_made
from pipelines.report.page import png_uri

SHOWN = 26
NEIGHBOURS = 40
"""Images of a label that nearest distances are measured among, at most."""
REPEATS = 10
"""Disjoint random subsets of fakes that a nearest distance is the mean over, at most."""


@dataclass(frozen=True)
class Thumb:
    """A small picture: its address, what it shows in words, and the lines under it."""

    uri: str
    alt: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """A contact sheet with its heading, what it shows, and its pictures."""

    title: str
    said: str
    thumbs: tuple[Thumb, ...]


@dataclass(frozen=True)
class LabelQuality:
    """The fakes of one label (or label bin): how many, their scores, and how near the nearest other one of the label is.

    `label_error` is the teacher's disagreement in the unit of the headline; nearest distances are mean absolute pixel
    differences in [-1, 1], None where there are not two images; both are measured among equally many images.
    """

    label: str
    draws: int
    kept: int
    ratio: float
    teacher_error: float
    label_error: float
    nearest_fake: float | None
    nearest_real: float | None


@dataclass(frozen=True)
class Fakes:
    """The pool of scored fakes, and what became of each."""

    info: DatasetInfo
    task: Task
    scores: Mapping[str, Tensor]
    fate: Mapping[str, Tensor]
    bank_labels: Tensor | None
    train: Split

    @property
    def label_error(self) -> Tensor:
        """How wrong the asked label is by the teacher, in the unit of the headline, [M]."""
        return self.task.score(self.scores["teacher_output"].float(), self.scores["asked"])


def fates(group_M: Tensor, flags: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks [M] of kept, dropped by M1 and dropped by M2, from which rows of the pool each selection took.

    A selection takes the first rows of a group that pass, up to its quota: a row before the last one taken that was not
    taken did not pass. Rows after it were drawn for another selection, and nothing is said of them.
    """

    def seen(flag_M: Tensor) -> Tensor:
        row_M = torch.arange(len(group_M))
        last_G = torch.full((int(group_M.max()) + 1,), -1).scatter_reduce(
            0, group_M, torch.where(flag_M, row_M, -1), reduce="amax"
        )
        return row_M <= last_G[group_M]

    subsample = flags.get("in_subsample")
    both, alone = flags.get("in_filter"), flags.get("in_filter_only")
    found: dict[str, Tensor] = {}
    for kept in (both, subsample, alone):
        if kept is not None:
            found.setdefault("kept", kept)
    if subsample is not None:
        found["dropped by M1"] = ~subsample & seen(subsample)
    if both is not None and subsample is not None:
        # Both fill the same quota, the filter's later: every row that subsampling took was offered to the filter too.
        found["dropped by M2"] = subsample & ~both
    elif alone is not None and subsample is None:
        found["dropped by M2"] = ~alone & seen(alone)
    return found


def read_fakes(workdir: Path, cfg: Config) -> Fakes | None:
    """The pool of a work folder; None where the bank stage has not run. Raises ConfigError where a file is damaged."""
    dataset, pool, bank = (workdir / "artifacts" / name for name in ("dataset.h5", "pool.h5", "bank.h5"))
    if not (dataset.exists() and pool.exists()):
        return None
    for path in (dataset, pool, bank):
        if path.exists():
            check_made(path)
    info = read_info(dataset)
    task = make_task(info, cfg)
    scores = of_fakes(read_pool_scores(pool))
    flags = {name: column.bool() for name, column in scores.items() if name.startswith("in_")}
    labels = read_pool_scores(bank)["labels"] if bank.exists() else None
    per_label = cfg.bank.bound_scope == "label"
    asked = scores["asked"]
    groups = torch.unique(asked, return_inverse=True)[1] if per_label else task.filter_groups(asked)
    fate = fates(groups, flags)
    return Fakes(info, task, scores, fate, labels, read_split(dataset, "train", MemoryBudget(0)))


def label_text(info: DatasetInfo, value: float) -> str:
    """A label as a reader knows it: the name of the class, or the number with its unit."""
    if info.class_names:
        return info.class_names[round(value)]
    return f"{value:.3g}{f' {info.label_unit}' if info.label_unit else ''}"


def real_sheet(workdir: Path) -> Sheet | None:
    """Training images; None where there is no data set yet. Raises ConfigError where it is damaged."""
    path = workdir / "artifacts" / "dataset.h5"
    if not path.exists():
        return None
    check_made(path)
    info, train = read_info(path), read_split(path, "train", MemoryBudget(0))
    order = train.labels.argsort(stable=True)
    shown = order[spread(len(order))]
    thumbs = []
    for image, value in zip(train.images[shown], train.labels[shown].tolist(), strict=True):
        name = label_text(info, value)
        thumbs.append(Thumb(png_uri(image), f"real image, label {name}", (name,)))
    return Sheet("Real", f"{len(thumbs)} of {len(train)} training images, by label.", tuple(thumbs))


def spread(count: int) -> Tensor:
    """At most SHOWN positions, evenly over `count`."""
    return torch.linspace(0, count - 1, min(SHOWN, count)).round().long() if count else torch.zeros(0).long()


def fake_sheets(fakes: Fakes, pool: Path) -> list[Sheet]:
    """Raw fakes, then those kept and those dropped by each step, with their scores."""
    count = len(fakes.scores["asked"])
    masks = {"raw": torch.ones(count, dtype=torch.bool), **fakes.fate}
    said = {
        "raw": "As the generator makes them, before any selection.",
        "kept": "Passed the steps of the bank.",
        "dropped by M1": "The density ratio r was too small for the draw.",
        "dropped by M2": (
            "The teacher's error e was over the cutoff of the label."
            if "teacher_spread" not in fakes.scores
            else "What bank.filter_by names, the teacher's error e or how far its members disagree, was over the cutoff."
        ),
    }
    sheets = []
    for name, mask in masks.items():
        rows = mask.nonzero()[:, 0]
        by_label = rows[fakes.scores["asked"][rows].argsort(stable=True)]
        shown = by_label[spread(len(by_label))]
        images = read_pool_images(pool, shown)
        thumbs = tuple(thumb(fakes, name, int(row), image) for row, image in zip(shown, images, strict=True))
        number = f"{len(rows):,} of {count:,} draws"
        sheets.append(Sheet(name[:1].upper() + name[1:], f"{said[name]} {number}.", thumbs))
    return sheets


def thumb(fakes: Fakes, fate: str, row: int, image: Tensor) -> Thumb:
    """One fake with the label asked, its ratio and the teacher's error."""
    asked, predicted, r, e = (float(fakes.scores[k][row]) for k in ("asked", "predicted", "ratio", "teacher_error"))
    name, seen = label_text(fakes.info, asked), label_text(fakes.info, predicted)
    alt = f"fake, {fate}, label asked {name}, ratio {r:.2f}, teacher error {e:.2g}, teacher sees {seen}"
    return Thumb(png_uri(image), alt, (name, f"r {r:.2f}", f"e {e:.2g}"))


def quality(fakes: Fakes, pool: Path) -> list[LabelQuality]:
    """One entry a label or label bin that has fakes, in order."""
    scores = fakes.scores
    group_M = fakes.task.filter_groups(scores["asked"])
    real_N = fakes.task.filter_groups(fakes.train.labels)
    error_M = fakes.label_error
    kept_M = fakes.fate.get("kept", torch.ones(len(group_M), dtype=torch.bool))
    found = []
    for group in torch.unique(group_M).tolist():
        rows = group_M == group
        asked = scores["asked"][rows]
        low, high = float(asked.min()), float(asked.max())
        ends = [label_text(fakes.info, value) for value in (low, high)]
        kept = (rows & kept_M).nonzero()[:, 0]
        reals = fakes.train.images[real_N == group][:NEIGHBOURS]
        count = min(len(reals), len(kept)) if len(reals) >= 2 else min(NEIGHBOURS, len(kept))
        found.append(
            LabelQuality(
                label=ends[0] if low == high else f"{low:.3g} to {ends[1]}",
                draws=int(rows.sum()),
                kept=len(kept),
                ratio=float(scores["ratio"][rows].mean()),
                teacher_error=float(scores["teacher_error"][rows].mean()),
                label_error=float(error_M[rows].mean()),
                nearest_fake=nearest_of_subsets(pool, kept, count, group),
                nearest_real=nearest(reals) if len(reals) >= 2 else None,
            )
        )
    return found


def nearest(images_NCHW: Tensor) -> float:
    """Mean distance of each image to its nearest other, mean absolute pixel difference in [-1, 1]."""
    n = len(images_NCHW)
    parts = []
    for i in range(n):
        others = torch.cat([images_NCHW[:i], images_NCHW[i + 1 :]])
        parts.append(pair_distances(images_NCHW[i : i + 1].expand_as(others), others).min())
    return float(torch.stack(parts).mean())


def nearest_of_subsets(pool: Path, rows: Tensor, count: int, group: int) -> float | None:
    """`nearest` among `count` random fakes, mean over subsets: it falls with their size, so that must be equal."""
    if count < 2:
        return None
    subsets = min(REPEATS, len(rows) // count)
    order = torch.randperm(len(rows), generator=generator(0, "report", group))[: subsets * count]
    images = read_pool_images(pool, rows[order])
    return sum(nearest(part) for part in torch.split(images, count)) / subsets
