"""`cgankd search`: trials of an Optuna study over search.space, judged on the validation split only.

A trial computes what `dvc repro` would under its values: the same blocks of fakes, the same selection, the same student
jobs. What it does not change is reused: networks, scored fakes, finished students.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from filelock import FileLock
from rich.console import Console

from cgankd.config import ConfigError, to_dict
from cgankd.data.store.datasets import read_info
from cgankd.labels.task import make_task
from cgankd.types import Headline
from pipelines.engines.choice import engine_name, executor, share_of
from pipelines.engines.executor import Hear, told_console
from pipelines.engines.local import Crew, hand_over
from pipelines.files.artifacts import file_digest
from pipelines.files.params import flatten
from pipelines.locks.holding import clean, free_slot
from pipelines.runtime.machine import make_plan, plan_facts, set_threads
from pipelines.runtime.memory import what_is_left
from pipelines.runtime.progress import duration_text
from pipelines.runtime.room import check_places
from pipelines.search import hopeless
from pipelines.search import study as studies
from pipelines.search.config import SearchedConfig, load_searched
from pipelines.search.pool import base_files, read_files
from pipelines.search.seals import check_seals, seal_trial
from pipelines.search.space import check_space, identity, overruled, values_text, with_searched_arm
from pipelines.search.storage import (
    BROKEN,
    COUNTED,
    answering,
    check_begun,
    heartbeat,
    shown,
    sqlite_file,
    storage_url,
)
from pipelines.search.students import check_parent, objective
from pipelines.tracking.journal import Tracker
from pipelines.tracking.masks import mask_streams, remember
from pipelines.tracking.open import open_tracker
from pipelines.tracking.places import log_folder


@dataclass(frozen=True)
class Search:
    """One search: the work folder, params.yaml with --set laid over it, the database, and what scores mean."""

    workdir: Path
    cfg: SearchedConfig
    url: str
    headline: Headline
    settings: tuple[str, ...] = ()
    """What is laid over params.yaml."""

    def study(self) -> optuna.Study:
        """The study as it stands. Raises ConfigError where it is not begun or was begun under other settings."""
        check_begun(self.url)
        with answering(self.url):
            study = studies.load(studies.connect(self.workdir, self.url), self.cfg.search.study)
            studies.check(study, self.identity())
        return study

    def identity(self) -> dict[str, Any]:
        """What all scores of the study must share."""
        return identity(self.cfg, file_digest(self.workdir / "artifacts" / "dataset.h5"))


def open_search(
    workdir: Path, settings: Sequence[str] = (), storage: str | None = None, study: str | None = None
) -> tuple[Search, list[str]]:
    """Check the settings and artifacts of a search; returns it with the notices. Raises ConfigError."""
    extra = [f"search.study={study}"] if study else []
    overrides = (*settings, *extra)
    cfg = with_searched_arm(load_searched(workdir / "params.yaml", overrides))
    check_places("search", workdir)
    found = check_space(cfg) + overruled(cfg.search, settings)
    files = base_files(workdir, cfg)
    headline = make_task(read_info(files["dataset"]), cfg).headline
    return Search(workdir, cfg, storage_url(workdir, cfg.search, storage), headline, overrides), found


def run(search: Search, workers: int, console: Console) -> None:
    """Work on the study until search.num_trials trials are finished, in this process or in several."""
    engine_name()  # a wrong one is refused before a study is made
    with answering(search.url):
        _run(search, workers, console)


def _run(search: Search, workers: int, console: Console) -> None:
    cfg = search.cfg.search
    storage = studies.connect(search.workdir, search.url)
    is_new = studies.begin(storage, search.cfg, search.identity(), search.headline, search.workdir)
    study = studies.load(storage, cfg.study)
    with FileLock(studies.ask_lock(search.workdir)):
        done, again = studies.counted(study), studies.repair(study)
    how, where = "new" if is_new else "resumed", shown(search.url)
    say(console, f"{how} study {cfg.study!r} in {where}: {done} of {cfg.num_trials} trials done")
    if again:
        say(console, f"{again} trials of killed processes are tried again")
    if cfg.against:
        say(console, f"two objectives, the score and {cfg.against}: no pruning")
    start_s = time.monotonic()
    if workers == 1 and engine_name() == "local":
        work(search, None, console)
    elif studies.counted(study) < cfg.num_trials:  # workers and clusters take long to begin
        run_workers(search, study, workers, console)
    check_seals(study, search.url)
    if (nothing := hopeless.none_complete(study)) is not None:
        raise ConfigError(nothing)
    trials = study.get_trials(deepcopy=False)
    count = {state: sum(t.state == state for t in trials) for state in COUNTED}
    ended = f"{count[COUNTED[0]]} trials complete, {count[COUNTED[1]]} pruned"
    say(console, f"{ended} in {duration_text(time.monotonic() - start_s)}; `cgankd search best` shows the winner")
    for line in hopeless.in_words(trials):
        say(console, line)


def run_workers(search: Search, study: optuna.Study, workers: int, console: Console) -> None:
    """Several workers on one study; those left go on where one dies. Raises ConfigError when trials are lacking."""
    set_threads()  # a job asks a cluster for as many cores
    parent = os.getpid() if engine_name() == "local" else None
    out, mark = search.workdir / "artifacts/search/workers", uuid.uuid4().hex
    jobs = [Worker(search, parent, n, out, str(search.workdir), mark) for n in range(workers)]
    hear = Hear[Worker](lambda text: say(console, text), told=lambda number, text: say(console, text))
    crew = Crew(workers, "search workers", cores=torch.get_num_threads(), gpus=share_of(make_plan().device))
    dead = executor().loops(do_worker, jobs, crew, hear)
    while not dead and (again := studies.abandoned(study, mark)):
        say(console, f"{again} trials of a lost worker or node are tried again")
        dead = executor().loops(do_worker, jobs, crew, hear)
    if dead:
        each = f"each {'; '.join(sorted(set(dead)))}; {what_is_left()}"
        say(console, f"{len(dead)} of {workers} workers failed or were killed: {each}")
        clean(search.workdir)
        if studies.counted(study) < search.cfg.search.num_trials:
            raise ConfigError("the search ended before its last trial; the same command resumes it")


@dataclass(frozen=True)
class Worker:
    """One that takes trials from the study until there are enough; `parent` is the process to end with, None on a cluster."""

    search: Search
    parent: int | None
    number: int
    out: Path
    """Its results are in the study; beside this its node keeps what it makes for itself."""
    home: str
    """The work folder on the machine that asked for it."""
    crew: str = ""
    """The command that it works for; its trials have it, so that those of a lost node are known."""

    @property
    def stays(self) -> str | None:
        """Why it works only where its folder is seen."""
        if sqlite_file(self.search.url) is None:
            return None
        return (
            "trials of a search run on nodes that do not see the work folder only with a database that all nodes reach, as"
            " SQLite is a file: give one of PostgreSQL by --storage or CGANKD_SEARCH_STORAGE, or put the work folder where"
            " every node sees it under the same path and leave CGANKD_SHARED unset"
        )

    @property
    def record(self) -> str | None:
        """The name of its records where they go home from a node with a folder of its own, another for each; else None."""
        node = uuid.uuid5(uuid.NAMESPACE_URL, folder := str(self.search.workdir)).hex[:8]
        return None if folder == self.home else f"search-{self.crew[:8]}-{self.number}-{node}"

    def reads(self) -> list[Path]:
        """The artifacts that every trial builds on, and the files that settings name."""
        return read_files(self.search.workdir, self.search.cfg)

    def writes(self) -> list[Path]:
        """The records of its runs, which are all home when it ends."""
        return []

    def keeps(self) -> list[Path]:
        """The records of its runs."""
        path = log_folder(self.search.workdir) / f"{self.record}.jsonl"
        return [path] if path.exists() else []


def do_worker(worker: Worker) -> list[str]:
    """Work on the study in this process; lines go to its terminal, or from a node to the machine that sent it."""
    remember(worker.search.url)
    mask_streams()
    console = Console() if worker.parent is not None else told_console(worker.number)
    with answering(worker.search.url):
        work(worker.search, worker.parent, console, worker)
    return []


def work(search: Search, parent: int | None, console: Console, worker: Worker | None = None) -> None:
    """Take trials from the study until there are enough. `parent` is the process to end with, None without one."""
    record, crew = (worker.record, worker.crew) if worker is not None else (None, "")
    set_threads()
    status, folder = "FAILED", search.workdir / "artifacts" / "resume"
    slot, lock = free_slot(folder)
    try:
        clean(search.workdir, lock)
        study = studies.load(studies.connect(search.workdir, search.url), search.cfg.search.study)
        studies.with_sampler(study, search.cfg.search, search.cfg.seed)
        tracker = open_tracker(
            search.workdir,
            record or f"search-{slot}",
            search.cfg.tracking,
            tags={"stage": "search", "optuna.study": study.study_name} | plan_facts(make_plan()),
            lock=folder / f"search-{slot}.lock",
            say=lambda text: say(console, text),
        )
        tracker.params(flatten(to_dict(search.cfg)))
        try:
            while (trial := next_trial(search, study, crew)) is not None:
                one_trial(search, study, trial, tracker, lambda: check_parent(parent), console)
                hand_over()
            status = "FINISHED"
        finally:
            tracker.close(status)
    finally:
        lock.release()


def next_trial(search: Search, study: optuna.Study, crew: str) -> optuna.Trial | None:
    """The next trial, None when there are enough. Raises ConfigError where artifacts or trials are missing or changed."""
    base_files(search.workdir, search.cfg)  # before a trial is there that could be blamed for it
    check_seals(study, search.url)
    return studies.ask(study, search.cfg.search, studies.ask_lock(search.workdir), crew)


def one_trial(
    search: Search,
    study: optuna.Study,
    trial: optuna.Trial,
    tracker: Tracker,
    alive: Callable[[], None],
    console: Console,
) -> None:
    """Run a trial and tell the study; a stopped one goes back into the queue, one that cannot be trained counts as pruned."""
    start_s, values = time.monotonic(), dict(trial.params)
    tags = {"optuna.trial": str(trial.number), "optuna.study": study.study_name, "optuna.state": "RUNNING"}
    child = tracker.child(f"{study.study_name}/trial-{trial.number}", values, tags | dict(studies.role(trial)))
    state, status, note, scores = optuna.trial.TrialState.FAIL, "FAILED", "", tuple[float, ...]()
    try:
        with heartbeat(study, trial):
            scores = objective(search.cfg, search.workdir, search.headline.unit, trial, values, child, alive)
        state, status = optuna.trial.TrialState.COMPLETE, "FINISHED"
    except optuna.TrialPruned as pruned:
        state, status, note = optuna.trial.TrialState.PRUNED, "KILLED", str(pruned)
    except Exception as error:
        if (blame := hopeless.why(error)) is None:
            raise
        # As bad as a trial can be, and no reason to try it again.
        state, status, note = optuna.trial.TrialState.PRUNED, "KILLED", f"{blame[0]}: {blame[1]}"
        trial.set_user_attr(hopeless.REASON, blame[0])
        child.tags({"optuna.reason": blame[0]})
        if blame[0] == hopeless.NO_MEMORY and torch.cuda.is_available():
            torch.cuda.empty_cache()  # what is left of this trial is not to stop the next
    finally:
        # Also on the way out by Ctrl-C or a defect, so that the values are not lost.
        if state == optuna.trial.TrialState.FAIL:
            with suppress(*BROKEN):  # `repair` does it once this process is gone; the error under way is what is told
                studies.give_up(study, study.get_trials(deepcopy=False)[trial.number])
        else:
            trial.set_user_attr(hopeless.NOTE, note)
            seal_trial(study, trial, state, scores)
            study.tell(trial, list(scores) if scores else None, state=state)
        child.tags({"optuna.state": state.name, **({"note": note} if note else {})})
        if note:
            child.verdict(f"pruned, {note}")
        child.close(status)
    result = score_text(search, scores) if scores else f"pruned, {note}"
    say(console, f"trial {trial.number}: {result} ({duration_text(time.monotonic() - start_s)})  {values_text(values)}")


def score_text(search: Search, scores: Sequence[float]) -> str:
    """A trial's scores in words."""
    size = f", {search.cfg.search.against} {scores[1]:.0f}" if len(scores) > 1 else ""
    return f"validation {scores[0]:.2f} {search.headline.unit}{size}"


def say(console: Console, text: str) -> None:
    """One plain line."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
