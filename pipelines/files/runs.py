"""The tracked run behind the results that lie in the folder, read from the JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from cgankd.data.regular import NotPlain, check_folders, read_json
from pipelines.files.layout import SECTIONS, in_its_place, within
from pipelines.files.made import check_made, unsealed, way_back
from pipelines.files.params import flatten, read_params
from pipelines.tracking.journal import Event, read_roots
from pipelines.tracking.names import result_name
from pipelines.tracking.places import log_folder


def read_metrics(path: Path, command: str) -> dict[str, Any] | None:
    """A JSON file of metrics; None where it is not there.

    Raises ConfigError where it is damaged, or is not as its stage left it.
    """
    if not path.exists():
        check_folders(path)
        return None
    try:
        values = read_json(path)
    except ValueError as error:
        raise _damaged(path, error, command) from error
    if not isinstance(values, dict):
        raise _damaged(path, "it is no mapping", command)
    if not unsealed(values):
        raise _damaged(path, "it is not as it was written", command)
    check_made(path)
    return values


def _damaged(path: Path, what: str | Exception, command: str) -> ConfigError:
    if isinstance(what, NotPlain):
        return ConfigError(in_its_place(what))
    back = way_back(path)
    what = " ".join(str(what).split())[:200]
    return ConfigError(f"{path.parent.name}/{path.name} is damaged ({what}); run `{command}` again{back}")


def run_behind(workdir: Path, stage: str, metrics: Mapping[str, Any]) -> list[Event]:
    """The events of the run whose results lie in the folder; empty where no run ended well.

    That is the last one, unless DVC brought the results of an earlier one back instead of running the stage again:
    then the last with the settings of params.yaml and the numbers of metrics/<stage>.json.
    """
    ended = finished_runs(workdir, stage)
    for events in reversed(ended):
        if not settings_changed(workdir, stage, events) and not numbers_differ(metrics, events):
            return events
    return ended[-1] if ended else []


def finished_runs(workdir: Path, stage: str) -> list[list[Event]]:
    """The events of each run that ended well, oldest first."""
    return [
        events
        for events in read_roots(log_folder(workdir) / f"{stage}.jsonl").values()
        if any(e["kind"] == "close" and e["run"] == e["root"] and e["status"] == "FINISHED" for e in events)
    ]


def numbers_differ(metrics: Mapping[str, Any], events: list[Event]) -> bool:
    """True where a number of metrics/<stage>.json is not the one that the run sent."""
    sent: dict[str, Any] = {}
    for event in events:
        if event["kind"] == "metrics" and event["run"] == event["root"]:
            sent |= event["values"]
    return any(sent.get(result_name(name), value) != value for name, value in metrics.items())


def settings_changed(workdir: Path, stage: str, events: list[Event]) -> list[str]:
    """Settings this stage reads that differ between its last finished run and params.yaml."""
    ran = next((e["values"] for e in events if e["kind"] == "params" and e["run"] == e["root"]), None)
    if ran is None:
        return []
    now = flatten(read_params(workdir / "params.yaml"))
    # Only keys of both: a default that is not written out is no change.
    both = {key for key in ran if key in now and within(key, SECTIONS[stage])}
    return sorted(key for key in both if not _equal(str(ran[key]), now[key]))


def _equal(recorded: str, value: Any) -> bool:
    """Whether a value was recorded as this text: strings are as they are, so that YAML would take #ffffff for a comment."""
    try:
        return bool(recorded == value or json.loads(recorded) == value)
    except ValueError:
        return False
