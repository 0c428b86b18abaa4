"""The 49 chairs: seven kinds of legs times seven kinds of backs, each with its own proportions, seat, arms and colours.

Every measure of chair i comes from a hash of (i, name of the measure), so a chair is the same whatever else is drawn.
Lengths are about metres; x to the right, y to the rear, z up from the floor.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cgankd.rng import derive

Array = np.ndarray[Any, Any]
Colour = tuple[float, float, float]

WOODS: tuple[Colour, ...] = ((0.72, 0.53, 0.34), (0.50, 0.33, 0.21), (0.84, 0.70, 0.50), (0.36, 0.23, 0.17))
METALS: tuple[Colour, ...] = ((0.28, 0.29, 0.32), (0.68, 0.71, 0.75), (0.88, 0.88, 0.87), (0.19, 0.19, 0.21))


@dataclass(frozen=True)
class Prism:
    """Convex solid between two polygons [n, 2], counter-clockwise from above, at heights low < high; planar sides."""

    bottom: Array
    low: float
    top: Array
    high: float
    colour: Colour


def rectangle(x: float, y: float, width: float, depth: float) -> Array:
    """Corners [4, 2] of a rectangle about (x, y)."""
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, depth / 2)
    return half + (x, y)


def disc(radius: float, sides: int = 12) -> Array:
    """Corners [sides, 2] of a regular polygon about the axis."""
    angle = (np.arange(sides) + 0.5) * 2 * math.pi / sides
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def rounded(width: float, sides: int = 16) -> Array:
    """Corners [sides, 2] of a square with round corners about the axis (the superellipse x^4 + y^4 = (width/2)^4)."""
    point = disc(1.0, sides)
    return width / 2 * np.sign(point) * np.sqrt(np.abs(point))


class Chair:
    """Proportions of one chair, and the parts collected so far."""

    def __init__(self, shape: int) -> None:
        self.shape = shape
        self.leg_kind, self.back_kind = shape % 7, shape // 7
        self.parts: list[Prism] = []
        self.width = self.between("width", 0.44, 0.60)
        self.depth = self.between("depth", 0.42, 0.54)
        self.seat_low = self.between("seat height", 0.36, 0.46)
        self.thickness = self.between("thickness", 0.045, 0.09)
        self.seat_high = self.seat_low + self.thickness
        self.back_high = self.seat_high + self.between("back height", 0.42, 0.60)
        self.recline = self.between("recline", 0.03, 0.11)
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

    def add(self, bottom: Array, low: float, top: Array, high: float, colour: Colour) -> None:
        """One more part."""
        self.parts.append(Prism(bottom, low, top, high, colour))

    def box(self, x: float, y: float, width: float, depth: float, low: float, high: float, colour: Colour) -> None:
        """One more upright box about (x, y)."""
        base = rectangle(x, y, width, depth)
        self.add(base, low, base, high, colour)

    def back_y(self, z: float) -> float:
        """Where the middle of the reclined back is at height z."""
        rise = (z - self.seat_high) / (self.back_high - self.seat_high)
        return self.depth / 2 - 0.03 + self.recline * rise

    def leaning(
        self, x: float, width: float, depth: float, low: float, high: float, colour: Colour, taper: float = 1.0
    ) -> None:
        """One more box that follows the recline of the back, its width multiplied by `taper` at the top."""
        bottom = rectangle(x, self.back_y(low), width, depth)
        self.add(bottom, low, rectangle(x, self.back_y(high), width * taper, depth), high, colour)


def build(shape: int) -> list[Prism]:
    """The parts of chair `shape` (0..48)."""
    chair = Chair(shape)
    _seat(chair)
    (_posts, _splayed, _swivel, _sled, _panels, _pedestal, _stretchers)[chair.leg_kind](chair)
    (_solid, _slats, _ladder, _low, _tall, _framed, _tub)[chair.back_kind](chair)
    if chair.back_kind not in (2, 6) and chair.uniform("arms") < 0.45:
        _arms(chair)
    return chair.parts


def _seat(c: Chair) -> None:
    if c.leg_kind == 5:
        c.width = c.depth = max(c.width, c.depth)
        c.add(rounded(c.width * 0.92), c.seat_low, rounded(c.width), c.seat_high, c.main)
        return
    narrow = c.between("trapezoid", 0.86, 1.0)
    outline = rectangle(0, 0, c.width, c.depth)
    outline[2:, 0] *= narrow
    wooden = c.uniform("cushion") < 0.5
    c.add(outline, c.seat_low, outline, c.seat_high, c.frame if wooden else c.main)
    if wooden:
        c.add(outline * 0.93, c.seat_high, outline * 0.86, c.seat_high + 0.045, c.main)


def _legs(c: Chair, thick: float, foot: float, spread: float) -> None:
    """Four legs from feet of width `foot`, set out by `spread`, to tops of width `thick`."""
    for side in (-1, 1):
        for end in (-1, 1):
            x, y = side * (c.width / 2 - 0.05), end * (c.depth / 2 - 0.05)
            bottom = rectangle(x + side * spread, y + end * spread, foot, foot)
            c.add(bottom, 0.0, rectangle(x, y, thick, thick), c.seat_low, c.frame)


def _posts(c: Chair) -> None:
    thick = c.between("leg", 0.05, 0.075)
    _legs(c, thick, thick, 0.0)


def _splayed(c: Chair) -> None:
    _legs(c, 0.075, 0.035, c.between("spread", 0.04, 0.08))


def _swivel(c: Chair) -> None:
    c.add(disc(0.035, 8), 0.07, disc(0.035, 8), c.seat_low, c.frame)
    c.add(disc(0.06, 8), 0.06, disc(0.045, 8), 0.12, c.frame)
    reach = c.between("reach", 0.27, 0.33)
    for spoke in range(5):
        angle = 2 * math.pi * (spoke + 0.25) / 5
        along, across = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
        tip, hub = reach * along, 0.02 * along
        bar = np.stack([hub - 0.03 * across, tip - 0.02 * across, tip + 0.02 * across, hub + 0.03 * across])
        c.add(bar, 0.045, bar, 0.085, c.frame)
        wheel = rectangle(0.97 * float(tip[0]), 0.97 * float(tip[1]), 0.055, 0.055)
        c.add(wheel, 0.0, wheel, 0.05, (0.15, 0.15, 0.16))


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
    radius = c.between("base", 0.20, 0.26)
    c.add(disc(radius), 0.0, disc(radius * 0.9), 0.03, c.frame)
    c.add(disc(0.12, 8), 0.03, disc(0.035, 8), 0.16, c.frame)
    c.add(disc(0.035, 8), 0.16, disc(0.09, 8), c.seat_low, c.frame)


def _stretchers(c: Chair) -> None:
    _legs(c, 0.055, 0.055, 0.0)
    height = c.between("stretcher", 0.10, 0.18)
    for side in (-1, 1):
        c.box(side * (c.width / 2 - 0.05), 0, 0.03, c.depth - 0.15, height, height + 0.035, c.accent)
    c.box(0, 0, c.width - 0.13, 0.03, height, height + 0.035, c.accent)


def _solid(c: Chair) -> None:
    c.leaning(0, c.width * 0.92, 0.055, c.seat_high, c.back_high, c.main, taper=c.between("taper", 0.85, 1.0))


def _slats(c: Chair) -> None:
    count = 3 + int(c.uniform("slats") * 3)
    inner = c.width * 0.84
    rail = c.back_high - 0.10
    for x in np.linspace(-inner / 2, inner / 2, count).tolist():
        edge = abs(abs(x) - inner / 2) < 1e-9
        c.leaning(x, 0.06 if edge else 0.04, 0.04, c.seat_high, rail, c.frame if edge else c.accent)
    c.leaning(0, inner + 0.07, 0.05, rail, c.back_high, c.main)


def _ladder(c: Chair) -> None:
    for side in (-1, 1):
        c.leaning(side * (c.width / 2 - 0.05), 0.055, 0.055, c.seat_high, c.back_high, c.frame)
    rails = 2 + int(c.uniform("rails") * 2)
    step = (c.back_high - c.seat_high) / (rails + 0.35)
    for rail in range(rails):
        high = c.back_high - 0.02 - rail * step
        c.leaning(0, c.width - 0.15, 0.035, high - step * 0.52, high, c.main)


def _low(c: Chair) -> None:
    c.back_high = c.seat_high + c.between("low back", 0.24, 0.30)
    for side in (-1, 1):
        c.leaning(side * c.width * 0.28, 0.05, 0.04, c.seat_high, c.seat_high + 0.09, c.frame)
    c.leaning(0, c.width * 0.98, 0.07, c.seat_high + 0.09, c.back_high, c.main, taper=0.92)


def _tall(c: Chair) -> None:
    c.back_high += 0.10
    head = c.back_high - 0.17
    c.leaning(0, c.width * 0.90, 0.06, c.seat_high, head, c.main, taper=c.between("waist", 0.62, 0.78))
    c.leaning(0, c.width * 0.60, 0.09, head + 0.012, c.back_high, c.accent, taper=0.85)


def _framed(c: Chair) -> None:
    c.leaning(0, c.width * 0.94, 0.045, c.seat_high, c.back_high, c.frame)
    low, high = c.seat_high + 0.07, c.back_high - 0.07
    front = rectangle(0, c.back_y(low) - 0.03, c.width * 0.74, 0.06)
    c.add(front, low, rectangle(0, c.back_y(high) - 0.03, c.width * 0.74, 0.06), high, c.main)


def _tub(c: Chair) -> None:
    c.back_high = c.seat_high + c.between("tub", 0.30, 0.40)
    c.recline = 0.04
    c.leaning(0, c.width, 0.08, c.seat_high, c.back_high, c.main)
    for side in (-1, 1):
        x, depth = side * (c.width / 2 - 0.035), c.depth - 0.10
        bottom = rectangle(x, -0.02, 0.07, depth)
        top = rectangle(x, 0.04, 0.07, depth * 0.85)
        c.add(bottom, c.seat_high, top, c.seat_high + (c.back_high - c.seat_high) * 0.62, c.accent)


def _arms(c: Chair) -> None:
    high = c.seat_high + c.between("arm height", 0.17, 0.23)
    for side in (-1, 1):
        x = side * (c.width / 2 - 0.015)
        c.box(x, -c.depth / 2 + 0.10, 0.035, 0.05, c.seat_high, high, c.frame)
        reach = c.back_y(high) + c.depth / 2 - 0.05
        c.box(x, -c.depth / 2 + 0.05 + reach / 2, 0.06, reach, high, high + 0.035, c.accent)
