"""The one seam for work that falls into independent jobs: which engine runs them is said by CGANKD_ENGINE."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from cgankd.config import ConfigError
from pipelines.engines.local import Crew, run_side_by_side, telling

Job = TypeVar("Job")
ENGINES = ("local", "ray")


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


class _Direct:
    """What a job in this process tells is heard at once."""

    def __init__(self, told: Callable[[int, Any], None]) -> None:
        self.told = told

    def put(self, found: Any) -> None:
        """Hand it on."""
        self.told(*found)


def engine_name() -> str:
    """ "local" or "ray", by CGANKD_ENGINE. Raises ConfigError."""
    value = os.environ.get("CGANKD_ENGINE", "") or "local"
    if value not in ENGINES:
        raise ConfigError(
            f"the environment variable CGANKD_ENGINE must be one of {', '.join(ENGINES)}, but is {value!r}"
        )
    return value


def executor() -> Executor:
    """The engine that CGANKD_ENGINE names. Raises ConfigError."""
    if engine_name() == "local":
        return Processes()
    from pipelines.engines.on_ray import OnRay

    return OnRay()


def run_jobs(
    do: Callable[[Job], list[str]],
    jobs: Sequence[Job],
    crew: Crew,
    done: Callable[[int], None],
    say: Callable[[str], None],
    told: Callable[[int, Any], None] = lambda number, what: None,
) -> None:
    """`Executor.map` of the engine that is asked for."""
    executor().map(do, jobs, crew, Hear(say, done, told))


def share_of(device: str) -> float:
    """The share of a CUDA device that one training takes."""
    from pipelines.runtime.machine import ON_ONE_DEVICE  # imports torch

    return 1 / ON_ONE_DEVICE if device == "cuda" else 0.0
