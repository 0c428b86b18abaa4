"""What every training loop gets beside its data and its settings."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from cgankd.config import ConfigError
from cgankd.fit.course import Course
from cgankd.fit.device import PLAIN, Plan
from cgankd.fit.ranks import agreed, ranks, same_everywhere
from cgankd.types import Checkpoint, LogFn, silent

SAVE_LEAST, SAVE_SHARE = 50, 10
"""Steps between two saves where nothing else is asked for: at least so many, and a tenth of all."""
SAVE_EVERY_S = 60.0
"""Seconds after which a loop saves in between, so that a kill costs a minute however slow the steps are."""
ASK_EVERY = 5
"""Steps between two looks at the clock where several ranks train together."""
SAVE_COST = 100.0
"""A save in between comes no sooner than so many times what the last one took: all of them cost at most a hundredth."""


@dataclass
class Pace:
    """When something was last saved and how long that took, in seconds."""

    saved_s: float = field(default_factory=lambda: time.monotonic())
    took_s: float = 0.0
    late: bool = False
    """Whether the save to come is one by the clock."""

    def due(self, every_s: float) -> bool:
        """Whether so much time has gone by that another save is worth it."""
        return time.monotonic() - self.saved_s >= max(every_s, SAVE_COST * self.took_s)

    def saved(self, since_s: float) -> None:
        """Note a save that was begun at `since_s` on the monotonic clock and is done now."""
        self.saved_s = time.monotonic()
        self.took_s = self.saved_s - since_s


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
    pace: Pace = field(default_factory=Pace, compare=False)

    @property
    def rate(self) -> float:
        """Share of the learning rate to take: 1, or a half after a setback. Known from `state` on."""
        return self.course.rate

    def state(self) -> Any:
        """What an earlier run of this loop saved last; None means a fresh start."""
        found = None
        if self.checkpoint is not None:
            # After numbers that are not finite it is the last one by the steps, which does not depend on the clock.
            late = None if self.course.failed else self._between()
            found = None if late is None else late.load()
            found = self.checkpoint.load() if found is None else found
        step: Any = -1 if found is None else found.get("step", 0)
        if not same_everywhere(int(step)):
            raise ConfigError(
                f"{self.who}: the ranks of this training found other progress each; give all of them the same folder, or delete"
                " artifacts/resume everywhere, and start again"
            )
        return self.course.taken_up(found, self.checkpoint, self.plan.say, self.who)

    def saves(self, done: int, total: int, every: int | None = None, *, last: bool = True) -> bool:
        """Whether the state is to be saved after `done` of `total` steps: each `every` steps, with `last` at the end, and by the
        clock in between where the checkpoint has a place for that. No number of an undisturbed run depends on when that is."""
        self.pace.late = False
        if self.checkpoint is None:
            return False
        if done == total:
            return last
        every = self.save_every or every or max(SAVE_LEAST, total // SAVE_SHARE)
        if done % every == 0:
            return True
        if (
            ranks().size > 1 and done % ASK_EVERY
        ):  # whether it is time is the first rank's to say, which costs a message
            return False
        self.pace.late = self._between() is not None and agreed(self.pace.due(SAVE_EVERY_S))
        return self.pace.late

    def save(self, done: int, state: dict[str, object]) -> None:
        """Keep the state after `done` steps; `saves` says when."""
        since_s = time.monotonic()
        place = self._between() if self.pace.late else self.checkpoint
        assert place is not None, "there is a place to keep it"
        place.save(done, self.course.marked(state))
        self.pace.saved(since_s)

    def _between(self) -> Checkpoint | None:
        """Where states go that are saved by the clock; the last one by the steps stays, which does not depend on the clock."""
        found: Checkpoint | None = getattr(self.checkpoint, "between", None)
        return found
