"""The `cgankd search` commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.errors import RESUMES, Settings, console, plain_errors
from pipelines.commands.running import stop_when_asked

if TYPE_CHECKING:
    from pipelines.search.run import Search

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
Trial = Annotated[int | None, typer.Option("--trial", min=0, help="This trial instead of the best.")]
Study = Annotated[str | None, typer.Option("--study", help="Name of the study; else search.study.")]


def register(app: typer.Typer) -> None:
    """Hang the commands under `search`."""
    app.add_typer(search_app, name="search", rich_help_panel="Search")


def opened(settings: list[str] | None, storage: str | None, study: str | None) -> Search:
    """The search of this folder, its notices printed."""
    from pipelines.search.run import open_search

    found, notices = open_search(Path.cwd(), settings or (), storage, study)
    for notice in notices:
        typer.echo(f"notice: {notice}")
    return found


def say_changes(found: Search) -> None:
    """Say where params.yaml was edited under a search."""
    from pipelines.search.space import settings_changed

    if (text := settings_changed(found.cfg, found.workdir / "params.yaml", found.settings)) is not None:
        typer.echo(f"warning: {text}")


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
    stop_when_asked()  # the trial under way goes back into the queue
    with plain_errors(RESUMES):
        from pipelines.search.run import run

        extra = [f"search.num_trials={trials}"] if trials else []
        found = opened([*(settings or []), *extra], storage, study)
        run(found, workers, console())
        say_changes(found)


def later(ctx: typer.Context, storage: str | None, study: str | None) -> Search:
    """The search of a sub-command; options given before its name count too."""
    settings, outer_storage, outer_study = ctx.obj or (None, None, None)
    return opened(settings, storage or outer_storage, study or outer_study)


@search_app.command()
def best(
    ctx: typer.Context,
    trial: Trial = None,
    seeds: Annotated[int | None, typer.Option(min=0, help="Fresh seeds for the margin; 0 = leave it out.")] = None,
    storage: Storage = None,
    study: Study = None,
) -> None:
    """Show the winner, its margin over the default on fresh seeds, and what mattered; draw history and importances."""
    with plain_errors():
        from cgankd.config import ConfigError

        if seeds == 1:
            raise ConfigError("--seeds must be 0 or at least 2 (an interval needs them), but is 1")
        found = later(ctx, storage, study)
        from pipelines.search.best import show

        show(found, console(), trial, seeds)
        say_changes(found)


@search_app.command()
def curves(
    ctx: typer.Context,
    trial: Trial = None,
    default: Annotated[bool, typer.Option("--default", help="Around params.yaml instead of a trial.")] = False,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="The first so many of student.seeds; else search.seeds.")
    ] = None,
    storage: Storage = None,
    study: Study = None,
) -> None:
    """Draw the gain over the same student without fakes against rho and against the number of fakes."""
    with plain_errors():
        found = later(ctx, storage, study)
        from pipelines.search.curves import curves as draw

        draw(found, console(), -1 if default else trial, seeds)
        say_changes(found)


@search_app.command()
def apply(ctx: typer.Context, trial: Trial = None, storage: Storage = None, study: Study = None) -> None:
    """Write the winner into params.yaml, comments kept; `dvc repro` then gives its score again."""
    with plain_errors():
        from cgankd.config import ConfigError

        if ctx.obj and ctx.obj[0]:
            raise ConfigError(
                "apply takes no --set: write those settings into params.yaml, as `dvc repro` needs them too"
            )
        found = later(ctx, storage, study)
        from pipelines.search.best import apply as write

        write(found, console(), trial)


@search_app.command()
def dashboard(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 8080,
    storage: Storage = None,
) -> None:
    """Open optuna-dashboard over the studies of this folder, on 127.0.0.1 only."""
    with plain_errors():
        from pipelines.search.dashboard import serve
        from pipelines.ship.door import guarded

        _, outer, _ = ctx.obj or (None, None, None)
        serve(Path.cwd(), storage or outer, port, console(), guarded)
