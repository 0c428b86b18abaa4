"""`--recover`: a few hundred steps of training on as int8 will compute, taught by the teacher on real images and fakes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from cgankd.config import StudentConfig
from cgankd.data.augment import augment
from cgankd.data.batches import Mixture
from cgankd.export import ShippedModel
from cgankd.fit.fake_int8 import FakeInt8
from cgankd.fit.loop import Loop
from cgankd.fit.predictor import Feed, fit_predictor
from cgankd.fit.taught import Taught
from cgankd.rng import derive
from cgankd.types import Split, Task
from pipelines.device.forms import Source

RATE_SHARES = (0.1, 0.01)
"""Of the student's peak learning rate; validation says which was better."""


@dataclass(frozen=True)
class Lessons:
    """What a student is trained on with: real images, the bank where there is one, the teacher's outputs [N + M, O] on both."""

    real: Split
    bank: Split | None
    teacher: Tensor
    task: Task


def recovered(source: Source, lessons: Lessons, cfg: StudentConfig, *, seed: int, steps: int) -> Sequence[Source]:
    """The student trained on, once for each share of its learning rate; the same seed gives the same weights.

    Raises Diverged.
    """
    found = []
    for share in RATE_SHARES:
        model = copy.deepcopy(source.model)
        assert isinstance(model, ShippedModel)
        model.requires_grad_(True)
        own = derive(seed, "recover")
        fit = replace(
            cfg,
            num_steps=steps,
            learning_rate=cfg.learning_rate * share,
            schedule="cosine",
            precision="fp32",
            tune="all",
            head_rate=1.0,
        )
        data = Mixture(lessons.real, lessons.bank, real_share=cfg.real_share, batch_size=fit.batch_size, seed=own)
        fit_predictor(
            FakeInt8(model.net),
            Taught(lessons.task, lessons.teacher, cfg.temperature, cfg.soft_weight),
            Feed(data.batch, lambda unit, gen: augment(unit, cfg.augment, gen)),
            fit,
            Loop(own, who="int8 training", section="student"),
        )
        found.append(replace(source, model=model.eval().requires_grad_(False)))
    return found
