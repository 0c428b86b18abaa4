"""Measured labels that look as if they went round: what `cgankd init` asks about, in one line, where no period is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Turn:
    """A circle that labels are often measured on: its length, what goes round, and how sure its ends are.

    `closed`: labels may reach the end itself, which no other scale does so often. Without, labels stop one step of an even
    grid before it, for a label at the end would be a score or a share. `signed`: it may also run from -period / 2 to
    period / 2.
    """

    period: float
    what: str
    closed: bool = True
    signed: bool = False


TURNS = (
    Turn(360.0, "degrees", signed=True),
    Turn(2 * math.pi, "radians", signed=True),
    Turn(24.0, "hours"),
    Turn(12.0, "hours or months"),
    Turn(365.0, "days of a year"),
    Turn(1440.0, "minutes of a day"),
    Turn(10.0, "tenths of a turn", closed=False),
    Turn(180.0, "degrees of half a turn", closed=False),
)
WIDEST, AT_SEAM, ROUNDING = 1 / 6, 1 / 20, 1e-3
"""Largest gap within the labels and at the seam, and how far an end may be beyond a turn, as shares of the turn."""
LEAST, FINEST = 12, 2000
"""Fewer different labels fill nothing; an even grid has at most so many steps a turn."""


def whole_turn(numbers: Sequence[float]) -> Turn | None:
    """The turn that labels fill, from its beginning to its end and without a wide gap; None where they fill none."""
    label_D = np.unique(np.asarray(numbers, dtype=np.float64))
    if len(label_D) < LEAST:
        return None
    for turn in TURNS:
        if any(_fills(label_D, low, turn) for low in (0.0, *([-turn.period / 2] if turn.signed else []))):
            return turn
    return None


def question(numbers: Sequence[float]) -> list[str]:
    """A line that says what was seen and the switch; nothing where labels fill no whole turn."""
    turn = whole_turn(numbers)
    if turn is None:
        return []
    period = f"{turn.period:.9g}"
    return [
        f"QUESTION: do the labels go round? {min(numbers):g} to {max(numbers):g} is a whole turn of {period} ({turn.what});"
        f" if {max(numbers):g} lies beside {min(numbers):g}, add --label-period {period}; if not, all is well"
    ]


def _fills(label_D: np.ndarray[tuple[int], np.dtype[np.float64]], low: float, turn: Turn) -> bool:
    period, high = turn.period, low + turn.period
    slack = ROUNDING * period
    if label_D[0] < low - slack or label_D[-1] > high + slack:
        return False
    seam = label_D[0] + period - label_D[-1]
    if np.diff(label_D).max() > WIDEST * period or label_D[0] - low > AT_SEAM * period or seam > AT_SEAM * period:
        return False
    return turn.closed or _stops_a_step_before(label_D, low, period)


def _stops_a_step_before(label_D: np.ndarray[tuple[int], np.dtype[np.float64]], low: float, period: float) -> bool:
    """Whether labels are multiples of a part of the turn and end one or two of those before its end."""
    step = float(np.diff(label_D).min())
    parts = round(period / step)
    places = (label_D - low) / (period / parts) if parts else label_D
    if not 2 * LEAST - 4 <= parts <= FINEST or float(np.abs(places - places.round()).max()) > 0.01:
        return False
    return bool(places[0] <= 2 and parts - 2 <= places[-1].round() <= parts - 1)
