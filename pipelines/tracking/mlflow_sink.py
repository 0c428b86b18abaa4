"""MLflow behind the tracker of the journal: live where a store answers, replayed by `cgankd sync` where it did not.

MLflow is imported when a run opens.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from pipelines.tracking.answers import answer_s, check_answers, environment, first_patience, is_database, sign_in
from pipelines.tracking.journal import Event, Former, JsonLines, closing_events
from pipelines.tracking.masks import masked, masked_values
from pipelines.tracking.moved import check_experiment, check_place, database
from pipelines.tracking.names import experiment_tags, source_tags
from pipelines.tracking.places import home, is_server, store_uri, within
from pipelines.tracking.stored import RUN_TAG, WHOLE_TAG, Stored, best_of, is_same, names_in, whole_mark

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_A_CALL = 1000
PARAMS_A_CALL = 100
IMAGE_FORMS = ("as it is", "small")
"""MLflow keeps an image twice."""
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
TABLES_S = 300.0
"""Seconds for the tables of a new database, which this process or another makes; on a busy machine they take a minute."""


class MlflowSink:
    """Writes events to an MLflow store. Raises what MLflow raises when the store does not answer within 5 s in all.

    Raises StoreMoved before anything is written where the store would make the folder again that the project lay in.
    """

    def __init__(self, workdir: Path, experiment: str, *, replay: bool = False) -> None:
        check_place(workdir, experiment)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        sign_in()
        from mlflow import MlflowClient

        self.uri, self.replay, self.top = store_uri(workdir), replay, home(workdir)
        self.ids: dict[str, str] = {}
        self.again: dict[str, int] = {}
        """How often runs were taken up."""
        self.found: set[str] = set()
        """Runs of the store that were there before: what is replayed into them is written once."""
        self.lost = 0
        """Files that a replay could not bring, as they are no longer what they were when the run reported them."""
        check_answers(self.uri, write=True)

        def opened() -> tuple[MlflowClient, str]:
            client = MlflowClient(tracking_uri=self.uri)
            return client, self._experiment(client, workdir, experiment)

        with environment(first_patience()):
            # A database that did answer may still be making its tables.
            self.client, self.experiment_id = within(TABLES_S if is_database(self.uri) else answer_s(), opened)

    def _experiment(self, client: MlflowClient, workdir: Path, name: str) -> str:
        if not self.uri.startswith("sqlite:"):
            return self._described(client, name, None)
        # Two processes that create the tables of a new file at once would crash, hence the lock: beside the file, where
        # two projects share one.
        folder = home(workdir) / "mlruns"
        folder.mkdir(parents=True, exist_ok=True)
        file = database(workdir)
        own = file is None or file.parent == home(workdir)
        with FileLock(folder / ".lock" if own else f"{file}.lock", timeout=TABLES_S):
            return self._described(client, name, folder.as_uri())

    def _described(self, client: MlflowClient, name: str, place: str | None) -> str:
        """The experiment of this name, made where there is none; what the user wrote or changed on its page stays."""
        tags = experiment_tags()
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=place, tags=tags))
            except Exception:  # another process was faster, or the store fails, which then is raised
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        check_experiment(found.name, found.artifact_location, self.top)
        for tag, text in tags.items():
            if tag not in found.tags:
                client.set_experiment_tag(found.experiment_id, tag, text)
        return str(found.experiment_id)

    def apply(self, event: Event) -> None:
        """Write one event, without passwords."""
        kind, event = event["kind"], masked_values(event)
        if kind == "run":
            self.ids[event["run"]] = self._begin(event)
        elif kind in ("params", "metrics", "curve", "tags", "picture", "file", "dataset", "close"):
            getattr(self, f"_{kind}")(self.ids[event["run"]], event)

    def finish(self, root: str) -> None:
        """Mark a root run as whole in the store itself: the last that is written of it."""
        self.client.set_tag(self.ids[root], WHOLE_TAG, whole_mark(self.again.get(root, 0)))

    def has(self, former: Former) -> bool:
        """Whether the store has all of a root run that was left unfinished."""
        found = self._found(former.run)
        return found is not None and found.whole == whole_mark(former.again)

    def _begin(self, event: Event) -> str:
        parent = self.ids[event["parent"]] if event.get("parent") else None
        if "again" in event:
            self.again[event["run"]] = event["again"]
            if event["run"] in self.ids:  # by the same replay
                return self.ids[event["run"]]
            if not self.replay and (found := self._found(event["run"])):
                self.client.update_run(found.run_id, status="RUNNING")
                return found.run_id
        if self.replay and (found := self._found(event["run"])):
            self.found.add(found.run_id)
            if parent and found.parent != parent:
                self.client.set_tag(found.run_id, "mlflow.parentRunId", parent)
            return found.run_id
        tags = {RUN_TAG: event["run"], **source_tags(event), **event.get("tags", {})}
        if parent:
            tags["mlflow.parentRunId"] = parent
        words = (self.experiment_id, event["time_ms"], tags, event["name"])
        if not is_server(self.uri):
            return str(self.client.create_run(*words).info.run_id)
        # Sent a second time unseen, a request that did arrive would make a second run.
        with environment({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}):
            try:
                return str(self.client.create_run(*words).info.run_id)
            except Exception:
                if found := self._found(event["run"]):
                    return found.run_id
                return str(self.client.create_run(*words).info.run_id)

    def _found(self, run: str) -> Stored | None:
        """The run of the store that has these events; of several, which an answer that got lost leaves, all but one go."""
        best, others = best_of(self.client, self.experiment_id, run)
        for other in others:
            self.client.delete_run(other.run_id)
        return best

    def _params(self, run_id: str, event: Event) -> None:
        from mlflow.entities import Param

        params = [Param(key_text(k), str(v)[:6000]) for k, v in event["values"].items()]
        for i in range(0, len(params), PARAMS_A_CALL):
            self.client.log_batch(run_id, params=params[i : i + PARAMS_A_CALL])

    def _metrics(self, run_id: str, event: Event) -> None:
        self._points(run_id, event, [(k, event["step"], v) for k, v in event["values"].items()])

    def _curve(self, run_id: str, event: Event) -> None:
        self._points(run_id, event, [(event["name"], step, value) for step, value in event["points"]])

    def _points(self, run_id: str, event: Event, points: list[tuple[str, int, float]]) -> None:
        from mlflow.entities import Metric

        entries = [Metric(key_text(k), value, event["time_ms"], step) for k, step, value in points]
        if run_id in self.found:
            there = {key: self._there(run_id, key) for key in {entry.key for entry in entries}}
            entries = [entry for entry in entries if (entry.timestamp, entry.step) not in there[entry.key]]
        for i in range(0, len(entries), METRICS_A_CALL):
            self.client.log_batch(run_id, metrics=entries[i : i + METRICS_A_CALL])

    def _there(self, run_id: str, key: str) -> set[tuple[int, int]]:
        """Time and step of the points of a series that the store has."""
        return {(int(m.timestamp), int(m.step)) for m in self.client.get_metric_history(run_id, key)}

    def _tags(self, run_id: str, event: Event) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(k, str(v)[:5000]) for k, v in event["values"].items()])

    def _picture(self, run_id: str, event: Event) -> None:
        """Twice: under its name for the artifact list, and as MLflow's image view wants it, with a key and a step."""
        from PIL import Image

        path = Path(event["path"])
        if not self._upload(run_id, event, "pictures"):
            return
        key = re.sub(r"[^\w\-./ ]", "_", f"{path.parent.name}/{path.stem}")
        # The time tells this picture from an earlier one of the same name and step, which stays.
        start = f"images/{key.replace('/', '~')}+step+{event.get('step', 0)}+timestamp+{event['time_ms']}+"
        there = [f.path for f in self.client.list_artifacts(run_id, "images")] if self.replay else []
        there = [place for place in there if place.startswith(start)]
        if len(there) == len(IMAGE_FORMS):  # a kill may have come before the mark that shows them
            self.client.set_tag(run_id, "mlflow.loggedImages", "True")
            return
        self._remove(run_id, there)
        with Image.open(path, formats=["PNG"]) as image:
            options = {"key": key, "step": event.get("step", 0), "timestamp": event["time_ms"], "synchronous": True}
            self.client.log_image(run_id, image.convert("RGB"), **options)

    def _remove(self, run_id: str, files: list[str]) -> None:
        """Take files out of a run: half of an image, which under a new name would stand there beside the whole one."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if files:
            place = get_artifact_repository(self.client.get_run(run_id).info.artifact_uri, tracking_uri=self.uri)
            for file in files:
                place.delete_artifacts(file)

    def _file(self, run_id: str, event: Event) -> None:
        self._upload(run_id, event, "files")

    def _upload(self, run_id: str, event: Event, folder: str) -> bool:
        """Whether the file was there to be sent. In a replay a file that a later run wrote over is not taken for it."""
        path = Path(event["path"])
        if not self.replay and not path.exists():
            raise FileNotFoundError(event["path"])
        if self.replay and not is_same(path, event):
            self.lost += path.name not in names_in(self.client, run_id, folder)
            return False
        self.client.log_artifact(run_id, event["path"], folder)
        return True

    def _dataset(self, run_id: str, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(event["name"], event["digest"][:12], "local", f'{{"uri": "artifacts/{event["name"]}"}}')
        tag = InputTag("mlflow.data.context", event["context"])
        self.client.log_inputs(run_id, [DatasetInput(dataset, [tag])])

    def _close(self, run_id: str, event: Event) -> None:
        self.client.set_terminated(run_id, event["status"], event["time_ms"])

    def note(self, root: str, state: str) -> Event:
        """The event that says what this store has of a root run."""
        known = {"mlflow_run": self.ids.get(root), "experiment_id": self.experiment_id, "uri": masked(self.uri)}
        return {"kind": "mlflow", "run": root, "root": root, "state": state, **known}


def key_text(name: str) -> str:
    """A name MLflow accepts as a key."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]


def end(events: list[Event], lines: JsonLines) -> None:
    """Write the missing ends of a killed process's runs."""
    for event in closing_events(events):
        lines.apply(event)
        events.append(event)


def found_again(event: Event, lock: str | None, top: Path) -> Event:
    """The event with its file where it lies now, if the project was moved after the run; `lock` tells where it lay."""
    if "path" not in event or not lock or Path(event["path"]).exists():
        return event
    path, old = Path(event["path"]), Path(lock).parents[2]  # of artifacts/resume/STAGE.lock
    if path.is_relative_to(old) and (now := top / path.relative_to(old)).exists():
        return event | {"path": str(now)}
    return event


def replay(events: list[Event], workdir: Path, lines: JsonLines, sink: MlflowSink | None = None) -> None:
    """Write the events of one root run to the MLflow store; what is there already stays as it is.

    `sink` is one that was opened to replay. Events of a run whose begin is lost are left out.
    """
    begin = next(e for e in events if e["kind"] == "run" and e["run"] == e["root"])
    sink = sink or MlflowSink(workdir, begin["experiment"], replay=True)
    for event in events:
        if event["kind"] == "run" and event.get("parent", begin["root"]) not in (*sink.ids, begin["root"]):
            continue
        if event["kind"] == "run" or event["run"] in sink.ids:
            sink.apply(found_again(event, begin.get("lock"), home(workdir)))
    sink.finish(begin["root"])
    lines.apply(sink.note(begin["root"], "complete"))
