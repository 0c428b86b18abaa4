"""The weights of a training at its best validation point, kept beside those of its last step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Best:
    """Keeps a copy of a module's weights whenever its score beats all before; equal scores leave the earliest.

    `step` is in optimiser steps (0 before the first score), `score` in the unit of the headline.
    """

    def __init__(self, module: nn.Module, *, higher_is_better: bool) -> None:
        self.module, self.higher_is_better = module, higher_is_better
        self.forget()

    def forget(self) -> None:
        """Begin anew, without a score."""
        higher_is_better = self.higher_is_better
        self.step, self.score = 0, float("-inf") if higher_is_better else float("inf")
        self.weights: dict[str, Tensor] = {}

    def see(self, step: int, score: float) -> None:
        """Take a validation score of the module as it is now; the first one is kept until a number beats it."""
        better = score > self.score if self.higher_is_better else score < self.score
        if better or not self.weights or self.score != self.score:
            self.step, self.score = step, score
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """What `load` takes to go on after a kill."""
        return {"step": self.step, "score": self.score, "weights": self.weights}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.step, self.score, self.weights = int(state["step"]), float(state["score"]), dict(state["weights"])
