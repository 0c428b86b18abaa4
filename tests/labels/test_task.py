"""The seam: each method of both tasks against numpy or scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss, mean_absolute_error, zero_one_loss

from cgankd.config import Config, ConfigError, to_dict
from cgankd.config.settings import from_dict
from cgankd.labels.answers import Margin, make_answer
from cgankd.labels.task import ScalarTask, make_task
from cgankd.labels.vicinity import ExactMatch, HardVicinity, SoftVicinity
from cgankd.rng import generator
from cgankd.types import DatasetInfo
from tests.labels.test_vicinity import CFG

CLASSES = DatasetInfo("class", "digits", "", 1, 16, (0.5,), (0.2,), class_names=tuple("abcdefghij"))
YAW = DatasetInfo("scalar", "chairs", "degrees", 3, 32, (0.5,) * 3, (0.2,) * 3, label_min=10.0, label_max=100.0)


def outputs(num: int = 40, width: int = 10) -> torch.Tensor:
    return 3 * torch.randn(num, width, generator=generator("out"))


def test_class_losses(digits_config: Config) -> None:
    task = make_task(CLASSES, digits_config)
    out, y = outputs(), torch.randint(10, (40,), generator=generator("y"))
    p = softmax(out.double().numpy(), axis=1)
    assert task.loss(out, y).item() == pytest.approx(log_loss(y.numpy(), p, labels=range(10)), rel=1e-5)
    error = -np.log(p[np.arange(40), y.numpy()])
    np.testing.assert_allclose(task.error(out, y).numpy(), error, rtol=1e-4)
    assert task.score(out, y).mean().item() == pytest.approx(100 * zero_one_loss(y.numpy(), p.argmax(1)), rel=1e-5)
    assert torch.equal(task.predict(out), out.argmax(1))
    assert torch.equal(task.filter_groups(y), y)
    assert torch.equal(task.conditions(y), torch.arange(10))
    assert isinstance(task.vicinity(y), ExactMatch)
    assert task.headline.higher_is_better is False


def test_class_soft_loss_is_kl_times_temperature_squared(digits_config: Config) -> None:
    task = make_task(CLASSES, digits_config)
    student, teacher = outputs(), outputs().flip(0)
    ps, pt = log_softmax(student.double().numpy() / 4, axis=1), log_softmax(teacher.double().numpy() / 4, axis=1)
    expected = 16 * (np.exp(pt) * (pt - ps)).sum(1).mean()
    assert task.soft_loss(student, teacher, temperature=4.0).item() == pytest.approx(expected, rel=1e-5)
    assert task.soft_loss(student, student, temperature=4.0).item() == pytest.approx(0, abs=1e-6)


def test_class_divergence_is_kl_from_the_teacher_by_numpy(digits_config: Config) -> None:
    task = make_task(CLASSES, digits_config)
    student, teacher = outputs(), outputs().flip(0)
    ps, pt = log_softmax(student.double().numpy(), axis=1), log_softmax(teacher.double().numpy(), axis=1)
    found = task.divergence(student, teacher)
    np.testing.assert_allclose(found.numpy(), (np.exp(pt) * (pt - ps)).sum(1), rtol=1e-4)
    assert found.mean().item() == pytest.approx(task.soft_loss(student, teacher, temperature=1.0).item(), rel=1e-5)
    assert task.divergence(teacher, teacher).abs().max() < 1e-6


@pytest.mark.parametrize("answer", ["line", "scalar", "circle"])
def test_scalar_divergence_is_the_difference_of_answers_round_the_circle(chairs_config: Config, answer: str) -> None:
    """On half a circle of 360 degrees with labels from 10 to 190: in degrees, while the circle of the outputs is 2 long."""
    info = replace(YAW, label_max=190.0, label_period=None if answer == "line" else 360.0)
    info = replace(info, label_answer="circle" if answer == "circle" else "scalar")
    cfg = replace(chairs_config, data=replace(chairs_config.data, label_period=info.label_period))
    if answer == "circle":
        cfg = replace(cfg, data=replace(cfg.data, label_answer="circle"))
    elif answer == "scalar":
        cfg = replace(cfg, data=replace(cfg.data, label_answer="scalar"))
    task = make_task(info, cfg)
    a, b = np.array([0.0, 0.1, 0.95, 1.9]), np.array([0.3, 1.9, -0.95, 0.05])
    expected = np.abs(a - b)
    if answer != "line":
        expected = np.minimum(expected % 2, 2 - expected % 2)
    as_output = lambda y: np.stack([np.cos(np.pi * y), np.sin(np.pi * y)], 1) * 3 if answer == "circle" else y[:, None]  # noqa: E731
    found = task.divergence(*(torch.from_numpy(as_output(y)).float() for y in (a, b)))
    assert found.numpy() == pytest.approx(180 * expected, abs=2e-3)
    # The unit of the error that is printed beside it: of answers within the range it is the difference of what is predicted.
    inside = [torch.from_numpy(as_output(y)).float() for y in (np.array([0.25, 0.5]), np.array([0.75, 0.5]))]
    answers = [task.predict(of) for of in inside]
    assert torch.allclose(task.divergence(*inside).float(), (answers[0] - answers[1]).abs(), atol=1e-3)


def test_scalar_divergence_keeps_the_ranks_of_answers_that_hardly_differ(chairs_config: Config) -> None:
    """Hard fakes are drawn by ranks: neighbouring float32 differences stay apart whatever the label range."""
    task = make_task(YAW, chairs_config)
    gap = torch.from_numpy(0.25 + np.arange(1000) * np.spacing(np.float32(0.25))).float()[:, None]
    found = task.divergence(gap, torch.zeros_like(gap))
    assert found.dtype == torch.float64 and bool((found.diff() > 0).all())


def test_scalar_losses(chairs_config: Config) -> None:
    task = make_task(YAW, chairs_config)
    out, y = torch.rand(40, 1, generator=generator("s")), 10 + 90 * torch.rand(40, generator=generator("t"))
    raw = 10 + 90 * out[:, 0].numpy()
    mae = mean_absolute_error(y.numpy(), raw)
    assert task.score(out, y).mean().item() == pytest.approx(mae, rel=1e-5)
    assert task.loss(out, y).item() == pytest.approx(mae / 90, rel=1e-4)
    np.testing.assert_allclose(task.error(out, y).numpy(), np.abs(raw - y.numpy()), atol=1e-4)
    other = out.flip(0)
    expected = np.abs(out.numpy() - other.numpy()).mean()
    assert task.soft_loss(out, other, temperature=7.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("period", [None, 90.0])
def test_squared_losses_and_their_gradients(chairs_config: Config, period: float | None) -> None:
    """Of the label and of the teacher's answer; d/do mean (o - u)^2 = 2 (o - u) / B, and the error stays absolute."""
    info = replace(YAW, label_period=period)
    data = replace(chairs_config.data, label_period=period, label_answer=None if period is None else "scalar")
    cfg = replace(chairs_config, data=data)
    task, plain = make_task(info, cfg, "squared"), make_task(info, cfg)
    out = torch.rand(40, 1, generator=generator("s")).requires_grad_(True)
    y, other = 10 + 90 * torch.rand(40, generator=generator("t")), out.detach().flip(0)
    for loss, unit in ((task.loss(out, y), (y - 10) / 90), (task.soft_loss(out, other, temperature=3.0), other[:, 0])):
        gap = out.detach()[:, 0].double().numpy() - unit.double().numpy()
        gap = gap if period is None else (gap + 0.5) % 1 - 0.5
        assert loss.item() == pytest.approx((gap**2).mean(), rel=1e-4)
        (grad,) = torch.autograd.grad(loss, out)
        np.testing.assert_allclose(grad[:, 0].numpy(), 2 * gap / 40, atol=1e-6)
    assert torch.equal(task.score(out, y), plain.score(out, y)) and torch.equal(task.error(out, y), plain.error(out, y))


def test_scalar_predictions_are_clipped_and_never_truncated(chairs_config: Config) -> None:
    task = make_task(YAW, chairs_config)
    predicted = task.predict(torch.tensor([[-0.5], [0.3456], [1.7]]))
    torch.testing.assert_close(predicted, torch.tensor([10.0, 10 + 90 * 0.3456, 100.0]))
    assert predicted.dtype == torch.float32


def test_scalar_bins_and_conditions(chairs_config: Config) -> None:
    task = make_task(YAW, chairs_config)
    y = torch.tensor([10.0, 15.9, 16.1, 99.9, 100.0, 500.0])
    assert task.filter_groups(y).tolist() == [0, 0, 1, 14, 14, 14]
    conditions = task.conditions(y)
    assert len(conditions) == 450 and conditions[0] == 10 and conditions[-1] == 100
    np.testing.assert_allclose(conditions.diff().numpy(), 90 / 449, atol=1e-4)


def test_vicinity_kind_is_a_setting(chairs_config: Config) -> None:
    y = torch.linspace(10, 100, 50)
    assert isinstance(make_task(YAW, chairs_config).vicinity(y), SoftVicinity)
    assert chairs_config.cgan.vicinity is not None
    hard = replace(
        chairs_config, cgan=replace(chairs_config.cgan, vicinity=replace(chairs_config.cgan.vicinity, kind="hard"))
    )
    assert isinstance(make_task(YAW, hard).vicinity(y), HardVicinity)


def test_label_embeddings(digits_config: Config, chairs_config: Config) -> None:
    table = make_task(CLASSES, digits_config).label_embed(8)
    assert table(torch.tensor([3, 4])).shape == (2, 8) and table.trained_with_gan
    line = make_task(YAW, chairs_config).label_embed(16)
    h = line(torch.tensor([10.0, 55.0, 100.0, 900.0]))
    assert h.shape == (4, 16) and not line.trained_with_gan
    torch.testing.assert_close(h[2], h[3])  # clamped to the label range
    assert (h >= 0).all()


def test_data_of_another_kind_is_refused(digits_config: Config) -> None:
    with pytest.raises(ConfigError, match=r"data\.task is class, but artifacts/dataset.h5 holds scalar labels"):
        make_task(YAW, digits_config)


ANGLE = replace(YAW, label_min=0.0, label_max=360.0, label_period=360.0)
ARC = replace(YAW, label_min=-80.0, label_max=80.0, label_period=360.0)


def turned(info: DatasetInfo) -> ScalarTask:
    return ScalarTask(info, CFG, 10.0, 36)


@pytest.mark.parametrize("info", [ANGLE, ARC])
def test_angles_are_predicted_and_judged_round_the_circle(info: DatasetInfo) -> None:
    task, answer = turned(info), make_answer(info)
    out_BO = torch.linspace(-1.3, 2.3, 37)[:, None]
    label_B = torch.linspace(info.label_min, info.label_max, 37)
    raw = np.radians((out_BO[:, 0] * task.span + info.label_min).double().numpy())
    grid = np.linspace(info.label_min, info.label_max, 20001)
    # The nearest angle of the range, by the cosine of the difference.
    nearest = grid[np.cos(raw[:, None] - np.radians(grid)[None]).argmax(1)]
    away = np.degrees(np.abs(np.angle(np.exp(1j * np.radians(task.predict(out_BO).double().numpy() - nearest)))))
    assert away.max() < 0.05
    expected = np.degrees(np.abs(np.angle(np.exp(1j * np.radians(nearest - label_B.double().numpy())))))
    np.testing.assert_allclose(task.score(out_BO, label_B), expected, atol=0.05)
    np.testing.assert_allclose(answer.miss(answer(out_BO), label_B), task.score(out_BO, label_B), atol=1e-3)
    assert (task.predict(out_BO) >= info.label_min).all() and (task.predict(out_BO) <= info.label_max).all()


def test_regions_go_on_round_the_circle() -> None:
    def ends(info: DatasetInfo, value: float, width: float) -> tuple[float, ...]:
        region = make_answer(info).read(torch.tensor([[value]]), Margin(0.9, width, 40))[0].region
        return tuple(float(end) for end in region)

    assert ends(ANGLE, 355.0, 10.0) == (345.0, 5.0)
    assert ends(ANGLE, 5.0, 10.0) == (355.0, 15.0)
    assert ends(ANGLE, 180.0, 10.0) == (170.0, 190.0)
    assert ends(ANGLE, 180.0, 180.0) == (0.0, 360.0)
    assert ends(ARC, 75.0, 10.0) == (65.0, 80.0) and ends(ARC, -75.0, 10.0) == (-80.0, -65.0)


def test_conditions_of_a_whole_circle_name_no_angle_twice() -> None:
    angle_K = turned(ANGLE).conditions(torch.zeros(1))
    assert len(angle_K) == 36 and angle_K.tolist() == pytest.approx(list(range(0, 360, 10)))
    assert turned(ARC).conditions(torch.zeros(1))[[0, -1]].tolist() == [-80.0, 80.0]


def test_a_period_is_written_where_there_is_one_alone() -> None:
    assert "label_period" not in to_dict(YAW) and to_dict(ANGLE)["label_period"] == 360.0
    assert from_dict(DatasetInfo, to_dict(ANGLE), "info.") == ANGLE and from_dict(DatasetInfo, to_dict(YAW), "") == YAW


def test_a_period_that_the_data_set_was_not_made_with_is_named(chairs_config: Config) -> None:
    cfg = replace(chairs_config, data=replace(chairs_config.data, label_period=360.0))
    with pytest.raises(
        ConfigError, match=r"data.label_period is 360.0, but .* was made with None; run `cgankd prepare`"
    ):
        make_task(YAW, cfg)
    round_ = replace(YAW, label_period=360.0, label_answer="circle")
    assert make_task(round_, cfg).period == pytest.approx(4.0) and make_task(round_, cfg).num_outputs == 2
    with pytest.raises(ConfigError, match="data.label_answer is circle, but .* was made with scalar; run"):
        make_task(replace(YAW, label_period=360.0), cfg)
    plain = replace(cfg, data=replace(cfg.data, label_answer="scalar"))
    assert make_task(replace(YAW, label_period=360.0), plain).num_outputs == 1
