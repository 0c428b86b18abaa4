"""The commands around a finished student: `cgankd export`, `ship`, `serve` and `predict`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.errors import console, plain_errors

PANEL = "Shipping and own data"
LevelOption = Annotated[float, typer.Option("--level", help="Level of the interval or label set around an answer.")]

TrustOption = Annotated[
    bool, typer.Option("--trust", help="Run a program that this project did not make; it runs with your rights.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    for command in (export, ship, serve, predict):
        app.command(rich_help_panel=PANEL)(command)


def warn_if_changed() -> None:
    """Say so where params.yaml is no longer what the student was made with."""
    from pipelines.files.made_with import changed_since

    if changed := changed_since(Path.cwd(), "student.safetensors"):
        typer.echo(f"warning: {changed}", err=True)


def export(
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("artifacts/export"),
    level: LevelOption = 0.9,
    int8_tolerance: Annotated[
        float,
        typer.Option(
            "--int8-tolerance",
            "--tolerance",
            help="Share by which a file may worsen the student's validation headline.",
        ),
    ] = 0.1,
    repeats: Annotated[int, typer.Option("--repeats", help="Calls whose median is the latency.")] = 300,
    to: Annotated[
        str,
        typer.Option("--to", help="Formats, with commas between: onnx, torch; for devices litert, executorch, web, c."),
    ] = "onnx,torch",
    recover: Annotated[
        bool,
        typer.Option("--recover", help="Train the int8 file's student on, as int8 will compute, and keep the better."),
    ] = False,
    recover_steps: Annotated[int, typer.Option("--recover-steps", min=1, help="Steps of --recover.")] = 300,
    board: Annotated[
        list[str] | None,
        typer.Option("--board", metavar="NAME", help="Say whether the files fit: a board, or flash=1M,ram=256k."),
    ] = None,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            "--onnxruntime-web", metavar="PATH", help="The package of npm that --to web needs: file or folder."
        ),
    ] = None,
) -> None:
    """Write the student as ONNX and torch.export, or for devices; compared on real images, with size and latency."""
    with plain_errors():
        from cgankd.config import ConfigError
        from pipelines.device.boards import board_of
        from pipelines.runtime.machine import set_threads
        from pipelines.ship.devices import DEVICE, SERVER, Asked, export_devices, formats_of
        from pipelines.ship.export import check_numbers, remarks, sizes_table
        from pipelines.ship.export import export as write_exports
        from pipelines.ship.folders import check_folders

        formats, boards = formats_of(to), [board_of(name) for name in board or ()]
        check_numbers(int8_tolerance, repeats)
        check_folders(out.resolve(), formats)
        set_threads()
        warn_if_changed()
        server = [name for name in formats if name in SERVER]
        device = [name for name in formats if name in DEVICE]
        if boards and "litert" not in device:
            raise ConfigError("--board needs --to litert, whose files are the ones for boards")
        if recover and "litert" not in device:
            raise ConfigError("--recover needs --to litert, whose int8 file it makes anew")
        if onnxruntime_web is not None and "web" not in formats:
            raise ConfigError("--onnxruntime-web needs --to web, the one format that takes it")
        if server:
            values = write_exports(
                Path.cwd(), out.resolve(), level=level, int8_tolerance=int8_tolerance, repeats=repeats, formats=server
            )
            console().print(sizes_table(values))
            for line in remarks(values, out):
                typer.echo(line)
        if device:
            from pipelines.device.table import board_lines, device_remarks, device_table

            asked = Asked(device, level, int8_tolerance, repeats, recover_steps if recover else 0)
            values = export_devices(Path.cwd(), out.resolve(), asked)
            console().print(device_table(values))
            for line in [*device_remarks(values, out), *board_lines(values, boards)]:
                typer.echo(line)
        for path in _folders(formats, out, level, onnxruntime_web):
            typer.echo(f"written: {path}")


def _folders(formats: list[str], out: Path, level: float, runtime: Path | None) -> list[Path]:
    """The page and the C header, where asked for; their folders as the user named them."""
    from pipelines.ship import folders

    made = []
    if "web" in formats:
        folders.write_page(Path.cwd(), out.resolve(), level=level, runtime=runtime)
        made.append(out / folders.PAGE)
    if "c" in formats:
        folders.write_header(Path.cwd(), out.resolve())
        made.append(out / folders.HEADER)
    return made


def ship(
    name: Annotated[
        str | None, typer.Option("--name", help="Name in the registry; without it the preset's name and -student.")
    ] = None,
    data_licence: Annotated[
        str | None, typer.Option("--data-licence", help="Licence of your own images, for the model card.")
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Make it champion though the champion does better on validation.")
    ] = False,
    level: LevelOption = 0.9,
) -> None:
    """Put the chosen student into MLflow's model registry as champion, with its model card."""
    with plain_errors():
        from pipelines.runtime.machine import set_threads
        from pipelines.ship.release import ship as ship_student

        set_threads()
        warn_if_changed()
        done = ship_student(Path.cwd(), name=name, licence=data_licence, level=level, promote=promote)
        made = done.registered
        again = "" if made.fresh else " (registered before from the same artifacts)"
        typer.echo(f"{done.name} version {made.version}{again}; model card: {done.card.relative_to(Path.cwd())}")
        typer.echo(f"largest difference to the student on real images: {made.difference:.1e}")
        if done.files:
            typer.echo(f"registered beside it: {', '.join(done.files)}")
        for file in done.left_out:
            typer.echo(
                f"warning: {file} loses more than was allowed at its export, or answers otherwise on a microcontroller, so it is"
                " not registered; --recover of `cgankd export` may help, or a larger --tolerance",
                err=True,
            )
        for file in done.unlisted:
            typer.echo(
                f"warning: artifacts/export/{file} is in no record of this student's exports, so it is not registered; export it"
                " again",
                err=True,
            )
        if made.champion:
            typer.echo(
                f"it is the champion: models:/{done.name}@champion; `cgankd serve` answers HTTP requests with it"
            )
        else:
            typer.echo(f"version {made.rival} stays champion: it does better on validation; --promote overrules that")


def serve(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5001,
    name: Annotated[str | None, typer.Option("--name", help="Name in the registry, as given to ship.")] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A name besides localhost that requests may be for."),
    ] = None,
    trust: TrustOption = False,
) -> None:
    """Answer HTTP requests with the champion, on 127.0.0.1 only."""
    with plain_errors():
        from pipelines.files.params import load_config
        from pipelines.ship.registry import serve_command
        from pipelines.ship.release import model_name
        from pipelines.tracking.moved import check_place, check_readable
        from pipelines.tracking.places import store_uri

        check_readable(Path.cwd())
        check_place(Path.cwd())
        model = model_name(load_config(Path("params.yaml")).tracking.preset, name)
        command, environment = serve_command(
            Path.cwd(), model, port, store_uri(Path.cwd()), hosts=allow_host or (), trust=trust
        )
        typer.echo(
            f"http://127.0.0.1:{port}/invocations (Ctrl-C ends it; it answers once it has looked at the model, in some seconds)"
        )
        typer.echo(f"label images with it: cgankd predict FOLDER --server http://127.0.0.1:{port}")
        sys.stdout.flush()
        # In place of this process, which holds torch and MLflow and would only stand between the server and a signal.
        os.execve(command[0], command, environment)


def predict(
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    model: Annotated[
        Path | None,
        typer.Option("--model", help="A .safetensors, .onnx, .pt2, .tflite or .pte file in place of the student."),
    ] = None,
    server: Annotated[str | None, typer.Option("--server", help="Let the model served at this address answer.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write all to a CSV file ('-': to the terminal).")] = None,
    level: Annotated[
        float | None,
        typer.Option(
            "--level", help="Level of the interval or label set around an answer; 0.9, or that of an exported file."
        ),
    ] = None,
    square: Annotated[
        str | None, typer.Option("--square", help="crop, pad or stretch, in place of what the model was made with.")
    ] = None,
    enlarge: Annotated[bool, typer.Option("--enlarge", help="Enlarge images smaller than the model's size.")] = False,
    trust: TrustOption = False,
) -> None:
    """Label an image or a folder of images, each with its confidence. Exit code 2 when an image cannot be read."""
    with plain_errors():
        from pipelines.files.params import write_text
        from pipelines.files.writing import file_meant
        from pipelines.runtime.machine import set_threads
        from pipelines.ship.predict import (
            as_csv,
            image_files,
            label_files,
            labels_table,
            left_out,
            open_predictor,
            with_rules,
        )

        set_threads()
        predictor = with_rules(open_predictor(Path.cwd(), model, level, server, trust=trust), square, enlarge)
        target = None if csv is None or str(csv) == "-" else file_meant(csv)
        labelled = label_files(predictor, image_files(images))
        if target is not None:
            write_text(target, as_csv(labelled, predictor.margin), named=True)
            typer.echo(f"{sum(entry.reading is not None for entry in labelled)} images labelled in {csv}")
        elif csv is None:
            if any(entry.reading for entry in labelled):
                console().print(labels_table(labelled, predictor.margin))
        else:
            typer.echo(as_csv(labelled, predictor.margin), nl=False)
        for line in left_out(images):
            typer.echo(line, err=True)
        bad = [entry for entry in labelled if entry.reading is None]
        if predictor.no_margin and len(bad) < len(labelled):
            typer.echo(predictor.no_margin, err=True)
        for entry in bad:
            typer.echo(f"error: {entry.error}", err=True)
        raise typer.Exit(2 if bad else 0)
