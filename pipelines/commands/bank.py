"""`cgankd bank`, the stage, and `cgankd bank audit`, which measures what the stage made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipelines.commands.errors import Settings, plain_errors
from pipelines.commands.running import in_shards, one_stage, stop_when_asked

group = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@group.callback()
def bank(
    ctx: typer.Context,
    settings: Settings = None,
    shards: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Draw in K shards, by worker processes or on Ray, and join them."),
    ] = None,
    shard: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="I", help="Draw this one alone, from 0 to K - 1, on any machine; `cgankd bank` joins."
        ),
    ] = None,
) -> None:
    """M1 and M2: draw, subsample, filter, relabel fakes. Reads teacher, cgan and ratio; writes pool.h5, bank.h5."""
    ctx.obj = settings
    if ctx.invoked_subcommand is None and (shards is not None or shard is not None):
        in_shards(shard, shards, settings)
    elif ctx.invoked_subcommand is None:
        one_stage("bank", settings)


@group.command()
def audit(
    ctx: typer.Context,
    inception: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also measure in the features of this TorchScript or exported-program file, such as Inception weights.",
        ),
    ] = None,
    inception_pixels: Annotated[
        str,
        typer.Option(
            metavar="SCALE", help="Pixels that file expects: bytes (0 to 255), unit (0 to 1), signed (-1 to 1)."
        ),
    ] = "bytes",
    settings: Settings = None,
) -> None:
    """Measure the bank: fidelity, labels, variety, copies of training images. Reads bank.h5; writes metrics/audit.json."""
    stop_when_asked()
    with plain_errors():
        from pipelines.audit.inception import make_inception
        from pipelines.audit.run import run
        from pipelines.files.made_with import settings_behind
        from pipelines.runtime.opening import open_context

        # Before the run is opened: a mistyped option must not leave a failed run behind.
        extra = None if inception is None else make_inception(inception, inception_pixels, say=typer.echo)
        made_with = settings_behind(Path.cwd(), "bank.h5")
        overrides = [*(ctx.obj or ()), *(settings or ())]
        with open_context("audit", overrides, made_with=made_with) as run_context:
            run(run_context, extra)


class InOrder(TyperGroup):
    """Help in the order of the method: typer lists commands that have commands of their own last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, with bank after ratio."""
        names = [name for name in super().list_commands(ctx) if name != "bank"]
        names.insert(names.index("ratio") + 1, "bank")
        return names


def register(app: typer.Typer) -> None:
    """Add `bank` and what is under it."""
    app.info.cls = InOrder
    app.add_typer(group, name="bank", rich_help_panel="Stages")
