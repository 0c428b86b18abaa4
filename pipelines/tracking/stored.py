"""What an MLflow store has of the runs in the JSON lines: asked of the store of now, never only remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.tracking.journal import Event, times_taken_up
from pipelines.tracking.moved import local

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "cgankd.run"
"""The tag of a run in the store that names the run in the JSON lines: an identity that no two runs share."""
WHOLE_TAG = "cgankd.whole"
"""The tag of a root run that says that all of it is there; written last, `whole_mark` is its text."""
ENDED = ("FINISHED", "FAILED", "KILLED")
RUNS_A_PAGE = 200
FOLDERS = {"picture": "pictures", "file": "files"}


@dataclass(frozen=True)
class Stored:
    """A run in the store: its id there, whether it came to an end, was deleted by the user; its mark as whole, empty without
    one; how many params and metrics it has, the run above it, where its files are.
    """

    run_id: str
    ended: bool
    deleted: bool
    whole: str
    filled: int
    parent: str
    place: str


def as_stored(run: Any) -> Stored:
    """What counts of a run of MLflow."""
    tags, info = run.data.tags, run.info
    return Stored(
        run_id=str(info.run_id),
        ended=str(info.status) in ENDED,
        deleted=str(info.lifecycle_stage) == "deleted",
        whole=str(tags.get(WHOLE_TAG, "")),
        filled=len(run.data.params) + len(run.data.metrics),
        parent=str(tags.get("mlflow.parentRunId", "")),
        place=str(info.artifact_uri or ""),
    )


def whole_mark(again: int) -> str:
    """The mark of a run that is whole after it was taken up so often: an earlier mark says nothing of what came later."""
    return f"yes, taken up {again} times" if again else "yes"


def stored_runs(client: MlflowClient, experiment_id: str) -> dict[str, list[Stored]]:
    """All runs of an experiment by the run in the JSON lines that they are, deleted ones among them."""
    from mlflow.entities import ViewType

    found: dict[str, list[Stored]] = {}
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], f"tags.`{RUN_TAG}` LIKE '%'", ViewType.ALL, max_results=RUNS_A_PAGE, page_token=token
        )
        for run in page:
            found.setdefault(run.data.tags[RUN_TAG], []).append(as_stored(run))
        token = page.token
        if not token:
            return found


def best_of(client: MlflowClient, experiment_id: str, run: str) -> tuple[Stored | None, list[Stored]]:
    """The fullest run of the store that is this one of the JSON lines, and the others that are."""
    page = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{run}'")
    found = sorted((as_stored(one) for one in page), key=lambda one: (not one.whole, -one.filled, one.run_id))
    return (found[0], found[1:]) if found else (None, [])


def is_whole(events: Sequence[Event], stored: dict[str, list[Stored]], client: MlflowClient) -> bool:
    """Whether the store has a root run with all its children and their files, each once; what the user deleted counts."""
    root = events[0]["root"]
    begun = [event["run"] for event in events if event["kind"] == "run"]
    if any(one.deleted for one in stored.get(root, ())) and not active(stored, root):
        return True
    for run in begun:
        if len(active(stored, run)) > 1 or not stored.get(run):
            return False
        if any(not one.ended for one in active(stored, run)):
            return False
    (top,) = active(stored, root)
    noted = {e.get("mlflow_run") for e in events if e["kind"] == "mlflow" and e["state"] == "complete"}
    again = times_taken_up(events, root)
    if top.whole != whole_mark(again) and (again or top.run_id not in noted):  # the mark is younger than the notes
        return False
    return all(has_files(client, one, events, run) for run in begun for one in active(stored, run))


def active(stored: dict[str, list[Stored]], run: str) -> list[Stored]:
    """The runs of the store that are this one and were not deleted."""
    return [one for one in stored.get(run, ()) if not one.deleted]


def has_files(client: MlflowClient, stored: Stored, events: Sequence[Event], run: str) -> bool:
    """Whether the files that a run reported are in the store, save those that can no longer be sent."""
    for kind, folder in FOLDERS.items():
        sent = {Path(e["path"]): e for e in events if e["run"] == run and e["kind"] == kind}
        there = names_in(client, stored.run_id, folder, stored.place) if sent else set[str]()
        if any(is_same(path, event) for path, event in sent.items() if path.name not in there):
            return False
    return True


def is_same(path: Path, event: Event) -> bool:
    """Whether a file is there and is what the run reported; records of earlier versions hold no digest."""
    if not path.is_file():
        return False
    if "sha256" not in event:
        return True
    with path.open("rb") as file:
        return bool(hashlib.file_digest(file, "sha256").hexdigest() == event["sha256"])


def names_in(client: MlflowClient, run_id: str, folder: str, place: str = "") -> set[str]:
    """Names of the files of a run in a folder of it; read without the store where they are on this machine."""
    if path := local(place):
        return {file.name for file in (path / folder).iterdir()} if (path / folder).is_dir() else set()
    return {Path(found.path).name for found in client.list_artifacts(run_id, folder)}
