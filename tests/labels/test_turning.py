"""Turning all labels of a circle by a constant changes nothing but their names.

Labels are eighths and a turn is 10, so that sums are exact; a turn by whole label bins moves the bins as a whole. What nets
see and say of a label is a point of the circle, so a turned net is one whose layers next to labels are turned: then losses,
gradients and the weights of a training are equal up to rounding.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cgankd.bank.m2_filter import cutoff, keep
from cgankd.config import VicinityConfig
from cgankd.labels.answers import make_answer
from cgankd.labels.circle import wrapped
from cgankd.labels.task import CircleTask
from cgankd.measure.conformal import conformal_margin
from cgankd.measure.labels import label_distance
from cgankd.nets.gans.label_embed import ScalarEmbed
from cgankd.rng import generator
from cgankd.types import DatasetInfo

PERIOD, BIN, NUM = 10.0, 1.25, 64
INFO = DatasetInfo("scalar", "needle", "", 1, 4, (0.5,), (0.2,), (), 0.0, PERIOD, PERIOD, "circle")
VICINITY = VicinityConfig(
    kind="soft",
    label_sigma=None,
    kappa=None,
    kappa_multiplier=2.0,
    gap_quantile=0.95,
    weight_floor=1e-3,
    draw="proportional",
)
TURNS = [1.25, 7.5]


def task(**vicinity: str) -> CircleTask:
    return CircleTask(INFO, replace(VICINITY, **vicinity), BIN, 40)


def names() -> Tensor:
    return torch.randint(0, 80, (NUM,), generator=generator("labels")) / 8


def turned(label_B: Tensor, turn: float) -> Tensor:
    return torch.remainder(label_B + turn, PERIOD)


def near(a: Tensor, b: Tensor, atol: float = 1e-4) -> None:
    """Labels that are equal on the circle."""
    assert float(wrapped(a - b, PERIOD).abs().max()) <= atol


def matrix(turn: float) -> Tensor:
    angle = 2 * math.pi * turn / PERIOD
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(
    "vicinity", [{"kind": "hard"}, {"draw": "uniform"}, {"draw": "proportional"}], ids=["hard", "soft", "drawn"]
)
def test_targets_partners_and_weights_are_those_of_the_turned_labels(vicinity: dict[str, str], turn: float) -> None:
    plain, other = task(**vicinity).vicinity(names()), task(**vicinity).vicinity(turned(names(), turn))
    for field in ("label_sigma", "kappa", "largest_gap", "median_gap"):
        assert getattr(plain.kernel, field) == pytest.approx(getattr(other.kernel, field), rel=1e-5)  # type: ignore[attr-defined]
    target_B, turned_B = (one.targets(200, generator("targets")) for one in (plain, other))
    near(turned_B, turned(target_B, turn))
    # The very targets, so that no partner changes by a rounding error at the edge of a vicinity.
    target_B = torch.randint(0, 160, (200,), generator=generator("more")) / 16 + 1 / 64
    pairs = plain.pair(target_B, generator("pair")), other.pair(turned(target_B, turn), generator("pair"))
    assert len(set(pairs[0].index.tolist())) > 10
    assert torch.equal(names()[pairs[0].index], names()[pairs[1].index])
    torch.testing.assert_close(pairs[0].weight, pairs[1].weight, atol=1e-5, rtol=1e-4)
    (label_B, weight_B), (there_B, other_B) = (
        one.fake_labels(labels, generator("fakes"))
        for one, labels in ((plain, target_B), (other, turned(target_B, turn)))
    )
    near(there_B, turned(label_B, turn))
    torch.testing.assert_close(other_B, weight_B, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("turn", TURNS)
def test_errors_filter_bins_and_margin_do_not_turn(turn: float) -> None:
    label_B, out_BO = names(), torch.randn(NUM, 2, generator=generator("out"))
    turned_B, turned_BO = turned(label_B, turn), out_BO @ matrix(turn).T
    one, answer = task(), make_answer(INFO)
    error_B, other_B = one.error(out_BO, label_B), one.error(turned_BO, turned_B)
    torch.testing.assert_close(error_B, other_B, atol=1e-4, rtol=0)
    near(one.predict(turned_BO), turned(one.predict(out_BO), turn))
    group_B, moved_B = one.filter_groups(label_B), one.filter_groups(turned_B)
    assert torch.equal(moved_B, (group_B + round(turn / BIN)) % one.num_bins)
    cutoffs = [cutoff(e, g, one.num_bins, 0.7) for e, g in ((error_B, group_B), (other_B, moved_B))]
    torch.testing.assert_close(cutoffs[1], cutoffs[0].roll(round(turn / BIN)), atol=1e-4, rtol=0)
    kept = [keep(e, g, c + 1e-4) for e, g, c in ((error_B, group_B, cutoffs[0]), (other_B, moved_B, cutoffs[1]))]
    assert torch.equal(*kept) and 0 < int(kept[0].sum()) < NUM
    margins = [conformal_margin(answer.miss(answer(o), y), 0.9) for o, y in ((out_BO, label_B), (turned_BO, turned_B))]
    assert margins[0] is not None and margins[1] is not None
    assert margins[0].width == pytest.approx(margins[1].width, abs=1e-4)
    others = names().flip(0)[:20]
    assert label_distance(turned_B, turned(others, turn), PERIOD) == pytest.approx(
        label_distance(label_B, others, PERIOD), abs=1e-4
    )


@pytest.mark.parametrize("turn", TURNS)
def test_a_training_on_turned_labels_ends_on_turned_weights(turn: float) -> None:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    second, one = copy.deepcopy(first), task()
    with torch.no_grad():
        second[2].weight.copy_(matrix(turn) @ first[2].weight)
        second[2].bias.copy_(matrix(turn) @ first[2].bias)
    x_BF, label_B = torch.randn(NUM, 6, generator=generator("x")), names()
    losses: list[list[float]] = [[], []]
    for which, (net, y_B) in enumerate(((first, label_B), (second, turned(label_B, turn)))):
        teacher_BO = torch.randn(NUM, 2, generator=generator("teacher")) @ matrix(turn * which).T
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-3)
        for _ in range(40):
            optimizer.zero_grad()
            loss = one.loss(net(x_BF), y_B) + 0.5 * one.soft_loss(net(x_BF), teacher_BO, temperature=1.0)
            loss.backward()
            optimizer.step()
            losses[which].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][-1] < 0.95 * losses[0][0]
    torch.testing.assert_close(second[0].weight, first[0].weight, atol=1e-3, rtol=0)
    torch.testing.assert_close(second[2].weight, matrix(turn) @ first[2].weight, atol=1e-3, rtol=0)


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_label_embedding_gives_turned_labels_the_same_h(turn: float) -> None:
    torch.manual_seed(0)
    first = ScalarEmbed(16, 0.0, PERIOD, PERIOD)
    second = copy.deepcopy(first)
    with torch.no_grad():
        second.body[0].weight.copy_(first.body[0].weight @ matrix(turn).T)
    torch.testing.assert_close(second(turned(names(), turn)), first(names()), atol=1e-4, rtol=1e-3)
    # No seam: a hair on either side of the end of a turn is one label.
    ends = first(torch.tensor([0.0, PERIOD, 1e-4, PERIOD - 1e-4]))
    torch.testing.assert_close(ends, ends[:1].expand(4, -1), atol=1e-2, rtol=0)
