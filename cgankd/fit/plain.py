"""The objective without a teacher: the task's own loss on hard labels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from cgankd.data.batches import Batch
from cgankd.fit.device import Forward
from cgankd.types import Task


class Plain:
    """The task's own loss on hard labels."""

    extra: nn.Module | None = None
    by_image = True
    """Its loss is a mean over images, each judged by itself, so that pieces of a batch add up to it."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def parameters(self) -> list[nn.Parameter]:
        """None beside the net's."""
        return []

    def no_decay(self) -> list[nn.Parameter]:
        """None beside the net's."""
        return []

    def rates(self) -> list[tuple[nn.Parameter, float]]:
        """None beside the net's."""
        return []

    def __call__(self, net: Forward, unit_BCHW: Tensor, batch: Batch, step: int) -> Mapping[str, Tensor]:
        """{"loss"}."""
        return {"loss": self.task.loss(net.pred(unit_BCHW), batch.labels_B)}
