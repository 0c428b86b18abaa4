"""optuna-dashboard over the studies of a folder, for this machine only.

Its pages can change and delete studies, and it asks nobody who sends a request: a page of another site in the user's browser
could. So it stands behind a guard, which asks what the door of `serve` asks.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from rich.console import Console

from cgankd.config import ConfigError
from pipelines.search.config import load_searched
from pipelines.search.storage import answering, check_begun, names_of, shown, storage_url
from pipelines.search.study import connect, load

HOST = "127.0.0.1"
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
SILENT_S = 10.0
"""Seconds after which a connection that sends nothing is closed."""


class _Handler(WSGIRequestHandler):
    timeout = SILENT_S  # of the socket

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


def serve(workdir: Path, storage: str | None, port: int, console: Console, guard: Callable[[Wsgi], Wsgi]) -> None:
    """Serve until Ctrl-C, with a guard in front. Raises ConfigError where there is no study or the port is taken."""
    cfg = load_searched(workdir / "params.yaml")
    url = storage_url(workdir, cfg.search, storage)
    check_begun(url)
    database = connect(workdir, url)
    with answering(url):
        for name in names_of(database):
            try:
                load(database, name)
            except ConfigError as error:  # what is there can be looked at all the same
                console.print(f"warning: {error}", markup=False, soft_wrap=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optuna_dashboard import wsgi
    try:
        server = make_server(HOST, port, guard(wsgi(database)), _Server, _Handler)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ConfigError(f"port {port} is taken on this machine; choose another by --port") from None
    console.print(f"http://{HOST}:{port} shows {shown(url)} (Ctrl-C ends it)", markup=False, soft_wrap=True)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()
