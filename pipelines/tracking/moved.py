"""A project that was moved, renamed or copied: its SQLite store knows the files of its runs by absolute paths.

The store is read as a file, without MLflow, before anything is written by way of it.
"""

from __future__ import annotations

import json
import sqlite3
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cgankd.config import ConfigError
from cgankd.data.regular import check_folders, read_text
from pipelines.tracking.journal import MOST
from pipelines.tracking.places import FILE, home, log_folder, store_uri

RUNS = "mlruns"
"""The folder of a project that has the files of its runs."""
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where MLflow keeps absolute paths."""
BUSY_S, LOOK_S = 10.0, 1.0
"""Seconds to wait for a store in use: to change it, and to look at it before a run."""


class StoreMoved(ConfigError):
    """The store looks for files where the project no longer lies, or where nothing lies; writing would make that folder."""


@dataclass(frozen=True)
class Repaired:
    """What a repair did: the copy made before, rows of each table that were changed, runs that were left."""

    backup: Path
    changed: dict[str, int]
    left: int

    @property
    def text(self) -> str:
        """The same in a sentence."""
        names = {table: table.replace("_", " ").removesuffix("s") for table in self.changed}
        counts = ", ".join(f"{num} {names[table]}{'s' * (num != 1)}" for table, num in self.changed.items())
        left = f"; left as they are, for their files lie at the old place alone: {self.left}" if self.left else ""
        return f"MLflow's store looks here now for the files of {counts}{left}; as it was: {self.backup}"


def check_place(workdir: Path, experiment: str | None = None) -> None:
    """Raise StoreMoved where the project lay elsewhere when its store was written, or the files' folder is gone.

    `experiment` is the one that is to get a run.
    """
    check_kinds(workdir)
    top, file = home(workdir), database(workdir)
    if file is None:
        return
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=LOOK_S)) as store:
        if former := former_homes(store, top):
            raise StoreMoved(
                f"the MLflow store {file.name} looks for the files of its runs below {former[0]}, where this project"
                " lay before it was moved or copied; run `cgankd doctor --repair`, which changes that to its folder of now"
            )
        for name, place, used in experiments(store):
            if name == experiment and place and used and not place.exists() and not settled(place, top):
                raise StoreMoved(
                    f"the MLflow experiment {name!r} keeps the files of its runs in {place}, which is not there; bring"
                    " that folder back, or name another experiment in tracking.experiment"
                )


def check_kinds(workdir: Path) -> None:
    """Raise ConfigError where the SQLite store is no file, or the folder that has the files of its runs is none."""
    path = _named(workdir)
    if path is None:
        return
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no plain file"
        raise ConfigError(
            f"{path} is {kind}, where the store of runs is to lie; move it away and run `cgankd sync`, which adds all runs"
            " of artifacts/logs to a new one"
        )
    check_folders(home(workdir) / RUNS / "any")


def check_readable(workdir: Path) -> None:
    """Raise ConfigError where the SQLite store is no whole database, by a look at its tables."""
    check_kinds(workdir)
    file = database(workdir)
    if file is None:
        return
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as store:
            store.execute("PRAGMA schema_version").fetchone()
            tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for table in tables & {name for name, _ in PLACES}:
                store.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return  # in use, not damaged
        raise ConfigError(
            f"{file} is damaged ({error}); bring it back, or move it away and run `cgankd sync`, which adds all runs of"
            " artifacts/logs to a new one"
        ) from error


def check_experiment(name: str, location: str | None, top: Path) -> None:
    """Raise StoreMoved where a store of any kind would make the folder again in which this project lay before.

    A place of a new experiment may be missing, but not the folder that `mlruns` is to lie in.
    """
    place = local(location)
    if place is None or place.exists() or settled(place, top):
        return
    roots = [path for path in (place, *place.parents) if path.name == RUNS]
    if not (roots[-1].parent if roots else place.parent).exists():
        raise StoreMoved(
            f"the MLflow experiment {name!r} keeps the files of its runs in {place}, of which nothing is there; bring"
            " that folder back, or name another experiment in tracking.experiment"
        )


def database(workdir: Path) -> Path | None:
    """The file of an SQLite store; None where runs are kept otherwise, and where there is none yet."""
    path = _named(workdir)
    return path if path is not None and path.is_file() and path.stat().st_size else None


def _named(workdir: Path) -> Path | None:
    """Where the file of an SQLite store is to lie; None where runs are kept otherwise."""
    kind, mark, name = store_uri(workdir).partition(":///")
    return Path(name.partition("?")[0]).absolute() if mark and kind.startswith("sqlite") and name else None


def experiments(store: sqlite3.Connection) -> Iterator[tuple[str, Path | None, list[str]]]:
    """Name, folder (None: not on this machine) and places of the runs of each experiment."""
    try:
        found = store.execute("SELECT experiment_id, name, artifact_location FROM experiments ORDER BY 1").fetchall()
        for number, name, place in found:
            used = store.execute("SELECT artifact_uri FROM runs WHERE experiment_id = ?", (number,)).fetchall()
            yield str(name), local(place), [str(uri) for (uri,) in used]
    except sqlite3.DatabaseError:  # no store of MLflow: it will say so itself
        return


def local(place: str | None) -> Path | None:
    """The path of a place on this machine; None for one elsewhere (s3://...)."""
    if not place:
        return None
    parts = urllib.parse.urlparse(place)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path))
    return Path(place) if parts.scheme == "" and Path(place).is_absolute() else None


def former_homes(store: sqlite3.Connection, top: Path) -> list[Path]:
    """Folders below which an experiment of this store keeps its files because the project lay there, longest first.

    A folder that the user chose elsewhere is none of them: either files of its runs lie in this project, or the record of
    the runs names the store of that folder.
    """
    away = [(place, used) for _, place, used in experiments(store) if place is not None and not settled(place, top)]
    if not away:
        return []
    known = {old for old in recorded_homes(top) if old != top}
    for place, used in away:
        if place.name == RUNS:
            inside = (path.relative_to(place) for path in map(local, used) if path and path.is_relative_to(place))
            if any((top / RUNS / path).exists() for path in inside):
                known.add(place.parent)
    found = {old for old in known if any(place.is_relative_to(old) for place, _ in away)}
    return sorted(found, key=lambda path: (-len(path.parts), path))


def settled(place: Path, top: Path) -> bool:
    """The place is one of the project as it lies now."""
    if place.is_relative_to(top / RUNS) or (place.is_relative_to(top) and place.exists()):
        return True
    return place.exists() and (top / RUNS).exists() and place.samefile(top / RUNS)


def recorded_homes(top: Path) -> set[Path]:
    """The folders whose own store got runs of this project, by the JSON lines."""
    found: set[Path] = set()
    for path in log_folder(top).rglob("*.jsonl"):
        for line in read_text(path, MOST, errors="replace").splitlines():
            if '"kind": "mlflow"' in line:
                try:
                    uri = str(json.loads(line).get("uri", ""))
                except (ValueError, RecursionError):  # cut short by a kill
                    continue
                if uri.startswith("sqlite:///") and uri.endswith(f"/{FILE}"):
                    found.add(Path(uri.removeprefix("sqlite:///")).parent)
    return found


def repair(workdir: Path) -> Repaired | None:
    """Change the places below the project's former folder to its folder of now, all or none of them; None: nothing to do.

    A place whose files are at the old folder alone stays as it is. Raises ConfigError where the store is in use.
    """
    top, file = home(workdir), database(workdir)
    if file is None:
        return None
    with closing(sqlite3.connect(file, timeout=BUSY_S, isolation_level=None)) as store:
        former = former_homes(store, top)
        if not former:
            return None
        try:
            store.execute("BEGIN IMMEDIATE")  # nobody writes between the copy and the change
            backup = spare(file)
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as source:
                with closing(sqlite3.connect(backup)) as target:
                    source.backup(target)
            changed, left = rewrite(store, former, top)
            store.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise ConfigError(f"{file} cannot be changed ({error}); stop what uses it and try again") from error
    return Repaired(backup, changed, left)


def rewrite(store: sqlite3.Connection, former: list[Path], top: Path) -> tuple[dict[str, int], int]:
    """Change all places; returns the number of rows by table, and of runs left alone."""
    changed: dict[str, int] = {}
    left = 0
    for table, column in PLACES:
        if column not in {row[1] for row in store.execute(f"PRAGMA table_info({table})")}:
            continue  # a store of another version
        rows = store.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
        for row, text in rows:
            place = local(text)
            new = None if place is None else now_at(place, former, top)
            if place is None or new is None:
                continue
            if table != "experiments" and place.exists() and not new.exists():
                left += table == "runs"
                continue
            written = new.as_uri() if str(text).startswith("file:") else str(new)
            store.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (written, row))
            changed[table] = changed.get(table, 0) + 1
    return changed, left


def now_at(place: Path, former: list[Path], top: Path) -> Path | None:
    """Where a place below a former folder of the project is now; None for a place that is not to change."""
    if settled(place, top):
        return None
    return next((top / place.relative_to(old) for old in former if place.is_relative_to(old)), None)


def spare(file: Path) -> Path:
    """A name beside the file that is free: mlflow.db.bak-1, and so on."""
    number = 1
    while (path := file.with_name(f"{file.name}.bak-{number}")).exists():
        number += 1
    return path
