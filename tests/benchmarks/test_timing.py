"""Turns of the two sides, and the processes they wait in."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest

from benchmarks import place as place_module
from benchmarks import sides, timing
from benchmarks.timing import Agreement, Case, Turns, Work, by_turns, dealt
from cgankd.fit.device import Machine


def case(rounds: int, **repeats: int) -> Case:
    def build(side: timing.Side, quick: bool) -> Work:
        return Work(lambda warmup, repeats: [1.0 + repeats] * repeats, 4.0, "fp32", lambda: 3.0, 0.5, lambda: side)

    return Case(
        "c", "t", None, build, lambda quick: [Agreement("same", 0.1, 0.2)], {"plain": 0, "fast": 1}, repeats, rounds
    )


def test_repetitions_are_dealt_evenly() -> None:
    assert dealt(10, 3) == [4, 3, 3] and dealt(3, 3) == [1, 1, 1] and dealt(2, 3) == [1, 1] and dealt(5, 1) == [5]


def test_both_sides_take_turns_and_peaks_stand_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "peak_gflops", lambda precision, device: 7.0)
    one = case(3, plain=3, fast=7)
    turns: dict[str, Turns] = {"plain": Turns(one, "plain"), "fast": Turns(one, "fast")}
    order: list[str] = []

    def ask(side: str) -> Any:
        return lambda **request: (
            order.append(f"{side} {request['do']} {request.get('repeats', '')}".strip()),
            turns[side].answer(**request),
        )[1]

    plain, fast = by_turns(one, ask("plain"), ask("fast"))
    assert order == [
        *("plain build", "fast build", "plain peak", "fast peak"),
        *("plain time 1", "fast time 3", "plain time 1", "fast time 2", "plain time 1", "fast time 2"),
        *("plain peak", "fast peak", "plain record", "fast record"),
    ]
    assert plain["repeats"] == 3 and fast["repeats"] == 7 and fast["peaks"] == [7.0, 7.0]
    assert plain["median_s"] == 2.5 and plain["images_per_s"] == 4 / 2.5, "with the share of what is done once"
    assert (fast["flop"], fast["note"]) == (3.0, "fast") and fast["agreement"][0]["holds"] and "agreement" not in plain


def test_a_line_of_json_answers_each(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"do": "a"}\n{"do": "b", "repeats": 2}\n'))

    def answer(do: str, repeats: int = 0) -> list[object]:
        print("a library's chatter")
        return [do, repeats]

    sides.serve(answer)
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [["a", 0], ["b", 2]]


def test_a_process_waits_answers_and_tells_its_last_line() -> None:
    with sides.Waiting("vicinity_search", "plain") as waiting:
        assert waiting.ask(do="build") is None
        assert waiting.process.poll() is None
        with pytest.raises(sides.Failed, match=r"vicinity_search --serve plain: TypeError: .*unexpected"):
            waiting.ask(unexpected=1)
    assert waiting.process.returncode is not None
    with sides.Waiting("vicinity_search", "plain") as slow, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sides, "LIMIT_S", 0)
        with pytest.raises(sides.Failed, match="took more than 0 s"):
            slow.ask(do="build")


def test_both_sides_run_on_the_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("cuda", "cpu"):
        monkeypatch.setattr(place_module, "this_machine", lambda device=device: Machine(device, "a GPU", True, False))
        assert timing.fast_plan(False).device == device
        assert Work(lambda warmup, repeats: [], 1.0, "auto").device == device
