"""Rare labels trained on as often as others: their training images stand in the data set several times."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cgankd.data.dataset import Dataset
from cgankd.data.store.room import Room, in_memory
from cgankd.types import Split

ROWS = 1024
"""Images copied at a time."""


def replicated(data: Dataset, at_least: int | None, room: Room = in_memory) -> Dataset:
    """The data set with every label's training images repeated up to `at_least` of them (null = as it is).

    The images come first, in their order, then the repeats, label by label. Validation and test stay, and so do the
    statistics in `info`, which are those of the images themselves. The note "images_repeated" counts the repeats.
    """
    if at_least is None:
        return data
    train = data.train
    again_R = repeats(train.labels, at_least)
    num = len(train)
    images = room((num + len(again_R), *train.images.shape[1:]))
    for first in range(0, num, ROWS):
        end = min(first + ROWS, num)
        images[first:end] = train.images[first:end]
    for first in range(0, len(again_R), ROWS):
        rows_B = again_R[first : first + ROWS]
        images[num + first : num + first + len(rows_B)] = train.images[rows_B]
    labels = torch.cat([train.labels, train.labels[again_R]])
    notes = dict(data.notes) | {"images_repeated": float(len(again_R))}
    named = data.files.get("train")
    files = dict(data.files) | ({"train": [*named, *(named[row] for row in again_R.tolist())]} if named else {})
    return replace(data, train=Split(images, labels), notes=notes, files=files)


def repeats(label_N: Tensor, at_least: int) -> Tensor:
    """Rows [R] to add: those of each label with fewer than `at_least`, in their order, over and over until it has so many."""
    added = [torch.empty(0, dtype=torch.int64)]
    for label in torch.unique(label_N):
        rows = (label_N == label).nonzero()[:, 0]
        added.append(rows[torch.arange(max(0, at_least - len(rows))) % len(rows)])
    return torch.cat(added)
