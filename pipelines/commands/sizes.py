"""`cgankd sizes`: how small a student may be."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.commands.errors import RESUMES, Settings, plain_errors
from pipelines.commands.running import stop_when_asked


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command(rich_help_panel="Stages")(sizes)


def sizes(
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials", metavar="N", min=1, help="Also so many trials of Optuna, with two goals: score and bytes."
        ),
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option("--max-bytes", metavar="N", min=1, help="Choose one whose file has at most N bytes.")
    ] = None,
    max_ram: Annotated[
        int | None, typer.Option("--max-ram", metavar="N", min=1, help="Choose one that needs at most N bytes of RAM.")
    ] = None,
    max_ms: Annotated[
        float | None,
        typer.Option("--max-ms", metavar="MS", help="Choose one that answers within MS milliseconds here."),
    ] = None,
    settings: Settings = None,
) -> None:
    """How small may the student be? Trains sizes.nets by the arm that ships; writes metrics/sizes.json. What is done is kept."""
    stop_when_asked()
    with plain_errors(RESUMES):
        from pathlib import Path

        from cgankd.config import ConfigError
        from cgankd.export import need_onnx
        from pipelines.runtime.opening import open_context
        from pipelines.search.config import load_searched
        from pipelines.sizes.flash import flash_of
        from pipelines.sizes.plan import plan_of
        from pipelines.sizes.run import Asked, run

        # Before the run is opened: a mistake must not leave a failed run behind.
        if max_ms is not None and not 0 < max_ms < float("inf"):
            raise ConfigError(f"--max-ms must be a positive number, but is {max_ms:g}")
        need_onnx()
        plan = plan_of(load_searched(Path("params.yaml").resolve(), settings or ()), Path.cwd())
        limits = {"bytes": max_bytes, "ram": max_ram, "ms": max_ms}
        asked = Asked(trials, {axis: float(most) for axis, most in limits.items() if most is not None})
        with open_context("sizes", settings or ()) as ctx:
            if (flash := flash_of(ctx.path("dataset.h5"), plan.cfg)) is None:
                ctx.say("without the packages for boards (pip install 'cgankd[device]') sizes are those of ONNX files")
            run(ctx, plan, asked, flash)
