"""Runs in worker processes side by side, each in its own process of one thread: how many there are moves no number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from threading import Thread
from typing import TypeVar

from pipelines.locks.holding import Shared
from pipelines.runtime.machine import begin_worker

Job = TypeVar("Job")
_told: SimpleQueue[tuple[int, int] | None] | None = None
"""Where this process tells how far it is; None outside of workers that are asked to."""


def tell_steps(number: int, steps: int) -> None:
    """Tell the parent that job `number` has done so many steps; nobody listens where no worker process runs it."""
    if _told is not None:
        _told.put((number, steps))


def _begin(told: SimpleQueue[tuple[int, int] | None], locks: Shared) -> None:
    global _told
    begin_worker()
    _told = told


def run_side_by_side(
    train: Callable[[Job], list[str]],
    jobs: Sequence[Job],
    workers: int,
    done: Callable[[int], None],
    say: Callable[[str], None],
    steps: Callable[[int, int], None] = lambda number, steps: None,
) -> None:
    """Call `train` on every job in up to `workers` processes; `done` is told how many are finished, `steps` what jobs tell by
    `tell_steps`, from a thread of its own.

    What `train` returns is said, each line once. An error or Ctrl-C ends the workers at once and is raised.
    """
    if not jobs:
        return
    context = get_context("spawn")
    queue: SimpleQueue[tuple[int, int] | None] = context.SimpleQueue()
    listener = Thread(target=_listen, args=(queue, steps), daemon=True)
    listener.start()
    with ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_begin, initargs=(queue, Shared())
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
    # Not after an error: a worker that was ended while it told something may hold the queue's lock for ever.
    queue.put(None)
    listener.join()


def _listen(told: SimpleQueue[tuple[int, int] | None], steps: Callable[[int, int], None]) -> None:
    while (found := told.get()) is not None:
        steps(*found)


def stop_workers(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool at once: left alone they would train what they hold and the jobs in their queue.

    Nothing whole is lost, as results are renamed into place and resume files hold the rest.
    """
    workers = list(pool._processes.values())  # public as terminate_workers from Python 3.14
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.terminate()
