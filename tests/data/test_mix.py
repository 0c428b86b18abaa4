"""Mixtures of two images against numpy: shares, boxes, partners, and draws as functions of (seed, step)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cgankd.config.mix import MixConfig
from cgankd.data.batches import Batch
from cgankd.data.mix import Mixing, blend, boxes, partners
from cgankd.rng import generator


def keep_all(label_B: torch.Tensor, other_B: torch.Tensor, weight_B: torch.Tensor) -> torch.Tensor:
    """Labels in which all three can be read."""
    return torch.stack([label_B.float(), other_B.float(), weight_B], dim=1)


def mixing(kind: str, *, alpha: float = 1.0, share: float = 1.0, pairs: str = "any", seed: int = 5) -> Mixing:
    cfg = MixConfig(mix=kind, mix_alpha=alpha, mix_share=share)  # type: ignore[arg-type]
    return Mixing(cfg, pairs, keep_all, seed)


def batch(num: int, fakes: int = 0, size: int = 16) -> tuple[torch.Tensor, Batch]:
    unit = torch.rand(num, 3, size, size, generator=generator("mix", num))
    fake = torch.arange(num) >= num - fakes
    return unit, Batch((255 * unit).to(torch.uint8), torch.arange(num), torch.arange(num), fake)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_is_what_its_equation_says(alpha: float) -> None:
    unit, rows = batch(12)
    made, mixed = mixing("mixup", alpha=alpha)(unit, rows, 3)
    own, other, share = mixed.labels_B.numpy().T
    x = unit.numpy().astype(np.float64)
    for i in range(12):
        expected = share[i] * x[i] + (1 - share[i]) * x[int(other[i])]
        np.testing.assert_allclose(made[i].numpy(), expected, atol=1e-6)
    assert own.tolist() == list(range(12)) and sorted(other.tolist()) == list(range(12))
    assert torch.equal(mixed.index_B, rows.index_B) and torch.equal(mixed.images_BCHW, rows.images_BCHW)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
def test_shares_are_beta_and_a_function_of_seed_and_step(alpha: float) -> None:
    real = torch.zeros(256, dtype=torch.bool)
    mixer = mixing("mixup", alpha=alpha)
    drawn = [mixer.draw(real, (8, 8), step) for step in range(12)]
    share = torch.cat([one.weight_B for one in drawn]).double().numpy()
    assert stats.kstest(share, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    again = mixing("mixup", alpha=alpha).draw(real, (8, 8), 7)
    assert torch.equal(again.weight_B, drawn[7].weight_B) and torch.equal(again.partner_B, drawn[7].partner_B)
    assert not torch.equal(drawn[6].weight_B, drawn[7].weight_B)
    assert not torch.equal(mixing("mixup", seed=6, alpha=alpha).draw(real, (8, 8), 7).weight_B, again.weight_B)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([4, 16, 33]), st.floats(0.1, 4.0))
def test_the_box_has_exactly_the_share_of_the_other_label(step: int, size: int, alpha: float) -> None:
    """Counted pixel by pixel on images of one value each; the box is one rectangle, cut off at the border."""
    num = 9
    value = torch.arange(num, dtype=torch.float32)
    unit = value[:, None, None, None].expand(num, 1, size, size).clone()
    rows = Batch(unit.to(torch.uint8), torch.arange(num), torch.arange(num), torch.zeros(num, dtype=torch.bool))
    made, mixed = mixing("cutmix", alpha=alpha)(unit, rows, step)
    for i in range(num):
        _, other, share = mixed.labels_B[i].tolist()
        if int(other) == i:
            continue
        theirs = made[i, 0].numpy() == other
        assert np.all(theirs | (made[i, 0].numpy() == i))
        assert theirs.mean() == pytest.approx(1 - share, abs=1e-6)
        rows_in, cols_in = theirs.any(1), theirs.any(0)
        assert np.array_equal(theirs, rows_in[:, None] & cols_in[None, :])
        for line in (rows_in, cols_in):
            assert np.count_nonzero(np.diff(np.concatenate([[0], line.astype(int), [0]]))) in (0, 2)


def test_boxes_before_they_are_cut_off_have_the_share_drawn() -> None:
    weight = torch.linspace(0, 1, 101, dtype=torch.float64)
    box = boxes(weight, (64, 64), torch.full((101, 2), 0.5, dtype=torch.float64)).double()
    area = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2]) / 64**2
    side = np.floor(np.sqrt(1 - weight.numpy()) * 64) / 64
    np.testing.assert_allclose(area.numpy(), side**2)
    corner = boxes(torch.tensor([0.75]), (64, 32), torch.zeros(1, 2))
    assert corner.tolist() == [[0, 16, 0, 8]], "half of a side sticks out on each axis"


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_only_a_share_of_the_images_is_mixed(kind: str) -> None:
    unit, rows = batch(2000, size=4)
    made, mixed = mixing(kind, share=0.3)(unit, rows, 0)
    untouched = (made == unit).flatten(1).all(1)
    share = mixed.labels_B[:, 2]
    assert bool((share[untouched] == 1).sum() >= 1300) and bool((share == 1)[~untouched].sum() == 0)
    whole = (share == 1).float().mean().item()
    # A box may have no whole pixel on an image this small.
    assert abs(whole - 0.7) < 0.04 if kind == "mixup" else whole > 0.66


def test_partners() -> None:
    fake = torch.tensor([False] * 6 + [True] * 4)
    partner, paired = partners(fake, "any", generator("p"))
    assert sorted(partner.tolist()) == list(range(10)) and bool(paired.all())
    partner, paired = partners(fake, "real", generator("p"))
    assert sorted(partner[:6].tolist()) == list(range(6)) and partner[6:].tolist() == [6, 7, 8, 9]
    assert paired.tolist() == (~fake).tolist()
    partner, paired = partners(fake, "across", generator("p"))
    assert bool(fake[partner[:6]].all()) and not bool(fake[partner[6:]].any()) and bool(paired.all())
    assert set(partner[:6].tolist()) == {6, 7, 8, 9}, "each fake is taken before one comes twice"
    for pairs in ("any", "real", "across"):
        alone, paired = partners(torch.zeros(5, dtype=torch.bool), pairs, generator("p"))
        assert sorted(alone.tolist()) == list(range(5)) and bool(paired.all()), "nothing but real images"
    only = torch.ones(5, dtype=torch.bool)
    assert sorted(partners(only, "across", generator("p"))[0].tolist()) == list(range(5))
    assert not bool(partners(only, "real", generator("p"))[1].any()), "fakes stay as they are"


def test_real_pairs_leave_fakes_as_they_are_and_a_mixture_counts_by_its_greater_part() -> None:
    unit, rows = batch(20, fakes=8)
    made, mixed = mixing("mixup", pairs="real")(unit, rows, 1)
    assert torch.equal(made[12:], unit[12:]) and bool((mixed.labels_B[12:, 2] == 1).all())
    assert torch.equal(mixed.is_fake_B, rows.is_fake_B)
    assert not bool((made[:12] == unit[:12]).flatten(1).all(1).any())
    _, mixed = mixing("mixup", pairs="across")(unit, rows, 1)
    share = mixed.labels_B[:, 2]
    expected = [
        bool(fake) if share >= 0.5 else not bool(fake) for fake, share in zip(rows.is_fake_B, share, strict=True)
    ]
    assert mixed.is_fake_B.tolist() == expected and len({*expected[:12]}) == 2


def test_a_whole_share_changes_no_bit() -> None:
    unit, rows = batch(6)
    drawn = mixing("mixup").draw(rows.is_fake_B, (16, 16), 0)
    whole = type(drawn)(drawn.partner_B, torch.ones(6), None)
    assert torch.equal(blend(unit, whole), unit)
