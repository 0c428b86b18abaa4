"""Commands that show the KD losses: `cgankd distillers` and `cgankd distillers describe NAME`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pipelines.commands.errors import console, plain_errors
from pipelines.report.kd_losses import COLUMNS, page, plain, row

PANEL = "Settings and results"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(help="KD losses for student.distiller, and what each is.", invoke_without_command=True)
    group.callback()(distillers)
    group.command()(describe)
    app.add_typer(group, name="distillers", rich_help_panel=PANEL)


def distillers(
    ctx: typer.Context,
    markdown: Annotated[bool, typer.Option(help="All of it as a Markdown page (docs/distillers.md).")] = False,
) -> None:
    """All KD losses: which labels they distil, what they look at, where they come from; a row each."""
    if ctx.invoked_subcommand is not None:
        return
    with plain_errors():
        from cgankd.distill.methods import METHODS

        if markdown:
            typer.echo(page(), nl=False)
            return
        rows = [row(method) for method in METHODS.values()]
        show(COLUMNS, rows)


def describe(name: Annotated[str, typer.Argument(metavar="NAME", help="A KD loss, such as kd.")]) -> None:
    """One KD loss: its equation, its options with their defaults, and what flows from teacher to student."""
    with plain_errors():
        from cgankd.config import ConfigError
        from cgankd.config.settings import nearest
        from cgankd.distill.base import describe as flows_of
        from cgankd.distill.methods import METHODS

        if name not in METHODS:
            raise ConfigError(f"there is no KD loss {name!r}{nearest(name, METHODS)} (known: {', '.join(METHODS)})")
        method = METHODS[name]
        typer.echo("\n".join(line.strip() for line in (method.__doc__ or "").strip().splitlines()))
        typer.echo("")
        for key, value in zip(COLUMNS, row(method), strict=True):
            typer.echo(f"{key}: {value}")
        typer.echo("\noptions (student.distiller_options):")
        for key, value in method.options().items():
            typer.echo(f"  {key}: {plain(value)}")
        typer.echo("\nflows:")
        flows = flows_of(method)
        if flows:
            show(tuple(flows[0]), [tuple(flow.values()) for flow in flows])


def show(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table on a terminal; in a pipe one line a row, cells parted by tabs, headed by the columns' names."""
    if not sys.stdout.isatty():
        for cells in [columns, *rows]:
            typer.echo("\t".join(cells))
        return
    from rich import box
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for cells in rows:
        table.add_row(*cells)
    console().print(table)
