"""The database of a search by its URL: checked, shown without its password, its errors in words."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from cgankd.config import ConfigError
from cgankd.data.regular import check_regular
from cgankd.data.store.writing import size_limit
from pipelines.files.writing import AGAIN, free_bytes, raised, size_text
from pipelines.search.config import SearchConfig
from pipelines.tracking.masks import masked, remember
from pipelines.tracking.places import line

BUSY_S = 60.0
"""Seconds to wait for a file that another process writes."""
BROKEN = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError)
"""What Optuna raises where its database fails."""
UNREADABLE = (LookupError, ValueError, TypeError, AttributeError, AssertionError, RuntimeError)
"""What it raises where the database answers with what no search wrote."""
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
HEARTBEAT_S = 60
MUCH = 2**24
"""Bytes of room with which a disk is not full for a database."""
TABLES = {"studies", "study_directions", "study_user_attributes", "trials", "trial_user_attributes"}
TABLES |= {"trial_system_attributes", "trial_params", "trial_values", "trial_intermediate_values"}
"""What a database of Optuna has at the least, of whatever version."""
ANEW = (
    "move it away and run `cgankd search` again, which begins the study anew and takes the students that are finished"
)
VERSION, STUDIES = "what it says of its version", "what it says of its studies"
"""What is said to be damaged where that is no single study."""
OTHER_OPTUNA = re.compile(r"version (\S+) is no longer compatible with the table schema \(set up by optuna (?!\1\))")
"""What Optuna's own error says of tables of another version; it says so of its own too where their mark is damaged."""
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
        if path.stat().st_size == 0:
            raise ConfigError(f"{path} is empty, so its study is gone; {anew}")
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as database:
            database.text_factory = lambda text: text.decode(errors="replace")
            (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
            said = said if said != "ok" else _foreign(database)
    except sqlite3.OperationalError:
        return  # in use, or not to be opened, which connecting says
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"{path} is no whole database ({error}); {anew}") from error
    if said is not None:
        raise ConfigError(f"{path} is damaged ({' '.join(str(said).split())[:120]}); {anew}")


def _foreign(database: sqlite3.Connection) -> str | None:
    """Which tables of a search a database lacks; None where it has all, or was being made when its process was killed."""
    found = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not (lacking := sorted(TABLES - found)):
        return None
    used = any(database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in TABLES & found)
    if found and not TABLES & found - {"trials"} and "version_info" not in found:
        return "it is one of another program"
    return f"it has no table {lacking[0]}" if used else None


def make_whole(url: str, make: Callable[[str], None]) -> None:
    """Give a new SQLite file its name when its tables are made, so that an empty one is damage and no killed start."""
    path, parts = sqlite_file(url), sqlalchemy.make_url(url)
    if path is None or path.exists() or parts.query or str(path).startswith((":", "file:")):
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(OSError, *BROKEN):  # what fails here fails in its own place too, which is told
        try:
            make(parts.set(database=str(temporary)).render_as_string(hide_password=False))
            with suppress(FileExistsError):  # a search in another folder was faster
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


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


# What it says


def names_of(storage: RDBStorage) -> list[str]:
    """The studies of a database. Raises ConfigError where they cannot be read."""
    with readable(storage.url, STUDIES):
        return optuna.get_all_study_names(storage)


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
    if what in (VERSION, STUDIES) and sqlite_file(url) is None:  # no study there can be read, whatever its name
        cure = "name another database by --storage (or search.storage)"
    return ConfigError(
        f"the database {shown(url)} is damaged: {what} is not as it was written ({why}); bring it back, or {cure}"
    )


def outdated(url: str, error: Exception) -> ConfigError:
    """The error for a database whose tables are those of another version of Optuna."""
    return ConfigError(
        f"the database {shown(url)} is of another version of Optuna ({line(error)}); use that version here, or, where no other"
        " machine uses it, do as it says, or name another database by --storage (or search.storage)"
    )
