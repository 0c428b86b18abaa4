"""A console whose lines are told to the machine that sent the job."""

from __future__ import annotations

import io

from rich.console import Console

from pipelines.engines.local import tell

WIDE = 200


class _Lines(io.StringIO):
    def __init__(self, number: int, kind: str | None) -> None:
        super().__init__()
        self.number, self.kind, self.rest = number, kind, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in map(str.rstrip, lines):
            if line:
                tell(self.number, line if self.kind is None else (self.kind, line))
        return len(text)


def told_console(number: int, kind: str | None = None) -> Console:
    """A console that tells each whole line as one of job `number`, after a word of its kind where there is one."""
    return Console(file=_Lines(number, kind), width=WIDE, force_terminal=False)
