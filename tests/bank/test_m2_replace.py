from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cgankd.bank.m2_replace import replace


@given(st.lists(st.tuples(st.floats(-90, 90, width=32), st.floats(-90, 90, width=32)), min_size=1, max_size=20))
def test_replace_gives_the_prediction_unrounded_and_is_idempotent(pairs: list[tuple[float, float]]) -> None:
    asked, predicted = (torch.tensor(column) for column in zip(*pairs, strict=True))
    once = replace(asked, predicted)
    assert torch.equal(once, predicted)
    assert torch.equal(replace(once, predicted), once)


def test_a_prediction_in_another_type_is_refused_rather_than_truncated() -> None:
    with pytest.raises(AssertionError, match="labels at rest"):
        replace(torch.tensor([41.5]), torch.tensor([42]))
