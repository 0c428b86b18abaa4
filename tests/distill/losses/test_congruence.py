"""CC by hand, against torchdistill, and against the kernel that its series stands for."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cgankd.distill.losses.congruence import CorrelationCongruence, gaussian_series, kernel_gap, neighbour_gap
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw, io, mid_level

GAMMA = 0.4


def unit(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(draw(num, dim, seed=seed))


def test_neighbours_misses_by_hand() -> None:
    s, t = draw(5, 7), draw(5, 7, seed=1)
    miss = np.abs(s.numpy() - t.numpy())
    by_hand = np.mean([np.sum(miss[i] * miss[i + 1]) for i in range(4)])
    assert float(neighbour_gap(s, t)) == pytest.approx(by_hand, rel=1e-5)


def test_a_single_row_has_no_neighbour() -> None:
    s = draw(1, 7).requires_grad_()
    gap = neighbour_gap(s, draw(1, 7, seed=1))
    gap.backward()  # type: ignore[no-untyped-call]
    assert float(gap.detach()) == 0 and s.grad is not None and not s.grad.any()


def test_the_kernel_gap_is_the_square_of_torchdistills_distance() -> None:
    # torchdistill 1.1.5 leaves the square of the paper's Frobenius norm out and divides the norm by B^2.
    s, t = unit(6, 5), unit(6, 5, seed=1)
    theirs = mid_level().CCKDLoss("x", "x", {"type": "gaussian", "gamma": GAMMA, "max_p": 2}, "batchmean")
    distance = theirs(io(x=s), io(x=t))
    assert float(kernel_gap(s, t, GAMMA, 2)) == pytest.approx(float(distance) ** 2 * 36, rel=1e-4)


def test_the_series_tends_to_the_gaussian_kernel() -> None:
    x = F.normalize(draw(6, 5).double())
    rbf = np.exp(-GAMMA * ((x.numpy()[:, None] - x.numpy()[None]) ** 2).sum(2))
    wide, narrow = (np.abs(gaussian_series(x, GAMMA, order).numpy() - rbf).max() for order in (2, 12))
    assert narrow < 1e-9 < wide < 0.1


@pytest.mark.parametrize("form", ["code", "paper"])
def test_the_loss_is_the_gap_of_the_embeddings_times_its_weight(form: Literal["code", "paper"]) -> None:
    torch.manual_seed(0)
    method = CorrelationCongruence(form=form, congruence_weight=3.0, embed_dim=4)
    student, teacher = toys.net("convnet", 4), toys.net("plain-vgg", 8)
    toys.built(method, student, teacher)
    b = toys.batch(5)
    s, t = toys.shown(student.eval(), b), toys.frozen(teacher, b)
    assert s.pooled is not None and t.pooled is not None
    rows_s, rows_t = method.embed_student(s.pooled), method.embed_teacher(t.pooled)
    by_form = {"code": neighbour_gap(rows_s, rows_t)}
    by_form["paper"] = kernel_gap(F.normalize(rows_s), F.normalize(rows_t), GAMMA, 2)
    expected = by_form[form]
    assert torch.allclose(method.losses(s, t, b)["congruence"], 3.0 * expected, rtol=1e-5)
    assert rows_s.shape == rows_t.shape == (5, 4)


def test_real_and_fake_rows_apart() -> None:
    torch.manual_seed(0)
    method = CorrelationCongruence(relational_scope="within_source", congruence_weight=1.0)
    student, teacher = toys.net("convnet", 4), toys.net("plain-vgg", 8)
    toys.built(method, student, teacher)
    b = replace(toys.batch(6), is_fake=torch.tensor([0, 1, 1, 0, 1, 1]).bool())
    s, t = toys.shown(student.eval(), b), toys.frozen(teacher, b)
    assert s.pooled is not None and t.pooled is not None and b.is_fake is not None
    rows_s, rows_t = method.embed_student(s.pooled), method.embed_teacher(t.pooled)
    real, fake = ~b.is_fake, b.is_fake
    by_hand = (2 * neighbour_gap(rows_s[real], rows_t[real]) + 4 * neighbour_gap(rows_s[fake], rows_t[fake])) / 6
    assert torch.allclose(method.losses(s, t, b)["congruence"], by_hand, rtol=1e-5)
