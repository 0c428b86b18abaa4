"""A side of a benchmark in a process of its own that waits between its turns, so that both sides run by turns.

The plain one has the default allocator, the fast one the settings a stage gives itself (pipelines/runtime/malloc.py).
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import Any

from pipelines.runtime.malloc import SETTINGS

LIMIT_S = 900
"""Longest time of one request, or of one benchmark that is run whole."""


class Failed(RuntimeError):
    """A side ended without a result; the message is the last line of its errors."""


def environment(large_blocks: bool) -> dict[str, str]:
    """This process's environment with or without the allocator's settings."""
    plain = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    return plain | (SETTINGS if large_blocks else {})


def last_line(text: str, otherwise: str) -> str:
    """The last line of what a process said of its end."""
    return (text.strip() or otherwise).splitlines()[-1]


def child(name: str, words: list[str], *, large_blocks: bool) -> Any:
    """What a benchmark prints as JSON in a fresh process that is run whole."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *words]
    try:
        done = subprocess.run(command, env=environment(large_blocks), capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"{name} {' '.join(words)} took more than {LIMIT_S} s") from None
    if done.returncode:
        raise Failed(f"{name} {' '.join(words)}: {last_line(done.stderr, f'exit code {done.returncode}')}")
    return json.loads(done.stdout.splitlines()[-1])


class Waiting:
    """`python -m benchmarks.NAME --serve SIDE`, which answers one line of JSON with another until its input ends."""

    def __init__(self, name: str, side: str) -> None:
        self.words = f"{name} --serve {side}"
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{name}", "--serve", side],
            env=environment(side == "fast"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def __enter__(self) -> Waiting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def ask(self, **request: Any) -> Any:
        """The answer to a request. Raises Failed where the process ends or takes too long."""
        pipe_in, pipe_out = self.process.stdin, self.process.stdout
        assert pipe_in is not None and pipe_out is not None
        try:
            pipe_in.write(json.dumps(request) + "\n")
            pipe_in.flush()
        except BrokenPipeError:
            pass  # it has ended; reading says why
        if not select.select([pipe_out], [], [], LIMIT_S)[0]:
            raise Failed(f"{self.words} took more than {LIMIT_S} s")
        answer = pipe_out.readline()
        if not answer:
            code = self.process.wait()
            self.errors.seek(0)
            raise Failed(f"{self.words}: {last_line(self.errors.read(), f'exit code {code}')}")
        return json.loads(answer)


def serve(answer: Callable[..., Any]) -> None:
    """Answer each line of the input, a mapping of keywords, with a line of JSON; whatever else is printed goes to stderr."""
    out, sys.stdout = sys.stdout, sys.stderr
    for request in sys.stdin:
        out.write(json.dumps(answer(**json.loads(request))) + "\n")
        out.flush()
