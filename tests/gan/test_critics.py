"""The heads on fixed features: their losses by hand, what has a gradient, and the diversity floor on features."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from cgankd.data.pixels import to_signed
from cgankd.gan.critics import Critics
from cgankd.nets.gans.features import pooled
from cgankd.rng import generator, seed_all
from cgankd.types import Split
from tests.gan.guided import FEATURES, toy_features
from tests.gan.toys import class_toy, gan_config


def critics(**changes: object) -> Critics:
    train, task = class_toy()
    seed_all("embed")
    cfg = gan_config(**FEATURES, diffaugment="translation", **changes)
    return Critics(toy_features(), train, task.vicinity(train.labels), task.label_embed(8), cfg, 1)


BOTH = torch.rand(16, 1, 16, 16, generator=generator("both")) * 2 - 1
LABELS = torch.arange(8) % 2
WEIGHTS = torch.linspace(0.1, 0.8, 8), torch.linspace(0.5, 1.9, 8)


def scored(found: Critics, heads: torch.nn.Module) -> torch.Tensor:
    """Scores [K, 16] of all images against their labels, twice."""
    with torch.no_grad():
        return heads(found.features(BOTH), found.embed(torch.cat([LABELS, LABELS])))


@pytest.mark.parametrize("loss", ["hinge", "vanilla"])
def test_the_loss_of_the_heads_is_the_mean_over_heads_of_the_weighted_plain_one(loss: str) -> None:
    found = critics(loss=loss)
    score = scored(found, copy.deepcopy(found.heads))  # a forward of its own moves u
    found.learn(BOTH, LABELS, WEIGHTS, 0)
    wanted = 0.0
    for k in range(2):
        real, fake = score[k, :8], score[k, 8:]
        if loss == "hinge":
            terms = WEIGHTS[0] * (1 - real).clamp(min=0), WEIGHTS[1] * (1 + fake).clamp(min=0)
        else:
            terms = WEIGHTS[0] * torch.log1p(torch.exp(-real)), WEIGHTS[1] * torch.log1p(torch.exp(fake))
        wanted += float(terms[0].mean() + terms[1].mean()) / 2
    assert found.values["loss_d_features"] == pytest.approx(wanted, rel=1e-4)


def test_a_step_moves_heads_and_their_labels_alone_and_pairs_of_weight_zero_move_nothing() -> None:
    found = critics()
    before = copy.deepcopy((found.heads, found.embed, found.features))
    none = torch.zeros(8)
    found.learn(BOTH, LABELS, (none, none), 0)
    for one, other in zip(before[0].parameters(), found.heads.parameters(), strict=True):
        assert torch.equal(one, other)
    found.learn(BOTH, LABELS, WEIGHTS, 1)
    assert not torch.equal(found.heads.heads[0].psi.weight, before[0].heads[0].psi.weight)
    assert not torch.equal(found.embed.table.weight, before[1].table.weight)
    for one, other in zip(before[2].state_dict().values(), found.features.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_their_rate_is_a_multiple_of_that_of_the_discriminator() -> None:
    """The first step of Adam without momentum moves every weight by its rate."""
    found = critics(feature_rate=0.25)
    before = found.heads.heads[1].psi.weight.detach().clone()
    found.learn(BOTH, LABELS, WEIGHTS, 0)
    moved = (found.heads.heads[1].psi.weight.detach() - before).abs()
    assert float(moved.max()) == pytest.approx(0.25 * 1e-3, rel=1e-3)


def test_micro_batches_make_the_same_step() -> None:
    whole, parts = critics(), critics(accumulate=2)
    for found in (whole, parts):
        found.learn(BOTH, LABELS, WEIGHTS, 0)
    assert parts.values["loss_d_features"] == pytest.approx(whole.values["loss_d_features"], rel=1e-5)
    for one, other in zip(whole.heads.parameters(), parts.heads.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("weight", "floor_weight", "size"), [(0.7, 0.0, 1e-3), (0.0, 3.0, 1e-5)])
def test_the_generators_loss_by_hand_and_its_gradient_by_differences(
    weight: float, floor_weight: float, size: float
) -> None:
    """`size` is that of the differences: the floor has kinks, where two features are equal."""
    found = critics(feature_weight=weight, diversity_weight=3.0)
    found.cfg = replace(found.cfg, diversity_weight=floor_weight)
    found.learn(BOTH, LABELS, WEIGHTS, 0)
    found.heads.eval()  # u stands still, so that the loss is a function, and it has no kinks
    for head in found.heads.heads:
        head.blocks = nn.Sequential(*(nn.Tanh() if isinstance(part, nn.LeakyReLU) else part for part in head.blocks))
    for parameter in found.heads.parameters():
        parameter.grad = None
    x_BCHW = (BOTH[:1] + 0.1 * BOTH[:8]).requires_grad_(True)  # alike, so that the floor has something to say
    loss, values = found.pull(x_BCHW, LABELS)
    maps = found.features(x_BCHW)
    one, other = pooled(maps).chunk(2)
    distance = float((one - other).detach().abs().mean())
    floor = max(0.0, found.tau - distance) / found.tau
    assert 0 < floor < 1
    plain = -float(found.heads(maps, found.embed(LABELS)).detach().mean())
    assert float(loss.detach()) == pytest.approx(weight * plain + floor_weight * floor, rel=1e-5)
    names = {"loss_g_features": plain, "floor_features": floor, "diversity_ratio_features": distance / found.tau}
    assert values == pytest.approx(names, rel=1e-5)
    loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in found.heads.parameters()), "they stand still meanwhile"
    assert not any(p.requires_grad for p in found.embed.parameters())
    assert x_BCHW.grad is not None
    for number in range(3):
        way = torch.randn(x_BCHW.shape, generator=generator("way", number))
        with torch.no_grad():
            high, low = (float(found.pull(x_BCHW + s * size * way, LABELS)[0]) for s in (1, -1))
        assert (high - low) / (2 * size) == pytest.approx(float((x_BCHW.grad * way).sum()), rel=0.02, abs=0.02)


def test_a_collapsed_generator_is_pushed_by_the_floor_in_feature_space_alone() -> None:
    """Fakes of one structure in several shades: the features see through what fills the floor in pixels."""
    found = critics(diversity_weight=3.0)
    same = BOTH[:4].repeat(2, 1, 1, 1)
    assert found.pull(same, torch.arange(4).repeat(2) % 2)[1]["floor_features"] == pytest.approx(1.0)


def test_the_floor_of_features_is_the_mean_distance_of_real_pairs() -> None:
    """One class with two images: every pair that counts is that pair."""
    train, task = class_toy()
    two = Split(train.images[:2], torch.zeros(2, dtype=torch.int64))
    cfg = gan_config(**FEATURES, diffaugment="")
    found = Critics(toy_features(), two, task.vicinity(two.labels), task.label_embed(8), cfg, 1)
    one, other = pooled(found.features(to_signed(two.images)))
    assert found.tau == pytest.approx(float((one - other).abs().mean()), rel=1e-5)
    alone = Split(train.images[:2], torch.arange(2))
    with pytest.raises(ValueError, match="cgan.features needs two training images of one label"):
        Critics(toy_features(), alone, task.vicinity(alone.labels), task.label_embed(8), cfg, 1)
    off = gan_config(**FEATURES, diversity_weight=0.0)
    assert Critics(toy_features(), alone, task.vicinity(alone.labels), task.label_embed(8), off, 1).tau == 0


@pytest.mark.parametrize("p", [None, 0.4])
def test_the_two_of_a_pair_are_seen_through_the_same_augmentation(p: float | None) -> None:
    found, gen = critics(), generator("views")
    one, other = found.pair_views(BOTH[:8], BOTH[:8], gen, p).chunk(2)
    assert torch.equal(one, other) and not torch.equal(one, BOTH[:8])
    again = found.pair_views(BOTH[:8], BOTH[:8], gen, p)[:8]
    assert not torch.equal(again, one), "the next call draws anew"
