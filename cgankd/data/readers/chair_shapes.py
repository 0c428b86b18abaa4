"""The 49 chairs: seven kinds of legs times seven kinds of backs, each with its own proportions, seat, arms and colours.

All parts are upright boxes, so the shades of the three visible sides tell the angle even where legs are a pixel wide.

Every measure of chair i comes from a hash of (i, name of the measure), so a chair is the same whatever else is drawn.
Lengths are about metres; x to the right, y to the rear, z up from the floor.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

import numpy as np

from cgankd.rng import derive

Array = np.ndarray[Any, Any]
Colour = tuple[float, float, float]

WOODS: tuple[Colour, ...] = ((0.72, 0.53, 0.34), (0.50, 0.33, 0.21), (0.84, 0.70, 0.50), (0.36, 0.23, 0.17))
METALS: tuple[Colour, ...] = ((0.28, 0.29, 0.32), (0.68, 0.71, 0.75), (0.88, 0.88, 0.87), (0.19, 0.19, 0.21))


@dataclass(frozen=True)
class Box:
    """An upright box: its outline [4, 2], counter-clockwise from above, between the heights low < high."""

    outline: Array
    low: float
    high: float
    colour: Colour


def rectangle(x: float, y: float, width: float, depth: float) -> Array:
    """Corners [4, 2] of a rectangle about (x, y)."""
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, depth / 2)
    return half + (x, y)


class Chair:
    """Proportions of one chair, and the parts collected so far."""

    def __init__(self, shape: int) -> None:
        self.shape = shape
        self.leg_kind, self.back_kind = shape % 7, shape // 7
        self.parts: list[Box] = []
        self.width = self.between("width", 0.44, 0.60)
        self.depth = self.between("depth", 0.42, 0.54)
        self.seat_low = self.between("seat height", 0.36, 0.46)
        self.thickness = self.between("thickness", 0.045, 0.09)
        self.seat_high = self.seat_low + self.thickness
        self.back_high = self.seat_high + self.between("back height", 0.42, 0.60)
        hue = (0.07 + 0.618034 * shape) % 1.0
        saturation, value = self.between("saturation", 0.55, 0.92), self.between("value", 0.62, 0.97)
        self.main: Colour = colorsys.hsv_to_rgb(hue, saturation, value)
        self.accent: Colour = colorsys.hsv_to_rgb((hue + 0.09) % 1.0, saturation * 0.75, min(1.0, value * 1.12))
        metal = self.leg_kind in (2, 3, 5)
        frames = METALS if metal else (*WOODS, (0.93, 0.92, 0.90))
        self.frame = frames[int(self.uniform("frame") * len(frames))]

    def uniform(self, name: str) -> float:
        """In [0, 1), fixed for this chair and measure."""
        return derive("chair", self.shape, name) / 2**63

    def between(self, name: str, low: float, high: float) -> float:
        """A measure in a range."""
        return low + (high - low) * self.uniform(name)

    def box(self, x: float, y: float, width: float, depth: float, low: float, high: float, colour: Colour) -> None:
        """One more part, about (x, y)."""
        self.parts.append(Box(rectangle(x, y, width, depth), low, high, colour))

    @property
    def back_y(self) -> float:
        """Where the middle of the back is; a seat may still deepen after the proportions are drawn."""
        return self.depth / 2 - 0.03

    def back(self, x: float, width: float, depth: float, low: float, high: float, colour: Colour) -> None:
        """One more part of the back, in its plane."""
        self.box(x, self.back_y, width, depth, low, high, colour)


def build(shape: int) -> list[Box]:
    """The parts of chair `shape` (0..48)."""
    chair = Chair(shape)
    _seat(chair)
    (_posts, _sturdy, _swivel, _sled, _panels, _pedestal, _stretchers)[chair.leg_kind](chair)
    (_solid, _slats, _ladder, _low, _tall, _framed, _tub)[chair.back_kind](chair)
    if chair.back_kind not in (2, 6) and chair.uniform("arms") < 0.45:
        _arms(chair)
    return chair.parts


def _seat(c: Chair) -> None:
    if c.leg_kind == 5:
        c.width = c.depth = max(c.width, c.depth)
        c.box(0, 0, c.width, c.width, c.seat_low, c.seat_high, c.main)
        return
    wooden = c.uniform("cushion") < 0.5
    c.box(0, 0, c.width, c.depth, c.seat_low, c.seat_high, c.frame if wooden else c.main)
    if wooden:
        c.box(0, 0, 0.9 * c.width, 0.9 * c.depth, c.seat_high, c.seat_high + 0.045, c.main)


def _legs(c: Chair, thick: float) -> None:
    """Four legs under the corners of the seat."""
    for side in (-1, 1):
        for end in (-1, 1):
            x, y = side * (c.width / 2 - 0.05), end * (c.depth / 2 - 0.05)
            c.box(x, y, thick, thick, 0.0, c.seat_low, c.frame)


def _posts(c: Chair) -> None:
    _legs(c, c.between("leg", 0.05, 0.075))


def _sturdy(c: Chair) -> None:
    _legs(c, 0.09)


def _swivel(c: Chair) -> None:
    reach = c.between("reach", 0.46, 0.58)
    c.box(0, 0, 0.08, 0.08, 0.06, c.seat_low, c.frame)
    c.box(0, 0, reach, 0.09, 0.0, 0.06, c.frame)
    c.box(0, 0, 0.09, reach, 0.0, 0.06, c.frame)


def _sled(c: Chair) -> None:
    for side in (-1, 1):
        x = side * (c.width / 2 - 0.04)
        c.box(x, 0, 0.04, c.depth, 0.0, 0.04, c.frame)
        for end in (-1, 1):
            c.box(x, end * (c.depth / 2 - 0.025), 0.04, 0.05, 0.04, c.seat_low, c.frame)


def _panels(c: Chair) -> None:
    for side in (-1, 1):
        c.box(side * (c.width / 2 - 0.05), 0.02, 0.05, c.depth - 0.1, 0.0, c.seat_low, c.frame)
    c.box(0, 0.04, c.width - 0.15, 0.03, c.seat_low - 0.14, c.seat_low, c.frame)


def _pedestal(c: Chair) -> None:
    base = c.between("base", 0.36, 0.46)
    c.box(0, 0, base, base, 0.0, 0.05, c.frame)
    c.box(0, 0, 0.12, 0.12, 0.05, c.seat_low, c.frame)


def _stretchers(c: Chair) -> None:
    _legs(c, 0.055)
    height = c.between("stretcher", 0.10, 0.18)
    for side in (-1, 1):
        c.box(side * (c.width / 2 - 0.05), 0, 0.03, c.depth - 0.15, height, height + 0.035, c.accent)
    c.box(0, 0, c.width - 0.13, 0.03, height, height + 0.035, c.accent)


def _solid(c: Chair) -> None:
    c.back(0, c.width * 0.92, 0.055, c.seat_high, c.back_high, c.main)


def _slats(c: Chair) -> None:
    count = 3 + int(c.uniform("slats") * 3)
    inner = c.width * 0.84
    rail = c.back_high - 0.10
    for x in np.linspace(-inner / 2, inner / 2, count).tolist():
        edge = abs(abs(x) - inner / 2) < 1e-9
        c.back(x, 0.06 if edge else 0.04, 0.04, c.seat_high, rail, c.frame if edge else c.accent)
    c.back(0, inner + 0.07, 0.05, rail, c.back_high, c.main)


def _ladder(c: Chair) -> None:
    for side in (-1, 1):
        c.back(side * (c.width / 2 - 0.05), 0.055, 0.055, c.seat_high, c.back_high, c.frame)
    rails = 2 + int(c.uniform("rails") * 2)
    step = (c.back_high - c.seat_high) / (rails + 0.35)
    for rail in range(rails):
        high = c.back_high - 0.02 - rail * step
        c.back(0, c.width - 0.15, 0.035, high - step * 0.52, high, c.main)


def _low(c: Chair) -> None:
    c.back_high = c.seat_high + c.between("low back", 0.24, 0.30)
    for side in (-1, 1):
        c.back(side * c.width * 0.28, 0.05, 0.04, c.seat_high, c.seat_high + 0.09, c.frame)
    c.back(0, c.width * 0.98, 0.07, c.seat_high + 0.09, c.back_high, c.main)


def _tall(c: Chair) -> None:
    c.back_high += 0.10
    head = c.back_high - 0.17
    c.back(0, c.width * 0.90, 0.06, c.seat_high, head, c.main)
    c.back(0, c.width * 0.60, 0.09, head + 0.012, c.back_high, c.accent)


def _framed(c: Chair) -> None:
    c.back(0, c.width * 0.94, 0.045, c.seat_high, c.back_high, c.frame)
    low, high = c.seat_high + 0.07, c.back_high - 0.07
    c.box(0, c.back_y - 0.03, c.width * 0.74, 0.06, low, high, c.main)


def _tub(c: Chair) -> None:
    c.back_high = c.seat_high + c.between("tub", 0.30, 0.40)
    c.back(0, c.width, 0.08, c.seat_high, c.back_high, c.main)
    for side in (-1, 1):
        x, depth = side * (c.width / 2 - 0.035), c.depth - 0.10
        c.box(x, -0.02, 0.07, depth, c.seat_high, c.seat_high + (c.back_high - c.seat_high) * 0.62, c.accent)


def _arms(c: Chair) -> None:
    high = c.seat_high + c.between("arm height", 0.17, 0.23)
    for side in (-1, 1):
        x = side * (c.width / 2 - 0.015)
        c.box(x, -c.depth / 2 + 0.10, 0.035, 0.05, c.seat_high, high, c.frame)
        reach = c.back_y + c.depth / 2 - 0.05
        c.box(x, -c.depth / 2 + 0.05 + reach / 2, 0.06, reach, high, high + 0.035, c.accent)
