"""What the students of all sizes take on a board: each is made a whole-int8 LiteRT file and run by the interpreter for boards."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from cgankd.data.store.datasets import read_split
from pipelines.device.forms import Source
from pipelines.device.making import measure_int8
from pipelines.ship.saved import Package, net_words
from pipelines.sizes.costs import Flash, OnDevice

PACKAGES = ("litert_torch", "ai_edge_quantizer", "ai_edge_litert", "tflite_micro")
"""Without one of them no file for a board is made."""
IMAGES = 64
"""Validation images that a file is tried on."""


def flash_of(dataset: Path) -> Flash | None:
    """How students of a data set are measured for a board; None where the packages of the extra `device` are missing."""
    if any(find_spec(name) is None for name in PACKAGES):
        return None
    val = read_split(dataset, "val")
    val = val.take(torch.arange(min(IMAGES, len(val))))

    def flash(package: Package, images: Tensor) -> OnDevice:
        source = Source(package.model, package.info, "", net_words(package.config))
        with tempfile.TemporaryDirectory(prefix="cgankd-flash-") as folder:
            found = measure_int8(source, images, val, Path(folder))
        return OnDevice(found.bytes, found.micro.arena if found.micro.runs else None)

    return flash
