"""What stands in front of optuna-dashboard: the questions that the door of `serve` asks."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from rich.console import Console

from pipelines.search import dashboard as module
from pipelines.ship.door import MAX_BODY, guarded


def answered(**headers: str) -> str:
    """The status of a request with these headers, of an application that answers all."""
    environ: dict[str, Any] = {"HTTP_HOST": "127.0.0.1:8080"} | headers
    setup_testing_defaults(environ)
    said: list[str] = []

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [])
        return [b"studies"]

    list(
        guarded(app)({key: value for key, value in environ.items() if value}, lambda status, head: said.append(status))
    )
    return said[0][:3]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, "200"),
        ({"HTTP_HOST": "localhost:8080", "HTTP_ORIGIN": "http://localhost:8080", "CONTENT_LENGTH": "10"}, "200"),
        ({"HTTP_HOST": "evil.example"}, "403"),
        ({"HTTP_HOST": "127.0.0.1,evil.example"}, "403"),
        ({"HTTP_HOST": ""}, "400"),
        ({"HTTP_ORIGIN": "http://evil.example"}, "403"),
        ({"HTTP_ORIGIN": "null"}, "403"),
        ({"HTTP_SEC_FETCH_SITE": "cross-site"}, "403"),
        ({"HTTP_SEC_FETCH_SITE": "Cross-Site"}, "403"),
        ({"HTTP_SEC_FETCH_SITE": "cross-site,none"}, "403"),
        ({"HTTP_SEC_FETCH_SITE": "same-origin"}, "200"),
        ({"HTTP_HOST": "localhost#evil.example"}, "403"),
        ({"CONTENT_LENGTH": str(MAX_BODY + 1)}, "413"),
        ({"CONTENT_LENGTH": "-1"}, "413"),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, "411"),
    ],
)
def test_only_this_machine_is_answered(headers: dict[str, str], status: str) -> None:
    assert answered(**headers) == status


def test_the_command_serves_what_is_guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'search.db'}"
    storage = optuna.storages.RDBStorage(url)
    optuna.create_study(storage=storage, study_name="x")
    made: list[Any] = []
    make = module.make_server

    def listening(host: str, port: int, *given: Any) -> Any:
        made.append(make(host, 0, *given))
        return made[0]

    monkeypatch.setattr(module, "make_server", listening)
    monkeypatch.setattr(module, "connect", lambda workdir, url: storage)
    monkeypatch.setattr(module, "load_searched", lambda path: type("Searched", (), {"search": None})())
    monkeypatch.setattr(module, "storage_url", lambda workdir, search, given: url)
    ready = threading.Event()
    console = Console(quiet=True)
    monkeypatch.setattr(console, "print", lambda *text, **how: ready.set())
    thread = threading.Thread(target=module.serve, args=(tmp_path, None, 8080, console, guarded), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        for host, status in (("localhost", 200), ("evil.example", 403)):
            line = http.client.HTTPConnection(*made[0].server_address, timeout=60)
            line.request("GET", "/api/studies", headers={"Host": host})
            reply = line.getresponse()
            assert reply.status == status and (b'"x"' in reply.read()) is (status == 200)
            line.close()
    finally:
        made[0].shutdown()
        thread.join(60)
