"""What the student of a size costs: trained numbers, multiplications, values held, its file, and its time for one image."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from cgankd.config import ConfigError
from cgankd.export import median_ms, open_onnx, program, write_onnx
from cgankd.measure.cost import cost_of
from pipelines.ship.saved import load_package

REPEATS = 200
"""Timed answers; the median counts."""


@dataclass(frozen=True)
class OnDevice:
    """A student as it is flashed: bytes of its whole-int8 file and of the arena that its interpreter needs (None where there is
    none), the file's own headline on validation and by how much that is above the float student's, and why something is missing.
    """

    bytes: int | None
    arena: int | None
    validation: float | None = None
    loss: float | None = None
    remark: str = ""


Flash = Callable[[Path, Tensor], OnDevice]
"""Weights of a student, and training images [N, C, H, W] that set the ranges of its int8, to what it is on a device."""

UNITS = {
    "int8_bytes": "whole int8 LiteRT file",
    "onnx_bytes": "ONNX file, float32",
    "arena": "arena of TFLite-Micro, int8",
    "held_bytes": "maps held at once, int8 (a lower bound)",
    "multiplications": "multiplications for one image",
    "ms": "median ms for one image, one thread of ONNX Runtime",
}
"""Costs by their key in metrics/sizes.json, and what each is exactly."""
SIZE, ROOM = ("int8_bytes", "onnx_bytes"), ("arena", "held_bytes")
"""Costs that --max-bytes and --max-ram speak of: the first that is known of any size."""
ON_DEVICE = {SIZE[0], ROOM[0]}
"""Costs of the whole-int8 file, whose own error then counts."""


@dataclass(frozen=True)
class Measured:
    """Every cost that is known of a student, by its key, and what it is on a device (None where that is not measured)."""

    costs: dict[str, float]
    device: OnDevice | None = None


def costs_of(weights: Path, images: Tensor, flash: Flash | None = None) -> Measured:
    """What a student costs; `images` are training images [N, C, H, W]. One that is not converted for a device says why.

    Raises ConfigError where the ONNX packages are missing.
    """
    package = load_package(weights)
    unit = torch.zeros(1, *images.shape[1:])
    cost = asdict(cost_of(package.model.net, unit))
    found: dict[str, float] = {"parameters": cost["parameters"], "multiplications": cost["multiplications"]}
    found["held_bytes"] = cost["values_held"]  # a byte each
    with tempfile.TemporaryDirectory(prefix="cgankd-sizes-") as folder:
        path = Path(folder) / "student.onnx"
        write_onnx(program(package.model, images[:2]), path)
        found["onnx_bytes"] = path.stat().st_size
        found["ms"] = median_ms(open_onnx(path), images[:1], repeats=REPEATS)
    if flash is None:
        return Measured(found)
    try:
        device = flash(weights, images)
    except ConfigError as error:  # of one size; the others are measured, after hours of training
        device = OnDevice(None, None, remark=str(error))
    if device.bytes is not None:
        found["int8_bytes"] = device.bytes
    if device.arena is not None:
        found["arena"] = device.arena
    return Measured(found, device)


def axes_of(rows: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """The costs that sizes are compared by, as size -> key: bytes, multiplications, ram and ms.

    One that is known of any size is taken: a size that cannot be made for a device must not hide what the others are there.
    """
    size, room = (next(key for key in keys if any(key in row for row in rows)) for keys in (SIZE, ROOM))
    return {"bytes": size, "multiplications": "multiplications", "ram": room, "ms": "ms"}
