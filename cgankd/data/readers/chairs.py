"""Procedural chairs at every yaw: a stand-in for RC-49 (arXiv 2011.07466) that needs no download.

49 fixed chairs, each a set of upright boxes, turn about their vertical axis under a fixed camera and a fixed light.
Axes: x to the right, y away from the camera at yaw 0 (a chair faces -y), z up; the seat is about 0.45 high.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from cgankd.data.readers.chair_shapes import Array, Box, Colour, build, rectangle

NUM_SHAPES = 49
YAWS = np.arange(1, 900) / 10.0
"""The 899 yaw angles of RC-49 in degrees: 0.1, 0.2, ... 89.9."""
RENDERER_VERSION = 2
"""Raise it with any change of the pictures: rendered images are cached under it."""

ELEVATION = math.radians(25.0)
FILL = 0.92
"""Share of the frame that the largest extent of a chair over all yaws takes."""
LIGHT = np.array([-0.45, -0.55, 0.70]) / np.linalg.norm([-0.45, -0.55, 0.70])
BACKGROUND = np.array([0.95, 0.955, 0.96])
SHADOW = np.array([0.83, 0.84, 0.86])
FACE_LIGHT = (0.42, 0.62)
"""Ambient and diffuse share of the light on a face."""


@dataclass(frozen=True)
class Mesh:
    """Planar convex quads: corners [F, 4, 3] counter-clockwise from outside, normals [F, 3], colours [F, 3] in [0, 1].

    `scale` and `lift` fit the chair into the frame at every yaw; faces under `num_shadow` lie on the floor, unshaded.
    """

    corners: Array
    normals: Array
    colours: Array
    num_shadow: int
    scale: float
    lift: float


def render(shape: int, yaw_degrees: float, size: int) -> Array:
    """Picture uint8 [3, size, size] of chair `shape` (0..48) turned by `yaw_degrees`; the same bytes each time."""
    assert 0 <= shape < NUM_SHAPES, "there are 49 chairs"
    mesh = _mesh(shape)
    over = 4 if size <= 32 else 3
    fine = size * over
    x, y, near = _project(mesh, yaw_degrees, fine)
    edges, depth = _planes(x, y, near)
    # Facing the camera: twice the signed area of the projected quad is positive.
    area = (x[:, 2] - x[:, 0]) * (y[:, 3] - y[:, 1]) - (x[:, 3] - x[:, 1]) * (y[:, 2] - y[:, 0])
    visible = np.flatnonzero(area > 1e-6)
    face = _rasterise(visible, x, y, edges, depth, fine)
    palette = np.concatenate([_shade(mesh, yaw_degrees), BACKGROUND[None]])
    # Light adds up in linear intensity, so the small squares are averaged there and not in display values.
    linear: Array = (palette**2.2).astype(np.float32)[face].reshape(size, over, size, over, 3).mean((1, 3))
    picture: Array = np.rint(linear ** (1 / 2.2) * 255).astype(np.uint8)
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def _turned(vectors: Array, yaw_degrees: float) -> Array:
    angle = math.radians(yaw_degrees)
    c, s = math.cos(angle), math.sin(angle)
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return np.stack([c * x - s * y, s * x + c * y, z], axis=-1)


def _view(points: Array) -> tuple[Array, Array, Array]:
    """Right, up and nearness in a parallel projection along the camera's axis."""
    up = points[..., 2] * math.cos(ELEVATION) + points[..., 1] * math.sin(ELEVATION)
    near = points[..., 2] * math.sin(ELEVATION) - points[..., 1] * math.cos(ELEVATION)
    return points[..., 0], up, near


def _project(mesh: Mesh, yaw_degrees: float, fine: int) -> tuple[Array, Array, Array]:
    """Screen x, y [F, 4] in fine pixels (y up) and nearness [F, 4]."""
    right, up, near = _view(_turned(mesh.corners, yaw_degrees))
    half = fine / 2
    return half + right * mesh.scale * fine, half + (up - mesh.lift) * mesh.scale * fine, near


def _planes(x: Array, y: Array, near: Array) -> tuple[Array, Array]:
    """Edge functions [F, 4, 3], positive inside, and planes of nearness [F, 3]: (a, b, c) of ax + by + c."""
    x2, y2 = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    a, b = y - y2, x2 - x
    edges = np.stack([a, b, -(a * x + b * y)], axis=2)
    ux, uy, un = x[:, 2] - x[:, 0], y[:, 2] - y[:, 0], near[:, 2] - near[:, 0]
    vx, vy, vn = x[:, 3] - x[:, 1], y[:, 3] - y[:, 1], near[:, 3] - near[:, 1]
    det = ux * vy - vx * uy
    det = np.where(np.abs(det) < 1e-9, 1e-9, det)
    slope_x, slope_y = (un * vy - vn * uy) / det, (vn * ux - un * vx) / det
    offset = near.mean(1) - slope_x * x.mean(1) - slope_y * y.mean(1)
    return edges, np.stack([slope_x, slope_y, offset], axis=1)


def _rasterise(visible: Array, x: Array, y: Array, edges: Array, depth: Array, fine: int) -> Array:
    """Number of the nearest face at each fine pixel, [fine, fine] from the top; -1 where there is none."""
    centre = np.arange(fine, dtype=np.float64) + 0.5
    nearest = np.full((fine, fine), -np.inf)
    face = np.full((fine, fine), -1, dtype=np.int16)
    left = np.clip(np.floor(x.min(1)), 0, fine).astype(int)
    right = np.clip(np.ceil(x.max(1)), 0, fine).astype(int)
    low = np.clip(np.floor(y.min(1)), 0, fine).astype(int)
    high = np.clip(np.ceil(y.max(1)), 0, fine).astype(int)
    for number in visible:
        rows, cols = slice(low[number], high[number]), slice(left[number], right[number])
        px, py = centre[cols], centre[rows, None]
        (a0, b0, c0), (a1, b1, c1), (a2, b2, c2), (a3, b3, c3) = edges[number].tolist()
        inside = (a0 * px + c0) + b0 * py >= 0
        inside &= (a1 * px + c1) + b1 * py >= 0
        inside &= (a2 * px + c2) + b2 * py >= 0
        inside &= (a3 * px + c3) + b3 * py >= 0
        da, db, dc = depth[number].tolist()
        here = (da * px + dc) + db * py
        window = nearest[rows, cols]
        inside &= here > window
        np.copyto(window, here, where=inside)
        face[rows, cols][inside] = number
    return face[::-1]


def _shade(mesh: Mesh, yaw_degrees: float) -> Array:
    """Lambert colours [F, 3] under a light fixed to the camera."""
    ambient, diffuse = FACE_LIGHT
    strength = ambient + diffuse * np.clip(_turned(mesh.normals, yaw_degrees) @ LIGHT, 0.0, None)
    strength[: mesh.num_shadow] = 1.0
    colours: Array = np.clip(mesh.colours * strength[:, None], 0.0, 1.0)
    return colours


@functools.cache
def _mesh(shape: int) -> Mesh:
    """Faces of all parts, a two-step shadow on the floor under the seat, and the scale that fits every yaw."""
    corners: list[Array] = []
    colours: list[Colour] = []
    parts = build(shape)
    reach = np.abs(np.concatenate([part.outline for part in parts])).max(0)
    for spread, height, strength in ((1.12, -0.002, 0.5), (0.92, -0.001, 1.0)):
        outline = rectangle(0.0, 0.0, *(2 * spread * reach))
        corners.append(np.concatenate([outline, np.full((4, 1), height)], axis=1))
        colours.append(tuple(BACKGROUND + strength * (SHADOW - BACKGROUND)))
    for part in parts:
        faces = _faces(part)
        corners += faces
        colours += [part.colour] * len(faces)
    stack = np.stack(corners)
    normals = np.cross(stack[:, 2] - stack[:, 0], stack[:, 3] - stack[:, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    seen = [_view(_turned(stack[2:], yaw)) for yaw in np.linspace(0.0, 90.0, 19)]
    top, bottom = max(up.max() for _, up, _ in seen), min(up.min() for _, up, _ in seen)
    side = max(np.abs(right).max() for right, _, _ in seen)
    extent = max(top - bottom, 2 * side)
    return Mesh(stack, normals, np.array(colours), 2, FILL / extent, (top + bottom) / 2)


def _faces(part: Box) -> list[Array]:
    """The six sides [4, 3] of a box, counter-clockwise from outside."""
    bottom, top = (np.column_stack([part.outline, np.full(4, height)]) for height in (part.low, part.high))
    sides = [np.stack([bottom[i], bottom[(i + 1) % 4], top[(i + 1) % 4], top[i]]) for i in range(4)]
    return [*sides, top, bottom[::-1]]
