"""Images as a generator: the right labels, nothing twice when dealt, repeatable when reused, and what runs out is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cgankd.gan.own_images import ImageDraw
from cgankd.rng import generator
from cgankd.types import Dealing, Split
from tests.gan.toys import class_toy, scalar_toy


def numbered(labels: Tensor) -> Split:
    """Images whose two first pixels hold their own row number."""
    images = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
    rows = torch.arange(len(labels))
    images[:, 0, 0, 0], images[:, 0, 0, 1] = rows % 256, rows // 256
    return Split(images, labels)


def rows_of(images: Tensor) -> list[int]:
    return (images[:, 0, 0, 0].int() + 256 * images[:, 0, 0, 1].int()).tolist()


def classes(reuse: bool, num: int = 30) -> ImageDraw:
    return ImageDraw(numbered(torch.arange(num) % 2), class_toy()[1].filter_groups, 0.0, reuse=reuse, source="fakes")


def scalars(reuse: bool, radius: float = 2.0, num: int = 400) -> ImageDraw:
    labels = 50 * torch.rand(num, generator=generator("labels"))
    return ImageDraw(numbered(labels), scalar_toy()[1].filter_groups, radius, reuse=reuse, source="fakes")


@pytest.mark.parametrize("reuse", [True, False])
def test_labels_on_a_circle_are_near_each_other_round_it(reuse: bool) -> None:
    labels = 10 * torch.rand(300, generator=generator("labels"))
    one_group = torch.zeros_like
    draw = ImageDraw(numbered(labels), one_group, 0.4, reuse=reuse, source="fakes", period=10.0)
    for asked in (0.1, 9.95, 5.0):
        away = np.abs((np.sort(labels.double().numpy()) - asked + 5) % 10 - 5)
        assert draw.near(asked).tolist() == np.flatnonzero(away <= 0.4).tolist() != []
    found = labels[rows_of(draw(torch.tensor([9.95] * 5), generator("z")))].double().numpy()
    away = np.abs((found - 9.95 + 5) % 10 - 5)
    assert away.max() <= 0.4
    if not reuse:  # the nearest first, on both sides of the seam
        everywhere = np.sort(np.abs((labels.double().numpy() - 9.95 + 5) % 10 - 5))
        np.testing.assert_allclose(np.sort(away), everywhere[:5])


@pytest.mark.parametrize("reuse", [True, False])
def test_images_are_of_the_class_asked_for(reuse: bool) -> None:
    asked = torch.tensor([1, 0, 0, 1, 1])
    assert [row % 2 for row in rows_of(classes(reuse)(asked, generator("z")))] == asked.tolist()


def test_dealt_images_come_once_until_all_are_gone() -> None:
    draw = classes(reuse=False)
    first, second = (rows_of(draw(torch.zeros(7, dtype=torch.int64), generator("z"))) for _ in range(2))
    assert len(set(first + second)) == 14
    with pytest.raises(
        ValueError, match=r"'fakes' has 15 images for label 0, of which 1 are left where 7 more.*num_fakes"
    ):
        draw(torch.zeros(7, dtype=torch.int64), generator("z"))
    draw.restart(torch.zeros(1, dtype=torch.int64))
    assert rows_of(draw(torch.zeros(7, dtype=torch.int64), generator("other"))) == first


def test_restarting_one_group_leaves_the_others() -> None:
    draw = classes(reuse=False)
    both = rows_of(draw(torch.tensor([0, 1]), generator("z")))
    draw.restart(torch.tensor([1]))
    assert rows_of(draw(torch.tensor([1]), generator("z"))) == both[1:]
    assert rows_of(draw(torch.tensor([0]), generator("z"))) != both[:1]


def test_skipping_is_drawing_without_images() -> None:
    drawn, skipped = scalars(reuse=False), scalars(reuse=False)
    asked = torch.tensor([3.0, 17.0, 17.0, 40.0])
    drawn(asked, generator("z"))
    skipped.skip(asked)
    assert torch.equal(drawn(asked, generator("z")), skipped(asked, generator("z")))
    assert isinstance(drawn, Dealing)


def test_dealt_scalars_are_the_nearest_in_their_bin() -> None:
    """Against a plain search: the free image of the own bin with the smallest distance, one label after another."""
    draw = scalars(reuse=False)
    labels, bins = draw.labels, draw.groups
    free = set(range(len(labels)))
    for value in (9.5, 9.9, 10.1, 30.0, 30.0, 30.1):
        mine = int(draw.group_of(torch.tensor([value])))
        near = [i for i in free if bins[i] == mine and abs(float(labels[i]) - value) <= 2.0]
        best = min(near, key=lambda i: abs(float(labels[i]) - float(torch.tensor(value))))
        free.remove(best)
        got = draw(torch.tensor([value]), generator("z"))
        assert torch.equal(got, draw.images(torch.tensor([best])))


def test_reused_images_are_a_function_of_labels_and_generator_and_spread_evenly() -> None:
    draw = scalars(reuse=True)
    asked = torch.full((60,), 25.0)
    images = draw(asked, generator(1))
    assert torch.equal(images, draw(asked, generator(1)))
    assert not torch.equal(images, draw(asked, generator(2)))
    assert len(draw.near(25.0)) < 60
    counts = torch.bincount(torch.tensor(rows_of(images)))
    counts = counts[counts > 0]
    assert len(counts) == len(draw.near(25.0)), "every image within the radius is used"
    assert int(counts.max()) - int(counts.min()) <= 1


def test_no_image_near_a_label_is_said() -> None:
    draw = ImageDraw(
        numbered(torch.tensor([1.0, 30.0])), scalar_toy()[1].filter_groups, 2.0, reuse=True, source="fakes"
    )
    with pytest.raises(ValueError, match=r"no image of label 20 within cgan.file_radius \(2\); add some"):
        draw(torch.tensor([20.0]), generator("z"))
    missing = ImageDraw(
        numbered(torch.zeros(3, dtype=torch.int64)), class_toy()[1].filter_groups, 0.0, reuse=False, source="f"
    )
    with pytest.raises(ValueError, match=r"'f' has no image of label 1; add some"):
        missing(torch.tensor([1]), generator("z"))
