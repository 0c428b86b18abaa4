"""Unlabelled images on the way of fakes: the teacher's answer is the label asked for, M1 and M2 choose among what there is.

The set is finite and all of it is looked at, so that bound and cutoff are quantiles of all images of a label, and everything
that passes is taken: there is no quota.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.bank.selections import Columns, Limits, freeze, passes
from cgankd.config import BankConfig
from cgankd.data.batches import chunks
from cgankd.data.store.banks import PoolRows
from cgankd.types import Diverged, Images, LogFn, PredictFn, RatioFn, Task, silent

CHUNK = 512
"""Images looked at at a time."""
MOVES = ((1, 1), (-1, -1))
"""Shifts in pixels by which a scalar teacher's certainty is tried."""


@dataclass(frozen=True)
class Answers:
    """The teacher on U images: its outputs float16 [U, O], the label that it says [U], how unsure it is [U], in the unit of
    M2's error, and how far its members disagree [U], None where it has none."""

    output: Tensor
    label: Tensor
    doubt: Tensor
    spread: Tensor | None = None


def answers(
    images_UCHW: Images, teacher: PredictFn, task: Task, spreading: PredictFn | None = None, log: LogFn = silent
) -> Answers:
    """What the teacher says of unlabelled images, and how sure it is; `spreading` gives [B, O + 1]: the outputs, and
    behind them the disagreement of its members. `log` is told how many images are done.

    Classes: the doubt is the cross-entropy against the class that it says, -log of its probability. Scalars: an answer has no
    probability, so the doubt is the mean distance of its answers on the image moved by a pixel, two ways, to that on the image
    as it is. Raises Diverged where an answer is NaN.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    spreads: list[Tensor] = []
    for done, images_BCHW in enumerate(chunks(images_UCHW, CHUNK)):
        if spreading is None:
            out_BO = teacher(images_BCHW)
        else:
            both = spreading(images_BCHW)
            out_BO = both[:, :-1]
            spreads.append(both[:, -1])
        label_B = task.predict(out_BO)
        tried = [out_BO] if task.num_classes else [teacher(moved(images_BCHW, dy, dx)) for dy, dx in MOVES]
        doubt_B = torch.stack([task.error(other_BO, label_B).float() for other_BO in tried]).mean(0)
        if count := int(doubt_B.isnan().sum()):
            raise Diverged(f"teacher: NaN answers for {count} of {len(label_B)} images; run `cgankd teacher` again")
        parts.append((out_BO.to(torch.float16), label_B, doubt_B))
        log(min(len(images_UCHW), (done + 1) * CHUNK), {}, len(images_UCHW))
    output, label, doubt = (torch.cat(column) for column in zip(*parts, strict=True))
    return Answers(output, label, doubt, torch.cat(spreads) if spreads else None)


def moved(images_BCHW: Tensor, dy: int, dx: int) -> Tensor:
    """uint8 images moved by a pixel; the edge is repeated."""
    height, width = images_BCHW.shape[2:]
    padded = F.pad(images_BCHW.float(), (1, 1, 1, 1), mode="replicate").to(torch.uint8)
    return padded[:, :, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]


def ratios(images_UCHW: Images, label_U: Tensor, ratio: RatioFn) -> Tensor:
    """The density ratio [U] of the images and their labels. Raises Diverged where one is NaN."""
    parts = zip(chunks(images_UCHW, CHUNK), torch.split(label_U, CHUNK), strict=True)
    ratio_U = torch.cat([ratio(images_BCHW, label_B).float() for images_BCHW, label_B in parts])
    if count := int(ratio_U.isnan().sum()):
        raise Diverged(f"ratio: NaN for {count} of {len(label_U)} unlabelled images; run `cgankd ratio` again")
    return ratio_U


def judged(
    columns: Columns, num_groups: int, cfg: BankConfig, selections: Sequence[str]
) -> tuple[Limits, dict[str, Tensor]]:
    """Bounds and cutoffs from the scores of all images, and the rows that each selection takes: whatever passes."""
    limits = freeze(columns, num_groups, replace(cfg, bound="frozen"))
    return limits, {name: passes(name, columns, limits).nonzero()[:, 0] for name in selections}


def pool_rows(images_UCHW: Images, said: Answers, ratio_U: Tensor, uniform_U: Tensor) -> Iterator[PoolRows]:
    """The images with their scores as rows of a pool, some at a time; `shard` counts the pieces."""
    start = 0
    for shard, images_BCHW in enumerate(chunks(images_UCHW, CHUNK)):
        part = slice(start, start + len(images_BCHW))
        start += len(images_BCHW)
        yield PoolRows(
            images=images_BCHW,
            asked=said.label[part],
            predicted=said.label[part],
            ratio=ratio_U[part],
            teacher_error=said.doubt[part],
            teacher_output=said.output[part],
            uniform=uniform_U[part],
            shard=torch.full((len(images_BCHW),), shard, dtype=torch.int32),
            teacher_spread=None if said.spread is None else said.spread[part],
        )


def unlabelled_report(columns: Columns, limits: Limits, rows: dict[str, Tensor]) -> dict[str, float]:
    """Flat numbers of the unlabelled images and of the selections made of them, `rows` being selection -> row numbers."""
    report = {"unlabelled.images": float(len(columns)), "unlabelled.doubt_mean": float(columns.error.double().mean())}
    for name, row_M in rows.items():
        report[f"unlabelled.{name}.kept"] = float(len(row_M))
        report[f"unlabelled.{name}.acceptance"] = len(row_M) / len(columns)
        counts = torch.bincount(columns.group[row_M], minlength=len(limits.bound_G))
        report[f"unlabelled.{name}.least_of_a_label"] = float(counts.min())
        report[f"unlabelled.{name}.most_of_a_label"] = float(counts.max())
    return report
