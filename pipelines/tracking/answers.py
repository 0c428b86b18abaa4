"""Whether a store answers, known within seconds whatever lies between: no retries, and a clock over names and drivers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cgankd.config import ConfigError
from cgankd.data.store.writing import size_limit
from pipelines.tracking.places import check_address, given_uri, is_server, line, within, without_login

ANSWER_S = 5.0
"""Seconds in which a store must have answered when it is opened, where CGANKD_STORE_WAIT says no other number."""
LONGEST_S = 3600.0
WORK_S = 120.0
"""Seconds for one piece of work at a store that did answer; its tables are made in less."""
BUSY_S = 3.0
"""Seconds to wait for an SQLite file that another program holds."""
DATABASES = ("postgresql", "mysql", "sqlite", "mssql")
LIMIT = "the store is larger than the limit of a file's size (ulimit -f); raise that"
CURES = (
    (
        ("file is not a database", "image is malformed", "file is encrypted"),
        "the store is damaged; move it away, and `cgankd sync` fills a new one from artifacts/logs",
    ),
    (("database is locked",), "the store is locked by another program; end that one"),
    (("database or disk is full", "No space left"), "the disk of the store is full; make room there"),
    (("Disk quota exceeded",), "the quota of this user is used up; make room in it"),
    (("File too large",), LIMIT),
    (("disk I/O error",), "the disk of the store is over a quota or fails; make room there, or look at it"),
    (("readonly database",), "the store may not be written; give this user leave to"),
    (("unable to open database file",), "the file of the store cannot be opened; look at its folder and its rights"),
    (
        ("out-of-date database schema", "Can't locate revision"),
        "the store is of another version of MLflow; install that one (`pip install mlflow==...`), or name another store"
        " in MLFLOW_TRACKING_URI",
    ),
)
"""What an error of a store means, by words in it, and what to do."""


def reason(error: BaseException) -> str:
    """An error of an MLflow store in one line, without passwords, and with the cure where it is known."""
    found = known(error)
    return line(error) if found is None else f"{found[0]}: {found[1]}"


def known(error: BaseException) -> tuple[str, str] | None:
    """What an error of a store says, and what it means with the cure; None where that is not known."""
    text = str(error)
    for words, cure in CURES:
        for word in words:
            if word in text:
                limited = word == "disk I/O error" and size_limit() is not None  # how SQLite meets the limit
                return word, LIMIT if limited else cure
    return None


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


def answer_s() -> float:
    """Seconds in which a store must have answered when it is opened. Raises ConfigError where CGANKD_STORE_WAIT is no number."""
    text = os.environ.get("CGANKD_STORE_WAIT", "")
    if not text:
        return ANSWER_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_S:
        raise ConfigError(f"CGANKD_STORE_WAIT must be seconds above 0 and at most {LONGEST_S:g}, but is {text!r}")
    return seconds


def first_patience() -> dict[str, str]:
    """MLflow's own settings for its first question: no second try, and within most of the time that a store has."""
    return {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, int(0.6 * answer_s())))}


def sign_in() -> None:
    """Take name and password out of MLFLOW_TRACKING_URI into MLflow's own variables for them.

    So MLflow quotes no password in an address, in whatever it prints or raises. Raises ConfigError for an address that it
    would take apart elsewhere.
    """
    uri = given_uri()
    if not is_server(uri):
        return
    check_address(uri)
    user, colon, password = urlsplit(uri).netloc.rpartition("@")[0].partition(":")
    if colon:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(user)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
    os.environ["MLFLOW_TRACKING_URI"] = without_login(uri)


def is_database(uri: str) -> bool:
    """Whether MLflow opens this store by SQLAlchemy."""
    return uri.partition(":")[0].partition("+")[0] in DATABASES


def check_answers(uri: str, *, write: bool = False) -> None:
    """Try once to reach a store that is a database. Raises what its driver raises, or TimeoutError.

    MLflow by itself would try ten times, over two minutes, and wait 20 s for an SQLite file that is locked.
    `write` asks for leave to write such a file too.
    """
    if not is_database(uri):
        return
    import sqlalchemy
    from mlflow.store.db.utils import create_sqlalchemy_engine

    # It prints whole tracebacks of what is said here in a line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

    def connect() -> None:
        if uri.startswith("sqlite"):
            engine = sqlalchemy.create_engine(uri, connect_args={"timeout": BUSY_S}, poolclass=sqlalchemy.NullPool)
            file = engine.url.database
            if file and file != ":memory:":
                Path(file).parent.mkdir(parents=True, exist_ok=True)
        else:
            engine = create_sqlalchemy_engine(uri)
        try:
            with engine.connect() as connection:
                if uri.startswith("sqlite"):
                    connection.execute(sqlalchemy.text("SELECT count(*) FROM sqlite_master"))  # reads the file
                    connection.rollback()
                    if write:
                        connection.execute(sqlalchemy.text("BEGIN IMMEDIATE"))
                        connection.rollback()
        finally:
            engine.dispose()

    within(answer_s(), connect)
