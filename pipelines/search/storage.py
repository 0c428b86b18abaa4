"""The database of a search by its URL: checked, shown without its password, its errors in words, its trials under seals."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from cgankd.config import ConfigError
from cgankd.data.regular import check_regular
from cgankd.data.store.writing import size_limit
from pipelines.files.made import seal
from pipelines.files.writing import AGAIN, free_bytes, raised, size_text
from pipelines.search.config import SearchConfig
from pipelines.tracking.masks import masked, remember
from pipelines.tracking.places import line

BUSY_S = 60.0
"""Seconds to wait for a file that another process writes."""
BROKEN = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError)
"""What Optuna raises where its database fails."""
UNREADABLE = (LookupError, ValueError, TypeError, AttributeError, AssertionError)
"""What it raises where the database answers with what no search wrote."""
SEAL = "seal"
"""The user attribute of a trial, and of a study, by which it is known to be as it was written."""
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
HEARTBEAT_S = 60
MUCH = 2**24
"""Bytes of room with which a disk is not full for a database."""
ANEW = (
    "move it away and run `cgankd search` again, which begins the study anew and takes the students that are finished"
)
EXAMPLES = "sqlite:///search.db or postgresql://user@host/database"


def storage_url(workdir: Path, search: SearchConfig, given: str | None) -> str:
    """The URL of the database: given by hand, or in params.yaml, or else SQLite in artifacts/.

    Raises ConfigError, naming where it was given, on what is no such URL or lies in a folder that is not there.
    """
    if not (given or search.storage):
        return f"sqlite:///{workdir.resolve() / 'artifacts' / 'search.db'}"
    url = given or search.storage or ""
    remember(url)
    scheme, sign, rest = url.partition("://")
    if sign and scheme in ("postgres", "postgresql"):
        # The driver is named, because which one SQLAlchemy takes by itself differs between its versions.
        url = f"postgresql+psycopg2://{rest}"
    check_url(url, "--storage (or CGANKD_SEARCH_STORAGE)" if given else "search.storage")
    return url


def check_url(url: str, field: str) -> None:
    """Raise ConfigError unless SQLAlchemy knows such a URL and the folder of an SQLite file is there."""
    try:
        parts = sqlalchemy.make_url(url)
        parts.get_dialect()
    except (sqlalchemy.exc.ArgumentError, ValueError):
        said = "what is given" if "@" in url else repr(shown(url))  # it may hold a password
        raise ConfigError(f"{field} must be the URL of a database, such as {EXAMPLES}, but is {said}") from None
    except ImportError:  # the driver; connecting names it
        return
    if (path := sqlite_file(url)) is not None and not path.parent.is_dir():
        raise ConfigError(
            f"{field} is {shown(url)}, but there is no folder {path.parent}; make it, or give another URL, such as {EXAMPLES}"
        )


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database; None for other databases."""
    parts = sqlalchemy.make_url(url)
    return Path(parts.database) if parts.get_backend_name() == "sqlite" and parts.database else None


def check_begun(url: str) -> None:
    """Raise ConfigError where the file of the study is not there: connecting would make an empty one."""
    if (path := sqlite_file(url)) is not None and not path.exists():
        raise ConfigError(f"there is no study yet ({path.name} is missing); run `cgankd search` first")


def check_whole(url: str) -> None:
    """Raise ConfigError, with what brings a study back, where the SQLite file of a database is damaged or no plain file."""
    if (path := sqlite_file(url)) is None or not path.exists():
        return
    anew = f"bring it back, or {ANEW}"
    try:
        check_regular(path)
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as database:
            (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        return  # in use, or not to be opened, which connecting says
    except (sqlite3.DatabaseError, ConfigError) as error:
        raise ConfigError(f"{path} is no whole database ({error}); {anew}") from error
    if said != "ok":
        raise ConfigError(f"{path} is damaged ({' '.join(str(said).split())[:120]}); {anew}")


def shown(url: str) -> str:
    """The URL for messages, its passwords hidden."""
    return masked(url)


@contextmanager
def answering(url: str) -> Iterator[None]:
    """Raise ConfigError with a cure where the database of a search fails under what is done here."""
    try:
        yield
    except BROKEN as error:
        raise failed(url, error) from error


def failed(url: str, error: BaseException) -> ConfigError:
    """The error of a database in one sentence, with the room where that is the reason, and the cure."""
    root = error
    while not isinstance(root, sqlalchemy.exc.SQLAlchemyError) and root.__cause__ is not None:
        root = root.__cause__  # Optuna's own words say nothing
    said, path = line(getattr(root, "orig", None) or root), sqlite_file(url)
    unwritten = f"the database {shown(url)} cannot be written ({said})"
    if "disk I/O error" in said and (limit := size_limit()) is not None:  # how SQLite meets it
        return ConfigError(f"{unwritten}: {raised(limit)} {AGAIN}")
    if any(words in said for words in ("disk is full", "disk I/O error", "No space left", "quota")):
        free = None if path is None else free_bytes(path)
        room = "" if free is None or free > MUCH else f": {size_text(free)} are free there"  # else it lacked elsewhere
        return ConfigError(f"{unwritten}{room}; make room there {AGAIN}")
    if any(words in said for words in ("readonly", "read-only", "permission denied")):
        return ConfigError(f"{unwritten}; get leave to write there {AGAIN}")
    if "is locked" in said:
        return ConfigError(f"{unwritten}; another program holds it: end that one {AGAIN}")
    if "malformed" in said or "not a database" in said:
        return ConfigError(f"the database {shown(url)} is damaged ({said}); bring it back, or {ANEW}")
    return ConfigError(
        f"the database {shown(url)} cannot be used: {said}; check --storage or search.storage (such as {EXAMPLES}) and that"
        " the database is there and answers"
    )


@contextmanager
def heartbeat(study: optuna.Study, trial: optuna.Trial) -> Iterator[None]:
    """Tell other machines now and then that the trial lives."""
    storage, stop = study._storage, Event()

    def beat() -> None:
        while True:
            with suppress(Exception):  # a database that is away for a moment must not end the trial
                storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
            if stop.wait(HEARTBEAT_S):
                return

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# Seals


def seal_of(trial: FrozenTrial, state: TrialState, scores: Sequence[float] = ()) -> dict[str, Any]:
    """What is known of a trial that ends in this state with these scores, with a digest over that and its attributes.

    Not its number: a study may be copied. Kept as JSON, which changes no float, as a column of some databases does.
    """
    steps = {str(step): value for step, value in trial.intermediate_values.items()}
    found = {"state": state.name, "scores": list(scores), "params": dict(trial.params), "steps": steps}
    return found | {SEAL: seal(_whole(found, trial))}


def _whole(found: Mapping[str, Any], trial: FrozenTrial) -> dict[str, Any]:
    """What the digest of a trial is taken of."""
    limits = {name: json.loads(distribution_to_json(knob)) for name, knob in trial.distributions.items()}
    attrs = {name: value for name, value in trial.user_attrs.items() if name != SEAL}
    return {"trial": found, "limits": limits, "attrs": attrs}


def seal_trial(study: optuna.Study, trial: optuna.Trial, state: TrialState, scores: Sequence[float] = ()) -> None:
    """Put a seal on a trial; call it just before the study is told, as a finished trial takes no attributes."""
    trial.set_user_attr(SEAL, seal_of(study.get_trials(deepcopy=False)[trial.number], state, scores))


def seal_study(study: optuna.Study, attrs: Mapping[str, Any]) -> None:
    """Write the attributes of a new study, a seal over them before the last."""
    *first, last = attrs
    for name in first:
        study.set_user_attr(name, attrs[name])
    study.set_user_attr(SEAL, {"names": list(attrs), SEAL: _study_seal(study, attrs)})
    study.set_user_attr(last, attrs[last])


def _study_seal(study: optuna.Study, attrs: Mapping[str, Any]) -> str:
    return seal({"attrs": dict(attrs), "directions": [direction.name for direction in study.directions]})


def names_of(storage: RDBStorage) -> list[str]:
    """The studies of a database. Raises ConfigError where they cannot be read."""
    with readable(storage.url, "what it says of its studies"):
        return optuna.get_all_study_names(storage)


def check_seals(study: optuna.Study, url: str) -> None:
    """Raise ConfigError that names the database and the trial where a finished one is not as it was written."""
    with readable(url, f"the study {study.study_name!r}"):
        attrs, trials = study.user_attrs, study.get_trials(deepcopy=False, states=COUNTED)
        mark = attrs.get(SEAL)
        if mark is not None and mark["names"][-1] in attrs:  # else it is being begun at this moment
            known = {name: attrs.get(name) for name in mark["names"]}
            if mark[SEAL] != _study_seal(study, known):
                raise changed(url, f"the study {study.study_name!r}", "its goals or the settings that it began with")
        for trial in trials:
            if (what := _change(trial, must=mark is not None)) is not None:
                raise changed(url, f"trial {trial.number} of the study {study.study_name!r}", what)


@contextmanager
def readable(url: str, what: str) -> Iterator[None]:
    """Raise ConfigError where what is read of a study has a form in which no search writes it."""
    try:
        yield
    except ConfigError:
        raise
    except UNREADABLE as error:
        raise changed(url, what, f"it cannot be read, {type(error).__name__}: {line(error)}") from error


def changed(url: str, what: str, why: str) -> ConfigError:
    """The error for a trial or study that is not as it was written."""
    cure = ANEW if sqlite_file(url) is not None else "begin another study by search.study"
    return ConfigError(
        f"the database {shown(url)} is damaged: {what} is not as it was written ({why}); bring it back, or {cure}"
    )


def _change(trial: FrozenTrial, *, must: bool) -> str | None:
    """What of a finished trial is not as it was written; None where all is. Without `must` it may have no seal."""
    record = trial.user_attrs.get(SEAL)
    if record is None:
        return "its seal is missing" if must else _change_of_former(trial)
    record = dict(record)
    mark = record.pop(SEAL)
    if mark != seal(_whole(record, trial)):
        return "its seal does not fit"
    steps = {int(step): value for step, value in record["steps"].items()}
    scores = record["scores"]
    if not scores and steps:  # Optuna gives a pruned trial its last intermediate value
        scores = [steps[max(steps)]] if trial.values else []
    if trial.state.name != record["state"]:
        return f"it was {record['state'].lower()}"
    if not _same(trial.params, record["params"]):
        return f"its values were {record['params']}"
    if not _same(dict(enumerate(trial.values or ())), dict(enumerate(scores))):
        return f"its scores were {scores}"
    return None if _same(trial.intermediate_values, steps) else f"its scores on the way were {steps}"


def _change_of_former(trial: FrozenTrial) -> str | None:
    """The same of a trial that another version wrote without a seal, as far as its attributes tell."""
    attrs = trial.user_attrs
    if "values" in attrs and not _same(trial.params, attrs["values"]):
        return f"its values were {attrs['values']}"
    if trial.state == TrialState.COMPLETE and "val" in attrs:
        score = sum(attrs["val"]) / len(attrs["val"])
        if not trial.values or abs(trial.values[0] - score) > 1e-9 * max(1.0, abs(score)):
            return f"its score was {score}"
    return None


def _same(found: Mapping[Any, Any], kept: Mapping[Any, Any]) -> bool:
    """Equal values; a float may come back from a database with 15 digits of its 17."""

    def equal(one: Any, other: Any) -> bool:
        if isinstance(one, bool) != isinstance(other, bool) or isinstance(one, str) != isinstance(other, str):
            return False
        return bool(one == other or (isinstance(other, float) and one == float(f"{other:.15g}")))

    return found.keys() == kept.keys() and all(equal(found[name], kept[name]) for name in found)
