"""The processes of `cgankd serve`: one that holds the address and lives long, and one that answers and may be killed.

    python -m pipelines.ship.serving PORT MODEL DIGEST [HOST ...]

The first binds 127.0.0.1:PORT and starts the second, again where a signal ends it: the system kills what takes too much
memory. Connections made meanwhile wait. The second ends with the first, however that ends.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

ADDRESS = "127.0.0.1"
WAITING = 512
"""Connections that wait to be accepted."""
OPEN = 1000
"""Connections that are held at a time; further ones are answered 503."""
HEAD_WAIT_S = 10.0
"""Seconds within which a connection must have sent the head of a request, its first and each further one."""
DEATHS, SPAN_S = 5, 60.0
"""So many deaths within so many seconds end the server: it would die of the next request too."""
LEAVE_S = 15.0
"""How long requests under way may take to end after a signal to stop."""


def keep(port: int, model: Sequence[str]) -> int:
    """Hold the address and keep a process that answers; returns the exit status."""
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((ADDRESS, port))
    except OSError as error:
        sys.stderr.write(f"error: port {port} cannot be used ({error.strerror}); name another one with --port\n")
        return 2
    door.listen(WAITING)
    ended, alive = os.pipe()  # its writing end is this process's alone, so that the reading end tells when that is gone
    child: subprocess.Popen[bytes] | None = None
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        if child is not None:
            child.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    deaths: list[float] = []
    handles = (door.fileno(), ended)
    command = [sys.executable, "-m", "pipelines.ship.serving", "answer", *map(str, (*handles, port)), *model]
    while True:
        # A group of its own: Ctrl-C reaches it through this process, once.
        child = subprocess.Popen(command, pass_fds=handles, start_new_session=True)
        if stopping:
            child.send_signal(signal.SIGTERM)
        status = child.wait()
        if stopping:
            return 0
        if status >= 0:
            return status
        deaths = [*(at for at in deaths if at > time.monotonic() - SPAN_S), time.monotonic()]
        if len(deaths) >= DEATHS:
            sys.stderr.write(f"error: the server was ended {DEATHS} times within {SPAN_S:g} s; look at the memory\n")
            return 2
        sys.stderr.write(f"the server was ended by signal {-status}; it starts again, and new requests wait\n")
        sys.stderr.flush()


def answer(handle: int, ended: int, port: int, model: Sequence[str]) -> None:
    """Answer requests on a listening socket until a signal to stop, or until the pipe `ended` is closed."""
    threading.Thread(target=_end_with, args=(ended,), daemon=True).start()
    import uvicorn

    from cgankd.config import ConfigError
    from pipelines.ship.door import Door
    from pipelines.ship.registry import load_served

    uri, digest, *hosts = model
    try:
        served = load_served(uri, digest)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
    app = Door(served.predict, served.shape, served.version, hosts)
    options = uvicorn.Config(
        app,
        http=impatient(),
        ws="none",
        lifespan="off",
        log_level="warning",
        limit_concurrency=OPEN,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(LEAVE_S),
        server_header=False,
        backlog=WAITING,
    )
    sys.stderr.write(f"running on http://{ADDRESS}:{port}\n")
    sys.stderr.flush()
    uvicorn.Server(options).run(sockets=[socket.socket(fileno=handle)])


def impatient() -> Any:
    """HTTP as uvicorn speaks it, where a connection whose request does not begin in time is closed.

    Uvicorn keeps those that send nothing, or a letter now and then, and they count among the OPEN that it holds.
    """
    import asyncio

    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        _limit: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Begin to wait for the first request."""
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            """Wait no more."""
            self._forget()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            """Begin to wait for the next request: a few letters of it end uvicorn's own waiting."""
            super().on_response_complete()
            self._wait()

        def _wait(self) -> None:
            self._forget()
            self._limit = self.loop.call_later(HEAD_WAIT_S, self._late)

        def _forget(self) -> None:
            if self._limit is not None:
                self._limit.cancel()

        def _late(self) -> None:
            cycle: Any = self.cycle
            if cycle is None or cycle.response_complete:
                self.transport.close()

    return Impatient


def _end_with(pipe: int) -> None:
    """End this process when the other end of a pipe is gone."""
    os.read(pipe, 1)
    os._exit(1)


def main(words: Sequence[str]) -> int:
    """Be one of the two processes."""
    if words[0] == "answer":
        handle, ended, port = map(int, words[1:4])
        answer(handle, ended, port, words[4:])
        return 0
    return keep(int(words[0]), words[1:])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
