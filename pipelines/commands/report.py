"""Commands that show results: `cgankd compare` and `cgankd report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.errors import console, plain_errors

PANEL = "Settings and results"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel=PANEL)(compare)
    app.command(rich_help_panel=PANEL)(report)


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Each a path to an evaluate.json, a git revision, a DVC experiment, or the id or name of an evaluate or"
            " student run of MLflow; . is this folder. Differences are against the first.",
        ),
    ] = None,
    csv: Annotated[Path, typer.Option(help="Where the table goes as CSV, one row a run and arm.")] = Path(
        "comparison.csv"
    ),
    html: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("comparison.html"),
) -> None:
    """Results of runs side by side, with paired differences and intervals; also written as CSV and HTML."""
    with plain_errors():
        from pipelines.files.params import load_config
        from pipelines.report.compare_table import terminal, write
        from pipelines.report.records import load

        params = Path("params.yaml")
        experiment = load_config(params).tracking.experiment if params.exists() else "cgankd"
        records = [load(text, Path.cwd(), experiment) for text in runs or ["."]]
        console().print(terminal(records))
        write(records, csv, html)
        typer.echo(f"also in {csv} and {html}")


def report(
    out: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("report.html"),
    tracked: Annotated[bool, typer.Option("--track/--no-track", help="Also add it to the last MLflow run.")] = True,
) -> None:
    """One HTML file, nothing to fetch: pipeline, pictures, scores, arms, verdict, lineage, and what to do next."""
    with plain_errors():
        from pipelines.report.html import write_report

        facts = write_report(Path.cwd(), out)
        missing = [name for name, stage in facts.stages.items() if stage.metrics is None]
        typer.echo(
            f"{out} ({out.stat().st_size / 1e6:.1f} MB)" + (f"; not run yet: {', '.join(missing)}" if missing else "")
        )
        if tracked and facts.cfg.tracking.mlflow:
            add_to_run(out)


def add_to_run(path: Path) -> None:
    """Add a file to the newest tracked run; a store that does not answer is said and stops nothing."""
    from pipelines.files.layout import STAGES
    from pipelines.tracking.answers import reason
    from pipelines.tracking.reads import attach

    try:
        run = attach(Path.cwd(), STAGES[::-1], path)
    except Exception as error:  # whatever MLflow raises, the file is written
        typer.echo(f"warning: MLflow failed ({reason(error)}); the report is not in MLflow", err=True)
        return
    if run is not None:
        typer.echo(f"also in MLflow, run {run}, under report/")
