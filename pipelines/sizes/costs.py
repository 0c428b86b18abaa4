"""What the student of a size costs: trained numbers, multiplications, values held, its file, and its time for one image."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from cgankd.export import median_ms, open_onnx, program, write_onnx
from cgankd.measure.cost import cost_of
from pipelines.ship.saved import Package, load_package

REPEATS = 200
"""Timed answers; the median counts."""


@dataclass(frozen=True)
class OnDevice:
    """A student as it is flashed: bytes of its file, and of the arena that its interpreter needs (None where unknown)."""

    bytes: int
    arena: int | None


Flash = Callable[[Package, Tensor], OnDevice]
"""A student, and training images [N, C, H, W] that set the ranges of its int8, to what it takes on a device."""

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
"""Costs that --max-bytes and --max-ram speak of: the first that is known of every size."""


def costs_of(weights: Path, images: Tensor, flash: Flash | None = None) -> dict[str, float]:
    """Every cost that is known of a student, by its key; `images` are training images [N, C, H, W].

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
    if flash is not None:
        device = flash(package, images)
        found["int8_bytes"] = device.bytes
        if device.arena is not None:
            found["arena"] = device.arena
    return found


def axes_of(rows: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """The costs that sizes are compared by, as size -> key: bytes, multiplications, ram and ms."""
    size, room = (next(key for key in keys if all(key in row for row in rows)) for keys in (SIZE, ROOM))
    return {"bytes": size, "multiplications": "multiplications", "ram": room, "ms": "ms"}
