"""When the state of a training loop is saved, and what it is taken up from."""

from __future__ import annotations

import pytest

from cgankd.fit.loop import Loop


class Kept:
    """A checkpoint in memory."""

    def __init__(self) -> None:
        self.states: dict[int, dict[str, object]] = {}

    def load(self) -> dict[str, object] | None:
        return self.states[max(self.states)] if self.states else None

    def save(self, step: int, state: dict[str, object]) -> None:
        self.states[step] = state


@pytest.mark.parametrize(
    ("total", "save_every", "expected"),
    [
        (120, None, [50, 100, 120]),  # a tenth would be 12, fewer than 50
        (1005, None, [*range(100, 1001, 100), 1005]),
        (10, 4, [4, 8, 10]),
        (30, None, [30]),
    ],
)
def test_the_state_is_saved_now_and_then_and_at_the_end(
    total: int, save_every: int | None, expected: list[int]
) -> None:
    kept = Kept()
    loop = Loop(0, checkpoint=kept, save_every=save_every)
    assert loop.state() is None
    for done in range(1, total + 1):
        if loop.saves(done, total):
            loop.save(done, {"step": done})
    assert list(kept.states) == expected and loop.state() == {"step": total}


def test_a_loop_that_is_kept_nowhere_saves_nothing_and_starts_afresh() -> None:
    loop = Loop(0, save_every=1)
    assert not any(loop.saves(done, 10) for done in range(1, 11)) and loop.state() is None
    with pytest.raises(AssertionError, match="a place to keep it"):
        loop.save(1, {})


def test_slow_steps_are_saved_by_the_clock_at_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of ten seconds, saves of two: one after a minute, from then on one each 200 s, beside those by the steps."""
    now = [0.0]
    monkeypatch.setattr("cgankd.fit.loop.time.monotonic", lambda: now[0])

    class Slow(Kept):
        def save(self, step: int, state: dict[str, object]) -> None:
            super().save(step, state)
            now[0] += 2.0

    class Both(Slow):
        def __init__(self) -> None:
            super().__init__()
            self.between = Slow()

    kept = Both()
    loop = Loop(0, checkpoint=kept, save_every=30)
    for done in range(1, 60):
        now[0] += 10.0
        if loop.saves(done, 1000):
            loop.save(done, {"step": done})
    assert list(kept.between.states) == [6, 26, 50] and list(kept.states) == [30]
    assert loop.state() == {"step": 50}
    plain = Slow()
    loop = Loop(0, checkpoint=plain, save_every=30)
    for done in range(1, 60):
        now[0] += 10.0
        assert loop.saves(done, 1000) == (done == 30), "without a place of their own there are none by the clock"


def test_the_end_is_saved_only_where_it_is_asked_for() -> None:
    loop = Loop(0, checkpoint=Kept())
    assert loop.saves(10, 10) and not loop.saves(10, 10, last=False)
    assert loop.saves(4, 10, every=2) and not loop.saves(5, 10, every=2)
    assert Loop(0, checkpoint=Kept(), save_every=5).saves(5, 10, every=2), "the loop's own wish comes first"
