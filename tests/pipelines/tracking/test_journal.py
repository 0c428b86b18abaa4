from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.tracking.journal import (
    WORK_TAG,
    Event,
    FanOut,
    JsonLines,
    Sink,
    Tracker,
    closing_events,
    is_closed,
    left_unfinished,
    read_roots,
    state,
)


class Collect:
    def __init__(self, fail_at: int | None = None) -> None:
        self.events: list[Event] = []
        self.fail_at = fail_at

    def apply(self, event: Event) -> None:
        if len(self.events) == self.fail_at:
            raise ConnectionError("gone")
        self.events.append(event)


def test_every_report_is_a_line_that_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "teacher.jsonl"
    tracker = Tracker(JsonLines(path), "teacher", {"stage": "teacher"})
    tracker.params({"net": "vgg", "width": 3, "hidden": [1, 2], "cap": None})
    tracker.metrics({"val": 1, "nan": float("nan")})
    tracker.curve("gan/loss", [(1, 0.5), (2, 0.25)])
    tracker.verdict("The bank helps.")
    child = tracker.child("raw-0", {"seed": 0}, {"arm": "raw"})
    child.close("FINISHED")
    tracker.close("FINISHED")
    tracker.close("FAILED")
    (events,) = read_roots(path).values()
    assert [e["kind"] for e in events] == [
        "run",
        "params",
        "metrics",
        "curve",
        "tags",
        "run",
        "params",
        "close",
        "close",
    ]
    assert events[1]["values"] == {"net": "vgg", "width": "3", "hidden": "[1, 2]", "cap": "null"}
    assert events[3]["points"] == [[1, 0.5], [2, 0.25]]
    assert events[4]["values"] == {"mlflow.note.content": "The bank helps."}
    assert events[5]["parent"] == tracker.run and events[5]["tags"] == {"level": "child", "arm": "raw"}
    assert {e["root"] for e in events} == {tracker.run} and is_closed(events)


def test_a_line_cut_short_by_a_kill_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    tracker = Tracker(JsonLines(path), "a", {})
    with path.open("a") as file:
        file.write('{"kind": "metrics", "run": "x", "ro')
    tracker.metrics({"val": 1.0})
    path.open("a").close()
    (events,) = read_roots(path).values()
    assert [e["kind"] for e in events] == ["run", "metrics"]
    assert len(path.read_text().splitlines()) == 3 and json.loads(path.read_text().splitlines()[2])["kind"] == "metrics"


def test_a_sink_that_fails_is_reported_once_and_the_others_go_on() -> None:
    good, bad = Collect(), Collect(fail_at=1)
    failures: list[tuple[Sink, str]] = []
    tracker = Tracker(FanOut([bad, good], lambda s, e: failures.append((s, str(e)))), "a", {})
    for i in range(4):
        tracker.metrics({"i": i})
    tracker.close("FINISHED")
    assert failures == [(bad, "gone")]
    assert len(bad.events) == 1 and [e["kind"] for e in good.events] == ["run", *4 * ["metrics"], "close"]


def test_a_killed_run_is_ended_with_its_children_first() -> None:
    sink = Collect()
    tracker = Tracker(sink, "a", {})
    done, open_child = tracker.child("b", {}, {}), tracker.child("c", {}, {})
    done.close("FINISHED")
    ends = closing_events(sink.events)
    assert [e["run"] for e in ends] == [open_child.run, tracker.run]
    assert {e["status"] for e in ends} == {"FAILED"} and ends[0]["time_ms"] == sink.events[-1]["time_ms"]
    assert not is_closed(sink.events) and is_closed(sink.events + ends) and closing_events(sink.events + ends) == []
    assert state(sink.events) == "none"


def test_a_run_that_was_taken_up_is_under_way_until_it_ends_again() -> None:
    sink, facts = Collect(), {"tags": {WORK_TAG: "w"}}
    first = Tracker(sink, "p/a", facts)
    lost, kept = first.child("b", {}, {}), first.child("c", {}, {})
    kept.child("d", {}, {}).close("FINISHED")
    kept.close("FINISHED")
    lost.close("FAILED")
    first.close("FAILED")
    roots = {first.run: sink.events}
    assert left_unfinished(roots, "other") is None
    former = left_unfinished(roots, "w")
    assert former is not None and former.finished == {"p/c"} and former.again == 0
    second = Tracker(sink, "p/a", facts, former=former)
    assert second.run == second.root == first.run and sink.events[-1]["again"] == 1
    assert not is_closed(sink.events) and [e["run"] for e in closing_events(sink.events)] == [first.run]
    again, other = second.child("b", {}, {}, again=True), second.child("b", {}, {})
    assert again.run == lost.run and other.run != lost.run
    assert [e["run"] for e in closing_events(sink.events)] == [other.run, lost.run, first.run]
    kept_again = second.child("c", {}, {}, again=True)
    assert kept_again.run == kept.run and kept_again.former is not None and kept_again.former.finished == {"p/d"}
    second.close("FINISHED")
    assert is_closed(sink.events) and left_unfinished(roots, "w") is None
    later = Tracker(sink, "p/a", facts)
    roots[later.run] = [event for event in sink.events if event["root"] == later.run]
    found = left_unfinished(roots, "w")
    assert found is not None and found.run == later.run


@pytest.mark.parametrize("points", [0, 1])
def test_no_event_for_no_numbers(points: int) -> None:
    sink = Collect()
    Tracker(sink, "a", {}).metrics({"x": 1.0} if points else {})
    assert len(sink.events) == 1 + points
