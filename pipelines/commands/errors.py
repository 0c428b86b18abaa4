"""What every file of the command line shares: how an error reaches the user, where commands print, the --set option."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.ranks import beside_the_first, leave_it_to_the_first, of_rank
from pipelines.tracking.masks import masked

if TYPE_CHECKING:
    from rich.console import Console

USER_ERRORS = (ValueError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
STORES = ("mlflow", "sqlalchemy", "sqlite3", "alembic")
"""Packages whose errors are those of a store that is damaged, full, locked or of another version."""
STORE_CURE = "bring the file back, or move it away and run `cgankd sync`, which adds all runs to a new one"
RESUMES = "stopped; the same command resumes where it was"
"""What Ctrl-C leaves to say of a command that keeps its progress."""
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Lay a setting over params.yaml for this run, e.g. bank.rho=0.8."),
]
Root = Annotated[
    str | None, typer.Option("--root", metavar="PATH", help="Where the images are; short for --set data.root=PATH.")
]


def with_root(settings: list[str] | None, root: str | None) -> list[str] | None:
    """The settings of a run with data.root among them; a path is quoted, as the right side of a setting is YAML."""
    return settings if root is None else [*(settings or ()), f"data.root={json.dumps(root, ensure_ascii=False)}"]


@contextlib.contextmanager
def plain_errors(stopped: str = "stopped") -> Iterator[None]:
    """Turn what the user can mend into one sentence and exit code 2; --debug shows the traceback instead.

    `stopped` is what Ctrl-C leaves to say.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not beside_the_first():
            typer.echo(stopped, err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        if debugging() or (text := told(error)) is None:
            raise
        try:
            leave_it_to_the_first()
        except KeyboardInterrupt:  # that one has spoken
            raise typer.Exit(2) from None
        typer.echo(f"error{of_rank()}: {masked(text)}", err=True)
        raise typer.Exit(2) from None


def told(error: Exception) -> str | None:
    """What the user is told of an error; None where it is a defect, to be seen whole."""
    from pipelines.runtime.memory import in_words

    if (text := in_words(error)) is not None:
        return text
    if not isinstance(error, USER_ERRORS) and not of_elsewhere(error):
        return None
    if isinstance(error, ValueError):
        from pipelines.runtime.faults import told_to_user

        if not told_to_user(error):
            return None
    return sentence(error)


def of_elsewhere(error: Exception) -> bool:
    """Whether a disk or a store of runs failed, and not this program."""
    from pipelines.files.writing import of_disk

    return of_disk(error) or type(error).__module__.split(".")[0] in STORES


def debugging() -> bool:
    """Whether the user wants to see tracebacks."""
    return os.environ.get("CGANKD_DEBUG", "0") not in ("", "0")


def sentence(error: BaseException) -> str:
    """The message of an error, bounded and without passwords, with the file name that the system's own errors keep apart."""
    from cgankd.config.settings import LONGEST_MESSAGE, shortened

    return shortened(masked(_sentence(error)), LONGEST_MESSAGE)  # masked first: a cut address is no address any more


def _sentence(error: BaseException) -> str:
    from cgankd.data.regular import NotPlain

    if isinstance(error, NotPlain):
        from pipelines.files.layout import in_its_place

        return in_its_place(error)
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        from pipelines.files.writing import disk_sentence, of_disk

        if of_disk(error):
            return disk_sentence(error)
    if isinstance(error, Exception) and type(error).__module__.split(".")[0] in STORES:
        from pipelines.tracking.answers import known, reason

        if (found := known(error)) is not None:
            return f"the store of runs cannot be used ({found[0]}): {found[1]}, then give the same command"
        return f"the store of runs cannot be used ({reason(error)}); {STORE_CURE}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split())


def console() -> Console:
    """Where commands print."""
    from rich.console import Console

    return Console()
