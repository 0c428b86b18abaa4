"""Jobs that share out work among themselves, such as workers of a search: each in a process of its own beside the others."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from typing import Any

from cgankd.config import ConfigError
from pipelines.engines.local import Job
from pipelines.files.writing import disk_sentence, of_disk
from pipelines.runtime.bonds import end_with_parent


def beside_each_other(do: Callable[[Job], list[str]], jobs: Sequence[Job]) -> list[int]:
    """Run jobs that share out work among themselves, each in a process of its own; exit codes of those that failed.

    The others go on where one dies. Ctrl-C asks all to end, by SIGTERM, which is like Ctrl-C to a job, and is raised.
    """
    spawn = get_context("spawn")
    processes = [spawn.Process(target=_loop, args=(do, job, os.getpid())) for job in jobs]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        raise
    return [process.exitcode for process in processes if process.exitcode]


def _loop(do: Callable[[Any], list[str]], job: Any, parent: int) -> None:
    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, stop)
        end_with_parent(parent)  # by SIGTERM at once, where the parent is gone already
        do(job)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
    except OSError as error:
        if not of_disk(error):
            raise
        raise SystemExit(f"error: {disk_sentence(error)}") from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what Python runs at its exit would end in a traceback
