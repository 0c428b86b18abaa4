"""The commands of a project of one's own: `cgankd init`, which makes it, and `cgankd pin`, after an upgrade."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.errors import plain_errors
from pipelines.commands.ship import PANEL


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (init, pin):
        app.command(rich_help_panel=PANEL)(command)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The project's folder; new or empty.")],
    images: Annotated[
        Path | None, typer.Option("--images", help="One sub-folder of images a class, or train/ and test/ with those.")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", help="A list of images with labels, CSV or JSON lines; paths relative to it."),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="class or scalar, where the labels do not tell.")] = None,
    label_period: Annotated[
        float | None,
        typer.Option("--label-period", help="Length of a turn of labels that go round: 360 for degrees, 24 for hours."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", help="Pixels a side; without it near the median, at most 64.")
    ] = None,
    square: Annotated[
        str | None, typer.Option("--square", help="How images become square: crop, pad or stretch.")
    ] = None,
    enlarge: Annotated[bool, typer.Option("--enlarge", help="Enlarge images smaller than the size.")] = False,
    background: Annotated[
        str, typer.Option("--background", metavar="COLOUR", help="Colour behind transparent parts, as #rrggbb.")
    ] = "#ffffff",
    skip_broken: Annotated[
        bool,
        typer.Option(
            "--skip-broken",
            help="Leave out files, and lines of a list, that are no good, and say which.",
        ),
    ] = False,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the images, at their new size, into the project; DVC keeps them.")
    ] = False,
    path_column: Annotated[
        str | None, typer.Option("--path-column", help="Column of images in the list, by name or number from 1.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option("--label-column", help="Column of labels in the list, by name or number from 1.")
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            "--groups",
            help="Images that belong together (one film, one patient) and stay in one split: a column of the list, folder, or"
            " re:PATTERN on the path.",
        ),
    ] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            "--unlabelled", metavar="FOLDER", help="More images, without labels, which the teacher answers for."
        ),
    ] = None,
) -> None:
    """Make a project of your own images in which `dvc repro` runs: git, DVC, fitted params.yaml, README."""
    with plain_errors():
        from cgankd.data.readers.list_columns import Columns
        from pipelines.project.init import Wish, make_plan, summary
        from pipelines.project.init import init as make_project

        wish = Wish(
            task=task,
            label_period=label_period,
            size=image_size,
            fit=square,
            enlarge=enlarge,
            background=background,
            skip_broken=skip_broken,
            copying=copy,
            columns=Columns(path_column, label_column),
            groups=groups,
            unlabelled=unlabelled,
        )
        plan = make_plan(folder, images, csv, wish)
        for line in summary(plan):
            typer.echo(line)
        make_project(plan, typer.echo)
        typer.echo(f"next: cd {folder} && dvc repro   (params.yaml first, if you want to change something)")


def pin() -> None:
    """After an upgrade: tie this project to the installed code (code.json); `dvc repro` then runs what changed."""
    with plain_errors():
        from pipelines.files.pinned import PIN, write_pin

        if not Path("params.yaml").exists():
            from cgankd.config import ConfigError

            raise ConfigError("there is no params.yaml here; go to a project made by `cgankd init`")
        changed = write_pin(Path.cwd())
        typer.echo(f"{PIN}: {'stages with other code: ' + ', '.join(changed) if changed else 'nothing changed'}")
