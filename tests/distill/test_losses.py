"""KD objectives against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cgankd.distill.losses import Hinton, Plain, make_distiller
from scipy.special import log_softmax

from cgankd.config import Config
from cgankd.data.batches import Batch
from cgankd.rng import generator
from cgankd.task import make_task
from cgankd.types import DatasetInfo

INFO = DatasetInfo("class", "toy", "", 1, 16, (0.5,), (0.25,), class_names=tuple("abcd"))


def batch() -> Batch:
    gen = generator("batch")
    return Batch(
        torch.zeros(6, 1, 16, 16, dtype=torch.uint8),
        torch.randint(4, (6,), generator=gen),
        torch.arange(6),
        torch.zeros(6, dtype=torch.bool),
    )


def test_hinton_is_the_weighted_sum(digits_config: Config) -> None:
    task, gen = make_task(INFO, digits_config), generator("logits")
    out, teacher = torch.randn(6, 4, generator=gen), torch.randn(6, 4, generator=gen)
    objective = make_distiller("kd", task, lambda x, b: teacher, temperature=3.0, soft_weight=0.7)
    parts = objective(out, torch.zeros(6, 1, 16, 16), batch())
    ps, pt = (log_softmax(v.double().numpy() / 3, axis=1) for v in (out, teacher))
    hard = -log_softmax(out.double().numpy(), axis=1)[np.arange(6), batch().labels_B.numpy()].mean()
    soft = 9 * (np.exp(pt) * (pt - ps)).sum(1).mean()
    assert parts["loss"].item() == pytest.approx(0.3 * hard + 0.7 * soft, rel=1e-5)
    assert parts["hard"].item() == pytest.approx(hard, rel=1e-5)


def test_no_soft_weight_is_the_plain_loss(digits_config: Config) -> None:
    task, out = make_task(INFO, digits_config), torch.randn(6, 4, generator=generator("x"))
    plain = Plain(task)(out, torch.zeros(0), batch())["loss"]
    hinton = Hinton(task, lambda x, b: out.flip(0), temperature=4.0, soft_weight=0.0)(out, torch.zeros(0), batch())
    torch.testing.assert_close(plain, hinton["loss"])


def test_teacher_sees_the_students_view(digits_config: Config) -> None:
    task, seen = make_task(INFO, digits_config), []

    def teacher(unit: torch.Tensor, b: Batch) -> torch.Tensor:
        seen.append((unit, b))
        return torch.zeros(6, 4)

    view, rows = torch.rand(6, 1, 16, 16), batch()
    Hinton(task, teacher, temperature=1.0, soft_weight=0.5)(torch.zeros(6, 4), view, rows)
    assert seen[0][0] is view and seen[0][1] is rows


def test_unknown_distiller_is_named(digits_config: Config) -> None:
    with pytest.raises(ValueError, match=r"student\.distiller 'crdd' is not known; choose one of kd"):
        make_distiller("crdd", make_task(INFO, digits_config), lambda x, b: x, temperature=1.0, soft_weight=0.5)
