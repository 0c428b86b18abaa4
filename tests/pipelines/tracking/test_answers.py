"""A store that cannot be opened: tried once, within seconds, whatever lies between, and said in a sentence."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from cgankd.config import ConfigError, TrackingConfig
from pipelines.tracking import answers
from pipelines.tracking.journal import Tracker, read_roots
from pipelines.tracking.mlflow_sink import MlflowSink
from pipelines.tracking.open import open_tracker
from pipelines.tracking.places import log_folder, silence, within
from pipelines.tracking.reads import find_run
from pipelines.tracking.sync import sync

Spoil = Callable[[Path], object]


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow must not wait and try again: that takes it two minutes. What the address sets is put back after the test."""

    def sleep(seconds: float) -> None:
        raise AssertionError("MLflow tries again")

    monkeypatch.setattr("mlflow.store.db.utils.time", SimpleNamespace(sleep=sleep))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def train(folder: Path) -> list[str]:
    """What a whole stage run says of the store; its training goes on to the end whatever that does."""
    said: list[str] = []
    lock = folder / "artifacts" / "resume" / "cgan.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    cfg = TrackingConfig(experiment="cgankd", preset="digits", mlflow=True)
    tracker: Tracker = open_tracker(folder, "cgan", cfg, tags={}, lock=lock, say=said.append)
    tracker.metrics({"val": 1.0})
    tracker.close("FINISHED")
    return said


def newer(file: Path) -> None:
    with closing(sqlite3.connect(file)) as store:
        store.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        store.commit()


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def torn(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    file.write_bytes(content)


SPOILT: dict[str, tuple[Spoil, str]] = {
    "no database": (
        lambda file: file.write_bytes(b"x" * 9000),
        "the store is damaged; move it away, and `cgankd sync`",
    ),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:20000]), "the store is damaged"),
    "torn": (torn, "the store is damaged"),
    "newer": (newer, "the store is of another version of MLflow"),
    "a folder": (as_folder, "mlflow.db is a folder"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_store_stops_nothing_and_sync_says_why(how: str, store: Path, empty_store: Path) -> None:
    spoil, words = SPOILT[how]
    spoil(store / "mlflow.db")
    (said,) = train(store)
    assert said.startswith("warning: MLflow failed (") and words in said and "training goes on" in said
    with pytest.raises(Exception) as raised:
        sync(store)
    assert words in answers.reason(raised.value)
    with pytest.raises(ConfigError, match="cannot be read|is a folder, .*`cgankd sync`|is damaged .*`cgankd sync`"):
        find_run(store, "cgankd", "digits/evaluate")
    if (store / "mlflow.db").is_dir():
        (store / "mlflow.db").rmdir()
    shutil.copyfile(empty_store, store / "mlflow.db")
    assert sync(store).added == 1 and sync(store).there == 1


@pytest.mark.parametrize("how", ["EXCLUSIVE", "IMMEDIATE"])
def test_a_store_that_another_program_holds(how: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "BUSY_S", 0.1)
    with closing(sqlite3.connect(store / "mlflow.db", isolation_level=None)) as other:
        other.execute(f"BEGIN {how}")
        (said,) = train(store)
        assert "the store is locked by another program" in said
        other.execute("ROLLBACK")
    assert sync(store).added == 1 and sync(store).there == 1


@contextmanager
def listener(behave: Callable[[socket.socket], object]) -> Iterator[int]:
    """A port of this machine where each connection is treated as a server should not."""
    server = socket.create_server(("127.0.0.1", 0))
    talks = list[threading.Thread]()

    def talk(connection: socket.socket) -> None:
        with connection:
            behave(connection)

    def loop() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            talks.append(threading.Thread(target=talk, args=(connection,), daemon=True))
            talks[-1].start()

    threading.Thread(target=loop, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.close()
        over.set()
        for one in talks:
            one.join(10)
        over.clear()


over = threading.Event()
"""Set when servers that do not answer are to end."""


def silent(connection: socket.socket) -> None:
    over.wait(60)


def dripping(connection: socket.socket) -> None:
    connection.recv(9999)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
    while not over.wait(0.05):
        try:
            connection.sendall(b" ")
        except OSError:
            return


@pytest.mark.parametrize("behave", [silent, dripping])
def test_a_server_that_never_comes_to_an_end(
    behave: Callable[[socket.socket], object], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "ANSWER_S", 0.3)
    with listener(behave) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:Canary77@127.0.0.1:{port}")
        assert train(store) == [
            "warning: MLflow failed (no answer within 0.3 s); training goes on, `cgankd sync` adds this run later"
        ]
    assert "Canary77" not in (log_folder(store) / "cgan.jsonl").read_text()


def test_how_long_a_store_may_take_is_the_users_to_say(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CGANKD_STORE_WAIT", "40")
    assert answers.answer_s() == 40.0 and answers.first_patience()["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "24"
    monkeypatch.setenv("CGANKD_STORE_WAIT", "0.3")
    with listener(silent) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        (said,) = train(store)
    assert "no answer within 0.3 s" in said
    for wrong in ("soon", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("CGANKD_STORE_WAIT", wrong)
        (said,) = train(store)
        assert f"MLflow failed (CGANKD_STORE_WAIT must be seconds above 0 and at most 3600, but is '{wrong}')" in said


def test_a_database_server_that_never_answers(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg2")
    monkeypatch.setattr(answers, "ANSWER_S", 0.3)
    with listener(silent) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+psycopg2://me:Canary77@127.0.0.1:{port}/base")
        (said,) = train(store)
    assert "no answer within 0.3 s" in said


def test_a_name_that_is_looked_up_for_ever(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ANSWER_S", 0.3)
    monkeypatch.setattr("pipelines.tracking.places.SERVER_WAIT_S", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: over.wait(60))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    (said,) = train(store)
    assert "no answer within 0.3 s" in said
    assert silence("http://tracking.example:5000") == "no answer within 0.3 s"


def test_a_store_that_hangs_midway_is_left(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr("pipelines.tracking.open.WORK_S", 5.0)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", lambda *args, **options: over.wait(60))
        (said,) = train(store)
    assert "no answer within 5 s" in said
    assert sync(store).added == 1 and sync(store).there == 1


@pytest.mark.parametrize(
    "address",
    ["http://", "http://host:port", "http://me:Can/ary77@host:5000", "http://me:Can?ary77@host", "http://[::1"],
)
def test_an_address_that_is_none(address: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    (said,) = train(store)
    assert "MLFLOW_TRACKING_URI is no address such as http://host:5000" in said and "ary77" not in said
    assert "ary77" not in (silence(address) or "")
    with pytest.raises(ConfigError):
        sync(store)


class Asked(BaseHTTPRequestHandler):
    """Answers nothing well, and keeps who asked."""

    who: list[str | None] = []

    def do_GET(self) -> None:
        self.who.append(self.headers.get("Authorization"))
        self.send_error(418)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None: ...


def test_name_and_password_reach_the_server_and_no_message(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), Asked)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:Can%40ary77@127.0.0.1:{server.server_port}")
        (said,) = train(store)
        with pytest.raises(Exception) as raised:
            MlflowSink(store, "cgankd")
    finally:
        server.shutdown()
        server.server_close()
    assert set(Asked.who) == {"Basic " + base64.b64encode(b"me:Can@ary77").decode()}
    assert os.environ["MLFLOW_TRACKING_URI"] == f"http://127.0.0.1:{server.server_port}"
    for text in (said, str(raised.value), *map(str, read_roots(log_folder(store) / "cgan.jsonl").values())):
        assert "ary77" not in text and "418" in said


def test_what_work_raises_is_raised() -> None:
    def fail() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        within(60, fail)
    assert within(60, lambda: 7) == 7
