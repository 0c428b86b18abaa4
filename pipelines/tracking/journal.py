"""The record of a run as JSON lines, one event a line: always kept, and enough to replay into MLflow later.

Every event names its run and the root run it belongs to. Kinds: run, params, metrics, curve, tags, picture, file,
dataset, say, close, and mlflow (what became of the run there).
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cgankd.data.regular import check_folders, read_text
from pipelines.tracking.masks import masked_values
from pipelines.tracking.names import NOTE_TAG, child_name

Event = dict[str, Any]
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


class Tracker:
    """One run: what a stage calls to report. Child runs hang from it."""

    def __init__(self, sink: Sink, name: str, facts: Mapping[str, Any], root: str | None = None) -> None:
        self.sink = sink
        self.run = uuid.uuid4().hex
        self.root = root or self.run
        self.name, self.facts = name, dict(facts)
        self.closed = False
        self._event("run", name=name, **self.facts)

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

    def child(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Tracker:
        """A run nested under this one; its tag `level` tells it from the runs of stages."""
        every = dict(self.facts.get("tags", {})) | {"level": "child"} | dict(tags)
        facts = self.facts | {"parent": self.run, "tags": every}
        tracker = Tracker(self.sink, child_name(self.name, name), facts, self.root)
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
    """The root run itself came to an end."""
    return any(e["kind"] == "close" and e["run"] == e["root"] for e in events)


def closing_events(events: Sequence[Event]) -> list[Event]:
    """FAILED ends for the runs of a killed process, children first, at the time of its last sign of life."""
    begun = [e["run"] for e in events if e["kind"] == "run"]
    ended = {e["run"] for e in events if e["kind"] == "close"}
    last = max(int(e.get("time_ms", 0)) for e in events)
    root = events[0]["root"]
    return [
        {"kind": "close", "run": run, "root": root, "time_ms": last, "status": "FAILED"}
        for run in reversed(begun)
        if run not in ended
    ]
