"""Labelled images that some generator outside made: a folder with a list, a folder a class, or an HDF5 file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cgankd.config import ConfigError
from cgankd.data.dataset import listed
from cgankd.data.readers.image_files import done_lines, read_images
from cgankd.data.readers.label_text import label_number, same_class, tidy
from cgankd.data.readers.list_lines import read_list
from cgankd.data.readers.walk import LeftOut, beside, left_out_lines, same_form, visible_folders, walk
from cgankd.data.store.files import WRITE_AGAIN, all_rows, column, opening, same_length, slabs
from cgankd.data.store.room import Room, in_memory
from cgankd.data.turns import brought
from cgankd.types import DatasetInfo, LogFn, Split, silent

LIST = "labels.csv"
LISTS = (LIST, "metadata.csv", "metadata.jsonl")
"""Lists by name, as generators of images write them too; the first that is there is read."""
Say = Callable[[str], object]
"""Takes a line for the user."""
Order = Callable[[int], Tensor]
"""From how many images there are, N, to the order [N] in which they are wanted."""


def unsaid(line: str) -> None:
    """A Say that keeps nothing."""


def load_own_fakes(
    path: Path,
    info: DatasetInfo,
    *,
    log: LogFn = silent,
    say: Say = unsaid,
    room: Room = in_memory,
    order: Order = torch.arange,
) -> Split:
    """Every image of the set with its label, int64 classes in the order of `info.class_names` or float32 scalars.

    A folder holds a list that the source csv can read (`labels.csv`, `metadata.csv` or `metadata.jsonl`), or one
    sub-folder for each class; an HDF5 file holds `images` uint8 [N, C, H, W] and `labels` [N]. Images are read in chunks,
    in the order of the set, into what `room` gives; row k of the result is image `order`[k] of the set. `say` gets a line
    for all that was left out, guessed or done to images. Raises ConfigError (a ValueError) naming the file or label at
    fault.
    """
    if not path.is_dir():
        try:
            images, labels = _rows_of(path, info, room, order)
        except ConfigError:
            raise
        except ValueError as problem:  # What the checks of the file say; they do not know which setting names it.
            raise ConfigError(f"cgan.file {problem}") from None
        return Split(images, _numbers(labels, info, path))
    listing = next((path / name for name in LISTS if (path / name).exists()), None)
    paths, labels, lines = _listed(listing, info) if listing else _sorted_by_class(path, info)
    if not paths:
        raise ConfigError(f"cgan.file {str(path)!r} has no images; add a sub-folder for each class, or {LIST}")
    order_N = order(len(paths))
    images, counts = read_images(paths, info, log, room=room, place_N=torch.argsort(order_N))
    for line in (*lines, *done_lines(counts, len(paths))[1]):
        say(line)
    return Split(images, labels[order_N])


def _rows_of(path: Path, info: DatasetInfo, room: Room, order: Order) -> tuple[Tensor, Tensor]:
    """All rows of `images` and `labels`, the only datasets that are looked at, in order. Raises ValueError."""
    with opening(path, names=("images", "labels"), cure=WRITE_AGAIN) as file:
        images = column(path, file, "images", "u", 4, cure=WRITE_AGAIN)
        labels = column(path, file, "labels", "iuf", 1, cure=WRITE_AGAIN)
        same_length(path, images, labels)
        wanted = (info.channels, info.image_size, info.image_size)
        if images.shape[1:] != wanted:
            raise ConfigError(
                f"cgan.file {str(path)!r} has images of shape {list(images.shape[1:])}, but those of the data set"
                f" are {list(wanted)} (data.channels, data.image_size)"
            )
        order_N, out = order(len(images)), room(images.shape)
        for places, part in slabs(images, order_N.numpy()):
            out[torch.from_numpy(places)] = torch.from_numpy(part)
        # torch compares few of HDF5's types with another; a whole number past int64 turns negative, which is no label either.
        kind = np.int64 if labels.dtype.kind in "iu" else np.float64
        return out, torch.from_numpy(all_rows(labels).astype(kind))[order_N]


def _numbers(label_N: Tensor, info: DatasetInfo, path: Path) -> Tensor:
    if not info.class_names:
        label_N = label_N.float()
        if not bool(label_N.isfinite().all()):
            raise ConfigError(f"cgan.file {str(path)!r} has labels that are NaN or infinite; correct or remove them")
        return _on_one_turn(label_N, info)
    whole_N = label_N.long()
    if bool((whole_N != label_N).any()) or bool((whole_N < 0).any()) or bool((whole_N >= len(info.class_names)).any()):
        raise ConfigError(
            f"cgan.file {str(path)!r} has labels from {float(label_N.min()):g} to {float(label_N.max()):g}, but they must"
            f" be the numbers 0 to {len(info.class_names) - 1} of the classes"
        )
    return whole_N


def _class_number(name: str, info: DatasetInfo, where: str) -> int:
    number = same_class(name, info.class_names)
    if number is None:
        names = ", ".join(info.class_names)
        raise ConfigError(f"{where}: {tidy(name)!r} is no class of the data set; there are {names}")
    return number


def _listed(listing: Path, info: DatasetInfo) -> tuple[list[Path], Tensor, list[str]]:
    found = read_list(str(listing), "cgan.file")
    paths = [entry.path for entry in found.entries]
    lines = [*found.said, *_not_listed(listing, paths)]
    if info.class_names:
        known = {entry.label: _class_number(entry.label, info, entry.where) for entry in reversed(found.entries)}
        return paths, torch.tensor([known[entry.label] for entry in found.entries]), lines
    numbers = torch.tensor([label_number(entry.label, entry.where) for entry in found.entries], dtype=torch.float32)
    return paths, _on_one_turn(numbers, info), lines


def _on_one_turn(label_N: Tensor, info: DatasetInfo) -> Tensor:
    """Labels that go round brought to the turn of the data set."""
    return label_N if info.label_period is None else brought(label_N, info.label_min, info.label_period)


def _not_listed(listing: Path, paths: list[Path]) -> list[str]:
    """A line on images beside a list that it does not name."""
    named = {path.resolve() for path in paths}
    others = [path for path in walk(listing.parent).images if path.resolve() not in named]
    return left_out_lines(
        [LeftOut(path, f"images without a line in {listing.name}") for path in others], listing.parent
    )


def _sorted_by_class(folder: Path, info: DatasetInfo) -> tuple[list[Path], Tensor, list[str]]:
    if not info.class_names:
        raise ConfigError(f"cgan.file {str(folder)!r} has no {LIST}; scalar labels are read from its lines path,label")
    paths: list[Path] = []
    labels: list[int] = []
    left = beside(folder)
    for part in visible_folders(folder):
        number = _class_number(same_form(part.name), info, str(part))
        found = walk(part)
        paths += found.images
        labels += [number] * len(found.images)
        left += found.left
    lacking = [name for number, name in enumerate(info.class_names) if number not in labels]
    said = [f"WARNING: no images of {listed(list(map(repr, lacking)))}"] if lacking and paths else []
    return paths, torch.tensor(labels, dtype=torch.int64), [*left_out_lines(left, folder), *said]
