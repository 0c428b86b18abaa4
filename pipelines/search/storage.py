"""The database of a search by its URL: checked, and shown without its password."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy

from cgankd.config import ConfigError
from cgankd.data.regular import check_regular
from pipelines.search.config import SearchConfig
from pipelines.tracking.masks import masked, remember

BUSY_S = 60.0
"""Seconds to wait for a file that another process writes."""
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
    anew = "bring it back, or move it away and run `cgankd search` again, which begins the study anew"
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
