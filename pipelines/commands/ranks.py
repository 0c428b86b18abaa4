"""Commands that torchrun starts several times: what is no training is refused, and a mistake that all ranks find is said once."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import typer

WAIT_S = 10.0
"""How long other ranks leave it to the first of their machine to say what all find wrong."""


def of_rank() -> str:
    """Which of several ranks says it, where it is not the first."""
    rank = os.environ.get("RANK", "0") if "WORLD_SIZE" in os.environ else "0"
    return "" if rank == "0" else f" (rank {rank})"


def several() -> bool:
    """Whether this is one of several processes of a torchrun."""
    if "WORLD_SIZE" not in os.environ:
        return False
    from pipelines.locks.ranks import launched

    return launched()


def beside_the_first() -> bool:
    """Whether another rank of this machine, which has the same words and the same folder, is the one to speak."""
    return several() and os.environ["LOCAL_RANK"] != "0"


def leave_it_to_the_first() -> None:
    """Wait where the first rank of this machine finds the same mistake: torchrun ends this process as soon as that one ends.

    Who is not ended has found it alone and is to speak. After ranks have met each may fail alone, so that none waits.
    """
    if not beside_the_first():
        return
    from pipelines.locks.ranks import MET

    if not MET.is_set():
        time.sleep(WAIT_S)


def check_command(words: Sequence[str], app: typer.Typer) -> None:
    """Raise ConfigError under torchrun unless the words are those of a training that ranks share."""
    name = next((word for word in words if not word.startswith("-")), None)
    if not several() or name is None or "--help" in words:
        return
    from cgankd.config import ConfigError
    from cgankd.config.settings import nearest
    from pipelines.locks.ranks import SHARED, check_shared

    if name not in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        raise ConfigError(f"there is no command {name!r}{nearest(name, SHARED)} (under torchrun: {', '.join(SHARED)})")
    check_shared(name)


def called(app: typer.Typer, argv: Sequence[str] | None) -> Any:
    """Call the app; of several ranks the first of a machine alone speaks of words that are no command line."""
    if not beside_the_first():
        return app(args=argv, prog_name="cgankd")
    try:
        code = app(args=argv, prog_name="cgankd", standalone_mode=False)
    except typer.Abort:
        raise SystemExit(1) from None
    except Exception as error:
        if (words := getattr(error, "format_message", None)) is None:  # not of the command line
            raise
        leave_it_to_the_first()
        typer.echo(f"error{of_rank()}: {words()}", err=True)
        raise SystemExit(2) from None
    raise SystemExit(code if isinstance(code, int) else 0)
