"""The commands around a finished student: export, ship, serve, predict; and init, which starts a project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_errors import console, plain_errors

PANEL = "Shipping and own data"
LevelOption = Annotated[float, typer.Option("--level", help="Level of the interval or label set around an answer.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    for command in (export, predict):
        app.command(rich_help_panel=PANEL)(command)


def export(
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("artifacts/export"),
    level: LevelOption = 0.9,
    int8_tolerance: Annotated[
        float, typer.Option("--int8-tolerance", help="Share by which int8 may worsen the validation headline.")
    ] = 0.1,
    repeats: Annotated[int, typer.Option("--repeats", help="Calls whose median is the latency.")] = 300,
) -> None:
    """Write the student as ONNX and torch.export; parity on real images, size and latency beside the teacher's."""
    with plain_errors():
        from pipelines.export import export as write_exports
        from pipelines.export import remarks, sizes_table
        from pipelines.machine import set_threads

        set_threads()
        values = write_exports(Path.cwd(), out.resolve(), level=level, int8_tolerance=int8_tolerance, repeats=repeats)
        console().print(sizes_table(values))
        for line in remarks(values, out):
            typer.echo(line)


def predict(
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="A .safetensors or .onnx file in place of the student here.")
    ] = None,
    server: Annotated[str | None, typer.Option("--server", help="Let the model served at this address answer.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write all to a CSV file ('-': to the terminal).")] = None,
    level: LevelOption = 0.9,
) -> None:
    """Label an image or a folder of images, each with its confidence. Exit code 2 when an image cannot be read."""
    with plain_errors():
        from pipelines.machine import set_threads
        from pipelines.predict import as_csv, image_files, label_files, labels_table, open_predictor

        set_threads()
        predictor = open_predictor(Path.cwd(), model, level, server)
        labelled = label_files(predictor, image_files(images))
        if csv is None:
            console().print(labels_table(labelled, predictor.margin))
        elif str(csv) == "-":
            typer.echo(as_csv(labelled), nl=False)
        else:
            from pipelines.params import write_text

            write_text(csv, as_csv(labelled))
            typer.echo(f"{len(labelled)} images labelled in {csv}")
        bad = [entry for entry in labelled if entry.reading is None]
        for entry in bad:
            typer.echo(f"error: {entry.error}", err=True)
        raise typer.Exit(2 if bad else 0)
