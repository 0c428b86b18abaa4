"""How one training goes: the step it is at, and its setback, if numbers that are not finite took it back once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cgankd.types import Checkpoint

RATE = 0.5
"""Share of the learning rate that a training goes on with after a setback."""
MARK = "setback"
"""Key of the setback in a saved state."""


@dataclass(frozen=True)
class Setback:
    """Numbers that are not finite were `found` at `step` (from 1), and the training went on from `back_to` at half the rate."""

    step: int
    back_to: int
    found: str
    setting: str
    """The learning rate to lower."""


@dataclass
class Course:
    """The present step of a training, and its setback; copies of a Loop share it."""

    step: int = 0
    setback: Setback | None = None
    failed: Setback | None = None
    """A setback whose `back_to` is not known yet: it is set by the next `taken_up`."""

    @property
    def rate(self) -> float:
        """Share of the learning rate."""
        return 1.0 if self.setback is None else RATE

    def taken_up(self, found: Any, checkpoint: Checkpoint | None, say: Callable[[str], None], who: str) -> Any:
        """A saved state without its mark; None for a fresh start.

        After a failure the mark is saved at once, so that a training killed before its next save goes on at half the rate too.
        """
        mark = None if found is None else found.get(MARK)
        if mark is not None:
            self.setback = Setback(**mark)
        state = {} if found is None else {key: value for key, value in found.items() if key != MARK}
        if self.failed is not None:
            step = int(state.get("step", 0))
            failed, self.failed = self.failed, None
            self.setback = dataclasses.replace(failed, back_to=step)
            said = f"{who}: not finite at step {failed.step} ({failed.found})"
            say(f"{said}; going on from step {step} at half the learning rate")
            if checkpoint is not None:
                checkpoint.save(step, self.marked(state or {"step": 0}))
        return None if found is None or (mark is not None and state.keys() == {"step"}) else state

    def marked(self, state: dict[str, object]) -> dict[str, object]:
        """A state to be saved, with the setback that it comes after."""
        return state if self.setback is None else state | {MARK: dataclasses.asdict(self.setback)}
