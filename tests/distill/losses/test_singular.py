"""KDSVD by hand; the derivative of singular vectors against finite differences, and finite where there is none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cgankd.distill.losses.singular import SingularVectors, paired, right_vectors
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw

EXACT = 1e-9
"""A floor of the gap so low that the derivative is that of the vectors themselves."""


def by_hand(s: list[np.ndarray], t: list[np.ndarray], k: int) -> float:
    """Of one image's maps [C, H, W] with as many channels in both nets."""
    vectors = []
    for a, b in zip(s, t, strict=True):
        v_s = np.linalg.svd(a.reshape(len(a), -1).T)[2][: k + 3]
        _, size, v_t = np.linalg.svd(b.reshape(len(b), -1).T)
        size, mine = size[:k] / np.linalg.norm(size[:k]), []
        for v in v_t[:k]:
            near = v_s[np.argmax(np.abs(v_s @ v))]
            mine.append(near * np.sign(near @ v))
        vectors.append([(np.array(rows) * size[:, None]).T for rows in (mine, v_t[:k])])
    total = 0.0
    for before, after in zip(vectors, vectors[1:], strict=False):
        kernels = [np.exp(-((after[i][:, None] - before[i][None]) ** 2) / 8) for i in (0, 1)]
        total += ((kernels[0] - kernels[1]) ** 2).sum()
    return total


@pytest.mark.parametrize("num_vectors", [1, 2])
def test_the_loss_by_hand(num_vectors: int) -> None:
    torch.manual_seed(0)
    shapes = [(6, 8, 8), (9, 4, 4)]
    s, t = ([draw(3, *shape, seed=seed + k) for k, shape in enumerate(shapes)] for seed in (0, 10))
    method = SingularVectors(num_vectors=num_vectors, singular_weight=2.0)
    method.pairs, method.adapters = ((0, 0), (1, 1)), torch.nn.ModuleList([torch.nn.Identity()] * 2)
    found = method.losses(toys.only(stages=s), toys.only(stages=t), toys.batch(3))["singular"]
    rows = [by_hand([m[n].numpy() for m in s], [m[n].numpy() for m in t], num_vectors) for n in range(3)]
    assert float(found) == pytest.approx(2.0 * np.mean(rows), rel=1e-3)


@pytest.mark.parametrize("shape", [(3, 9), (9, 3), (4, 4)])
def test_vectors_and_values_are_those_of_numpy(shape: tuple[int, int]) -> None:
    maps = draw(2, shape[1], 1, shape[0])
    vectors, values = right_vectors(maps, 3, 1e-3)
    for n in range(2):
        _, size, rows = np.linalg.svd(maps[n, :, 0].numpy().T)
        np.testing.assert_allclose(values[n].numpy(), size[:3], rtol=1e-4)
        np.testing.assert_allclose(np.abs((vectors[n].T.numpy() * rows[:3]).sum(1)), 1, rtol=1e-4)


def no_sign(target: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of right singular vectors that does not see their sign."""

    def of(maps: Tensor) -> Tensor:
        vectors, _ = right_vectors(maps, 2, EXACT)
        return ((vectors[:, :, None] * vectors[:, None]) * target).sum()

    return of


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4)])
def test_the_derivative_is_that_of_finite_differences(shape: tuple[int, int]) -> None:
    maps = draw(2, shape[1], 1, shape[0]).double().requires_grad_()
    target = draw(2, shape[1], shape[1], 2, seed=5).double()
    assert torch.autograd.gradcheck(no_sign(target), maps, eps=1e-6, atol=1e-5)


def deficient(kind: str) -> Tensor:
    """Maps [2, 5, 3, 3] whose singular values are zero or equal."""
    if kind == "zero":
        return torch.zeros(2, 5, 3, 3)
    if kind == "constant":
        return torch.ones(2, 5, 3, 3)
    if kind == "rank one":
        return draw(2, 5, 1, 1) * draw(2, 1, 3, 3)
    basis = torch.linalg.qr(draw(9, 5)).Q
    return basis.T.reshape(1, 5, 3, 3).repeat(2, 1, 1, 1)  # orthonormal: all five singular values are 1


@pytest.mark.parametrize("kind", ["zero", "constant", "rank one", "orthonormal"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_gradients_are_finite_and_bounded_on_maps_of_low_rank(kind: str, scale: float) -> None:
    maps = (scale * deficient(kind)).requires_grad_()
    vectors, _ = right_vectors(maps, 4, 1e-3)
    (vectors * draw(2, 5, 4, seed=3)).sum().backward()  # type: ignore[no-untyped-call]
    assert maps.grad is not None and maps.grad.isfinite().all()
    # Vectors do not change with the scale of a map, so the derivative goes as 1 / scale; the floor bounds 1 / gap by 500.
    assert float(maps.grad.abs().max()) * scale < 2e4


@pytest.mark.parametrize("kind", ["zero", "constant", "rank one", "orthonormal"])
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_the_loss_is_finite_where_either_nets_maps_are_of_low_rank(kind: str, who: str) -> None:
    method = SingularVectors()
    method.pairs, method.adapters = ((0, 0), (1, 1)), torch.nn.ModuleList([torch.nn.Identity()] * 2)
    flat, full = [deficient(kind), deficient(kind)], [draw(2, 5, 3, 3), draw(2, 5, 2, 2)]
    s, t = (flat, full) if who == "student" else (full, flat)
    s = [m.requires_grad_() for m in s]
    loss = method.losses(toys.only(stages=s), toys.only(stages=t), toys.batch(2))["singular"]
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite() and all(m.grad is not None and m.grad.isfinite().all() for m in s)


def test_the_nearest_line_is_taken_on_the_teachers_side() -> None:
    s = torch.eye(3)[None, :, [1, 0]]
    t = torch.tensor([[[-0.9], [0.1], [0.0]]])
    assert torch.equal(paired(s, t)[0, :, 0], torch.tensor([-1.0, 0.0, 0.0]))


def test_a_map_that_is_not_finite_shows_in_the_loss_instead_of_stopping() -> None:
    maps = draw(2, 5, 3, 3)
    maps[1, 0, 0, 0] = float("nan")
    vectors, _ = right_vectors(maps, 2, 1e-3)
    assert vectors[0].isfinite().all() and vectors[1].isnan().all()


def test_turning_the_signs_of_a_map_changes_nothing() -> None:
    method = SingularVectors()
    method.pairs, method.adapters = ((0, 0), (1, 1)), torch.nn.ModuleList([torch.nn.Identity()] * 2)
    s, t = [draw(3, 6, 4, 4), draw(3, 9, 2, 2)], [draw(3, 6, 4, 4, seed=1), draw(3, 9, 2, 2, seed=1)]
    values = [
        float(method.losses(toys.only(stages=m), toys.only(stages=t), toys.batch(3))["singular"])
        for m in (s, [-s[0], 3.0 * s[1]])
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
