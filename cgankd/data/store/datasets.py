"""Data sets at rest in HDF5; the modules of this folder alone know h5py.

A file under its final name is complete: it is written under a temporary name, synced and renamed. Equal content gives
equal bytes. Reading checks a file first, since it may come from somewhere else: no links, no storage outside the file,
no objects, no sizes that the file cannot hold.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from cgankd.config.data import ANSWERS
from cgankd.config.settings import to_dict
from cgankd.data.batches import chunks
from cgankd.data.dataset import Dataset
from cgankd.data.regular import parse_json
from cgankd.data.store.files import (
    HEADER_BYTES,
    SLAB_ROWS,
    all_rows,
    column,
    creating,
    get_attributes,
    opening,
    put,
    put_attributes,
    same_length,
)
from cgankd.data.store.stream import MemoryBudget, rows_or_stream
from cgankd.types import DatasetInfo, Split

RULES = {"fit": str, "enlarge": bool, "pad_colour": str, "background": str, "pixel_range": list}
SPLITS = ("train", "val", "test")


def write_dataset(path: Path, dataset: Dataset) -> None:
    """Write a data set: `images`, `labels`, `split` (0 train, 1 val, 2 test) and its info as attributes."""
    info, splits = dataset.info, list(dataset.splits().values())
    with creating(path) as (file, room):
        shape = (sum(map(len, splits)), *splits[0].images.shape[1:])
        room.take(math.prod(shape) + HEADER_BYTES)
        images = file.create_dataset("images", shape, np.uint8)
        start = 0
        for part in (chunk for split in splits for chunk in chunks(split.images, SLAB_ROWS)):
            images[start : start + len(part)] = part.numpy()
            start += len(part)
        put(file, room, "labels", torch.cat([split.labels for split in splits]).numpy())
        put(
            file,
            room,
            "split",
            np.repeat(np.arange(len(splits), dtype=np.uint8), [len(split) for split in splits]),
        )
        attributes: dict[str, str | int | float] = {
            "task": info.kind,
            "source": info.source,
            "label_unit": info.label_unit,
            "pixel_mean": json.dumps(info.pixel_mean),
            "pixel_std": json.dumps(info.pixel_std),
            "notes": json.dumps(dict(dataset.notes)),
        }
        if info.class_names:
            attributes |= {"num_classes": len(info.class_names), "class_names": json.dumps(info.class_names)}
        else:
            attributes |= {"label_min": info.label_min, "label_max": info.label_max}
        if info.label_period is not None:
            attributes |= {"label_period": info.label_period, "label_answer": info.label_answer}
        put_attributes(file, room, attributes | _rules(info))


def _rules(info: DatasetInfo) -> dict[str, str]:
    """What was done to image files, where it differs from the usual."""
    written = to_dict(info)
    return {"rules": json.dumps(kept)} if (kept := {name: written[name] for name in RULES if name in written}) else {}


def read_info(path: Path) -> DatasetInfo:
    """What a data set file says of itself. Raises ValueError where it is not a data set file."""
    with opening(path) as file:
        shape = column(path, file, "images", "u", 4).shape
        values = get_attributes(path, file)
    try:
        return DatasetInfo(
            kind=str(values["task"]),
            source=str(values["source"]),
            label_unit=str(values["label_unit"]),
            channels=shape[1],
            image_size=shape[2],
            pixel_mean=tuple(map(float, parse_json(str(values["pixel_mean"])))),
            pixel_std=tuple(map(float, parse_json(str(values["pixel_std"])))),
            class_names=_names(str(values.get("class_names", "[]"))),
            label_min=float(values.get("label_min", 0.0)),
            label_max=float(values.get("label_max", 1.0)),
            label_period=float(values["label_period"]) if "label_period" in values else None,
            label_answer=_one_of(str(values.get("label_answer", "scalar"))),
            **_read_rules(str(values.get("rules", "{}"))),
        )
    except KeyError as problem:
        raise ValueError(f"{path}: attribute {problem} is missing, so this is no data set file of cgankd") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as problem:
        raise ValueError(f"{path}: an attribute cannot be read ({str(problem)[:200]}); write the file again") from None


def _names(text: str) -> tuple[str, ...]:
    found = parse_json(text)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError("class_names is no list of names")
    for name in found:
        name.encode()  # halves of letters, which cannot be printed, are a ValueError
    return tuple(found)


def _one_of(answer: str) -> str:
    if answer not in ANSWERS:
        raise ValueError(f"label_answer {answer!r}")
    return answer


def _read_rules(text: str) -> dict[str, Any]:
    """Fields of DatasetInfo; a value of the wrong kind is a ValueError."""
    found: dict[str, Any] = parse_json(text)
    ends = found.pop("pixel_range", None)
    if not all(isinstance(value, RULES[name]) for name, value in found.items()):
        raise ValueError(f"rules {text!r}")
    return found | ({} if ends is None else {"pixel_range": tuple(map(float, ends))})


def read_class_counts(path: Path, num_classes: int) -> dict[str, list[int]]:
    """Images of each class in each split; no image is read."""
    with opening(path) as file:
        labels = column(path, file, "labels", "if", 1)
        split = column(path, file, "split", "u", 1)
        same_length(path, labels, split)
        label_N, split_N = _checked(path, labels, num_classes).long(), torch.from_numpy(all_rows(split))
    return {
        name: label_N[split_N == place].bincount(minlength=num_classes).tolist() for place, name in enumerate(SPLITS)
    }


def _checked(path: Path, labels: h5py.Dataset, num_classes: str | int | float | None) -> Tensor:
    """All labels. Raises ValueError where one is no class of the set: whoever counts them makes a place for each number."""
    label_N = torch.from_numpy(all_rows(labels))
    if isinstance(num_classes, int) and len(label_N) and not (label_N.min() >= 0 and label_N.max() < num_classes):
        raise ValueError(f"{path} has a label that is none of its {num_classes} classes; write the file again")
    return label_N


def read_split(path: Path, name: str, memory: MemoryBudget | None = None) -> Split:
    """The "train", "val" or "test" rows of a data set file, and only those.

    Their images are a tensor where they fit in what `memory` has left (always without one), and streamed where not.
    """
    with opening(path) as file:
        images = column(path, file, "images", "u", 4)
        labels = column(path, file, "labels", "if", 1)
        split = column(path, file, "split", "u", 1)
        same_length(path, images, labels, split)
        num_classes = get_attributes(path, file).get("num_classes")
        rows = np.flatnonzero(all_rows(split) == SPLITS.index(name))
        return Split(rows_or_stream(path, images, rows, memory), _checked(path, labels, num_classes)[rows])
