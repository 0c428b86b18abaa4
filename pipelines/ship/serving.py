"""The processes of `cgankd serve`: one that holds the address and all requests, and one that computes and may be killed.

    python -m pipelines.ship.serving PORT MODEL DIGEST [HOST ...]

The first binds 127.0.0.1:PORT, reads and answers requests without torch or the model, and starts the second, again where a
signal ends it: the system kills what takes too much memory. The second has one body at a time, which is then computed once
more; all others wait in the first. The second ends with the first, however that ends.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from multiprocessing.connection import Connection, Pipe
from types import FrameType
from typing import Any

ADDRESS = "127.0.0.1"
WAITING = 512
"""Connections that wait to be accepted."""
OPEN = 1000
"""Connections that are held at a time; further ones are answered 503."""
DEATHS, SPAN_S = 5, 60.0
"""So many deaths within so many seconds end the server."""
LEAVE_S = 15.0
"""How long requests under way may take to end after a signal to stop."""
STATUS = 2
"""Bytes of the HTTP status that goes before each answer of the process that computes."""
LOST = "the process that computes was ended while it had this request; send it again, with fewer images"


class Computer:
    """The process that computes, and what is to be done when a signal ends it.

    `on_over` is called, in another thread, when it ended for good; `status` is then the exit status.
    """

    def __init__(self, model: Sequence[str], on_over: Callable[[], None]) -> None:
        self.model, self.on_over = list(model), on_over
        self.changed = threading.Condition()  # guards the next three
        self.link: Connection | None = None  # there while it has the model
        self.version = ""
        self.status: int | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self.leaving = False
        # Its writing end is this process's alone, so that the reading end tells when that is gone.
        self.ended, self.alive = os.pipe()

    def start(self) -> bool:
        """Start it and wait until it has the model; False where it ended for good instead."""
        threading.Thread(target=self._keep, daemon=True).start()
        return self._linked() is not None

    def leave(self) -> None:
        """End it, and whatever waits for it."""
        self.leaving = True
        if self.child is not None:
            self.child.kill()

    def compute(self, body: bytes) -> bytes:
        """The answer to a body, for one thread at a time. Raises Refused, also where the process was ended twice over it."""
        from pipelines.ship.door import Refused

        for _ in range(2):
            link = self._linked()
            if link is None:
                break
            try:
                link.send_bytes(body)
                said = link.recv_bytes()
            except (OSError, EOFError):
                self._drop(link)
                continue
            status, text = int.from_bytes(said[:STATUS], "big"), said[STATUS:]
            if status != HTTPStatus.OK:
                raise Refused(status, text.decode())
            return text
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, LOST)

    def _linked(self) -> Connection | None:
        with self.changed:
            self.changed.wait_for(lambda: self.link is not None or self.status is not None)
            return self.link

    def _drop(self, link: Connection) -> None:
        # Not closed while the other thread may read: its number could be that of the next one by then.
        with self.changed:
            if self.link is link:
                self.link = None

    def _keep(self) -> None:
        """Start it, and again where it ended with the model."""
        deaths: list[float] = []
        while True:
            status, had_model = self._life()
            if self.leaving or not had_model and status >= 0:
                break
            deaths = [*(at for at in deaths if at > time.monotonic() - SPAN_S), time.monotonic()]
            if len(deaths) >= DEATHS:
                _say(f"error: the server was ended {DEATHS} times within {SPAN_S:g} s; look at the memory")
                status = 2
                break
            how = f"by signal {-status}" if status < 0 else f"with exit code {status}"
            _say(f"the process that computes was ended {how}; it starts again, and requests wait")
        with self.changed:
            self.status = 0 if self.leaving else status
            self.changed.notify_all()
        self.on_over()

    def _life(self) -> tuple[int, bool]:
        """One process from its start to its end; its exit status, and whether it ever had the model."""
        ours, theirs = Pipe()
        handles = (theirs.fileno(), self.ended)
        command = [sys.executable, "-m", "pipelines.ship.serving", "compute", *map(str, handles), *self.model]
        try:  # in a group of its own: Ctrl-C is not meant for it
            self.child = subprocess.Popen(command, pass_fds=handles, start_new_session=True)
        except OSError as error:
            _say(f"error: no process can be started ({error.strerror}); look at the memory")
            return 2, False
        finally:
            theirs.close()
        if self.leaving:
            self.child.kill()
        try:
            version = ours.recv_bytes().decode()
        except (OSError, EOFError):
            return self.child.wait(), False
        with self.changed:
            self.link, self.version = ours, version
            self.changed.notify_all()
        status = self.child.wait()
        self._drop(ours)
        return status, True


def keep(port: int, model: Sequence[str]) -> int:
    """Hold the address and answer requests until a signal to stop; returns the exit status."""
    gate = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    gate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        gate.bind((ADDRESS, port))
    except OSError as error:
        _say(f"error: port {port} cannot be used ({error.strerror}); name another one with --port")
        return 2
    gate.listen(WAITING)
    server: Any = None

    def over() -> None:
        if server is not None:
            server.should_exit = True

    computer = Computer(model[:2], over)

    def stop(number: int, frame: FrameType | None) -> None:
        if server is None:
            computer.leave()
        over()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)  # the first two are uvicorn's while it runs
    if not computer.start():
        return computer.status or 0
    server = _server(computer, model[2:])
    if computer.status is None and not computer.leaving:  # else nothing would end it
        _say(f"running on http://{ADDRESS}:{port}")
        server.run(sockets=[gate])
    status = computer.status or 0
    computer.leave()
    return status


def _server(computer: Computer, hosts: Sequence[str]) -> Any:
    import uvicorn

    from pipelines.ship.door import Door
    from pipelines.ship.speech import Strict

    options = uvicorn.Config(
        Door(computer.compute, computer.version, hosts),
        http=Strict,
        ws="none",
        lifespan="off",
        log_level="warning",
        limit_concurrency=OPEN,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(LEAVE_S),
        server_header=False,
        backlog=WAITING,
    )
    return uvicorn.Server(options)


def compute(handle: int, ended: int, model: Sequence[str]) -> None:
    """Answer the bodies that come over a connection, until it or the pipe `ended` is closed."""
    threading.Thread(target=_end_with, args=(ended,), daemon=True).start()
    from cgankd.config import ConfigError
    from pipelines.ship.door import Refused, answer
    from pipelines.ship.registry import load_served

    try:
        served = load_served(*model)
    except ConfigError as error:
        _say(f"error: {error}")
        raise SystemExit(2) from None
    link = Connection(handle)
    link.send_bytes(served.version.encode())
    while True:
        try:
            body = link.recv_bytes()
        except (OSError, EOFError):
            return
        try:
            status, said = 200, answer(body, served.predict, served.shape)
        except Refused as refusal:
            status, said = refusal.status, refusal.text.encode()
        except Exception:  # whatever a model does; nothing is told of its inside
            status, said = 500, b"the model could not answer"
        link.send_bytes(status.to_bytes(STATUS, "big") + said)


def _end_with(pipe: int) -> None:
    """End this process when the other end of a pipe is gone."""
    os.read(pipe, 1)
    os._exit(1)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(words: Sequence[str]) -> int:
    """Be one of the two processes."""
    if words[0] == "compute":
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the first process, which is the one to stop
        compute(int(words[1]), int(words[2]), words[3:])
        return 0
    return keep(int(words[0]), words[1:])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
