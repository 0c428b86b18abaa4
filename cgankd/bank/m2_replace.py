"""M2, replace: the label of a fake becomes the teacher's prediction (arXiv 2104.03164)."""

from __future__ import annotations

from torch import Tensor


def replace(asked_B: Tensor, predicted_B: Tensor) -> Tensor:
    """Labels [B] := the teacher's predictions in raw units, as they are: a scalar is never truncated to an integer."""
    assert predicted_B.shape == asked_B.shape, "one prediction a fake"
    assert predicted_B.dtype == asked_B.dtype, f"predictions are {predicted_B.dtype}, labels at rest {asked_B.dtype}"
    return predicted_B.clone()
