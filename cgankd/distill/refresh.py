"""Batches whose fakes are chosen anew every few epochs by the student and the teacher (`skd_speculative`, level image)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from cgankd.data.batches import Batch, Mixture
from cgankd.distill.base import Distiller
from cgankd.distill.losses.speculative import SpeculativeKD
from cgankd.rng import generator
from cgankd.types import PredictFn, Task


def chooser_of(distiller: Distiller) -> SpeculativeKD | None:
    """The part of a KD loss that chooses the bank's rows, where there is one."""
    found = [m for m in distiller.modules() if isinstance(m, SpeculativeKD) and m.refresh_every() is not None]
    return found[0] if found else None


class ChosenRows:
    """The batches of a mixture with each fake replaced by one of the rows chosen last.

    The choice is a function of (seed, step) and of the student at that step; it is kept in the distiller's buffers, so
    that a resumed run goes on with it.
    """

    def __init__(
        self, data: Mixture, chooser: SpeculativeKD, task: Task, student: PredictFn, teacher_MO: Tensor, seed: int
    ) -> None:
        assert data.bank is not None, "rows are chosen out of a bank"
        self.data, self.bank, self.chooser, self.task = data, data.bank, chooser, task
        self.student, self.teacher_MO, self.seed = student, teacher_MO, seed
        epochs = chooser.refresh_every()
        assert epochs is not None
        num_rows = len(data.real) + len(data.bank)
        self.every = max(1, round(epochs * num_rows / data.batch_size))
        self.curves: dict[str, list[tuple[int, float]]] = {}
        """Numbers of each choice by name, with its step: see `Speculation`; `chosen` 0 kept the choice before it."""

    def batch(self, step: int) -> Batch:
        """The batch of a step; a choice is made first where one is due."""
        if step % self.every == 0:
            outputs_MO, y_M = self.student(self.bank.images), self.task.targets(self.bank.labels)
            gen = generator(self.seed, "refresh", step)
            chosen = self.chooser.refresh(outputs_MO, self.teacher_MO, y_M, gen)
            values = {"chosen": len(chosen.rows) / len(self.bank)}
            values |= {name: getattr(chosen, name) for name in ("acceptance", "correction", "coverage")}
            for name, value in values.items():
                points = self.curves.setdefault(f"speculative_{name}", [])
                points[:] = [*(point for point in points if point[0] < step), (step, value)]  # a training may go back
        batch = self.data.batch(step)
        fake_B, first = batch.is_fake_B, len(self.data.real)
        rows_F = self.chooser.redirect(batch.index_B[fake_B] - first)
        index_B, images, labels_B = batch.index_B.clone(), batch.images_BCHW.clone(), batch.labels_B.clone()
        index_B[fake_B] = rows_F + first
        images[fake_B], labels_B[fake_B] = self.bank.images[rows_F], self.bank.labels[rows_F]
        return replace(batch, images_BCHW=images, labels_B=labels_B, index_B=index_B)
