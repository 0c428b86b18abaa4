"""Several predictors as one: the weighted mean of their answers."""

from __future__ import annotations

from collections.abc import Sequence
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

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float], mean: Averaging) -> None:
        super().__init__()
        assert len(members) == len(weights) >= 2, "a weight a member, of several"
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
        return self.mean.combine(torch.stack([member(unit_BCHW) for member in self.members]), self.weights)

    def outputs(self, unit_BCHW: Tensor) -> Outputs:
        """Images in [0, 1] to outputs with the features and the head of the heaviest member; `pred` equals `forward`."""
        shown: Outputs = self.shown.outputs(unit_BCHW)  # type: ignore[operator]
        given = [shown.pred if k == self.heaviest else m(unit_BCHW) for k, m in enumerate(self.members)]
        return replace(shown, pred=self.mean.combine(torch.stack(given), self.weights))


class Spreading(nn.Module):
    """An ensemble whose outputs [B, O + 1] have how far its members disagree as their last column."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, unit_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] to outputs and spread."""
        of = self.ensemble
        output_KBO = torch.stack([member(unit_BCHW) for member in of.members])
        spread_B = of.mean.spread(output_KBO, of.weights)
        return torch.cat([of.mean.combine(output_KBO, of.weights), spread_B[:, None]], dim=1)
