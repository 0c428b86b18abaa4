"""MLflow behind the tracker of the journal: live where a store answers, replayed by `cgankd sync` where it did not.

MLflow is imported when a run opens.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from pipelines.tracking.journal import Event, JsonLines, closing_events
from pipelines.tracking.moved import check_experiment, check_place
from pipelines.tracking.names import experiment_tags, source_tags
from pipelines.tracking.places import home, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_A_CALL = 1000
PARAMS_A_CALL = 100
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
FIRST_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
RUN_TAG = "cgankd.run"


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while; what the user set is put back after."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class MlflowSink:
    """Writes events to an MLflow store. Raises what MLflow raises when the store does not answer within 3 s.

    Raises StoreMoved before anything is written where the store would make the folder again that the project lay in.
    """

    def __init__(self, workdir: Path, experiment: str, *, replay: bool = False) -> None:
        check_place(workdir, experiment)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self.uri, self.replay, self.top = store_uri(workdir), replay, home(workdir)
        self.ids: dict[str, str] = {}
        with environment(FIRST_PATIENCE):
            self.client: MlflowClient = MlflowClient(tracking_uri=self.uri)
            self.experiment_id = self._experiment(home(workdir), experiment)
            self._describe()

    def _describe(self) -> None:
        experiment = self.client.get_experiment(self.experiment_id)
        check_experiment(experiment.name, experiment.artifact_location, self.top)
        found = experiment.tags
        for name, text in experiment_tags().items():
            if name not in found:  # what the user wrote or changed on the page stays
                self.client.set_experiment_tag(self.experiment_id, name, text)

    def _experiment(self, top: Path, name: str) -> str:
        if not self.uri.startswith("sqlite:"):
            found = self.client.get_experiment_by_name(name)
            return str(found.experiment_id if found else self.client.create_experiment(name))
        # Two processes that create the tables of a new file at once would crash, hence the lock.
        folder = top / "mlruns"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            found = self.client.get_experiment_by_name(name)
            if found:
                return str(found.experiment_id)
            return str(self.client.create_experiment(name, artifact_location=folder.as_uri()))

    def apply(self, event: Event) -> None:
        """Write one event."""
        kind = event["kind"]
        if kind == "run":
            self.ids[event["run"]] = self._begin(event)
        elif kind in ("params", "metrics", "curve", "tags", "picture", "file", "dataset", "close"):
            getattr(self, f"_{kind}")(self.ids[event["run"]], event)

    def _begin(self, event: Event) -> str:
        if self.replay:
            found = self.client.search_runs([self.experiment_id], f"tags.`{RUN_TAG}` = '{event['run']}'", max_results=1)
            if found:
                return str(found[0].info.run_id)
        tags = {RUN_TAG: event["run"], **source_tags(event), **event.get("tags", {})}
        if event.get("parent"):
            tags["mlflow.parentRunId"] = self.ids[event["parent"]]
        run = self.client.create_run(self.experiment_id, event["time_ms"], tags, event["name"])
        return str(run.info.run_id)

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
        for i in range(0, len(entries), METRICS_A_CALL):
            self.client.log_batch(run_id, metrics=entries[i : i + METRICS_A_CALL])

    def _tags(self, run_id: str, event: Event) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(k, str(v)[:5000]) for k, v in event["values"].items()])

    def _picture(self, run_id: str, event: Event) -> None:
        """Twice: under its name for the artifact list, and as MLflow's image view wants it, with a key and a step."""
        from PIL import Image

        path = Path(event["path"])
        self._upload(run_id, event, "pictures")
        key = re.sub(r"[^\w\-./ ]", "_", f"{path.parent.name}/{path.stem}")
        start = f"images/{key.replace('/', '~')}+step+{event.get('step', 0)}+"
        there = self.replay and any(f.path.startswith(start) for f in self.client.list_artifacts(run_id, "images"))
        if path.exists() and not there:
            with Image.open(path) as image:
                options = {"key": key, "step": event.get("step", 0), "timestamp": event["time_ms"], "synchronous": True}
                self.client.log_image(run_id, image.convert("RGB"), **options)

    def _file(self, run_id: str, event: Event) -> None:
        self._upload(run_id, event, "files")

    def _upload(self, run_id: str, event: Event, folder: str) -> None:
        if Path(event["path"]).exists():
            self.client.log_artifact(run_id, event["path"], folder)
        elif not self.replay:
            raise FileNotFoundError(event["path"])

    def _dataset(self, run_id: str, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(event["name"], event["digest"][:12], "local", f'{{"uri": "artifacts/{event["name"]}"}}')
        tag = InputTag("mlflow.data.context", event["context"])
        self.client.log_inputs(run_id, [DatasetInput(dataset, [tag])])

    def _close(self, run_id: str, event: Event) -> None:
        self.client.set_terminated(run_id, event["status"], event["time_ms"])

    def note(self, root: str, state: str) -> Event:
        """The event that says what this store has of a root run."""
        known = {"mlflow_run": self.ids.get(root), "experiment_id": self.experiment_id, "uri": self.uri}
        return {"kind": "mlflow", "run": root, "root": root, "state": state, **known}


def key_text(name: str) -> str:
    """A name MLflow accepts as a key."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]


def reason(error: Exception) -> str:
    """An error in one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


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


def replay(events: list[Event], workdir: Path, lines: JsonLines) -> None:
    """Write the events of one root run to the MLflow store; what is there already stays as it is."""
    begin = next(e for e in events if e["kind"] == "run")
    sink = MlflowSink(workdir, begin["experiment"], replay=True)
    for event in events:
        sink.apply(found_again(event, begin.get("lock"), home(workdir)))
    lines.apply(sink.note(begin["root"], "complete"))
