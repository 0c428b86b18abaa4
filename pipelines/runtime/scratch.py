"""Room for large tensors: in memory while a budget lasts, else in nameless files that the system pages in and out."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cgankd.config import ConfigError
from cgankd.data.store.room import Room, in_memory
from cgankd.data.store.stream import MemoryBudget
from cgankd.data.store.writing import unwritten
from pipelines.files.writing import AGAIN, DiskError, disk_sentence


def mapped(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An empty tensor whose bytes lie in a nameless file, gone with the tensor. Raises ConfigError on a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = math.prod(shape)
    wanted, free = size * dtype.itemsize, shutil.disk_usage(path.parent).free
    if wanted > 0.9 * free:
        raise ConfigError(
            f"{wanted / 1e9:.1f} GB of scratch are needed in {path.parent}, but {free / 1e9:.1f} GB are free; make room"
            f" {AGAIN}"
        )
    try:
        # Taken now: a full disk ends the process where a page of the file finds no room.
        with path.open("wb") as file:
            if wanted:
                os.posix_fallocate(file.fileno(), 0, wanted)
        return torch.from_file(str(path), shared=True, size=size, dtype=dtype).reshape(shape)
    except OSError as error:
        found = unwritten(error, path, path, wanted)
        raise (DiskError(disk_sentence(found)) if found else error) from error
    finally:
        path.unlink(missing_ok=True)


def roomy(path: Path, memory: MemoryBudget) -> Callable[[int, int], Tensor]:
    """A maker of empty float32 tensors [rows, columns]: in memory while `memory` lasts, else mapped at `path`."""

    def rows(num: int, width: int) -> Tensor:
        return torch.empty(num, width) if memory.take(4 * num * width) else mapped(path, (num, width), torch.float32)

    return rows


def image_room(path: Path, memory: MemoryBudget) -> Room:
    """A maker of room for images: in memory while `memory` lasts, else mapped at `path`."""

    def room(shape: tuple[int, ...]) -> Tensor:
        return in_memory(shape) if memory.take(math.prod(shape)) else mapped(path, shape, torch.uint8)

    return room
