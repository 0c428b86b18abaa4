"""NST against loops over channels, and what it does not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cgankd.distill.losses.selectivity import NeuronSelectivity, channel_mmd
from tests.distill import feature_toys as toys
from tests.distill.torchdistill_terms import draw


def by_hand(s: np.ndarray, t: np.ndarray, degree: int, offset: float) -> float:
    """MMD^2 of one image's channels [C, H, W], pair by pair."""
    unit = [[c.ravel() / np.linalg.norm(c) for c in m] for m in (s, t)]

    def mean(first: list[np.ndarray], second: list[np.ndarray]) -> float:
        return float(np.mean([(a @ b + offset) ** degree for a in first for b in second]))

    return mean(unit[0], unit[0]) + mean(unit[1], unit[1]) - 2 * mean(unit[0], unit[1])


@pytest.mark.parametrize(("degree", "offset"), [(2, 0.0), (1, 0.0), (3, 0.5)])
def test_mmd_by_hand(degree: int, offset: float) -> None:
    s, t = draw(3, 4, 5, 5), draw(3, 6, 5, 5)
    expected = [by_hand(a, b, degree, offset) for a, b in zip(s.numpy(), t.numpy(), strict=True)]
    np.testing.assert_allclose(channel_mmd(s, t, degree, offset).numpy(), expected, rtol=1e-4)
    assert (channel_mmd(s, t, degree, offset) >= 0).all()


def value(s: list[Tensor], t: list[Tensor], **options: float) -> Tensor:
    method = NeuronSelectivity(**options)  # type: ignore[arg-type]
    return method.losses(toys.only(stages=s), toys.only(stages=t), toys.batch(len(s[0])))["selectivity"]


def test_stages_add_up_at_the_smaller_size() -> None:
    s, t = [draw(4, 2, 8, 8), draw(4, 3, 4, 4)], [draw(4, 5, 4, 4), draw(4, 6, 2, 2)]
    small = [torch.nn.functional.avg_pool2d(m, 2) for m in s]
    expected = sum(channel_mmd(a, b, 2, 0.0).mean() for a, b in zip(small, t, strict=True))
    assert torch.allclose(value(s, t, selectivity_weight=7.0), 7.0 * expected, rtol=1e-5)


def test_order_and_scale_of_channels_do_not_matter() -> None:
    s, t = draw(4, 5, 3, 3), draw(4, 7, 3, 3)
    again = 3.0 * s[:, torch.tensor([3, 1, 4, 0, 2])]
    assert torch.allclose(value([s], [t]), value([again], [t]), rtol=1e-4)
    assert float(value([s], [torch.cat([s, s], dim=1)])) == pytest.approx(0, abs=1e-4)


def test_a_channel_that_is_dead_everywhere_has_no_gradient() -> None:
    s = torch.cat([draw(4, 2, 3, 3), torch.zeros(4, 1, 3, 3)], dim=1).requires_grad_()
    value([s], [draw(4, 5, 3, 3)]).backward()  # type: ignore[no-untyped-call]
    assert s.grad is not None and s.grad.isfinite().all() and not s.grad[:, 2].any() and s.grad[:, 0].any()


def test_fakes_count_as_asked() -> None:
    s, t = draw(4, 5, 3, 3), draw(4, 7, 3, 3)
    fake = torch.tensor([0, 1, 1, 0]).bool()
    method = NeuronSelectivity(selectivity_weight=1.0, fake_weight=0.5)
    found = method.losses(toys.only(stages=[s]), toys.only(stages=[t]), replace(toys.batch(4), is_fake=fake))
    weights = torch.where(fake, 0.5, 1.0)
    assert torch.allclose(found["selectivity"], (channel_mmd(s, t, 2, 0.0) * weights).sum() / 3, rtol=1e-5)
