"""Where MLflow's page is, and whether a store answers."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from pipelines.tracking.page import links, run_link
from pipelines.tracking.places import has_store, is_server, silence, store_uri


@pytest.fixture(autouse=True)
def no_store_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def note(folder: Path, stage: str, **more: Any) -> dict[str, Any]:
    """A note that a run of this stage is in MLflow, kept in the JSON lines of the folder."""
    kept = {"kind": "mlflow", "run": "r", "root": "r", "state": "complete", "mlflow_run": "abc", "experiment_id": "7"}
    path = folder / "artifacts" / "logs" / f"{stage}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept | more) + "\n")
    return kept | more


def test_the_page_of_the_newest_stage_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert links(tmp_path, ("teacher", "bank"), 5055) == {}
    note(tmp_path, "teacher")
    note(tmp_path, "bank", experiment_id="8")
    found = links(tmp_path, ("teacher", "bank"), 5055)
    assert found["results"] == "http://127.0.0.1:5055/#/experiments/8/runs?viewStateShareKey=results"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://host/")
    assert links(tmp_path, ("teacher",), 5055)["audit"] == "https://host/#/experiments/7/runs?viewStateShareKey=audit"


def test_a_run_is_linked_on_its_server_or_on_the_page_to_start(tmp_path: Path) -> None:
    there = note(tmp_path, "teacher", uri="https://host/")
    assert run_link(there) == "last MLflow run: https://host/#/experiments/7/runs/abc"
    here = run_link(there | {"uri": "sqlite:///mlflow.db"})
    assert "`cgankd ui`" in here and here.endswith("http://127.0.0.1:5000/#/experiments/7/runs/abc")


def test_a_store_is_there_where_it_is_named_or_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_store(tmp_path) and store_uri(tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "mlflow.db").touch()
    assert has_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host")
    assert has_store(tmp_path / "elsewhere") and store_uri(tmp_path) == "http://host"


def test_only_a_server_can_be_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert silence(f"http://127.0.0.1:{port}") is None
    assert "refused" in (silence(f"http://127.0.0.1:{port}") or "")
    assert not is_server("sqlite:///x.db") and silence("sqlite:///x.db") is None and silence("") is None
