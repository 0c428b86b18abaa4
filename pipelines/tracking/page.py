"""MLflow's page over the runs of a folder: where it shows what, and the server that shows it on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.tracking.names import view_links
from pipelines.tracking.places import is_server, last_run, store_uri, without_login

HOST, PORT = "127.0.0.1", 5000


def links(workdir: Path, stages: Sequence[str], port: int) -> dict[str, str]:
    """Name -> address of each ready-made view of the runs; empty where MLflow knows none of these stages yet."""
    known = [run for run in (last_run(workdir, stage) for stage in stages) if run is not None]
    if not known:
        return {}
    uri = store_uri(workdir)
    address = uri if is_server(uri) else f"http://{HOST}:{port}"
    return view_links(address, str(known[-1]["experiment_id"]))


def run_link(note: Mapping[str, Any]) -> str:
    """Where to see the MLflow run of a note in the JSON lines, in words."""
    page = f"/#/experiments/{note['experiment_id']}/runs/{note['mlflow_run']}"
    if is_server(str(note["uri"])):
        return f"last MLflow run: {without_login(str(note['uri'])).rstrip('/')}{page}"
    return f"last MLflow run: start `cgankd ui`, then http://{HOST}:{PORT}{page}"


def serve(uri: str, port: int, run: Callable[[list[str]], int]) -> int:
    """Serve the page over a store on this machine by `run`, which runs a command to its end and returns its exit status."""
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST]
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # a password in it would show in the list of processes
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if "MLFLOW_SERVER_ALLOWED_HOSTS" not in os.environ:
        # A page in the browser may have given its own name this machine's address.
        command += ["--allowed-hosts", f"{HOST}:{port},localhost:{port}"]
    return run([*command, "--port", str(port), "--workers", "1"])
