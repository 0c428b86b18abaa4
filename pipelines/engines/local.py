"""Runs in worker processes side by side, each in its own process of one thread: how many there are moves no number.

A worker that the system kills, or whose memory runs out, costs a place and not the run: its job is done again with fewer
beside it. Workers end with the process that started them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

from cgankd.fit.room import NoRoom, out_of_memory
from pipelines.locks.holding import Shared
from pipelines.runtime.bonds import end_with_parent
from pipelines.runtime.memory import (
    CANNOT_BEGIN,
    death_in_words,
    in_words,
    of_memory,
    that_fit,
    what_is_left,
    workers_alone,
)

Job = TypeVar("Job")
Told = tuple[int, Any]
"""The number of a job, and what it tells: its steps, or a word that both sides know."""


class Ear(Protocol):
    """Where a worker tells things."""

    def put(self, found: Any, /) -> None: ...


_told: Ear | None = None
"""Where this process tells how far it is; None outside of workers that are asked to."""
_most: int | None = None
"""How many workers a job of an engine may have, where it fans out itself."""


@dataclass(frozen=True)
class Crew:
    """The workers of a stage: how many at most on this machine, what they do in a word ("students"), and the memory that each
    needs, in bytes, None where nobody knows."""

    most: int
    what: str = "runs"
    need_bytes: float | None = None
    cores: int = 1
    """Processor cores, and torch threads, of a job."""
    gpus: float = 0.0
    """Its share of a CUDA device."""
    whole: bool = False
    """A job fills a machine by itself: on this one they run one after the other, in this process."""

    def size(self, jobs: int, say: Callable[[str], None]) -> int:
        """How many begin side by side; fewer than `most` are said with the reason."""
        wanted = min(self.most, jobs, _most or jobs)
        return wanted if self.need_bytes is None else that_fit(wanted, self.need_bytes, self.what, say)


def tell(number: int, what: Any) -> None:
    """Tell the parent something of job `number`, such as its steps; nobody listens where no engine runs it."""
    if _told is not None:
        _told.put((number, what))


def hand_over() -> None:
    """Send what this job has written so far to the machine that sent it; nothing where that sees the folder itself.

    A job whose method `keeps` names such files calls it when they are in a state worth having.
    """
    if (send := getattr(_told, "send", None)) is not None:
        send()


@contextmanager
def telling(ear: Ear, most: int | None = None) -> Iterator[None]:
    """Let jobs in this process tell an engine how far they are; what they fan out runs on `most` cores."""
    global _told, _most
    before, _told, _most = (_told, _most), ear, most
    try:
        yield
    finally:
        _told, _most = before


def _begin(told: SimpleQueue[Told | None], parent: int, locks: Shared) -> None:
    global _told
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the stage alone, which then ends its workers
    try:
        import torch
    except (ImportError, MemoryError, OSError) as error:
        if not out_of_memory(error):
            raise
        os._exit(CANNOT_BEGIN)
    torch.set_num_threads(1)
    _told = told


def _one_by_one(
    train: Callable[[Job], list[str]], jobs: Sequence[Job], done: Callable[[int], None], say: Callable[[str], None]
) -> None:
    """On one thread, as workers do."""
    import torch

    threads, told = torch.get_num_threads(), set[str]()
    torch.set_num_threads(1)
    try:
        for count, job in enumerate(jobs, 1):
            for line in train(job):
                if line not in told:
                    say(line)
                told.add(line)
            done(count)
    finally:
        torch.set_num_threads(threads)


def run_side_by_side(
    train: Callable[[Job], list[str]],
    jobs: Sequence[Job],
    crew: Crew,
    done: Callable[[int], None],
    say: Callable[[str], None],
    steps: Callable[[int, Any], None] = lambda number, steps: None,
    ended: Callable[[Job], None] = lambda job: None,
) -> None:
    """Call `train` on every job in worker processes; `done` is told how many are finished, `ended` which one, `steps` what jobs
    tell by `tell`, from a thread of its own.

    Where several ranks train together, jobs are done in this process, one after the other, each by all ranks.
    What `train` returns is said, each line once. An error or Ctrl-C ends the workers at once and is raised. Raises NoRoom where
    memory runs out, and ConfigError where a worker dies, although it ran alone.
    """
    from cgankd.fit.ranks import ranks  # torch, which a worker brings in by itself

    if ranks().size > 1:
        _one_by_one(train, jobs, done, say)
        return
    waiting, told = list(jobs), set[str]()

    def heard(lines: list[str]) -> None:
        for line in sorted(set(lines) - told):
            told.add(line)
            say(line)

    size = crew.size(len(jobs), say) if jobs else 0
    while waiting:
        size = min(size, len(waiting))
        shift = _Shift(train, size, heard, lambda left: done(len(jobs) - left), say, ended)
        waiting = shift.work(waiting, steps)
        if not waiting:
            return
        if size == 1:
            raise shift.alone(crew)
        size -= 1
        say(
            f"{shift.why}; going on with {size} {crew.what} at a time: what is finished is kept, and no number depends on it"
        )


class _Shift:
    """One pool of workers, until all jobs are done or the first of its processes is lost."""

    def __init__(
        self,
        train: Callable[[Any], list[str]],
        size: int,
        heard: Callable[[list[str]], None],
        left: Callable[[int], None],
        say: Callable[[str], None],
        ended: Callable[[Any], None],
    ) -> None:
        self.train, self.size, self.heard, self.left, self.say = train, size, heard, left, say
        self.ended = ended
        self.code, self.why = 0, ""
        """Exit code of the process that was lost, and what happened in words."""
        self.error: Exception | None = None
        """The error of a process that lived on."""

    def work(self, jobs: list[Any], steps: Callable[[int, Any], None]) -> list[Any]:
        """Do the jobs; those that are left, in their order."""
        context = get_context("spawn")
        queue: SimpleQueue[Told | None] = context.SimpleQueue()
        listener = Thread(target=_listen, args=(queue, steps), daemon=True)
        listener.start()
        with ProcessPoolExecutor(
            self.size, mp_context=context, initializer=_begin, initargs=(queue, os.getpid(), Shared())
        ) as pool:
            try:
                futures = {self._submit(pool, job): number for number, job in enumerate(jobs)}
                workers = list(pool._processes.values())
                lost = self._collect(futures, jobs)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    self.say("stopping: finished runs are kept, the others go on from their saved progress")
                stop_workers(pool)
                raise
        # Not after an error: a worker that was ended while it told something may hold the queue's lock for ever.
        if not lost:
            queue.put(None)
            listener.join()
        elif self.error is None:
            self.code = _first_death([_exit_code(worker) for worker in workers])
            left = f"; {what_is_left()}" if of_memory(self.code) else ""
            self.why = f"a worker process {death_in_words(self.code)}{left}"
        return [jobs[number] for number in sorted(lost)]

    def _submit(self, pool: ProcessPoolExecutor, job: Any) -> Future[list[str]]:
        try:
            return pool.submit(self.train, job)
        except BrokenProcessPool as error:  # a worker is lost before all jobs are in the queue
            failed: Future[list[str]] = Future()
            failed.set_exception(error)
            return failed

    def _collect(self, futures: dict[Future[list[str]], int], jobs: list[Any]) -> list[int]:
        """Numbers of the jobs that were not done."""
        lost: list[int] = []
        left = len(futures)
        for future in as_completed(futures):
            if future.cancelled():
                lost.append(futures[future])
                continue
            try:
                self.heard(future.result())
            except BrokenProcessPool:
                lost.append(futures[future])
            except Exception as error:
                if not out_of_memory(error):
                    raise
                # Those that are under way are let to end; what waits is done with fewer side by side.
                self.error, self.why = error, f"a worker process had no memory left: {in_words(error) or error}"
                for waiting in futures:
                    waiting.cancel()
                lost.append(futures[future])
            else:
                left -= 1
                self.left(left)
                self.ended(jobs[futures[future]])
        return lost

    def alone(self, crew: Crew) -> BaseException:
        """The error to end with where the process ran alone."""
        if self.error is None:
            return workers_alone(self.code, crew.need_bytes)
        return self.error if isinstance(self.error, NoRoom) else NoRoom(in_words(self.error) or str(self.error))


def _listen(told: SimpleQueue[Told | None], steps: Callable[[int, Any], None]) -> None:
    while (found := told.get()) is not None:
        steps(*found)


def _exit_code(worker: Any) -> int:
    worker.join()
    return int(worker.exitcode or 0)


def _first_death(codes: Sequence[int]) -> int:
    """The exit code of the worker that broke the pool: the others were then ended by SIGTERM."""
    own = [code for code in codes if code not in (0, -signal.SIGTERM)]
    return own[0] if own else -int(signal.SIGTERM)


def stop_workers(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool at once: left alone they would train what they hold and the jobs in their queue.

    Nothing whole is lost, as results are renamed into place and resume files hold the rest.
    """
    workers = list(pool._processes.values())  # public as terminate_workers from Python 3.14
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.terminate()
