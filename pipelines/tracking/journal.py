"""The record of a run as JSON lines, one event a line: always kept, and enough to replay into MLflow later.

Every event names its run and the root run it belongs to. Kinds: run, params, metrics, curve, tags, picture, file,
dataset, say, close, and mlflow (what became of the run there). A run that was left unfinished and is taken up again has
another event `run`, whose `again` counts how often.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cgankd.data.regular import check_folders, read_text
from pipelines.tracking.masks import masked_values
from pipelines.tracking.names import NOTE_TAG, child_name

Event = dict[str, Any]
WORK_TAG = "cgankd.work"
"""The tag of a root run that tells what it works on: a run that is left unfinished goes on under equal work."""
MOST = 2**31
"""Bytes of the largest file of events that is read."""


class Sink(Protocol):
    """Where events go: the JSON lines, MLflow, or what a test puts in their place."""

    def apply(self, event: Event) -> None: ...


class JsonLines:
    """Appends events to a file, flushed line by line so that a kill loses none; passwords of addresses are left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def apply(self, event: Event) -> None:
        """Append one event; a former line that a kill cut short is closed off first."""
        with self.path.open("a+b") as file:
            if file.tell() > 0:
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            shown = masked_values(event) | {"kind": event["kind"]}  # whatever word a password is, records stay readable
            file.write(json.dumps(shown).encode() + b"\n")


class FanOut:
    """Sends events to several sinks; one that fails is reported once and left out from then on."""

    def __init__(self, sinks: Sequence[Sink], failed: Callable[[Sink, Exception], None]) -> None:
        self.sinks, self.failed = list(sinks), failed

    def apply(self, event: Event) -> None:
        """Hand the event to each sink that still works."""
        for sink in list(self.sinks):
            try:
                sink.apply(event)
            except Exception as error:  # whatever a tracker raises must not end hours of training
                self.sinks.remove(sink)
                self.failed(sink, error)


@dataclass(frozen=True)
class Former:
    """A run that an earlier process left unfinished, in the events of its root."""

    run: str
    events: Sequence[Event]

    @property
    def again(self) -> int:
        """How often it was taken up so far."""
        return times_taken_up(self.events, self.run)

    @property
    def below(self) -> dict[str, str]:
        """The runs right below it by their names, of several the latest."""
        return {e["name"]: e["run"] for e in self.events if e["kind"] == "run" and e.get("parent") == self.run}

    @property
    def finished(self) -> set[str]:
        """Names of runs right below it that came to a good end."""
        ended = {e["run"] for e in self.events if e["kind"] == "close" and e["status"] == "FINISHED"}
        begun = [e for e in self.events if e["kind"] == "run" and e.get("parent") == self.run]
        return {e["name"] for e in begun if e["run"] in ended}

    def child(self, name: str) -> Former | None:
        """The run of this name right below it."""
        run = self.below.get(name)
        return None if run is None else Former(run, self.events)


class Tracker:
    """One run: what a stage calls to report. Child runs hang from it. With `former` it goes on with that run."""

    def __init__(
        self,
        sink: Sink,
        name: str,
        facts: Mapping[str, Any],
        root: str | None = None,
        former: Former | None = None,
    ) -> None:
        self.sink, self.former = sink, former
        self.run = uuid.uuid4().hex if former is None else former.run
        self.root = root or self.run
        self.name, self.facts = name, dict(facts)
        self.closed = False
        self._event("run", name=name, **self.facts, **({} if former is None else {"again": former.again + 1}))

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings of the run, dotted name to value."""
        self._event("params", values={k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()})

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Results: name to number; what is no number is left out."""
        numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
        if numbers:
            self._event("metrics", values=numbers, step=step or 0)

    def curve(self, name: str, points: Sequence[tuple[int, float]]) -> None:
        """A batch of (step, value) of one series."""
        self._event("curve", name=name, points=[[int(step), float(value)] for step, value in points])

    def tags(self, values: Mapping[str, str]) -> None:
        """Facts to search runs by."""
        self._event("tags", values=dict(values))

    def verdict(self, text: str) -> None:
        """What the run found, in a sentence that stands on its page."""
        self.tags({NOTE_TAG: text})

    def picture(self, path: Path, step: int = 0) -> None:
        """A figure, by its file, and the step of the loop it shows."""
        self._event("picture", path=str(path.resolve()), step=step, **digest_of(path))

    def file(self, path: Path) -> None:
        """Any other small file."""
        self._event("file", path=str(path.resolve()), **digest_of(path))

    def dataset(self, name: str, digest: str, context: str) -> None:
        """A data set the run reads; the digest stands for its content."""
        self._event("dataset", name=name, digest=digest, context=context)

    def say(self, text: str) -> None:
        """A line the user saw."""
        self._event("say", text=text)

    def child(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str], *, again: bool = False) -> Tracker:
        """A run nested under this one; its tag `level` tells it from the runs of stages.

        With `again` it goes on with the one of this name, where this run was taken up and has one.
        """
        every = dict(self.facts.get("tags", {})) | {"level": "child"} | dict(tags)
        facts, whole = self.facts | {"parent": self.run, "tags": every}, child_name(self.name, name)
        former = self.former.child(whole) if again and self.former is not None else None
        tracker = Tracker(self.sink, whole, facts, self.root, former)
        tracker.params(params)
        return tracker

    def close(self, status: str) -> None:
        """End the run as FINISHED or FAILED; a second call does nothing."""
        if not self.closed:
            self.closed = True
            self._event("close", status=status)

    def _event(self, kind: str, **rest: Any) -> None:
        stamp = {"kind": kind, "run": self.run, "root": self.root, "time_ms": time.time_ns() // 1_000_000}
        self.sink.apply(stamp | rest)


def digest_of(path: Path) -> dict[str, str]:
    """The content of a file as it is reported, so that a later run's file of the same name is not taken for it."""
    try:
        with path.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError:
        return {}  # the store says that it is not there


HELD: dict[str, dict[str, type | tuple[type, ...]]] = {
    "run": {"name": str},
    "params": {"values": dict},
    "metrics": {"values": dict, "step": int},
    "curve": {"name": str, "points": list},
    "tags": {"values": dict},
    "picture": {"path": str},
    "file": {"path": str},
    "dataset": {"name": str, "digest": str, "context": str},
    "say": {"text": str},
    "close": {"status": str},
    "mlflow": {"state": str},
}
"""Kind of an event -> what it holds."""


def is_sound(event: Any) -> bool:
    """Whether a line holds an event as this module writes it; a damaged one may be JSON all the same."""
    if not isinstance(event, dict) or not all(isinstance(event.get(key), str) for key in ("kind", "run", "root")):
        return False
    held = HELD.get(event["kind"], {}) | ({} if event["kind"] == "mlflow" else {"time_ms": int})
    return all(isinstance(event.get(name), kind) for name, kind in held.items())


def read_lines(path: Path) -> Iterator[Event | None]:
    """Every line of a file in order, None for one that is cut short or damaged; nothing where there is no file."""
    if not path.exists():
        check_folders(path)
        return
    for line in read_text(path, MOST, errors="replace").split("\n"):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        yield event if is_sound(event) else None


def read_roots(path: Path) -> dict[str, list[Event]]:
    """The events of a file by root run, in order; lines cut short by a kill or damaged are left out."""
    roots: dict[str, list[Event]] = {}
    for event in read_lines(path):
        if event is not None:
            roots.setdefault(event["root"], []).append(event)
    return roots


def state(events: Sequence[Event]) -> str:
    """What MLflow has of a root run: "complete", "open" (begun there) or "none"."""
    states = [e["state"] for e in events if e["kind"] == "mlflow"]
    return str(states[-1]) if states else "none"


def is_closed(events: Sequence[Event]) -> bool:
    """The root run itself came to an end, and was not taken up again."""
    own = [e["kind"] for e in events if e["kind"] in ("run", "close") and e["run"] == e["root"]]
    return own[-1:] == ["close"]


def times_taken_up(events: Sequence[Event], run: str) -> int:
    """How often a run was taken up again."""
    times = [e["again"] for e in events if e["kind"] == "run" and e["run"] == run and isinstance(e.get("again"), int)]
    return max(times, default=0)


def left_unfinished(roots: Mapping[str, list[Event]], work: str) -> Former | None:
    """The newest root run of this work (its tag `WORK_TAG`), if it came to no good end; else None."""
    for run, events in reversed(list(roots.items())):
        begin: Event = next((e for e in events if e["kind"] == "run" and e["run"] == run), {})
        tags = begin.get("tags")
        if isinstance(tags, dict) and tags.get(WORK_TAG) == work:
            ends = [e["status"] for e in events if e["kind"] == "close" and e["run"] == run]
            return None if "FINISHED" in ends else Former(run, events)
    return None


def closing_events(events: Sequence[Event]) -> list[Event]:
    """FAILED ends for the runs of a killed process, children first, at the time of its last sign of life."""
    under_way: dict[str, None] = {}
    for event in events:
        if event["kind"] in ("run", "close"):
            under_way.pop(event["run"], None)
            under_way |= {event["run"]: None} if event["kind"] == "run" else {}
    last = max(int(e.get("time_ms", 0)) for e in events)
    root = events[0]["root"]
    return [
        {"kind": "close", "run": run, "root": root, "time_ms": last, "status": "FAILED"} for run in reversed(under_way)
    ]
