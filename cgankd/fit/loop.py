"""What every training loop gets beside its data and its settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cgankd.fit.course import Course
from cgankd.fit.device import PLAIN, Plan
from cgankd.types import Checkpoint, LogFn, silent

SAVE_LEAST, SAVE_SHARE = 50, 10
"""Steps between two saves where nothing else is asked for: at least so many, and a tenth of all."""


@dataclass(frozen=True)
class Loop:
    """One run of a training loop: the seed of its draws, how it computes, where it reports, and where it is kept."""

    seed: int
    plan: Plan = PLAIN
    log: LogFn = silent
    checkpoint: Checkpoint | None = None
    """Where a killed run is taken up again; None = nowhere."""
    save_every: int | None = None
    """Steps between two saves; None leaves it to the loop."""
    who: str = "training"
    """What is trained, in the words of what is said of it."""
    section: str = ""
    """The section of params.yaml that has its learning rate."""
    course: Course = field(default_factory=Course, compare=False)
    """How it goes; `course.setback` tells afterwards whether it went back once."""

    @property
    def rate(self) -> float:
        """Share of the learning rate to take: 1, or a half after a setback. Known from `state` on."""
        return self.course.rate

    def state(self) -> Any:
        """What an earlier run of this loop saved last; None means a fresh start."""
        found = self.checkpoint.load() if self.checkpoint else None
        return self.course.taken_up(found, self.checkpoint, self.plan.say, self.who)

    def saves(self, done: int, total: int) -> bool:
        """Whether the state is to be saved after `done` of `total` steps."""
        every = self.save_every or max(SAVE_LEAST, total // SAVE_SHARE)
        return self.checkpoint is not None and (done % every == 0 or done == total)

    def save(self, done: int, state: dict[str, object]) -> None:
        """Keep the state after `done` steps; `saves` says when."""
        assert self.checkpoint is not None, "there is a place to keep it"
        self.checkpoint.save(done, self.course.marked(state))
