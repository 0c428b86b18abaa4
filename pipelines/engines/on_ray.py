"""Jobs on a Ray cluster: Ray places them by what they need, and runs those of a lost worker or node again elsewhere."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from cgankd.fit.room import NoRoom, out_of_memory
from pipelines.engines import cluster
from pipelines.engines.card import card_of
from pipelines.engines.carrier import Carrier, Sent, arrive, carrier
from pipelines.engines.executor import Hear, Job
from pipelines.engines.freight import folder_of, item_of, reads
from pipelines.engines.heads import HeadLost, Watch
from pipelines.engines.local import Crew
from pipelines.engines.remote import BEGAN, Delivered, Mark, Parcel, Unseen, run_parcel
from pipelines.runtime.memory import in_words

LOOK_EVERY_S = 0.5
GRACE_S = 10.0
"""How long a job may take to end when it is cancelled."""
LOST_MOST = 3
"""How often Ray runs a job again whose worker or node was lost."""
SETTINGS = (
    "CGANKD_DEVICE",
    "CGANKD_COMPILE",
    "CGANKD_DEBUG",
    *(f"MLFLOW_TRACKING_{x}" for x in ("URI", "USERNAME", "PASSWORD")),
)
"""Environment variables that go with a job."""


class OnRay:
    """The cluster of RAY_ADDRESS, or one of this machine alone."""

    def map(self, do: Callable[[Job], list[str]], jobs: Sequence[Job], crew: Crew, hear: Hear[Job]) -> None:
        """See Executor. All jobs wait in Ray's queue, so that `crew.most` says nothing here."""
        if not jobs:
            return
        ray = cluster.connected(hear.say)
        with cluster.in_words(ray):
            self._fly(ray, _Flight(ray, do, jobs, crew, hear))

    def _fly(self, ray: Any, flight: _Flight) -> None:
        """Fly, and leave nothing behind."""
        try:
            flight.fly()
        except (HeadLost, ray.exceptions.LocalRayletDiedError):  # who would cancel anything?
            raise
        except BaseException as error:
            if isinstance(error, ConnectionError) and not flight.watch.address:  # Ray's client has lost the head
                raise ConfigError(
                    f"the connection to the Ray cluster is lost ({' '.join(str(error).split())[:200]}); what is finished is kept,"
                    " and the same command goes on"
                ) from error
            if isinstance(error, KeyboardInterrupt):
                flight.hear.say("stopping: finished runs are kept, the jobs on the cluster are cancelled")
            with suppress(ray.exceptions.RayError):  # the error under way is what is told
                flight.cancel()
            raise
        finally:
            flight.land()

    def loops(self, do: Callable[[Job], list[str]], jobs: Sequence[Job], crew: Crew, hear: Hear[Job]) -> list[str]:
        """See Executor; Ray begins one that is lost again elsewhere."""
        self.map(do, jobs, crew, hear)
        return []


@dataclass
class _Sent:
    """A job on the cluster: how often this machine sent it, and how often a worker began it."""

    parcel: Parcel
    times: int = 0
    began: int = 0
    alone: bool = False


class _Flight:
    """All jobs of one call, from the first that is sent to the last that is finished."""

    def __init__(
        self, ray: Any, do: Callable[[Any], list[str]], jobs: Sequence[Any], crew: Crew, hear: Hear[Any]
    ) -> None:
        self.ray, self.do, self.jobs, self.crew, self.hear = ray, do, jobs, crew, hear
        self.most = cluster.largest(ray)
        self.check_fits()
        self.by, self.may_see = carrier()
        self.sending = not self.may_see
        """Whether files are sent with the jobs."""
        self.marks: dict[Path, Mark] = {}
        self.pending: dict[Any, int] = {}
        self.sent: dict[int, _Sent] = {}
        self.lines = set[str]()
        self.task = ray.remote(run_parcel)  # one for all jobs, as each is sent to the cluster whole
        self.call, self.ear = uuid.uuid4().hex, cluster.ear(ray)
        self.watch = Watch(ray)

    def check_fits(self) -> None:
        """Raise ConfigError where Ray would wait for ever."""
        for name, wanted in (("CPU", float(self.crew.cores)), ("GPU", self.crew.gpus)):
            if wanted > self.most.get(name, 0.0):
                raise ConfigError(
                    f"each of the {self.crew.what} needs {wanted:g} {name}, but no node of the Ray cluster has more than"
                    f" {self.most.get(name, 0.0):g}; add such a node, or unset CGANKD_ENGINE"
                )

    def fly(self) -> None:
        """Send all jobs and take what comes back."""
        card = card_of("cuda" if self.crew.gpus else "cpu")
        for number, job in enumerate(self.jobs):
            device = "cuda" if self.crew.gpus else "cpu"
            items, mark = tuple(map(item_of, reads(job))), self.mark(folder_of(job)) if self.may_see else None
            settings = {name: value for name in SETTINGS if (value := os.environ.get(name))}
            own: Carrier | None = None
            parcel = Parcel(
                number, self.do, job, items, card, device, self.crew.cores, mark, own, (self.ear, self.call), settings
            )
            self.sent[number] = _Sent(parcel)
            self.send(number)
        left = len(self.jobs)
        while self.pending:
            ready, _ = self.ray.wait(list(self.pending), num_returns=1, timeout=LOOK_EVERY_S)
            self.watch.look()
            self.listen()
            for ref in ready:
                number = self.pending.pop(ref)
                found = self.taken(number, ref)
                if found is None:
                    continue
                for file in found.files:
                    place(file, self.by)
                self.listen()
                self.heard(found.lines)
                left -= 1
                self.hear.done(len(self.jobs) - left)
                self.hear.ended(self.jobs[number])

    def mark(self, folder: Path) -> Mark:
        """The mark in a folder of results, one for all jobs there."""
        if folder not in self.marks:
            folder.mkdir(parents=True, exist_ok=True)
            words = uuid.uuid4().hex
            mark = Mark(folder / f".seen-{words[:8]}", words)  # a name that sweeps leave alone for a day
            mark.path.write_text(words, encoding="utf-8")
            self.marks[folder] = mark
        return self.marks[folder]

    def send(self, number: int) -> None:
        """Hand a job to Ray, with its files where they are needed."""
        one = self.sent[number]
        if self.sending:
            if (why := getattr(one.parcel.job, "stays", None)) is not None:
                raise ConfigError(why)
            self.by.put({item.digest: item.path for item in one.parcel.items})
            one.parcel = replace(one.parcel, carrier=self.by)
        cores = self.most["CPU"] if one.alone else self.crew.cores
        gpus = 1.0 if one.alone and self.crew.gpus else self.crew.gpus
        # An estimate above what any node has would wait for ever; such a job gets a node's whole memory.
        memory = min(self.crew.need_bytes or 0.0, self.most.get("memory", 0.0))
        task = self.task.options(
            num_cpus=cores,
            num_gpus=gpus,
            memory=int(memory),
            max_retries=LOST_MOST,
            retry_exceptions=False,
            name=f"{self.crew.what} {number}",
        )
        one.times += 1
        self.pending[task.remote(one.parcel)] = number

    def taken(self, number: int, ref: Any) -> Delivered | None:
        """What a job returned; None where it was sent again. Raises its error."""
        errors = self.ray.exceptions
        try:
            found = self.ray.get(ref)
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if not out_of_memory(cause):
                raise cause from error
            self.again_alone(number, cause)
            return None
        except (
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.OutOfMemoryError,
            errors.ObjectLostError,
        ) as error:
            raise NoRoom(
                f"a worker was lost {LOST_MOST + 1} times at the same job of the {self.crew.what}, as happens where memory"
                f" runs out ({type(error).__name__}); give its node more memory, or lower batch_size or"
                " data.memory_budget_gb; what is finished is kept, and the same command goes on"
            ) from error
        if isinstance(found, Unseen):
            if not self.sending:
                self.sending = True
                self.hear.say(f"{found.node} does not see {folder_of(self.jobs[number])}: files go to it through Ray")
            self.send(number)
            return None
        assert isinstance(found, Delivered)
        return found

    def again_alone(self, number: int, cause: Exception) -> None:
        """Send a job for which there was no memory again, with a node for itself. Raises NoRoom where it had one."""
        words = in_words(cause) or str(cause)
        if self.sent[number].alone:
            raise cause if isinstance(cause, NoRoom) else NoRoom(words)
        self.sent[number].alone = True
        self.hear.say(
            f"a worker had no memory left: {words}; its job runs again with a node for itself, no number depends on it"
        )
        self.send(number)

    def listen(self) -> None:
        """Hand on what jobs told since the last time."""
        try:
            found = self.ray.get(self.ear.take.remote(self.call))
        except self.ray.exceptions.RayError:  # progress is lost, and no result
            return
        for number, what in found:
            if isinstance(what, Sent):
                place(what, self.by)
                continue
            if not isinstance(what, tuple) or what[0] != BEGAN:
                self.hear.told(number, what)
                continue
            one = self.sent[number]
            one.began += 1
            if one.began > one.times:
                one.times = one.began
                self.hear.say(f"a worker or a node was lost: its job runs again on {what[1]}, no number depends on it")

    def heard(self, lines: list[str]) -> None:
        """Say what a job returned, each line once."""
        for line in sorted(set(lines) - self.lines):
            self.lines.add(line)
            self.hear.say(line)

    def cancel(self) -> None:
        """End all jobs of this call as Ctrl-C would, and by force what does not heed that."""
        refs = list(self.pending)
        for ref in refs:
            self.ray.cancel(ref)
        _, left = self.ray.wait(refs, num_returns=len(refs), timeout=GRACE_S) if refs else ([], [])
        self.listen()  # to what they handed over on their way out
        for ref in left:
            self.ray.cancel(ref, force=True)

    def land(self) -> None:
        """Leave nothing of this call behind."""
        for mark in self.marks.values():
            mark.path.unlink(missing_ok=True)


def place(sent: Sent, by: Carrier) -> None:
    """Put a result under its name, whole and checked. Raises Refused on other bytes than were sent."""
    arrive(sent.item, sent.item.path, by, "this machine", sent.data)
