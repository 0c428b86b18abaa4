"""Runs in worker processes side by side, each in its own process of one thread: how many there are moves no number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

from pipelines.runtime.machine import begin_worker

Job = TypeVar("Job")


def run_side_by_side(
    train: Callable[[Job], list[str]],
    jobs: Sequence[Job],
    workers: int,
    done: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Call `train` on every job in up to `workers` processes; `done` is told how many are finished.

    What `train` returns is said, each line once. An error or Ctrl-C ends the workers at once and is raised.
    """
    if not jobs:
        return
    with ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=get_context("spawn"), initializer=begin_worker
    ) as pool:
        futures, told = [pool.submit(train, job) for job in jobs], set[str]()
        try:
            for count, future in enumerate(as_completed(futures), start=1):
                for line in sorted(set(future.result()) - told):
                    told.add(line)
                    say(line)
                done(count)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                say("stopping: finished runs are kept, the others go on from their saved progress")
            stop_workers(pool)
            raise


def stop_workers(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool at once: left alone they would train what they hold and the jobs in their queue.

    Nothing whole is lost, as results are renamed into place and resume files hold the rest.
    """
    workers = list(pool._processes.values())  # public as terminate_workers from Python 3.14
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.terminate()
