"""Seeds of torch's global generator."""

from __future__ import annotations

import pytest
import torch

from cgankd.rng import derive, seed_all


def test_layers_without_a_generator_draw_what_they_draw_after_manual_seed() -> None:
    seed_all(3, "fit", 7)
    ours = torch.rand(5), torch.nn.functional.dropout(torch.ones(64))
    torch.manual_seed(derive(3, "fit", 7))
    assert torch.equal(torch.rand(5), ours[0]) and torch.equal(torch.nn.functional.dropout(torch.ones(64)), ours[1])
    assert torch.initial_seed() == derive(3, "fit", 7)


def test_a_seed_of_every_step_does_not_write_down_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` does for each kind of device that was never used, which takes as long as half a step of a small net."""

    def refuse(*args: object) -> list[str]:
        raise AssertionError("the stack is written down")

    monkeypatch.setattr("traceback.format_stack", refuse)
    seed_all(0, "fit", 1)
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        with pytest.raises(AssertionError):
            torch.manual_seed(0)
