"""Where runs are kept: the store, the JSON lines, and the last note of a stage; read without MLflow."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TypeVar
from urllib.parse import urlsplit

from cgankd.config import ConfigError
from pipelines.tracking.journal import Event, read_roots
from pipelines.tracking.masks import by_form, masked

Answer = TypeVar("Answer")


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
"""Seconds to wait for a connection to a server."""


def given_uri() -> str:
    """The store that the user names by MLFLOW_TRACKING_URI; empty where it is not set."""
    return os.environ.get("MLFLOW_TRACKING_URI", "")


def without_login(uri: str) -> str:
    """The address of a server without name and password; any other address as it is."""
    scheme, sign, rest = uri.partition("://")
    if not is_server(uri) or not sign:
        return uri
    end = next((place for place, letter in enumerate(rest) if letter in "/?#"), len(rest))
    return f"{scheme}://{rest[:end].rpartition('@')[2]}{rest[end:]}"


def store_uri(workdir: Path) -> str:
    """The store that the user names, or else the SQLite file in the work folder.

    Name and password of a server are not in it: MLflow gets them by `sign_in`. Those of a database are.
    """
    return without_login(given_uri()) or f"sqlite:///{home(workdir) / FILE}"


def has_store(workdir: Path) -> bool:
    """Whether there is a store to read: one that the user names, or the file; reading must not make an empty one."""
    return bool(given_uri()) or (home(workdir) / FILE).exists()


def is_server(uri: str) -> bool:
    """Whether runs are kept by a server, and not in a file or a database."""
    return uri.lower().startswith(("http:", "https:"))


def within(seconds: float, work: Callable[[], Answer]) -> Answer:
    """What the work returns or raises; TimeoutError where it takes longer, and then it is left to itself.

    A look-up of a name, a driver and a file on a network disk know no time limit of their own.
    """
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return answer.result(timeout=seconds)
    except TimeoutError as error:
        if answer.done():
            raise
        raise TimeoutError(f"no answer within {seconds:g} s") from error


def line(error: BaseException) -> str:
    """An error in one short line, without passwords."""
    text = masked(str(error)).partition("[SQL:")[0].partition("(Background on this error")[0]
    if "(Caused by " in text:  # of a request: where it went is known, why it failed stands at the end
        text = f"no answer: {text.rpartition('(Caused by ')[2].rstrip(')')})"
    return " ".join(text.split())[:200] or type(error).__name__


def check_address(uri: str) -> None:
    """Raise ConfigError unless the address of a server has a host, and a port and password that stand as they should."""
    try:
        parts = urlsplit(uri)
        sound = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or ("@" not in parts.netloc and by_form(uri) != uri and "?" not in uri):
        raise ConfigError(
            "MLFLOW_TRACKING_URI is no address such as http://host:5000 or http://user:password@host:5000; in a password"
            " write @ as %40, : as %3A, / as %2F, ? as %3F and # as %23"
        )


def silence(uri: str) -> str | None:
    """Why a server that keeps runs does not answer; None where it does, and for any other store."""
    if not is_server(uri):
        return None
    try:
        check_address(uri)
        address = urlsplit(uri)
        port = address.port or (443 if address.scheme == "https" else 80)
        within(SERVER_WAIT_S, lambda: socket.create_connection((address.hostname or "", port), SERVER_WAIT_S).close())
    except (OSError, ConfigError) as error:
        return line(error)
    return None


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
