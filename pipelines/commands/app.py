"""The `cgankd` command: one command a stage, and a few that show what they did.

Heavy modules are imported inside commands, so that `cgankd --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.commands import bank, distill, project, repeat, report, search, ship, sizes
from pipelines.commands.errors import Root, Settings, console, plain_errors, with_root
from pipelines.commands.ranks import called, check_command
from pipelines.commands.running import check_stage, one_stage, run_from, stop_when_asked
from pipelines.files.layout import STAGES
from pipelines.runtime.malloc import restart
from pipelines.runtime.memory import check_start
from pipelines.tracking.masks import mask_streams

app = typer.Typer(
    help="Distil a small student through the samples of a conditional GAN. Works on params.yaml in this folder;"
    " `cgankd use PRESET` writes one, `dvc repro` or `cgankd run` runs all stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
)

STAGE_ARGUMENT = typer.Argument(metavar="STAGE", help=f"One of {', '.join(STAGES)}.")


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (or set CGANKD_DEBUG=1).")
    ] = False,
) -> None:
    """Options before the command."""
    if debug:
        os.environ["CGANKD_DEBUG"] = "1"


@app.command(rich_help_panel="Stages")
def prepare(settings: Settings = None, root: Root = None) -> None:
    """Read and split the images. Reads data.root; writes artifacts/dataset.h5."""
    one_stage("prepare", with_root(settings, root))


@app.command(rich_help_panel="Stages")
def teacher(settings: Settings = None) -> None:
    """Train the teacher on real images. Reads dataset.h5; writes teacher.safetensors."""
    one_stage("teacher", settings)


@app.command(rich_help_panel="Stages")
def cgan(settings: Settings = None) -> None:
    """Train the conditional GAN. Reads dataset.h5; writes cgan.safetensors."""
    one_stage("cgan", settings)


@app.command(rich_help_panel="Stages")
def ratio(settings: Settings = None) -> None:
    """M1: fit the density ratio. Reads dataset.h5 and cgan.safetensors; writes ratio.safetensors."""
    one_stage("ratio", settings)


@app.command(rich_help_panel="Stages")
def student(settings: Settings = None) -> None:
    """M3: train every arm over every seed. Reads dataset.h5, the teacher and pool.h5; writes artifacts/students/."""
    one_stage("student", settings)


@app.command(rich_help_panel="Stages")
def evaluate(settings: Settings = None) -> None:
    """Score on test, as no other stage does. Reads the students; writes metrics/evaluate.json, student.safetensors."""
    one_stage("evaluate", settings)


@app.command(rich_help_panel="Stages")
def run(
    start: Annotated[str, typer.Option("--from", metavar="STAGE", help="Begin at this stage.")] = "prepare",
    settings: Settings = None,
    root: Root = None,
) -> None:
    """Run all stages in order without DVC; each one is run anew."""
    stop_when_asked()
    with plain_errors("stopped; `cgankd run --from STAGE` goes on with the stage that was under way"):
        run_from(start, with_root(settings, root))


@app.command(rich_help_panel="Settings and results")
def use(
    preset: Annotated[str, typer.Argument(help="Name of a preset, such as digits or chairs.")],
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Change nothing (but --root) when params.yaml already comes from this preset."),
    ] = False,
    root: Annotated[
        str | None, typer.Option("--root", metavar="PATH", help="Where the images are; written to data.root.")
    ] = None,
) -> None:
    """Put a preset in place of params.yaml; what was there is kept as params.yaml.bak-N."""
    with plain_errors():
        from pipelines.files.params import at_root, read_params, set_values, write_preset

        path, values = Path("params.yaml"), at_root(preset, root)
        tracking = read_params(path).get("tracking") if keep and path.exists() else None
        if isinstance(tracking, dict) and tracking.get("preset") == preset:
            set_values(path, values)
            return
        backup = write_preset(preset, path, values)
        where = f", data.root {root}" if values else ""
        typer.echo(
            f"params.yaml is now the preset {preset}{where}" + (f"; the former one is {backup}" if backup else "")
        )


@app.command(rich_help_panel="Settings and results")
def show(stage: Annotated[str, STAGE_ARGUMENT]) -> None:
    """What a stage was set to, what it measured, and where its pictures and its MLflow run are."""
    with plain_errors():
        from pipelines.report.show import show_stage

        check_stage(stage)
        show_stage(stage, Path.cwd(), console())


@app.command(rich_help_panel="Settings and results")
def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000) -> None:
    """Open MLflow's page over the runs of this folder, on 127.0.0.1 only."""
    with plain_errors():
        from cgankd.config import ConfigError
        from pipelines.runtime.bonds import run_bonded
        from pipelines.tracking.moved import StoreMoved, check_place, check_readable
        from pipelines.tracking.page import links, serve
        from pipelines.tracking.places import has_store, is_server, store_uri

        check_readable(Path.cwd())
        try:
            check_place(Path.cwd())
        except StoreMoved as error:  # numbers are shown all the same
            typer.echo(f"warning: pictures and files of runs are not shown: {error}", err=True)
        for name, link in links(Path.cwd(), STAGES, port).items():
            typer.echo(f"{name:>9}: {link}")
        uri = store_uri(Path.cwd())
        if is_server(uri):
            typer.echo(f"runs are kept by the server at {uri}: open that address")
            return
        if not has_store(Path.cwd()):
            raise ConfigError("there are no MLflow runs in this folder yet; run a stage first")
        typer.echo(f"http://127.0.0.1:{port} (Ctrl-C ends it; it needs some seconds to start)")
        sys.stdout.flush()
        raise typer.Exit(serve(uri, port, run_bonded))


@app.command(rich_help_panel="Settings and results")
def sync() -> None:
    """Add runs that MLflow missed, because its server did not answer or a run was killed, from artifacts/logs."""
    with plain_errors():
        from cgankd.config import ConfigError
        from pipelines.tracking.answers import reason
        from pipelines.tracking.masks import masked
        from pipelines.tracking.places import store_uri
        from pipelines.tracking.sync import sync as add_missed_runs

        try:
            done = add_missed_runs(Path.cwd())
        except ConfigError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.filename is not None:  # of this folder, and not of the store
                raise
            where = masked(store_uri(Path.cwd()))
            raise ConfigError(
                f"MLflow at {where} does not answer ({reason(error)}); nothing is lost, try again"
            ) from error
        typer.echo(done.text)


@app.command(rich_help_panel="Settings and results")
def doctor(
    only: Annotated[
        str | None, typer.Option(metavar="repository", help="Check git, DVC, params.yaml alone; print problems only.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="After the project was moved or copied: let MLflow's store look here.")
    ] = False,
) -> None:
    """Check this machine and folder; what is not ok comes with its cure. Exit code 2 for a problem, which blocks a run."""
    with plain_errors():
        if repair:
            from pipelines.tracking.moved import repair as mend

            done = mend(Path.cwd())
            typer.echo("MLflow's store needs no repair" if done is None else done.text)
            return
        from cgankd.config import ConfigError
        from pipelines.project.doctor import examine
        from pipelines.report.show import findings_table

        if only not in (None, "repository"):
            raise ConfigError(f"--only must be the word repository, but is {only!r}")
        findings = examine(Path.cwd(), only_repository=only is not None)
        bad = [f for f in findings if f.level == "problem"]
        if only is None:
            console().print(findings_table(findings))
        for finding in bad if only else []:
            typer.echo(f"{finding.name}: {finding.text}; cure: {finding.cure}", err=True)
        raise typer.Exit(2 if bad else 0)


for part in (search, bank, repeat, sizes, ship, project, report, distill):
    part.register(app)


def main(argv: list[str] | None = None) -> Any:
    """The console script; a command line of its own is started again once for the allocator (pipelines/runtime/malloc.py)."""
    words = sys.argv[1:] if argv is None else argv
    try:
        with plain_errors():
            if argv is None:
                mask_streams()
            check_command(words, app)
            if argv is None:
                restart((*STAGES, "run"), words)
                if not {"--help", "use", "init"} & {*words}:
                    check_start()
    except typer.Exit as ended:  # no app is there yet to make an exit code of it
        raise SystemExit(ended.exit_code) from None
    return called(app, argv)
