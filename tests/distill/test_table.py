"""Kept teacher outputs beside the outputs themselves, and top-k against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cgankd.config import ConfigError, config_from_dict
from cgankd.distill.table import TeacherTable, pack, rows_of, top_of
from cgankd.rng import generator
from tests.conftest import preset


def outputs(num: int = 20, classes: int = 12) -> Tensor:
    return 4 * torch.randn(num, classes, generator=generator("outputs", num, classes))


def table(out: Tensor, precision: str) -> TeacherTable:
    return TeacherTable(pack(out, precision), out.shape[1])


def test_full_is_exact_and_half_is_half() -> None:
    out, rows = outputs(), torch.tensor([3, 3, 19, 0])
    assert torch.equal(table(out, "full").rows(rows), out[rows])
    half = table(out, "half").rows(rows)
    assert half.dtype == torch.float32 and torch.equal(
        half, torch.from_numpy(out.numpy().astype(np.float16)).float()[rows]
    )


def test_topk_keeps_the_probabilities_of_the_largest_and_the_sum_of_the_others() -> None:
    out, k = outputs(), 3
    kept = table(out, "topk:3").rows(torch.arange(len(out))).double().softmax(1).numpy()
    logits = out.double().numpy()
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    order = np.argsort(-logits, axis=1)
    for row in range(len(out)):
        top, others = order[row, :k], order[row, k:]
        np.testing.assert_allclose(kept[row, top], true[row, top], rtol=6e-3)
        np.testing.assert_allclose(kept[row, others], true[row, others].mean(), rtol=2e-2)
    np.testing.assert_allclose(kept.argmax(1), order[:, 0])


@pytest.mark.parametrize("precision", ["topk:12", "topk:99"])
def test_topk_of_all_classes_is_half(precision: str) -> None:
    out, rows = outputs(), torch.arange(20)
    assert torch.equal(table(out, precision).rows(rows), table(out, "half").rows(rows))


def test_bytes_a_row_are_as_documented() -> None:
    out = outputs(10, 100)
    for precision, size in (("full", 400), ("half", 200), ("topk:5", 22)):
        assert sum(c.nbytes for c in pack(out, precision).values()) == 10 * size


def test_tables_end_to_end() -> None:
    out, rows = outputs(), torch.tensor([19, 0, 7, 8, 8])
    assert torch.equal(rows_of([table(out[:8], "full"), table(out[8:], "full")], rows), out[rows])


@pytest.mark.parametrize("text", ["quarter", "topk", "topk:", "topk:0", "topk:-3", "half:2"])
def test_other_names_are_errors(text: str) -> None:
    with pytest.raises(ValueError, match="student.teacher_cache must be full, half or topk:NUMBER"):
        top_of(text)
    values = preset("digits")
    values["student"]["teacher_cache"] = text
    with pytest.raises(ConfigError, match="student.teacher_cache"):
        config_from_dict(values)


def test_a_scalar_has_no_largest_outputs() -> None:
    values = preset("chairs")
    values["student"]["teacher_cache"] = "topk:4"
    with pytest.raises(ConfigError, match="student.teacher_cache"):
        config_from_dict(values)
    values["student"]["teacher_cache"] = "half"
    assert config_from_dict(values).student.teacher_cache == "half"


def test_the_memory_budget_is_checked() -> None:
    values = preset("digits")
    values["data"]["memory_budget_gb"] = -1
    with pytest.raises(ConfigError, match="data.memory_budget_gb"):
        config_from_dict(values)
