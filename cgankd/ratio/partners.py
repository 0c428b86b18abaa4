"""M1, step 2a: the pool of fakes that meet real images while the density ratio is fitted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cgankd.labels.circle import wrapped
from cgankd.labels.targets import Rows
from cgankd.ratio.features import FeatureFn, JudgeFn
from cgankd.types import Draw, Vicinity

CHUNK = 1024
"""Fakes held as images at a time; only their features are kept."""


@dataclass(frozen=True)
class FakeSource:
    """Where fakes come from and the rule they must pass.

    zeta is `vicinity_drop` in raw label units, infinite for exact matching (no fake leaves an infinite vicinity). With 0 the
    fakes of scalars have exactly the real's label, and none is left out.
    """

    draw: Draw
    features: FeatureFn
    judge: JudgeFn
    vicinity: Vicinity
    zeta: float
    max_redraws: int
    new_labels: bool = True
    """Whether a redrawn fake gets another label too, and not another latent alone (`ratio.redraw`)."""
    targets: str = "marginal"
    """Which real images have fakes as partners: `ratio.targets`."""


@dataclass(frozen=True)
class Pool:
    """Fakes with the rows of their real partners: partner [P], features [P, F]; and the share that was dropped."""

    partner: Tensor
    features: Tensor
    redrawn_share: float
    dropped_share: float

    def __len__(self) -> int:
        return len(self.partner)


def draw_pool(source: FakeSource, label_N: Tensor, num: int, gen: torch.Generator) -> Pool:
    """Draw `num` fakes, each for one real image: its label uniform within +-zeta of the real's label.

    Partners run through a fresh permutation of the real images, or of their distinct labels (`source.targets`), over and over,
    so they are spread evenly.
    A fake whose predicted label is more than zeta from the real's label is redrawn; what still fails after
    max_redraws rounds is dropped together with its partner. Raises ValueError where nothing is left.
    """
    partner_P = Rows(label_N, source.targets, source.vicinity.period).spread(num, gen)
    kept, features, redrawn = [], [], 0
    for chunk in torch.split(partner_P, CHUNK):
        features_BF, inside_B, num_redrawn = draw_inside(source, label_N[chunk], gen)
        redrawn += num_redrawn
        if inside_B.any():
            kept.append(chunk[inside_B])
            features.append(features_BF[inside_B])
    if not kept:
        raise ValueError(
            f"ratio.vicinity_drop: all {num} fakes have a predicted label more than {source.zeta:g} from the label "
            f"asked for, after {source.max_redraws} redraws; raise it, train the GAN longer (cgan.num_steps) or the "
            "feature extractor longer (ratio.feature_steps)"
        )
    partner = torch.cat(kept)
    return Pool(partner, torch.cat(features), redrawn / num, 1.0 - len(partner) / num)


def draw_inside(source: FakeSource, label_B: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor, int]:
    """Features [B, F] of fakes for the labels, which of them [B] are inside the vicinity, and how many were redrawn."""
    asked_B = source.vicinity.neighbours(label_B, source.zeta, gen)
    images_BCHW = source.draw(asked_B, gen)
    if math.isinf(source.zeta) or source.zeta == 0:
        return source.features(images_BCHW), torch.ones(len(label_B), dtype=torch.bool), 0
    features_BF, inside_B = within(source, images_BCHW, label_B)
    redrawn = 0
    for _ in range(source.max_redraws):
        if inside_B.all():
            break
        outside = torch.nonzero(~inside_B)[:, 0]
        redrawn += len(outside)
        again_B = asked_B[outside]
        if source.new_labels:
            again_B = source.vicinity.neighbours(label_B[outside], source.zeta, gen)
        features_BF[outside], inside_B[outside] = within(source, source.draw(again_B, gen), label_B[outside])
    return features_BF, inside_B, redrawn


def within(source: FakeSource, images_BCHW: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
    """Features [B, F], and True [B] where the predicted label is at most zeta from the real's label: one pass."""
    features_BF, predicted_B = source.judge(images_BCHW)
    miss_B = predicted_B.float() - label_B.float()
    return features_BF, wrapped(miss_B, source.vicinity.period).abs() <= source.zeta
