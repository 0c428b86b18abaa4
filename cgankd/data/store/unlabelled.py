"""Unlabelled images at rest in HDF5: the images alone, as no label of theirs is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cgankd.data.store.files import HEADER_BYTES, SLAB_ROWS, column, creating, opening
from cgankd.data.store.stream import MemoryBudget, rows_or_stream
from cgankd.types import Images


def write_unlabelled(path: Path, images_UCHW: Images, rows: Tensor) -> None:
    """Write the images at rows [M], slab by slab; there may be none."""
    with creating(path) as (file, room):
        shape = (len(rows), *images_UCHW.shape[1:])
        room.take(math.prod(shape) + HEADER_BYTES)
        images = file.create_dataset("images", shape, np.uint8)
        for start in range(0, len(rows), SLAB_ROWS):
            part = rows[start : start + SLAB_ROWS]
            images[start : start + len(part)] = images_UCHW[part].numpy()


def read_unlabelled(path: Path, memory: MemoryBudget | None = None) -> Images:
    """All images of such a file, streamed where `memory` has no room for them. Raises ValueError where it is none."""
    with opening(path) as file:
        images = column(path, file, "images", "u", 4)
        if len(images) == 0:
            return torch.empty((0, *images.shape[1:]), dtype=torch.uint8)
        return rows_or_stream(path, images, np.arange(len(images)), memory)
