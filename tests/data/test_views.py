"""Stored views are what a training would be shown, once; batches go through all of them."""

from __future__ import annotations

import pytest
import torch

from cgankd.config.mix import MixConfig
from cgankd.data.augment import augment
from cgankd.data.batches import Mixture
from cgankd.data.mix import Mixing
from cgankd.data.pixels import to_unit, unit_to_u8
from cgankd.data.views import COLUMNS, ViewBatches, make_views
from cgankd.rng import generator
from cgankd.types import Split

SEED = 11


def split(num: int, first: int) -> Split:
    images = torch.randint(256, (num, 1, 16, 16), dtype=torch.uint8, generator=generator("views", num))
    return Split(images, torch.arange(first, first + num).float())


def between(label_B: torch.Tensor, other_B: torch.Tensor, weight_B: torch.Tensor) -> torch.Tensor:
    return weight_B * label_B + (1 - weight_B) * other_B


def shifted(unit: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
    return augment(unit, "shift", gen)


def data(share: float | None = 0.5) -> Mixture:
    return Mixture(split(10, 0), split(14, 100), real_share=share, batch_size=8, seed=SEED)


@pytest.mark.parametrize("kind", ["none", "mixup", "cutmix"])
def test_views_are_the_images_of_a_training(kind: str) -> None:
    mixer = None if kind == "none" else Mixing(MixConfig(mix=kind), "any", between, SEED)  # type: ignore[arg-type]
    made = make_views(data(), shifted, mixer, 21, SEED)
    assert list(made) == list(COLUMNS) and {len(column) for column in made.values()} == {21}
    batches = ViewBatches(made, None if mixer is None else between, 21, 0, 0)
    order = batches.batch(0).index_B.argsort()
    for step in range(3):
        batch = data().batch(step)
        unit = shifted(to_unit(batch.images_BCHW), generator(SEED, "augment", step))
        if mixer is not None:
            unit, batch = mixer(unit, batch, step)
        rows = slice(8 * step, min(21, 8 * step + 8))
        num = rows.stop - rows.start
        assert torch.equal(made["images"][rows], unit_to_u8(unit)[:num])
        assert torch.equal(made["is_fake"][rows], batch.is_fake_B[:num])
        assert torch.equal(batches.batch(0).labels_B[order][rows], batch.labels_B[:num])


def test_batches_go_through_all_views_by_seed_and_step() -> None:
    made = make_views(data(), shifted, None, 20, SEED)
    batches = ViewBatches(made, None, 8, 3, 0)
    seen = torch.cat([batches.batch(step).index_B for step in range(5)])
    for epoch in seen.split(20):
        assert sorted(epoch.tolist()) == list(range(20))
    late = ViewBatches(made, None, 8, 3, 0).batch(4)
    assert torch.equal(late.index_B, seen[32:40]) and torch.equal(late.images_BCHW, made["images"][late.index_B])
    assert not torch.equal(ViewBatches(made, None, 8, 4, 0).batch(0).index_B, seen[:8])


def test_pixels_are_rounded_to_the_nearest_level() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(unit_to_u8(to_unit(levels)), levels)
    assert unit_to_u8(torch.tensor([-0.1, 0.4999 / 255, 0.5001 / 255, 2.0])).tolist() == [0, 0, 1, 255]


def test_the_rest_of_a_batch_is_not_mixed() -> None:
    mixer = Mixing(MixConfig(mix="mixup"), "any", between, SEED)
    made = make_views(data(), shifted, mixer, 20, SEED)
    rest = Mixture(split(10, 0), split(14, 100), real_share=0.5, batch_size=4, seed=5)
    batch = ViewBatches(made, between, 3, 5, 24, rest).batch(2)
    alone = rest.batch(2)
    assert torch.equal(batch.images_BCHW[:4], alone.images_BCHW) and torch.equal(batch.labels_B[:4], alone.labels_B)
    assert torch.equal(batch.index_B[:4], alone.index_B) and torch.equal(batch.is_fake_B[:4], alone.is_fake_B)
    rows = batch.index_B[4:] - 24
    assert torch.equal(batch.images_BCHW[4:], made["images"][rows]) and len(batch.labels_B) == 7
    assert torch.equal(batch.labels_B[4:], between(*(made[name][rows] for name in ("labels", "others", "weights"))))
