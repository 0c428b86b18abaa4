"""The Optuna study: its storage, its settings, which trials count, and what becomes of trials whose process died."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.storages import RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat, is_heartbeat_enabled
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from cgankd.config import ConfigError
from cgankd.types import Headline
from pipelines.runtime.bonds import lives, start_ticks
from pipelines.search.config import SearchConfig, SearchedConfig
from pipelines.search.seals import GIVEN_UP, check_seals, end_by_seal, seal_study
from pipelines.search.space import RETRY_OF, SamplerByTrial, defaults, distributions, first_difference, in_range
from pipelines.search.storage import (
    COUNTED,
    HEARTBEAT_S,
    OTHER_OPTUNA,
    UNREADABLE,
    VERSION,
    changed,
    check_whole,
    failed,
    make_whole,
    names_of,
    outdated,
    readable,
    shown,
)
from pipelines.tracking.places import line

CREW = "crew"
"""The attribute of a trial that names the command whose worker took it."""
GRACE_S = 300
"""A trial of another machine without a heartbeat for this long is dead."""
NAMED_S = 10.0
"""Seconds after which a trial that says nothing of whose it is has nobody."""
CONNECT_S = 10
"""Seconds to wait for a database server."""
RETRIES = 3
"""Times a trial whose process died is tried again."""
SURPLUS = "surplus"
"""Mark of a trial that was asked for in vain, as another had the last place."""


def connect(workdir: Path, url: str) -> RDBStorage:
    """The storage; its tables are made once. Raises ConfigError where the database does not answer."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = workdir / "artifacts" / "search"
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    if url.startswith("postgresql") and "connect_timeout=" not in url:
        options["connect_args"] = {"connect_timeout": CONNECT_S}
    with FileLock(folder / "storage.lock"), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats
        check_whole(url)
        make_whole(url, lambda made: RDBStorage(made).engine.dispose())
        for last in (False, False, True):
            try:
                return RDBStorage(
                    url,
                    engine_kwargs=options,
                    heartbeat_interval=HEARTBEAT_S,
                    grace_period=GRACE_S,
                )
            except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
                # Another machine is making the tables at this very moment.
                if last:
                    raise
                time.sleep(2)
            except ImportError:
                cure = "pip install 'cgankd[postgres]'" if url.startswith("postgres") else "install its Python driver"
                raise ConfigError(f"the database {shown(url)} needs a driver that is not installed: {cure}") from None
            except sqlalchemy.exc.SQLAlchemyError as error:
                raise failed(url, error) from None
            except UNREADABLE as error:  # also tables of another version, or of another program
                if OTHER_OPTUNA.search(str(error)):
                    raise outdated(url, error) from None
                raise changed(url, VERSION, line(error)) from None
    raise AssertionError


def begin(
    storage: RDBStorage, cfg: SearchedConfig, identity: Mapping[str, Any], headline: Headline, workdir: Path
) -> bool:
    """Create the study unless it is there, with the default as its first trial; True where it is new.

    Raises ConfigError where it was begun under settings whose scores cannot be compared with those of `cfg`.
    """
    least = StudyDirection.MINIMIZE
    directions = [StudyDirection.MAXIMIZE if headline.higher_is_better else least]
    directions += [least] if cfg.search.against else []
    with FileLock(workdir / "artifacts" / "search" / "storage.lock"):
        if cfg.search.study in names_of(storage):
            study = load(storage, cfg.search.study)
            if known_identity(study) is not None or study.get_trials(deepcopy=False):
                check(study, identity)
                return False
            # Killed just after it was created: begun again below.
        else:
            try:
                study = optuna.create_study(storage=storage, study_name=cfg.search.study, directions=directions)
            except optuna.exceptions.DuplicatedStudyError:  # another machine was faster
                return False
        default, goal = defaults(cfg), [headline.name, headline.unit, headline.higher_is_better]
        seal_study(study, {"headline": goal, "default": default, "identity": dict(identity)})
        if in_range(cfg.search, default):
            study.enqueue_trial(default, user_attrs={"role": "default", "values": default})
        return True


def load(storage: RDBStorage, name: str) -> optuna.Study:
    """A study that is there. Raises ConfigError where it is not, or is not as it was written."""
    if name not in (names := names_of(storage)):
        hint = f" (there: {', '.join(names)})" if names else ""
        raise ConfigError(f"there is no study {name!r} yet{hint}; run `cgankd search` first")
    with readable(storage.url, f"the study {name!r}"):
        study = optuna.load_study(study_name=name, storage=storage)
    check_seals(study, storage.url)
    return study


def check(study: optuna.Study, identity: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the study was begun under settings that give comparable scores."""
    old = known_identity(study)
    if old is None:
        raise ConfigError(
            f"the study {study.study_name!r} was not made by `cgankd search`; set search.study to a new name"
        )
    if difference := first_difference(old, identity):
        raise ConfigError(
            f"the study {study.study_name!r} was begun under other settings ({difference}); put them back, or begin"
            " another by search.study"
        )


def known_identity(study: optuna.Study) -> dict[str, Any] | None:
    """The identity that a study was begun with; None where nobody writes it within seconds."""
    for _ in range(30):
        if (found := study.user_attrs.get("identity")) is not None:
            return dict(found)
        time.sleep(0.1)  # another machine is creating the study
    return None


def with_sampler(study: optuna.Study, search: SearchConfig, seed: int) -> optuna.Study:
    """The study with TPE and successive halving."""
    study.sampler = SamplerByTrial(seed, min(10, max(3, search.num_trials // 3)))
    prunes = search.rungs > 0 and not search.against
    study.pruner = (
        optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=search.reduction)
        if prunes
        else optuna.pruners.NopPruner()
    )
    return study


# Which trials count


def ask(study: optuna.Study, search: SearchConfig, lock: Path, crew: str = "") -> optuna.Trial | None:
    """The next trial, marked as this process's; None when finished and running trials make up search.num_trials."""
    with FileLock(lock), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna expects heartbeats from Study.optimize alone
        repair(study)
        if counted(study, running=True) >= search.num_trials:
            return None
        with _reading(study):
            trial = study.ask(distributions(search))
        trial.set_user_attr(CREW, crew)
        trial.set_user_attr("owner", owner())
        trial.set_user_attr("values", trial.params)
    trials = study.get_trials(deepcopy=False)
    before = sum(t.state in COUNTED or (t.state == TrialState.RUNNING and t.number < trial.number) for t in trials)
    if before >= search.num_trials:
        # Two machines asked at once for the last place; the lower number has it.
        trial.set_user_attr(SURPLUS, True)
        study.tell(trial, state=TrialState.FAIL)
        return None
    return trial


def role(trial: optuna.Trial) -> Mapping[str, str]:
    """The tag of the trial that has the values of params.yaml."""
    return {"role": str(trial.user_attrs["role"])} if "role" in trial.user_attrs else {}


def ask_lock(workdir: Path) -> Path:
    """The lock under which trials are handed out in a folder."""
    return workdir / "artifacts" / "resume" / "search-ask.lock"


def counted(study: optuna.Study, *, running: bool = False) -> int:
    """Finished trials: complete or pruned, and those under way where asked for."""
    states = (*COUNTED, TrialState.RUNNING) if running else COUNTED
    return sum(t.state in states for t in study.get_trials(deepcopy=False))


def repair(study: optuna.Study) -> int:
    """Fail the trials of dead processes of this machine and queue their values again, also of those that were killed between
    the two; the same of other machines without a heartbeat. Returns how many. Call it under the lock of `ask`."""
    with _reading(study):
        storage, silent = study._storage, list[int]()
        if isinstance(storage, BaseHeartbeat) and is_heartbeat_enabled(storage):
            silent = storage._get_stale_trial_ids(study._study_id)
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        dead = [t for t in running if is_dead(t) or t._trial_id in silent]
        again = sum(give_up(study, trial) for trial in dead)
        trials = study.get_trials(deepcopy=False)
        followed = {t.user_attrs.get(RETRY_OF) for t in trials}
        lost = [t for t in trials if t.state == TrialState.FAIL and t.number not in followed and is_forgotten(t)]
        for trial in lost:
            requeue(study, trial)
        return again + len(lost)


def _reading(study: optuna.Study) -> AbstractContextManager[None]:
    backend = getattr(study._storage, "_backend", study._storage)
    return readable(getattr(backend, "url", "sqlite://"), f"the study {study.study_name!r}")


def is_forgotten(trial: FrozenTrial) -> bool:
    """A failed trial that should be tried again, and whose process is no longer there to queue it."""
    attrs, ended = trial.user_attrs, trial.datetime_complete
    if "owner" not in attrs or attrs.get(SURPLUS) or int(attrs.get("tries", 0)) >= RETRIES:
        return False
    here = str(attrs["owner"]).startswith(f"{socket.gethostname()}|")
    return is_dead(trial) if here else ended is not None and time.time() - ended.timestamp() > GRACE_S


def abandoned(study: optuna.Study, crew: str) -> int:
    """Give up the trials that workers of this crew, all of which have ended, left running; returns how many."""
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    left = [trial for trial in left if trial.user_attrs.get(CREW) == crew or _unnamed(trial)]
    return sum(give_up(study, trial) for trial in left)


def _unnamed(trial: FrozenTrial) -> bool:
    """Its process was gone before it said whose the trial is, which takes it milliseconds."""
    started = trial.datetime_start
    return CREW not in trial.user_attrs and started is not None and time.time() - started.timestamp() > NAMED_S


def give_up(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Fail a trial and queue its values again; False where it was sealed, and so ends as its process found it."""
    trial = study._storage.get_trial(trial._trial_id)  # as it is now: its process may have gone on
    if trial.state.is_finished() or end_by_seal(study, trial):
        return False
    try:
        study._storage.set_trial_user_attr(trial._trial_id, GIVEN_UP, True)
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, RuntimeError):  # somebody else did
        return True
    requeue(study, trial)
    return True


def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue the values of a failed trial again, so that none is lost."""
    attrs = dict(trial.user_attrs)
    values = attrs.get("values") or trial.params
    tries = int(attrs.get("tries", 0)) + 1
    if values and tries <= RETRIES:
        kept = {name: attrs[name] for name in ("role",) if name in attrs}
        extra = {"values": values, RETRY_OF: trial.number, "tries": tries}
        study.enqueue_trial(values, user_attrs=kept | extra)


def owner() -> str:
    """This process, so that another can tell whether it still lives: host, process id, start time."""
    return f"{socket.gethostname()}|{os.getpid()}|{start_ticks(os.getpid())}"


def is_dead(trial: FrozenTrial) -> bool:
    """The trial's process was on this machine and is gone; of other machines the heartbeat tells."""
    mark = trial.user_attrs.get("owner")
    if mark is None:
        started = trial.datetime_start
        return started is not None and time.time() - started.timestamp() > GRACE_S
    host, pid, ticks = str(mark).split("|")
    if host != socket.gethostname():
        return False
    return not lives(int(pid), ticks)
