"""Labels that look as if they went round: what `cgankd init` asks about, in one line, where no period is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cgankd.config import ConfigError
from cgankd.data.readers.label_text import number
from pipelines.project.fitted import covering
from pipelines.project.own_data import KINDS, OwnData


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
LEAST, FINEST, LEAST_NAMED = 12, 2000, 4
"""Fewer different labels fill nothing; an even grid has at most so many steps a turn; classes are quarters or finer."""


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


def class_question(class_names: Sequence[str], *, listed: bool) -> list[str]:
    """A line about classes called as the steps of a turn are: hours, months, or a circle in even parts; nothing for others.

    `listed`: the names come from a list, which a switch reads as numbers; folders need one to be written.
    """
    turn = named_turn(class_names)
    if turn is None:
        return []
    values = sorted(value for name in class_names if (value := number(name)) is not None)
    period, low, high = f"{turn.period:g}", f"{values[0]:g}", f"{values[-1]:g}"
    cure = (
        f"add --label-period {period}"
        if listed
        else f"write a list path,label and use --csv with --label-period {period}"
    )
    return [
        f"QUESTION: do the labels go round? The {len(values)} classes from {low} to {high} are a whole turn of {period}"
        f" ({turn.what}); if {high} lies beside {low}, {cure}; if they are names, all is well"
    ]


def named_turn(class_names: Sequence[str]) -> Turn | None:
    """The turn that whole numbers divide evenly, or fill with gaps as measured labels would; None where they do not."""
    found = [number(name) for name in class_names]
    values = sorted({value for value in found if value is not None and value == round(value)})
    if None in found or len(values) < max(len(set(found)), LEAST_NAMED):
        return None
    step = values[1] - values[0]
    even = all(after - before == step for before, after in pairwise(values))
    for turn in TURNS if even else ():
        starts = {0.0, step, *((-turn.period / 2, step - turn.period / 2) if turn.signed else ())}
        both_ends = turn.signed and values[0] in (0.0, -turn.period / 2) and values[-1] == values[0] + turn.period
        if turn.closed and values[0] in starts and (both_ends or len(values) * step == turn.period):
            return turn
    return None if even else whole_turn(values)  # a class may be missing


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


def check_period(period: float | None, task: str | None, *, listed: bool) -> None:
    """Raise ConfigError where labels that go round make no sense."""
    if period is None:
        return
    if not (math.isfinite(period) and period > 0):
        raise ConfigError(f"--label-period must be a positive number, the length of a turn, but is {period:g}")
    if not listed or task == KINDS[False]:
        raise ConfigError("--label-period is for measured labels, which come from --csv FILE; leave it out for classes")


def turn_lines(data: OwnData) -> list[str]:
    """Where a turn of labels that go round begins and ends, and what becomes of labels beyond it."""
    if data.label_period is None:
        return []
    low, high, numbers = *covering(data), data.numbers
    beyond = sum(not low <= value < low + data.label_period for value in numbers)
    moved = f"; {beyond} labels of other turns are brought to it" if beyond else ""
    return [f"labels go round in {data.label_period:.9g}: a turn is taken from {low:.9g} to {high:.9g}{moved}"]
