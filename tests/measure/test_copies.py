"""Nearest neighbours against scipy, and planted copies that must be found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from cgankd.measure import copies


def images(n: int, seed: int = 0, size: int = 8) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, size // 2, size // 2, generator=gen) * 255
    return torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear").round().to(torch.uint8)


def rms(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    flat = [x.double().flatten(1).numpy() / 255 for x in (a, b)]
    distance: np.ndarray = cdist(*flat) / np.sqrt(flat[0].shape[1])
    return distance


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "CHUNK", 7)


def test_nearest_image_is_scipys() -> None:
    query, real = images(20), images(30, seed=1)
    table = rms(query, real)
    found = copies.nearest(query, real)
    assert found.index.tolist() == table.argmin(1).tolist()
    assert found.distance.numpy() == pytest.approx(table.min(1), rel=1e-5)
    order = copies.candidates(copies.as_float(query), real, 5)
    assert order.tolist() == table.argsort(1)[:, :5].tolist()


def test_nearest_feature_is_plain_l2_and_among_limits_the_search() -> None:
    gen = torch.Generator().manual_seed(0)
    query, real = torch.randn(9, 5, generator=gen), torch.randn(40, 5, generator=gen)
    table = cdist(query.double().numpy(), real.double().numpy())
    found = copies.nearest(query, real)
    assert found.index.tolist() == table.argmin(1).tolist()
    assert found.distance.numpy() == pytest.approx(table.min(1), rel=1e-5)
    among = torch.tensor([3, 17, 30, 31, 2, 5, 8, 12])
    limited = copies.nearest(query, real, among_A=among)
    assert limited.index.tolist() == among[table[:, among].argmin(1)].tolist()


def test_leave_one_out_and_its_limit() -> None:
    real = images(40)
    table = rms(real, real)
    np.fill_diagonal(table, np.inf)
    found = copies.leave_one_out(real, batch_size=11)
    assert found.numpy() == pytest.approx(table.min(1), rel=1e-5)
    assert copies.closeness_limit(found) == pytest.approx(np.quantile(table.min(1), 0.01), rel=1e-5)


def test_one_in_a_hundred_fresh_real_images_is_under_the_limit() -> None:
    gen = torch.Generator().manual_seed(0)
    real, fresh = torch.randn(1500, 4, generator=gen), torch.randn(1500, 4, generator=gen)
    limit = copies.closeness_limit(copies.leave_one_out(real))
    share = float((copies.nearest(fresh, real).distance < limit).double().mean())
    assert 0.003 < share < 0.025
    copied = real[:100] + 0.001 * torch.randn(100, 4, generator=gen)
    assert (copies.nearest(copied, real).distance < limit).all()


def test_a_distance_of_zero_is_zero_where_fast_search_rounds() -> None:
    """Bright images: |a|^2 - 2ab + |b|^2 in float32 would leave a distance of about 0.001 between equal ones."""
    real = 255 - images(50, size=32) // 16
    assert copies.nearest(real[10:20], real).distance.tolist() == [0.0] * 10
    assert copies.nearest(real[10:20], real).index.tolist() == list(range(10, 20))


@pytest.mark.parametrize(("dy", "dx"), copies.SHIFTS)
def test_a_shifted_copy_is_found_with_its_shift(dy: int, dx: int) -> None:
    real, query = images(30, size=16), images(4, seed=5, size=16)
    canvas = torch.randint(0, 256, (1, 18, 18), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    canvas[:, 1 + dy : 17 + dy, 1 + dx : 17 + dx] = real[13]
    query[2] = canvas[:, 1:17, 1:17]
    tried = copies.candidates(copies.as_float(query), real, 30)
    found = copies.nearest_shifted(query, real, tried)
    assert found.distance[2] == 0.0 and found.index[2] == 13 and found.shift[2].tolist() == [dy, dx]
    assert (found.distance[[0, 1, 3]] > copies.EXACT).all()
    assert (found.distance <= copies.nearest(query, real).distance + 1e-6).all()


def test_the_edge_of_an_exact_copy_is_two_grey_levels() -> None:
    real = images(5) // 2 + 40
    for levels, inside in ((1, True), (2, True), (3, False)):
        found = copies.nearest_shifted(real[:1] + levels, real, torch.zeros(1, 1, dtype=torch.int64))
        assert bool(found.distance[0] <= copies.EXACT) is inside
        assert float(found.distance[0]) == pytest.approx(levels / 255, rel=1e-4)


def test_nearest_within_groups_leaves_out_itself_and_other_groups() -> None:
    bank = images(20)
    bank[17] = bank[4]  # a repeat in another group
    bank[8] = bank[6]  # and one in its own
    groups = [torch.tensor([*range(0, 10)]), torch.tensor([*range(10, 19)]), torch.tensor([19])]
    found = copies.nearest_within(bank, groups, batch_size=4)
    for rows in groups[:2]:
        table = rms(bank[rows], bank[rows])
        np.fill_diagonal(table, np.inf)
        assert found[rows].numpy() == pytest.approx(table.min(1), rel=1e-5)
    assert (found == 0).nonzero()[:, 0].tolist() == [6, 8]
    assert torch.isinf(found[19])


def test_a_near_copy_is_within_half_of_the_closest_real_pair() -> None:
    val, train = torch.tensor([0.3, 0.08]), torch.tensor([0.2, 0.06, math.inf])
    assert copies.closest_real(val, train) == pytest.approx(0.06)
    assert copies.near_limit(0.06) == pytest.approx(0.03)
    # Pictures that the data set holds twice do not hide copies, and an exact copy is always one.
    assert copies.closest_real(val, torch.tensor([0.0, copies.EXACT, 0.1])) == pytest.approx(0.08)
    assert copies.near_limit(1.5 * copies.EXACT) == copies.EXACT
    assert copies.near_limit(copies.closest_real(torch.zeros(3))) == copies.EXACT
