from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipelines.runtime import progress
from pipelines.runtime.progress import Meter, duration_text, values_text


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture()
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def run(clock: Clock, steps: int, step_s: float) -> list[str]:
    text = io.StringIO()
    meter = Meter(Console(file=text, width=60))
    for step in range(1, steps + 1):
        clock.now += step_s
        meter.update("gan", step, {"loss": 0.5}, steps)
    return text.getvalue().splitlines()


def test_a_fast_loop_is_one_line(clock: Clock) -> None:
    (line,) = run(clock, 100, 0.01)
    assert line == "gan 100/100, 100/s: loss 0.5"


def test_a_loop_of_a_minute_speaks_at_each_tenth(clock: Clock) -> None:
    lines = run(clock, 100, 0.6)
    assert [line.split(",")[0] for line in lines] == [f"gan {n}/100" for n in [*range(11, 100, 10), 100]]
    assert "53 s left" in lines[0] and "left" not in lines[-1]


def test_a_slow_loop_speaks_every_fifteen_seconds(clock: Clock) -> None:
    lines = run(clock, 1000, 1.0)
    assert len(lines) == pytest.approx(1000 / 15, abs=2)


def test_a_resumed_loop_counts_its_own_steps_only(clock: Clock) -> None:
    text = io.StringIO()
    meter = Meter(Console(file=text))
    meter.update("gan", 901, {}, 1000)
    clock.now += 20.0
    meter.update("gan", 921, {}, 1000)
    assert text.getvalue() == "gan 921/1000, 1/s, 1 min 19 s left\n"


def test_a_terminal_gets_a_bar_with_the_last_values() -> None:
    text = io.StringIO()
    meter = Meter(Console(file=text, force_terminal=True, width=100))
    for step in range(1, 4):
        meter.update("gan [raw]", step, {"loss": step / 8} | ({"val": 9.0} if step == 1 else {}), 3)
    assert "3/3" in text.getvalue() and "loss 0.375  val 9" in text.getvalue() and meter.bar is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
    assert values_text({"a": 0.123456, "b": 2}) == "a 0.1235  b 2"
