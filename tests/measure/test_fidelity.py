"""FID, KID, precision and recall against scipy, numpy and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from cgankd.measure import fidelity
from cgankd.measure.fidelity import Labelled
from cgankd.rng import generator


def features(n: int, width: int = 6, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    gen = torch.Generator().manual_seed(1000 * seed + n)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(7))
    return (torch.randn(n, width, generator=gen) @ mix) * scale + shift


class Rows(torch.nn.Module):
    """What torchmetrics takes for a feature network: images that are features already."""

    num_features = 6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize("n", [4, 40])
def test_frechet_distance_is_scipys_and_torchmetrics(n: int) -> None:
    real, fake = features(n), features(n + 9, shift=0.5, scale=1.3)
    a, b = real.double().numpy(), fake.double().numpy()
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    # The product of singular covariances has no root that scipy finds well: lift the diagonal as is usual there.
    lift = 0.0 if n > 6 else 1e-10
    root = sqrtm((cov_a + lift * np.eye(6)) @ (cov_b + lift * np.eye(6)))
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root.real)
    assert fidelity.fid(real, fake) == pytest.approx(expected, rel=1e-4 if lift else 1e-9)
    theirs = FrechetInceptionDistance(feature=Rows(), normalize=False, input_img_size=(6,))
    theirs.set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    assert fidelity.fid(real, fake) == pytest.approx(float(theirs.compute()), rel=1e-3)


@pytest.mark.parametrize(("n", "m"), [(3, 40), (40, 5), (5, 4), (30, 50)])
def test_few_rows_give_the_same_distance_without_covariances(n: int, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "CHUNK", 7)
    real, fake = features(n, shift=50.0), features(m, shift=50.5, seed=1)
    expected = fidelity.frechet(fidelity.moments(real), fidelity.moments(fake))
    assert fidelity.frechet_thin(real, fake) == pytest.approx(expected, rel=1e-5)
    assert fidelity.fid(real, fake) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_of_known_gaussians() -> None:
    def gaussian(mean: float, variance: float) -> fidelity.Moments:
        return fidelity.Moments(
            9, torch.full((3,), mean, dtype=torch.float64), variance * torch.eye(3, dtype=torch.float64)
        )

    # Isotropic: F (m_a - m_b)^2 + F (sd_a - sd_b)^2.
    assert fidelity.frechet(gaussian(0.0, 4.0), gaussian(1.0, 9.0)) == pytest.approx(3 * 1.0 + 3 * 1.0)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 30), m=st.integers(2, 30), seed=st.integers(0, 50))
def test_frechet_properties(n: int, m: int, seed: int) -> None:
    a, b = features(n, seed=seed), features(m, shift=1.0, seed=seed + 1)
    assert fidelity.fid(a, a) == pytest.approx(0.0, abs=1e-6)
    assert fidelity.fid(a, b) == pytest.approx(fidelity.fid(b, a), rel=1e-6)
    assert fidelity.fid(a, b) > 0
    turned = torch.linalg.qr(features(6, seed=3))[0]
    assert fidelity.fid(a @ turned, b @ turned) == pytest.approx(fidelity.fid(a, b), rel=1e-4)


def test_moments_in_pieces_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(23, shift=100.0)
    monkeypatch.setattr(fidelity, "CHUNK", 5)
    found = fidelity.moments(x)
    assert found.count == 23
    assert found.mean.numpy() == pytest.approx(x.double().numpy().mean(0))
    assert found.covariance.numpy() == pytest.approx(np.cov(x.double().numpy().T))


def kid_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / len(x) + 1.0) ** 3

    n, m = len(a), len(b)
    same_a = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    same_b = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return same_a + same_b - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_kid_is_numpys_and_torchmetrics() -> None:
    real, fake = features(12), features(12, shift=0.3, seed=1)
    found = fidelity.kid(real, fake, generator("kid"))
    assert found == pytest.approx(kid_by_hand(real.double().numpy(), fake.double().numpy()), rel=1e-9)
    theirs = KernelInceptionDistance(feature=Rows(), subsets=1, subset_size=12)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    assert found == pytest.approx(float(theirs.compute()[0]), rel=1e-4)


def test_kid_of_large_sets_by_subsets_is_near_that_of_the_whole_and_repeatable() -> None:
    real, fake = features(300), features(400, shift=0.5, seed=1)
    whole = fidelity.polynomial_mmd(real, fake)
    parts = [fidelity.kid(real, fake, generator("kid"), subset=100) for _ in range(2)]
    assert parts[0] == parts[1] == pytest.approx(whole, rel=0.15)


def test_kid_of_equals_is_zero_on_average() -> None:
    found = [fidelity.polynomial_mmd(features(30, seed=2 * s), features(30, seed=2 * s + 1)) for s in range(200)]
    mean, error = np.mean(found), np.std(found) / np.sqrt(len(found))
    assert abs(mean) < 3 * error and min(found) < 0 < max(found)


def reached_by_hand(manifold: np.ndarray, points: np.ndarray, k: int) -> float:
    reach = [sorted(np.linalg.norm(manifold - a, axis=1))[k] for a in manifold]  # the first is the row itself
    inside = [any(np.linalg.norm(p - a) <= r for a, r in zip(manifold, reach, strict=True)) for p in points]
    return float(np.mean(inside))


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_brute_force(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = features(25), features(31, shift=0.8, scale=0.7, seed=1)
    monkeypatch.setattr(fidelity, "CHUNK", 28)
    precision, recall = fidelity.precision_recall(real, fake, k)
    a, b = real.double().numpy(), fake.double().numpy()
    assert precision == pytest.approx(reached_by_hand(a, b, k)) and recall == pytest.approx(reached_by_hand(b, a, k))
    assert 0 < precision < 1 and precision != recall


def test_precision_and_recall_tell_collapse_from_junk() -> None:
    real = features(60)
    assert fidelity.precision_recall(real, real) == (1.0, 1.0)
    collapsed = real[:1] + 0.01 * features(60, seed=1)
    precision, recall = fidelity.precision_recall(real, collapsed)
    assert precision == 1.0 and recall < 0.1
    assert fidelity.precision_recall(real, features(60, shift=100.0, seed=1)) == (0.0, 0.0)


def test_by_group_measures_like_with_like() -> None:
    real, fake = features(30), features(40, shift=0.5, seed=1)
    group_real, group_fake = torch.arange(30) % 3, torch.arange(40) % 4
    group_real[0] = 9  # alone, and absent among fakes
    found = fidelity.by_group(Labelled(real, group_real), Labelled(fake, group_fake), fidelity.fid)
    assert sorted(found) == [0, 1, 2]
    rows = [i for i in range(30) if group_real[i] == 1], [i for i in range(40) if i % 4 == 1]
    assert found[1] == fidelity.fid(real[rows[0]], fake[rows[1]])


def test_sliding_windows_go_over_the_seam_of_a_circle() -> None:
    real, fake = features(50), features(50, seed=1)
    y = torch.arange(50) / 5
    found = fidelity.sliding(
        Labelled(real, y), Labelled(fake, y), (torch.tensor([0.0]), 1.0), fidelity.fid, period=10.0
    )
    inside = (y <= 1.0) | (y >= 9.0)
    assert int(inside.sum()) == 11 and found == {0.0: fidelity.fid(real[inside], fake[inside])}


def test_sliding_windows_hold_the_labels_around_their_middle() -> None:
    real, fake = features(50), features(80, seed=1)
    y_real, y_fake = torch.linspace(0, 10, 50), torch.linspace(0, 6, 80)
    fake[y_fake < 3] += 3.0
    centres = torch.tensor([1.0, 2.5, 5.0, 9.0])
    found = fidelity.sliding(Labelled(real, y_real), Labelled(fake, y_fake), (centres, 1.0), fidelity.fid)
    assert list(found) == [1.0, 2.5, 5.0], "no fake lies within 8 to 10"
    assert found[1.0] > found[2.5] > found[5.0]
    inside = (y_real >= 1.5) & (y_real <= 3.5), (y_fake >= 1.5) & (y_fake <= 3.5)
    assert found[2.5] == fidelity.fid(real[inside[0]], fake[inside[1]])
