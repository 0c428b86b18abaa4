"""A work folder with params.yaml, and an MLflow store whose tables are made once and copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import ROOT


@pytest.fixture()
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the digits preset, without MLflow, and the working directory of the test."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_STAGE", "CGANKD_THREADS", "CGANKD_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CGANKD_THREADS", "1")
    text = (ROOT / "pipelines/presets/digits.yaml").read_text()
    assert "mlflow: true" in text
    (tmp_path / "params.yaml").write_text(text.replace("mlflow: true", "mlflow: false"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """An MLflow SQLite file with its tables and no runs; shared by the workers of a session."""
    base = tmp_path_factory.getbasetemp()
    path = (base if worker_id == "master" else base.parent) / "empty.db"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            from mlflow import MlflowClient

            fresh = path.with_name("fresh.db")
            MlflowClient(tracking_uri=f"sqlite:///{fresh}").search_experiments()
            fresh.rename(path)
    return path


@pytest.fixture()
def store(workdir: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The work folder with MLflow on, and a store that needs no set-up and that a busy machine does not make late."""
    for name in ("open.WORK_S", "answers.ANSWER_S"):
        monkeypatch.setattr(f"pipelines.tracking.{name}", 3600.0)
    shutil.copyfile(empty_store, workdir / "mlflow.db")
    params = workdir / "params.yaml"
    params.write_text(params.read_text().replace("mlflow: false", "mlflow: true"))
    return workdir
