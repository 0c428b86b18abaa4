from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from cgankd.data.readers.chair_shapes import build
from cgankd.data.readers.chairs import BACKGROUND, NUM_SHAPES, YAWS, render


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference in grey levels."""
    return float(np.sqrt(np.mean((a.astype(float) - b.astype(float)) ** 2)))


def test_angles_are_those_of_the_protocol() -> None:
    assert len(YAWS) == 899
    np.testing.assert_allclose(YAWS[[0, 1, -1]], [0.1, 0.2, 89.9])


@pytest.mark.parametrize("size", [16, 32, 64])
def test_same_bytes_each_time_and_right_form(size: int) -> None:
    picture = render(10, 33.3, size)
    assert picture.shape == (3, size, size) and picture.dtype == np.uint8 and picture.flags["C_CONTIGUOUS"]
    render(11, 70.0, size)
    assert picture.tobytes() == render(10, 33.3, size).tobytes()


@pytest.mark.parametrize("shape", range(0, NUM_SHAPES, 6))
def test_distance_grows_with_the_difference_of_angles(shape: int) -> None:
    start = render(shape, 30.0, 32)
    near, middle, far = (distance(start, render(shape, yaw, 32)) for yaw in (31.0, 35.0, 60.0))
    assert 0 < near < middle < far
    assert distance(render(shape, 10.0, 32), render(shape, 80.0, 32)) > 15


@pytest.mark.parametrize("yaw", [0.1, 45.0, 89.9])
def test_every_chair_fills_the_frame_without_leaving_it(yaw: float) -> None:
    paper = np.rint(BACKGROUND * 255).astype(int)[:, None, None]
    for shape in range(NUM_SHAPES):
        drawn = np.abs(render(shape, yaw, 32).astype(int) - paper).max(0) > 40
        assert drawn.mean() > 0.10, f"chair {shape} is too small"
        assert not drawn[[0, -1]].any() and not drawn[:, [0, -1]].any(), f"chair {shape} touches the border"


def test_all_chairs_differ_from_each_other() -> None:
    pictures = np.stack([render(shape, 35.0, 32) for shape in range(NUM_SHAPES)]).astype(float)
    gaps = np.sqrt(((pictures[:, None] - pictures[None]) ** 2).mean((2, 3, 4)))
    assert gaps[~np.eye(NUM_SHAPES, dtype=bool)].min() > 6


def test_angle_can_be_recovered_from_pictures_of_a_chair() -> None:
    angles = np.arange(0.5, 90, 1.0)
    flat = np.stack([render(17, yaw, 16).ravel() for yaw in angles]) / 255.0
    fit = Ridge(alpha=0.1).fit(flat[::2], angles[::2])
    assert np.abs(fit.predict(flat[1::2]) - angles[1::2]).mean() < 2.0


def test_nearest_faces_hide_what_is_behind() -> None:
    """Seen from its side a chair's back stands on the left: at yaw 90 it has turned away to -x, its front to +x."""
    paper = np.rint(BACKGROUND * 255).astype(int)[:, None, None]
    drawn = np.abs(render(0, 89.9, 64).astype(int) - paper).max(0) > 40
    upper = drawn[:24]
    assert upper[:, :32].sum() > 4 * upper[:, 32:].sum()


def test_parts_are_solids_that_stand_on_the_floor() -> None:
    for shape in range(NUM_SHAPES):
        parts = build(shape)
        assert min(part.low for part in parts) == 0.0
        for part in parts:
            assert part.low < part.high
            x, y = part.outline.T
            area = 0.5 * np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
            assert area > 0, f"chair {shape}: corners must run counter-clockwise"
            assert all(0 <= value <= 1 for value in part.colour)
