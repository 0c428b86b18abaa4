"""Several predictors as one: the weighted mean of their answers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from cgankd.types import Outputs


class Averaging(Protocol):
    """How outputs [K, B, O] of K members with weights [K] become one; see cgankd.labels.ensemble."""

    def combine(self, output_KBO: Tensor, weight_K: Tensor) -> Tensor: ...

    def spread(self, output_KBO: Tensor, weight_K: Tensor) -> Tensor: ...


class Ensemble(nn.Module):
    """Members whose answers are averaged with weights: images [B, C, H, W] in [0, 1] to outputs [B, O].

    To a KD loss that reads features it shows those of its heaviest member, with the outputs of all.
    """

    weights: Tensor

    def __init__(
        self, members: Sequence[nn.Module], weights: Sequence[float], mean: Averaging, full: Collection[int] = ()
    ) -> None:
        """`full` are the places of members that compute in float32 whatever precision the others are run in."""
        super().__init__()
        assert len(members) == len(weights) >= 2, "a weight a member, of several"
        self.full = frozenset(full)
        self.members = nn.ModuleList(members)
        self.register_buffer(
            "weights", torch.tensor(weights, dtype=torch.float32), persistent=False
        )  # config.json has them
        self.mean, self.heaviest = mean, max(range(len(weights)), key=lambda k: (weights[k], -k))

    @property
    def shown(self) -> nn.Module:
        """The member whose features are shown: the heaviest, of several the first."""
        return self.members[self.heaviest]

    def forward(self, unit_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] to outputs [B, O]."""
        return self.mean.combine(self.each(unit_BCHW), self.weights)

    def each(self, unit_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] to the outputs [K, B, O] of each member, in float32."""
        return torch.stack([self._of(number, unit_BCHW) for number in range(len(self.members))])

    def _of(self, number: int, unit_BCHW: Tensor) -> Tensor:
        with self._precision(number, unit_BCHW):
            return self.members[number](unit_BCHW).float()  # type: ignore[no-any-return]

    def _precision(self, number: int, unit_BCHW: Tensor) -> AbstractContextManager[object]:
        """Outside of autocast for members of `full`. Nothing is entered where no autocast is, as exporters know none."""
        device = unit_BCHW.device.type
        if number in self.full and torch.is_autocast_enabled(device):
            return torch.autocast(device, enabled=False)
        return nullcontext()

    def outputs(self, unit_BCHW: Tensor) -> Outputs:
        """Images in [0, 1] to outputs with the features and the head of the heaviest member; `pred` equals `forward`."""
        with self._precision(self.heaviest, unit_BCHW):
            shown: Outputs = self.shown.outputs(unit_BCHW)  # type: ignore[operator]
        others = range(len(self.members))
        given = [shown.pred.float() if k == self.heaviest else self._of(k, unit_BCHW) for k in others]
        return replace(shown, pred=self.mean.combine(torch.stack(given), self.weights))


class Spreading(nn.Module):
    """An ensemble whose outputs [B, O + 1] have how far its members disagree as their last column."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, unit_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] to outputs and spread."""
        of = self.ensemble
        output_KBO = of.each(unit_BCHW)
        spread_B = of.mean.spread(output_KBO, of.weights)
        return torch.cat([of.mean.combine(output_KBO, of.weights), spread_B[:, None]], dim=1)
