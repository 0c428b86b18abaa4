"""The adaptive vicinity: kappa grows, target by target, until enough images are within, on a line and on a circle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cgankd.labels.targets import nth_nearest
from cgankd.labels.task import ScalarTask
from cgankd.labels.vicinity import ScalarVicinity
from cgankd.rng import generator
from tests.gan.toys import SCALARS, VICINITY

LABELS = torch.cat([torch.linspace(0, 10, 40), torch.tensor([20.0, 31.0, 31.0, 44.5, 50.0])])
KINDS = [("hard", "uniform"), ("soft", "uniform"), ("soft", "proportional")]
PERIODS = [None, 50.0, 60.0]


def vicinity(
    least: int | None, kind: str = "hard", draw: str = "uniform", period: float | None = None
) -> ScalarVicinity:
    info = replace(SCALARS, label_period=period)
    cfg = replace(VICINITY, kind=kind, draw=draw, kappa=1.5, least=least)
    found = ScalarTask(info, cfg, 10.0, 20).vicinity(LABELS)
    assert isinstance(found, ScalarVicinity)
    return found


def by_hand(target: float, least: int, period: float | None) -> float:
    """max(kappa, distance of the least-th nearest label), at most half the circle, by sorting all distances."""
    gap = np.abs(LABELS.double().numpy() - float(np.float32(target)))
    if period is not None:
        gap = np.minimum(gap % period, period - gap % period)
    reach = np.inf if period is None else period / 2
    return min(max(1.5, float(np.sort(gap)[least - 1])), reach)


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("least", [1, 4, 45])
def test_kappa_is_the_distance_of_the_nth_nearest_image(least: int, period: float | None) -> None:
    target_B = torch.cat([torch.linspace(0, 50, 101), LABELS])
    kappa_B = vicinity(least, period=period).kappa(target_B)
    wanted = [by_hand(t, least, period) for t in target_B.tolist()]
    np.testing.assert_allclose(kappa_B, wanted, rtol=1e-6)


def test_the_nth_nearest_against_sorting_all_distances() -> None:
    gen = generator("nth")
    values = torch.randint(0, 30, (25,), generator=gen).double().sort().values
    target_B = 40 * torch.rand(200, generator=gen, dtype=torch.float64) - 5
    for count in (1, 2, 7, 25):
        wanted_B = (values - target_B[:, None]).abs().sort(dim=1).values[:, count - 1]
        torch.testing.assert_close(nth_nearest(values, target_B, count), wanted_B)


def test_more_than_there_are_means_all_images() -> None:
    assert torch.equal(vicinity(10_000).kappa(LABELS), vicinity(len(LABELS)).kappa(LABELS))


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize(("kind", "draw"), KINDS)
def test_partners_and_weights_follow_the_grown_kappa(kind: str, draw: str, period: float | None) -> None:
    near = vicinity(4, kind, draw, period)
    target = 33.3
    target_B = torch.full((4000,), target)
    pairing = near.pair(target_B, generator("pairs"))
    kappa = by_hand(target, 4, period)
    gap = np.abs(LABELS.double().numpy() - float(np.float32(target)))
    gap = gap if period is None else np.minimum(gap % period, period - gap % period)
    assert pairing.weight.dtype == torch.float32
    if kind == "hard":
        inside = np.flatnonzero(gap <= kappa * (1 + 1e-6))
        assert len(inside) >= 4 and set(pairing.index.tolist()) == set(inside.tolist())
        assert bool((pairing.weight == 1).all())
        return
    weight = np.exp(-((gap / kappa) ** 2))
    if draw == "uniform":
        np.testing.assert_allclose(pairing.weight, weight[pairing.index], rtol=1e-4)
        assert set(pairing.index.tolist()) == set(np.flatnonzero(weight >= 1e-3).tolist())
    else:
        share = np.bincount(pairing.index, minlength=len(gap)) / len(target_B)
        weight[weight < 1e-3] = 0
        np.testing.assert_allclose(share, weight / weight.sum(), atol=0.03)
        assert bool((pairing.weight == 1).all())


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize(("kind", "draw"), KINDS)
def test_fakes_are_asked_for_in_the_grown_vicinity(kind: str, draw: str, period: float | None) -> None:
    near = vicinity(4, kind, draw, period)
    target = 33.3
    label_B, weight_B = near.fake_labels(torch.full((4000,), target), generator("fakes"))
    kappa = by_hand(target, 4, period)
    radius = kappa if kind == "hard" else kappa * np.sqrt(-np.log(1e-3))
    gap_B = (label_B - target).abs()
    gap_B = gap_B if period is None else torch.minimum(gap_B, period - gap_B)
    assert label_B.dtype == torch.float32 and weight_B.dtype == torch.float32
    assert float(gap_B.max()) <= radius + 1e-4 and float(gap_B.max()) > 1.5
    assert float(label_B.min()) >= 0 and float(label_B.max()) <= 50
    if (kind, draw) == ("soft", "uniform"):
        torch.testing.assert_close(weight_B, torch.exp(-((gap_B / kappa) ** 2)), rtol=1e-3, atol=1e-5)
    else:
        assert bool((weight_B == 1).all())


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize(("kind", "draw"), KINDS)
def test_where_enough_are_near_the_draws_are_those_of_one_kappa(kind: str, draw: str, period: float | None) -> None:
    target_B = torch.full((500,), 5.0)  # a dozen images within 1.5
    one, grown = (vicinity(least, kind, draw, period) for least in (None, 3))
    first, second = (v.pair(target_B, generator("same")) for v in (one, grown))
    assert torch.equal(first.index, second.index)
    torch.testing.assert_close(first.weight, second.weight)


def test_every_target_has_partners_of_full_weight() -> None:
    """Without it a target in a gap has a partner of weight zero."""
    target_B = torch.linspace(0, 50, 500)
    assert float(vicinity(None).pair(target_B, generator("a")).weight.min()) == 0
    for period in PERIODS:
        assert bool((vicinity(1, period=period).pair(target_B, generator("a")).weight == 1).all())
