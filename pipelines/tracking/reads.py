"""Reading MLflow back: an evaluate or student run by id or name, and a file added to a run that is over."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgankd.config import ConfigError
from cgankd.data.regular import read_json
from pipelines.tracking.answers import check_answers, environment, first_patience, reason, sign_in
from pipelines.tracking.masks import masked
from pipelines.tracking.moved import check_place, check_readable
from pipelines.tracking.places import has_store, last_run, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPARABLE = ("evaluate", "student")


@dataclass(frozen=True)
class TrackedRun:
    """A finished stage in MLflow: its settings and tags, and what it left.

    `result` is evaluate.json of an evaluate run, else None; `children` are (arm, seed, validation score) of a student run.
    """

    name: str
    run_id: str
    stage: str
    params: dict[str, str]
    tags: dict[str, str]
    result: dict[str, Any] | None
    children: list[tuple[str, int, float]]


def client_of(workdir: Path) -> MlflowClient | None:
    """The store of a work folder; None where it keeps no runs.

    Raises StoreMoved, and what the driver raises of a database that does not answer.
    """
    if not has_store(workdir):
        return None
    check_readable(workdir)
    check_place(workdir)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    sign_in()
    from mlflow import MlflowClient

    check_answers(uri := store_uri(workdir))
    return MlflowClient(tracking_uri=uri)


@contextmanager
def asked(workdir: Path) -> Iterator[None]:
    """Turn what a store raises that cannot be read into a ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"MLflow at {masked(store_uri(workdir))} cannot be read ({reason(error)})") from error


def find_run(workdir: Path, experiment: str, text: str) -> TrackedRun | None:
    """The run of this id, or the newest finished evaluate or student run of this name; None where there is none.

    "rho07" stands for "rho07/evaluate". Raises ConfigError where the store cannot be read.
    """
    with environment(first_patience()), asked(workdir):
        client = client_of(workdir)
        found = client.get_experiment_by_name(experiment) if client else None
        if client is None or found is None:
            return None
        runs = client.search_runs([found.experiment_id], f"attributes.run_id = '{text}'") if is_id(text) else []
        for name in (text, f"{text}/evaluate"):
            if not runs and "'" not in name:
                wanted = f"attributes.run_name = '{name}' AND attributes.status = 'FINISHED'"
                newest = client.search_runs([found.experiment_id], wanted, order_by=["attributes.start_time DESC"])
                runs = [run for run in newest if run.data.tags.get("stage") in COMPARABLE]
        if not runs or runs[0].data.tags.get("stage") not in COMPARABLE:
            return None
        return read_run(client, found.experiment_id, runs[0])


def is_id(text: str) -> bool:
    """A run id of MLflow: 32 hexadecimal digits."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def read_run(client: MlflowClient, experiment_id: str, run: Any) -> TrackedRun:
    """Everything of a run that a comparison shows."""
    stage, run_id = run.data.tags["stage"], str(run.info.run_id)
    result = None
    children: list[tuple[str, int, float]] = []
    if stage == "evaluate":
        with tempfile.TemporaryDirectory() as folder:
            path = client.download_artifacts(run_id, "files/evaluate.json", folder)
            result = read_json(Path(path))
    else:
        wanted, token = f"tags.`mlflow.parentRunId` = '{run_id}'", None
        while True:
            page = client.search_runs([experiment_id], wanted, max_results=1000, page_token=token)
            for child in page:
                score = child.data.metrics.get("result/val", child.data.metrics.get("val"))
                if score is not None and "arm" in child.data.tags:
                    children.append((child.data.tags["arm"], int(child.data.tags["seed"]), float(score)))
            token = page.token
            if not token:
                break
    name = str(run.info.run_name)
    return TrackedRun(name, run_id, stage, dict(run.data.params), dict(run.data.tags), result, children)


def attach(workdir: Path, stages: Sequence[str], path: Path) -> str | None:
    """Add a file to the newest run of the first of these stages that has one; returns its id, None where none has.

    Raises what MLflow raises when the store does not answer.
    """
    notes = [note for note in (last_run(workdir, stage) for stage in stages) if note is not None]
    if not notes:
        return None
    run_id = str(notes[0]["mlflow_run"])
    with environment(first_patience()):
        client = client_of(workdir)
        if client is None:
            return None
        client.log_artifact(run_id, str(path), "report")
    return run_id
