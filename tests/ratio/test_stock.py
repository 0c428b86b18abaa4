"""Images that are there already as a generator: of the label asked for, each as likely, the nearest where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from cgankd.ratio.stock import stock_draw
from cgankd.rng import generator


def numbered(num: int) -> torch.Tensor:
    images = torch.zeros(num, 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(num) % 256, torch.arange(num) // 256
    return images


def rows(images: torch.Tensor) -> np.ndarray:
    return (images[:, 0, 0, 0].int() + 256 * images[:, 0, 0, 1].int()).numpy()


def test_of_classes_each_image_of_the_class_is_as_likely() -> None:
    labels = torch.tensor([0, 2, 0, 2, 2, 0, 2, 0, 0, 2])
    drawn = rows(stock_draw(numbered(10), labels, 0.0)(torch.full((5000,), 2), generator("z")))
    counts = np.bincount(drawn, minlength=10)
    assert counts[labels.numpy() == 0].sum() == 0
    assert chisquare(counts[labels.numpy() == 2]).pvalue > 1e-3


@pytest.mark.parametrize("period", [None, 10.0])
def test_of_scalars_the_ones_within_reach_or_else_the_nearest(period: float | None) -> None:
    labels = 10 * torch.rand(40, generator=generator("labels"))
    labels[labels < 1.5] += 5.0  # a gap, which on a circle is a gap of what lies beyond 10 too
    draw = stock_draw(numbered(40), labels, 0.3, period)
    for asked in (0.05, 0.7, 4.2, 9.9):
        found = rows(draw(torch.full((400,), asked), generator("z", str(asked))))
        away = np.abs(labels.double().numpy() - float(torch.tensor(asked)))
        away = np.minimum(away, 10 - away) if period else away
        wanted = np.flatnonzero(away <= 0.3) if (away <= 0.3).any() else [away.argmin()]
        assert sorted(set(found)) == sorted(wanted)


def test_the_same_seed_gives_the_same_images() -> None:
    draw = stock_draw(numbered(30), torch.arange(30) % 3, 0.0)
    asked = torch.arange(90) % 3
    assert torch.equal(draw(asked, generator(1)), draw(asked, generator(1)))
    assert not torch.equal(draw(asked, generator(1)), draw(asked, generator(2)))
