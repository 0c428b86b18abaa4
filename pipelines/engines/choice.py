"""Which engine runs jobs: CGANKD_ENGINE says it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from cgankd.config import ConfigError
from pipelines.engines.executor import Executor, Hear, Job, Processes
from pipelines.engines.local import Crew

ENGINES = ("local", "ray")


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
