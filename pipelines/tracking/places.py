"""Where runs are kept: the store, the JSON lines, and the last note of a stage; read without MLflow."""

from __future__ import annotations

import os
import socket
import urllib.parse
from pathlib import Path

from pipelines.tracking.journal import Event, read_roots


def home(workdir: Path) -> Path:
    """The folder runs are kept in: the main repository when DVC runs an experiment in a copy under .dvc/tmp/exps."""
    parts = workdir.resolve().parts
    for i in range(len(parts) - 2):
        if parts[i : i + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:i])
    return workdir.resolve()


FILE = "mlflow.db"
"""The store of a work folder where the user names none."""
SERVER_WAIT_S = 3.0


def given_uri() -> str:
    """The store that the user names by MLFLOW_TRACKING_URI; empty where it is not set."""
    return os.environ.get("MLFLOW_TRACKING_URI", "")


def store_uri(workdir: Path) -> str:
    """The store that the user names, or else the SQLite file in the work folder."""
    return given_uri() or f"sqlite:///{home(workdir) / FILE}"


def has_store(workdir: Path) -> bool:
    """Whether there is a store to read: one that the user names, or the file; reading must not make an empty one."""
    return "MLFLOW_TRACKING_URI" in os.environ or (home(workdir) / FILE).exists()


def is_server(uri: str) -> bool:
    """Whether runs are kept by a server, and not in a file or a database."""
    return uri.startswith(("http:", "https:"))


def silence(uri: str) -> str | None:
    """Why a server that keeps runs does not answer; None where it does, and for any other store."""
    if not is_server(uri):
        return None
    address = urllib.parse.urlparse(uri)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=SERVER_WAIT_S):
            return None
    except OSError as error:
        return str(error)


def log_folder(workdir: Path) -> Path:
    """Where the JSON lines go; those of an experiment in a copy get a folder of their own in the main repository."""
    top = home(workdir)
    if top == workdir.resolve():
        return top / "artifacts" / "logs"
    return top / "artifacts" / "logs" / (os.environ.get("DVC_EXP_NAME") or workdir.resolve().name)


def last_run(workdir: Path, stage: str) -> Event | None:
    """The newest note about MLflow in the JSON lines of a stage, read without MLflow."""
    found: Event | None = None
    for events in read_roots(log_folder(workdir) / f"{stage}.jsonl").values():
        for event in events:
            if event["kind"] == "mlflow" and event.get("mlflow_run"):
                found = event
    return found
