"""Labels of mixtures: probabilities of classes, points between scalars, the short way round a circle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from cgankd.config import Config
from cgankd.labels.task import make_task
from cgankd.rng import generator
from tests.labels.test_task import CLASSES, YAW, outputs


def test_the_loss_of_mixed_classes_is_the_mean_of_both_losses(digits_config: Config) -> None:
    task = make_task(CLASSES, digits_config)
    out, gen = outputs(), generator("classes")
    first, second = torch.randint(10, (2, 40), generator=gen)
    share = torch.rand(40, generator=gen)
    mixed = task.mixed_labels(first, second, share)
    log_p = log_softmax(out.double().numpy(), axis=1)
    rows, w = np.arange(40), share.double().numpy()
    expected = -(w * log_p[rows, first.numpy()] + (1 - w) * log_p[rows, second.numpy()]).mean()
    assert task.loss(out, mixed).item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(task.targets(mixed), torch.where(share >= 0.5, first, second))
    np.testing.assert_allclose(mixed.sum(1).numpy(), 1, rtol=1e-6)
    whole = task.mixed_labels(first, second, torch.ones(40))
    assert task.loss(out, whole).item() == pytest.approx(task.loss(out, first).item(), rel=1e-6)


def test_scalars_lie_between(chairs_config: Config) -> None:
    task = make_task(YAW, chairs_config)
    mixed = task.mixed_labels(torch.tensor([20.0, 90.0]), torch.tensor([40.0, 10.0]), torch.tensor([0.25, 1.0]))
    assert mixed.tolist() == [35.0, 90.0]
    out = task.normalise(mixed)[:, None]  # type: ignore[attr-defined]
    assert task.loss(out, mixed).item() == 0 and torch.equal(task.targets(mixed), out[:, 0])


@pytest.mark.parametrize("answer", ["scalar", "circle"])
def test_on_a_circle_labels_are_mixed_the_short_way(chairs_config: Config, answer: str) -> None:
    info = replace(YAW, label_min=0.0, label_max=360.0, label_period=360.0, label_answer=answer)
    data = replace(chairs_config.data, label_min=0.0, label_max=360.0, label_period=360.0, label_answer=answer)
    task = make_task(info, replace(chairs_config, data=data))
    first, second = torch.tensor([350.0, 10.0, 90.0, 0.0]), torch.tensor([30.0, 350.0, 180.0, 180.0])
    mixed = task.mixed_labels(first, second, torch.tensor([0.75, 0.25, 0.5, 0.5]))
    assert mixed.tolist() == pytest.approx([0.0, 355.0, 135.0, 270.0]), "of two opposite labels: downwards"
    # As the direction of the weighted sum of both points, where they are equally far from it.
    angle = np.deg2rad(np.array([[350.0, 30.0], [90.0, 180.0]]))
    middle = np.rad2deg(np.angle(np.exp(1j * angle).mean(axis=1))) % 360
    half = task.mixed_labels(torch.tensor([350.0, 90.0]), torch.tensor([30.0, 180.0]), torch.tensor([0.5, 0.5]))
    np.testing.assert_allclose(half.numpy(), middle, atol=1e-3)


def test_on_a_part_of_a_circle_labels_stay_within_it(chairs_config: Config) -> None:
    """From 10 to 300 of 360 the short way between the ends would leave the labels there are."""
    info = replace(YAW, label_min=0.0, label_max=300.0, label_period=360.0)
    data = replace(chairs_config.data, label_min=0.0, label_max=300.0, label_period=360.0, label_answer="scalar")
    task = make_task(info, replace(chairs_config, data=data))
    mixed = task.mixed_labels(torch.tensor([10.0]), torch.tensor([290.0]), torch.tensor([0.5]))
    assert mixed.tolist() == [150.0]
