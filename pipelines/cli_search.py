"""The `cgankd search` commands."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pipelines.cli_errors import Settings, console, plain_errors

if TYPE_CHECKING:
    from pipelines.search import Search

search_app = typer.Typer(
    help="Search settings with Optuna, scored on the validation split. Without a sub-command: begin or resume the"
    " study that the section `search` of params.yaml describes.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
)
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar="CGANKD_SEARCH_STORAGE",
        help="Database URL, for several machines; else artifacts/search.db.",
    ),
]
Study = Annotated[str | None, typer.Option("--study", help="Name of the study; else search.study.")]


def register(app: typer.Typer) -> None:
    """Hang the commands under `search`."""
    app.add_typer(search_app, name="search", rich_help_panel="Search")


def opened(settings: list[str] | None, storage: str | None, study: str | None) -> Search:
    """The search of this folder, its notices printed."""
    from pipelines.search import open_search

    found, notices = open_search(Path.cwd(), settings or (), storage, study)
    for notice in notices:
        typer.echo(f"notice: {notice}")
    return found


def stop_on_terminate(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM like Ctrl-C: the trial under way goes back into the queue."""
    raise KeyboardInterrupt


@search_app.callback(invoke_without_command=True)
def search(
    ctx: typer.Context,
    trials: Annotated[int | None, typer.Option(min=1, help="Finished trials to reach; else search.num_trials.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes on this machine.")] = 1,
    storage: Storage = None,
    study: Study = None,
    settings: Settings = None,
) -> None:
    """Begin or resume the study; needs the artifacts of `dvc repro` or `cgankd run`."""
    if ctx.invoked_subcommand is not None:
        ctx.obj = (settings, storage, study)
        return
    signal.signal(signal.SIGTERM, stop_on_terminate)
    with plain_errors():
        from pipelines.search import run

        extra = [f"search.num_trials={trials}"] if trials else []
        run(opened([*(settings or []), *extra], storage, study), workers, console())
