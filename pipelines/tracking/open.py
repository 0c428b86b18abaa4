"""The tracker of a stage run: JSON lines, and MLflow where a store answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import Timeout

from cgankd.config import TrackingConfig
from pipelines.tracking.answers import WORK_S, reason
from pipelines.tracking.journal import (
    WORK_TAG,
    Event,
    FanOut,
    JsonLines,
    Sink,
    Tracker,
    is_closed,
    left_unfinished,
    read_roots,
    state,
)
from pipelines.tracking.mlflow_sink import MlflowSink, end, replay
from pipelines.tracking.moved import StoreMoved
from pipelines.tracking.names import git_state, run_name
from pipelines.tracking.places import log_folder, within
from pipelines.tracking.sync import replaying


class LiveMlflow:
    """The MLflow of a run under way: notes in the JSON lines when its run is begun there and when it is complete.

    Whatever the store does, a training waits for it two minutes at most.
    """

    def __init__(self, sink: MlflowSink, lines: JsonLines) -> None:
        self.sink, self.lines = sink, lines

    def apply(self, event: Event) -> None:
        """Write one event, and a note for the begin and end of the root run."""
        within(WORK_S, lambda: self.sink.apply(event))
        if event["run"] == event["root"] and event["kind"] in ("run", "close"):
            if event["kind"] == "close":
                within(WORK_S, lambda: self.sink.finish(event["root"]))
            self.lines.apply(self.sink.note(event["root"], "open" if event["kind"] == "run" else "complete"))


def open_tracker(
    workdir: Path,
    stage: str,
    cfg: TrackingConfig,
    *,
    tags: Mapping[str, str],
    lock: Path,
    say: Callable[[str], None],
    work: str | None = None,
) -> Tracker:
    """A run of a stage, in JSON lines and, with tracking.mlflow, in the MLflow store; an MLflow that fails is said once.

    With `work`, a digest of all that the run works on, the last run of equal work goes on if it came to no good end.
    Call it with the stage's lock held: runs in the file without an end are then of killed processes and get one.
    """
    lines = JsonLines(log_folder(workdir) / f"{stage}.jsonl")
    roots = read_roots(lines.path)
    dead = [events for events in roots.values() if not is_closed(events)]
    for events in dead:
        end(events, lines)
    former = None if work is None else left_unfinished(roots, work)

    def no_mlflow(error: Exception) -> None:
        if isinstance(error, StoreMoved):
            say(f"warning: {error}; this run is kept in {lines.path} alone, `cgankd sync` adds it to MLflow after that")
            return
        say(f"warning: MLflow failed ({reason(error)}); training goes on, `cgankd sync` adds this run later")

    def failed(sink: Sink, error: Exception) -> None:
        if sink is lines:
            say(f"warning: {lines.path} cannot be written ({reason(error)}); training goes on without it")
        else:
            no_mlflow(error)

    sinks: list[Sink] = [lines]
    if cfg.mlflow:
        try:
            live = LiveMlflow(MlflowSink(workdir, cfg.experiment), lines)
            with suppress(Timeout), replaying(workdir).acquire(timeout=0):  # else another process adds them
                for events in dead:
                    if state(events) == "open":
                        replay(events, workdir, lines)
                if former is not None and not live.sink.has(former):
                    replay(list(former.events), workdir, lines)
            sinks.append(live)
        except Exception as error:  # whatever a tracker raises must not end hours of training
            no_mlflow(error)
    exp = os.environ.get("DVC_EXP_NAME")
    extra = {"dvc.exp_name": exp, "dvc.stage": os.environ.get("DVC_STAGE")}
    every = {
        "stage": stage,
        "level": "stage",
        "series": exp or cfg.preset,
        "preset": cfg.preset,
        **git_state(workdir),
        **tags,
        **{k: v for k, v in extra.items() if v},
        **({} if work is None else {WORK_TAG: work}),
    }
    facts: dict[str, Any] = {"stage": stage, "experiment": cfg.experiment, "mlflow": cfg.mlflow, "lock": str(lock)}
    facts["tags"] = every
    tracker = Tracker(FanOut(sinks, failed), run_name(stage, cfg.preset, exp), facts, former=former)
    if former is not None:
        tracker.tags({"taken_up": str(former.again + 1)})
        say("the tracked run that was left unfinished goes on")
    return tracker
