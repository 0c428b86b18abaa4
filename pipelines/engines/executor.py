"""The one seam for work that falls into independent jobs, and its engine on this machine."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from rich.console import Console

from pipelines.engines.local import Crew, run_side_by_side, tell, telling
from pipelines.engines.loops import beside_each_other
from pipelines.runtime.memory import death_in_words

Job = TypeVar("Job")
WIDE = 200


@dataclass(frozen=True)
class Hear(Generic[Job]):
    """What is told while jobs run: lines for the user, how many are finished and which, and what they tell by `tell`."""

    say: Callable[[str], None]
    done: Callable[[int], None] = lambda count: None
    told: Callable[[int, Any], None] = lambda number, what: None
    ended: Callable[[Job], None] = lambda job: None
    """Called when the results of a job are in place."""


class Executor(Protocol):
    """Runs independent jobs, frozen dataclasses whose results are files; where and how many at a time moves no number."""

    def map(self, do: Callable[[Job], list[str]], jobs: Sequence[Job], crew: Crew, hear: Hear[Job]) -> None:
        """Call `do` on every job, and place its files before it counts as finished.

        What it returns is said, each line once. An error or Ctrl-C ends the others at once and is raised.
        """

    def loops(self, do: Callable[[Job], list[str]], jobs: Sequence[Job], crew: Crew, hear: Hear[Job]) -> list[str]:
        """Run jobs that share out work among themselves and go on where one dies; how those ended that failed, in words."""


class Processes:
    """Worker processes of this machine."""

    def map(self, do: Callable[[Job], list[str]], jobs: Sequence[Job], crew: Crew, hear: Hear[Job]) -> None:
        """See Executor; what dies for want of memory is done again with fewer side by side."""
        if not crew.whole:
            run_side_by_side(do, jobs, crew, hear.done, hear.say, hear.told, hear.ended)
            return
        for count, job in enumerate(jobs, start=1):
            with telling(_Direct(hear.told)):
                lines = do(job)
            for line in lines:
                hear.say(line)
            hear.done(count)
            hear.ended(job)

    def loops(self, do: Callable[[Job], list[str]], jobs: Sequence[Job], crew: Crew, hear: Hear[Job]) -> list[str]:
        """See Executor; each in a process of its own."""
        return [death_in_words(code) for code in beside_each_other(do, jobs)]


class _Direct:
    """What a job in this process tells is heard at once."""

    def __init__(self, told: Callable[[int, Any], None]) -> None:
        self.told = told

    def put(self, found: Any) -> None:
        """Hand it on."""
        self.told(*found)


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
