"""The way round a circle of labels."""

from __future__ import annotations

import numpy as np
import torch

from cgankd.labels.circle import wrapped


def test_differences_on_a_circle_are_the_short_ones() -> None:
    degrees = torch.tensor([0.0, 10, 180.0, 350, -350, 725])
    expected = np.angle(np.exp(1j * np.radians(degrees.numpy())), deg=True)
    np.testing.assert_allclose(wrapped(degrees, 360.0).abs(), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(wrapped(torch.tensor([0.9, -0.9, 0.3, 2.25]), 1.0), [-0.1, 0.1, 0.3, 0.25], atol=1e-6)
    assert wrapped(degrees, None) is degrees


def test_the_short_way_has_the_gradient_of_the_difference() -> None:
    difference = torch.tensor([0.7, -0.8, 0.1], requires_grad=True)
    wrapped(difference, 1.0).sum().backward()
    assert difference.grad is not None and difference.grad.tolist() == [1, 1, 1]
