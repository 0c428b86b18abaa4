"""`cgankd repeat`: the whole pipeline over draws, for an interval that a single table cannot give."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.commands.errors import RESUMES, Settings, plain_errors
from pipelines.commands.running import stop_when_asked


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command(rich_help_panel="Stages")(repeat)


def repeat(
    draws: Annotated[int, typer.Option("--draws", metavar="K", help="How many draws, at least 2.")] = 5,
    first_seed: Annotated[
        int | None,
        typer.Option(
            "--first-seed", metavar="SEED", help="Seed of the first draw, zero or more; else that of params.yaml."
        ),
    ] = None,
    settings: Settings = None,
) -> None:
    """All stages over draws of split, teacher, GAN and bank; writes metrics/repeat.json. What is done is kept."""
    stop_when_asked()
    with plain_errors(RESUMES):
        from pathlib import Path

        from cgankd.config import ConfigError
        from pipelines.files.params import load_config
        from pipelines.repeat.run import run, seeds_of, work_of
        from pipelines.runtime.opening import open_context

        if first_seed is not None and first_seed < 0:
            raise ConfigError(f"--first-seed must be zero or more, but is {first_seed}")
        # Before the run is opened: a mistyped option must not leave a failed run behind.
        cfg = load_config(Path("params.yaml"), settings or ())
        work = work_of(cfg, seeds_of(cfg, draws, first_seed))
        with open_context("repeat", settings or (), work=work) as ctx:
            run(ctx, draws, first_seed, changed=bool(settings))
