"""The within-label distance of reals and fakes, against a brute-force mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cgankd.gan.diversity import fake_diversity, real_diversity
from cgankd.labels.vicinity import ExactMatch
from cgankd.rng import generator
from cgankd.types import Split
from tests.gan.toys import class_toy, scalar_toy


def test_real_diversity_is_the_mean_over_all_pairs_of_a_class() -> None:
    train, task = class_toy()
    pixels = train.images.numpy().astype(float) / 127.5 - 1
    distances = [
        np.abs(pixels[i] - pixels[j]).mean()
        for i in range(32)
        for j in range(32)
        if i != j and train.labels[i] == train.labels[j]
    ]
    measured = real_diversity(train, task.vicinity(train.labels), generator("real"), num_pairs=20_000)
    assert measured == pytest.approx(np.mean(distances), rel=0.02)


def test_scalar_pairs_are_neighbours() -> None:
    """Bars of near labels differ less than bars drawn at random, so tau is far under the distance of any two images."""
    train, task = scalar_toy()
    near = real_diversity(train, task.vicinity(train.labels), generator("near"))
    blind = ExactMatch(torch.zeros(len(train), dtype=torch.int64))
    far = real_diversity(train, blind, generator("far"))
    assert 0 < near < 0.6 * far


def test_one_image_a_label_has_no_diversity_to_measure() -> None:
    train, task = class_toy(2)
    with pytest.raises(ValueError, match=r"cgan\.diversity_weight"):
        real_diversity(train, task.vicinity(train.labels), generator("none"))


def test_fake_diversity_sees_a_collapsed_generator_and_measures_a_real_one() -> None:
    labels = torch.arange(2).repeat(600)

    def collapsed(label_B: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
        return (100 * label_B).to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)

    def alive(label_B: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
        return torch.randint(0, 256, (len(label_B), 1, 4, 4), generator=gen, dtype=torch.uint8)

    assert fake_diversity(collapsed, labels, generator("c")) == 0
    # Two independent uniforms on [-1, 1] differ by 2/3 on average.
    assert fake_diversity(alive, labels, generator("a")) == pytest.approx(2 / 3, abs=0.01)


def test_diversity_of_a_perfect_generator_is_that_of_the_reals() -> None:
    train, task = class_toy(256)
    vicinity = task.vicinity(train.labels)

    def perfect(label_B: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
        return Split(train.images, train.labels).take(vicinity.pair(label_B, gen).index).images

    fake = fake_diversity(perfect, torch.arange(2).repeat(2000), generator("fake"))
    real = real_diversity(train, vicinity, generator("real"), num_pairs=4000)
    assert fake / real == pytest.approx(1, abs=0.05)
