"""Labels on a circle against closed forms and hand-written numpy: distance, points, chord, spread, range."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cgankd.labels.answers import Margin, make_answer
from cgankd.labels.circle import chord, is_whole, label_of, miss, onto_range, points, spread, wrapped
from cgankd.labels.kernel import kernel_rules
from cgankd.labels.task import CircleTask, ScalarTask
from cgankd.types import DatasetInfo
from tests.labels.test_vicinity import CFG as VICINITY

INFO = DatasetInfo("scalar", "needle", "", 1, 16, (0.5,), (0.2,), (), 0.0, 10.0, 10.0, "circle")
PERIODS = st.sampled_from([1.0, 10.0, 24.0, 360.0, 2 * math.pi])


def task(info: DatasetInfo = INFO) -> CircleTask:
    return CircleTask(info, VICINITY, 0.5, 40)


@given(st.floats(-1000, 1000), st.floats(-1000, 1000), PERIODS)
def test_the_distance_is_the_shortest_over_all_turns(a: float, b: float, period: float) -> None:
    found = float(wrapped(torch.tensor([a - b], dtype=torch.float64), period).abs())
    turns = np.arange(-3000, 3001) * period
    assert found == pytest.approx(np.abs(a - b + turns).min(), abs=1e-6)
    assert found <= period / 2 + 1e-9


@given(st.floats(-1000, 1000), PERIODS)
def test_a_point_of_the_circle_is_read_as_its_label(label: float, period: float) -> None:
    y = torch.tensor([label], dtype=torch.float64)
    assert float(wrapped(label_of(3.7 * points(y, period), period) - y, period).abs()) < 1e-6 * period
    # One turn on is the same point: the seam is nowhere.
    torch.testing.assert_close(points(y, period), points(y + period, period), atol=1e-6, rtol=0)


@given(st.floats(0, 1), st.floats(0, 1), PERIODS)
def test_the_chord_is_twice_the_sine_of_half_the_angle(a: float, b: float, period: float) -> None:
    out = points(torch.tensor([a * period], dtype=torch.float64), period)
    found = float(chord(out, points(torch.tensor([b * period], dtype=torch.float64), period), period))
    assert found == pytest.approx(period / math.pi * abs(math.sin(math.pi * (a - b))), abs=1e-5 * period)


def test_near_labels_are_as_far_apart_by_the_chord_as_along_the_circle() -> None:
    out, label = points(torch.tensor([0.001]), 1.0), torch.tensor([0.999])
    assert float(miss(out, label, 1.0)) == pytest.approx(0.002, rel=1e-4)
    assert float(miss(torch.tensor([[0.001]]), label, 1.0)) == pytest.approx(0.002, rel=1e-3)


def test_losses_have_a_gradient_at_the_centre_and_none_too_large_at_the_label() -> None:
    for start in (torch.zeros(1, 2), points(torch.tensor([0.3]), 1.0)):
        out = start.clone().requires_grad_(True)
        miss(out, torch.tensor([0.3]), 1.0).sum().backward()
        assert out.grad is not None and out.grad.isfinite().all() and float(out.grad.norm()) <= 1 / (2 * math.pi) + 1e-6


def test_losses_of_the_task_against_numpy() -> None:
    gen = torch.Generator().manual_seed(0)
    out_BO, teacher_BO = torch.randn(20, 2, generator=gen), torch.randn(20, 2, generator=gen)
    label_B = 10 * torch.rand(20, generator=gen)
    out, angle = out_BO.double().numpy(), 2 * np.pi * label_B.double().numpy() / 10
    expected = np.hypot(out[:, 0] - np.cos(angle), out[:, 1] - np.sin(angle)).mean() / (2 * np.pi)
    assert float(task().loss(out_BO, label_B)) == pytest.approx(expected, rel=1e-5)
    unit = teacher_BO.double().numpy() / np.linalg.norm(teacher_BO.double().numpy(), axis=1, keepdims=True)
    expected = np.linalg.norm(out - unit, axis=1).mean() / (2 * np.pi)
    assert float(task().soft_loss(out_BO, teacher_BO, temperature=3.0)) == pytest.approx(expected, rel=1e-5)
    # The error is the angle of the difference of two complex numbers.
    away = np.abs(np.angle((out[:, 0] + 1j * out[:, 1]) * np.exp(-1j * angle))) * 10 / (2 * np.pi)
    np.testing.assert_allclose(task().score(out_BO, label_B), away, atol=1e-4)
    answer = make_answer(INFO)
    np.testing.assert_allclose(answer.score(answer(out_BO), label_B), away, atol=1e-4)
    np.testing.assert_allclose(answer(out_BO)[:, 0], task().predict(out_BO))


def test_predictions_lie_on_the_turn_or_the_nearest_end_of_a_part_of_it() -> None:
    angle = torch.arange(0, 360, 5.0)
    whole = replace(INFO, label_min=-180.0, label_max=180.0, label_period=360.0)
    found = task(whole).predict(points(angle, 360.0))
    np.testing.assert_allclose(found, -180 + angle, atol=1e-3)
    part = replace(INFO, label_min=-80.0, label_max=80.0, label_period=360.0)
    raw = -80 + np.arange(0, 360, 5.0)
    grid = np.linspace(-80, 80, 1601)
    nearest = grid[np.cos(np.radians(raw[:, None] - grid[None])).argmax(1)]
    off = np.abs(task(part).predict(points(angle, 360.0)).numpy() - nearest)
    assert np.sort(off)[:-1].max() < 0.11  # one label is as far from either end
    assert make_answer(part)(points(angle, 360.0))[:, 0].tolist() == task(part).predict(points(angle, 360.0)).tolist()


def test_both_ends_of_a_turn_are_its_beginning() -> None:
    assert onto_range(torch.tensor([0.0, 10.0, -10.0, 9.9, 25.0, -1e-9]), 0.0, 10.0, 10.0).tolist() == pytest.approx(
        [0, 0, 0, 9.9, 5, 0]
    )
    assert is_whole(0.0, 10.0, 10.0) and not is_whole(0.0, 9.9, 10.0) and not is_whole(0.0, 10.0, None)


@given(st.lists(st.floats(0, 10, exclude_max=True), min_size=3, max_size=30), st.floats(0, 10))
def test_the_spread_is_that_of_the_best_cut_and_does_not_turn(labels: list[float], turn: float) -> None:
    y = torch.tensor(labels, dtype=torch.float64)
    cuts = [np.where(np.array(labels) < cut, np.array(labels) + 10, labels).std(ddof=1) for cut in [*labels, 10]]
    assert spread(y, 10.0) == pytest.approx(min(cuts), abs=1e-5)
    assert spread((y + turn) % 10, 10.0) == pytest.approx(spread(y, 10.0), abs=1e-5)


def test_kernel_widths_of_labels_about_the_seam_are_those_of_labels_about_the_middle() -> None:
    y = torch.tensor([4.5, 4.75, 5.0, 5.25, 5.75], dtype=torch.float64)
    line, circle = kernel_rules(y, VICINITY), kernel_rules((y + 5) % 10, VICINITY, 10.0, whole=False)
    assert circle.label_sigma == pytest.approx(line.label_sigma, rel=1e-6)
    assert kernel_rules(y, VICINITY, 10.0).largest_gap == pytest.approx(8.75)  # the way round, from 5.75 to 4.5


def test_regions_say_where_they_go_round() -> None:
    margin = Margin(0.9, 0.75, 40)
    reading = make_answer(INFO).read(torch.tensor([[9.5], [0.25], [5.0]]), margin)
    assert [one.region for one in reading] == [(8.75, 0.25), (9.5, 1.0), (4.25, 5.75)]
    assert [one.seam for one in reading] == [10.0, 10.0, None]
    for one, inside, outside in zip(reading, (0.1, 9.75, 5.5), (0.5, 9.25, 6.0), strict=True):
        low, high = (float(end) for end in one.region)
        holds = [(low <= y <= high) if one.seam is None else (y >= low or y <= high) for y in (inside, outside)]
        assert holds == [True, False]
    whole = make_answer(INFO).read(torch.tensor([[9.5]]), Margin(0.9, 5.0, 40))[0]
    assert whole.region == (0.0, 10.0) and whole.seam is None


def test_bins_go_round_and_a_label_at_the_end_is_in_the_first() -> None:
    found = task().filter_groups(torch.tensor([0.0, 0.49, 0.5, 9.99, 10.0, -0.1])).tolist()
    assert found == [0, 0, 1, 19, 0, 19]
    line = ScalarTask(replace(INFO, label_period=None, label_answer="scalar"), VICINITY, 0.5, 40)
    assert line.filter_groups(torch.tensor([10.0, -0.1])).tolist() == [19, 0]
