"""Rounds of hard fakes: what is hard, who the parents are, and that children are draws of the same latents' law."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cgankd.bank import hard
from cgankd.bank.build import Columns, Limits, Scorer, Source, arrange, burn_in, grow_pool, select
from cgankd.config import BankConfig
from cgankd.gan.sample import GanDraw
from tests.bank.toys import bank_config, class_task

Z = 4


def image(z_BZ: Tensor, label_B: Tensor) -> Tensor:
    """Four pixels that are the four numbers of z, so that a fake shows its latent; the label makes it brighter."""
    return (128 + 30 * z_BZ + label_B[:, None]).clamp(0, 255).to(torch.uint8).reshape(-1, 1, 2, 2)


DRAW = GanDraw(image, Z)


def source(cfg: BankConfig) -> Source:
    def ratio(images: Tensor, label_B: Tensor) -> Tensor:
        return images[:, 0, 0, 0].float() / 128

    def teacher(images: Tensor) -> Tensor:
        return images[:, 0, 1].float() / 64

    task = class_task(2)
    return Source(Scorer(DRAW, ratio, teacher, task), arrange(task, torch.arange(2), cfg, seed=0), cfg, 0)


def test_hardness_by_numpy() -> None:
    rng = np.random.default_rng(0)
    d, v = rng.exponential(size=50), rng.exponential(size=50)
    expected = d * np.exp(-v / v.mean())
    assert hard.hardness(torch.from_numpy(d), torch.from_numpy(v)).numpy() == pytest.approx(expected)
    assert hard.hardness(torch.from_numpy(d), None).tolist() == d.tolist()
    assert hard.hardness(torch.from_numpy(d), torch.zeros(50)).tolist() == d.tolist(), "members that always agree"


def test_parents_are_the_hardest_quarter_of_each_group_by_numpy() -> None:
    rng = np.random.default_rng(1)
    hardness, group = rng.exponential(size=203), rng.integers(0, 3, 203)
    group[group == 1] = 4
    group[:2] = 1
    found = hard.parents_of(torch.from_numpy(hardness), torch.from_numpy(group))
    assert set(found) == {0, 1, 2, 4}
    for g, places in found.items():
        here = np.flatnonzero(group == g)
        order = here[np.argsort(-hardness[here], kind="stable")]
        assert places.tolist() == order[: -(-len(here) // 4)].tolist()
    alike = hard.parents_of(torch.ones(8), torch.zeros(8, dtype=torch.int64))
    assert alike[0].tolist() == [0, 1], "the earlier ones"


@pytest.mark.parametrize("s", [0.1, 0.5, 1.0])
def test_children_keep_the_law_of_latents_and_the_stated_correlation(s: float) -> None:
    gen = torch.Generator().manual_seed(0)
    z = torch.randn(100_000, 2, generator=gen)
    child = hard.near(z, torch.randn(100_000, 2, generator=gen), s)
    grandchild = hard.near(child, torch.randn(100_000, 2, generator=gen), s)
    for of in (child, grandchild):
        assert of.mean(0).numpy() == pytest.approx([0, 0], abs=0.015)
        assert of.std(0).numpy() == pytest.approx([1, 1], abs=0.01)
    for i in range(2):
        assert np.corrcoef(z[:, i], child[:, i])[0, 1] == pytest.approx(math.sqrt(1 - s**2), abs=0.01)
        assert np.corrcoef(z[:, i], grandchild[:, i])[0, 1] == pytest.approx(1 - s**2, abs=0.01)
    assert abs(np.corrcoef(z[:, 0], child[:, 1])[0, 1]) < 0.01


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 9))
def test_quotas_of_the_rounds_add_up_and_are_even(have: list[int], rounds: int) -> None:
    parts = torch.stack(hard.round_quotas(torch.tensor(have), rounds))
    assert len(parts) == rounds and parts.sum(0).tolist() == have and bool((parts >= 0).all())
    for g, count in enumerate(have):
        share = parts[:, g]
        assert int(share.max() - share.min()) <= 1
        assert int(share[0]) == math.ceil(count / rounds), "who has a fake at all has a parent"


@pytest.mark.parametrize("refill", [True, False])
@pytest.mark.parametrize("num_fakes", [60, 77])
def test_latents_of_plain_draws_are_found_again(refill: bool, num_fakes: int) -> None:
    """The images that they make are those of the pool: also in a last block that is cut short."""
    cfg = bank_config(num_fakes=num_fakes, refill=refill, max_draws_factor=2.3, block_size=20)
    of = source(cfg)
    limits = burn_in(of)
    blocks = list(grow_pool(of, limits, ["raw", "filter"]))
    asked, images = (torch.cat([getattr(block, name) for block in blocks]) for name in ("asked", "images"))
    shard = torch.cat([torch.full((len(block),), block.shard, dtype=torch.int32) for block in blocks])
    rows = torch.randperm(len(asked), generator=torch.Generator().manual_seed(2))
    z = hard.Places.of(asked, shard).take(rows).latents(lambda g, b: hard.plain_latents(of, Z, g, b), Z)
    assert torch.equal(DRAW.at(z, asked[rows]), images[rows]) and len(asked) > num_fakes - 1
    assert isinstance(DRAW, hard.LatentDraw) and not isinstance(lambda label_B, gen: label_B, hard.LatentDraw)


def grown(cfg: BankConfig) -> tuple[hard.NearSource, Limits, Columns, Tensor, Tensor]:
    of = source(cfg)
    limits = burn_in(of)
    parents = {g: hard.Parents(torch.full((3, Z), 0.5) + torch.arange(3)[:, None], torch.full((3,), g)) for g in (0, 1)}
    near = hard.near_source(of, DRAW, torch.tensor([9, 13]), parents, ("filter", 2))
    blocks = list(grow_pool(near, limits, ["filter"]))
    asked, images = (torch.cat([getattr(block, name) for block in blocks]) for name in ("asked", "images"))
    parts = Columns.joined([block.columns(0) for block in blocks])
    shard = torch.cat([torch.full((len(block),), block.shard) for block in blocks])
    z = hard.Places.of(asked, shard).latents(near.latents, Z)
    assert torch.equal(DRAW.at(z, asked), images)
    return near, limits, replace(parts, group=asked), images, z


def test_a_round_fills_its_quotas_with_children_that_passed() -> None:
    cfg = bank_config(refill=False, block_size=8, near=0.1)
    near, limits, columns, images, z = grown(cfg)
    rows = select("filter", columns, limits, near.conditions.quota_G)
    assert torch.bincount(columns.group[rows]).tolist() == [9, 13], "it draws on, as numbers are to be equal"
    # Latents lie near those of the parents, which take turns: means 0.5, 1.5 and 2.5.
    first = z[columns.group == 0]
    for turn in range(3):
        assert float(first[turn::3].mean()) == pytest.approx(math.sqrt(0.99) * (0.5 + turn), abs=0.12)
    again = grown(cfg)
    assert torch.equal(again[3], images) and torch.equal(again[2].uniform, columns.uniform)


def test_draws_depend_on_selection_and_round_and_a_group_without_parents_has_none() -> None:
    near, *_ = grown(bank_config(block_size=8))
    draws = {
        (name, number): next(replace(near, selection=name, round=number).blocks(0, 8)).images
        for name in ("raw", "filter")
        for number in (2, 3)
    }
    assert len({images.numpy().tobytes() for images in draws.values()}) == 4
    alone = hard.near_source(near, DRAW, torch.tensor([5, 6]), {1: near.parents[1]}, ("filter", 2))
    assert alone.conditions.quota_G.tolist() == [0, 6] and not list(alone.blocks(0, 8))
