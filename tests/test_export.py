"""The shipped module and its formats against the plain network, and the parts of the answer against closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor, nn

from cgankd.config import ConfigError
from cgankd.export import (
    ShippedModel,
    median_ms,
    need_onnx,
    open_onnx,
    open_torch_export,
    program,
    worst_difference,
    write_int8,
    write_onnx,
    write_torch_export,
)
from cgankd.labels.answers import Margin, make_answer
from cgankd.measure.conformal import conformal_margin
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.types import DatasetInfo

CLASSES = DatasetInfo("class", "made", "", 1, 16, (0.4,), (0.3,), ("ant", "bee", "cat"))
SCALARS = DatasetInfo("scalar", "made", "degrees", 3, 16, (0.4, 0.5, 0.6), (0.3, 0.2, 0.1), (), 10.0, 90.0)


def model(info: DatasetInfo, input_size: int | None = None) -> ShippedModel:
    torch.manual_seed(3)
    answer = make_answer(info)
    net = make_predictor(
        "convnet",
        NetShape(answer.num_outputs, info.channels, info.image_size),
        width=4,
        mean=info.pixel_mean,
        std=info.pixel_std,
        input_size=input_size,
    )
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training
            module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        if isinstance(module, nn.Linear) and module.out_features == 1:  # so that nothing is clipped
            module.weight.data *= 0.2
            module.bias.data.fill_(0.5)
    return ShippedModel(net, answer).eval().requires_grad_(False)


def images(info: DatasetInfo, num: int) -> Tensor:
    gen = torch.Generator().manual_seed(4)
    shape = (num, info.channels, info.image_size, info.image_size)
    return torch.randint(0, 256, shape, generator=gen, dtype=torch.uint8)


def test_class_answers_are_the_softmax_of_the_net_on_unit_pixels() -> None:
    shipped, x = model(CLASSES), images(CLASSES, 20)
    logits = shipped.net(x.float() / 255).numpy()
    assert np.allclose(shipped.run(x).numpy(), softmax(logits, axis=1), atol=1e-6)
    assert torch.equal(shipped.run(x), shipped.run(x.float()))


def test_scalar_answers_are_raw_labels_inside_the_range() -> None:
    answer = make_answer(SCALARS)
    assert answer(torch.tensor([[0.0], [0.25], [1.0], [1.5], [-2.0]]))[:, 0].tolist() == [10, 30, 90, 90, 10]
    assert answer.scale == 80 and answer.names == ("label (degrees)",)
    assert answer.score(torch.tensor([[30.0]]), torch.tensor([27.5])).tolist() == [2.5]


ANGLES = replace(SCALARS, label_min=0.0, label_max=360.0, label_period=360.0)
POINTS = replace(ANGLES, label_answer="circle")


@pytest.mark.parametrize(
    ("info", "input_size"),
    [(CLASSES, None), (SCALARS, None), (ANGLES, None), (POINTS, None), (CLASSES, 32), (SCALARS, 8)],
    ids=["classes", "scalars", "angles", "points", "enlarged", "reduced"],
)
def test_every_format_gives_the_answers_of_the_net(info: DatasetInfo, input_size: int | None, tmp_path: Path) -> None:
    shipped, x = model(info, input_size), images(info, 101)
    want, graph = shipped.run(x), program(model(info, input_size), images(info, 2))
    assert want.std(dim=0).min() > 3e-4 * shipped.answer.scale  # different images, different answers
    write_onnx(graph, tmp_path / "m.onnx")
    write_torch_export(graph, tmp_path / "m.pt2")
    run = open_onnx(tmp_path / "m.onnx")
    assert worst_difference(run(x), want, info.label_period) <= 1e-6 * shipped.answer.scale
    assert (
        worst_difference(open_torch_export(tmp_path / "m.pt2")(x), want, info.label_period)
        <= 1e-6 * shipped.answer.scale
    )
    assert run(x[:1]).shape == (1, shipped.answer.num_answers)  # any batch size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.pt2"]  # weights inside
    write_int8(tmp_path / "m.onnx", tmp_path / "q.onnx", x[:64])
    rough = worst_difference(open_onnx(tmp_path / "q.onnx")(x), want, info.label_period)
    assert 1e-6 * shipped.answer.scale < rough < 0.1 * shipped.answer.scale
    assert median_ms(run, x[:1], repeats=3) > 0


def test_answers_on_either_side_of_the_seam_are_close() -> None:
    left, right = torch.tensor([[359.9], [10.0]]), torch.tensor([[0.2], [11.0]])
    assert worst_difference(left, right, 360.0) == pytest.approx(1.0)
    assert worst_difference(left, right) == pytest.approx(359.7, rel=1e-4)


def test_a_file_that_is_no_onnx_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a graph")
    with pytest.raises(ConfigError, match="m.onnx cannot be opened"):
        open_onnx(tmp_path / "m.onnx")


def test_missing_packages_are_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(ConfigError, match=r"onnxruntime must be installed.*pip install 'cgankd\[export\]'"):
        need_onnx()


def test_margin_is_the_order_statistic_of_split_conformal() -> None:
    misses = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6])
    # N = 9: ceil(10 * 0.8) = 8th smallest, ceil(10 * 0.9) = 9th; 0.95 would need a tenth.
    assert conformal_margin(misses, 0.8) == Margin(0.8, pytest.approx(0.8), 9)
    assert conformal_margin(misses, 0.9) == Margin(0.9, pytest.approx(0.9), 9)
    assert conformal_margin(misses, 0.95) is None
    assert conformal_margin(torch.empty(0), 0.5) is None


def test_margin_covers_new_images_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(4000):
        draws = torch.from_numpy(rng.exponential(size=30))
        margin = conformal_margin(draws[:29], 0.9)
        assert margin is not None
        covered.append(float(draws[29]) <= margin.width)
    # Exactly ceil(30 * 0.9) / 30 = 0.9 in theory; the sd of the mean is 0.0047.
    assert abs(np.mean(covered) - 0.9) < 0.015


def test_readings_of_classes() -> None:
    answer = make_answer(CLASSES)
    readings = answer.read(torch.tensor([[0.1, 0.6, 0.3], [0.3, 0.37, 0.33]]), Margin(0.9, 0.65, 50))
    assert readings[0].label == "bee" and readings[0].confidence == pytest.approx(0.6)
    assert readings[0].region == ("bee",) and readings[1].region == ("bee",)
    assert answer.read(torch.tensor([[0.1, 0.6, 0.3]]), Margin(0.9, 0.75, 50))[0].region == ("bee", "cat")
    assert answer.read(torch.tensor([[0.1, 0.6, 0.3]]), None)[0].region == ()
    assert answer.miss(torch.tensor([[0.1, 0.6, 0.3]]), torch.tensor([2])).tolist() == pytest.approx([0.7])


def test_readings_of_scalars_stay_in_the_range() -> None:
    answer = make_answer(SCALARS)
    low, mid = answer.read(torch.tensor([[12.0], [50.0]]), Margin(0.8, 5.0, 50))
    assert low.region == (10.0, 17.0) and mid.region == (45.0, 55.0)
    assert mid.label == 50.0 and mid.confidence == 0.8
    assert answer.read(torch.tensor([[50.0]]), None)[0].confidence is None


def test_answers_agree_with_the_task_on_the_headline() -> None:
    from cgankd.labels.task import ClassTask

    shipped, x = model(CLASSES), images(CLASSES, 30)
    labels = torch.arange(30) % 3
    out = shipped.net(x.float() / 255)
    assert torch.equal(ClassTask(CLASSES).score(out, labels), shipped.answer.score(shipped.run(x), labels))
