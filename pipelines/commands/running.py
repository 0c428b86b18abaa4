"""What commands do to run a stage: its settings checked, its context opened, a kill taken like Ctrl-C."""

from __future__ import annotations

import importlib
from pathlib import Path

from pipelines.commands.errors import RESUMES, console, plain_errors
from pipelines.files.layout import STAGES

LOWER = {
    "prepare": "data.image_size, or data.memory_budget_gb",
    "teacher": "teacher.batch_size",
    "cgan": "cgan.batch_size, or raise cgan.accumulate",
    "ratio": "ratio.feature_batch_size, ratio.batch_size or ratio.pool_size",
    "bank": "bank.batch_size",
    "student": "student.batch_size, or student.workers",
    "evaluate": "data.memory_budget_gb",
}
"""The settings of each stage that its memory grows with."""


def stop_when_asked() -> None:
    """Take SIGTERM and the end of the terminal like Ctrl-C, so that workers are ended too, and end with a DVC that runs this."""
    from pipelines.runtime.bonds import dvc_process, end_with, like_ctrl_c

    like_ctrl_c()
    if (dvc := dvc_process()) is not None:
        end_with(dvc)


def run_stage(stage: str, settings: list[str] | None) -> None:
    """Open the context of a stage in this folder and run it; a mistake in `search`, which it does not read, is said too."""
    from pipelines.runtime.memory import naming
    from pipelines.runtime.opening import open_stage
    from pipelines.search.config import load_searched

    load_searched(Path("params.yaml").resolve(), settings or ())
    with naming(LOWER[stage]), open_stage(stage, settings or ()) as ctx:
        importlib.import_module(f"pipelines.stages.{stage}").run(ctx)


def run_from(start: str, settings: list[str] | None) -> None:
    """Run a stage and all that follow it, each under its name. Raises ConfigError where there is no such stage."""
    check_stage(start)
    for stage in STAGES[STAGES.index(start) :]:
        console().rule(stage, align="left")
        run_stage(stage, settings)


def one_stage(stage: str, settings: list[str] | None) -> None:
    """A stage's command."""
    stop_when_asked()
    with plain_errors(RESUMES if stage not in ("prepare", "evaluate") else "stopped"):
        run_stage(stage, settings)


def in_shards(shard: int | None, shards: int | None, settings: list[str] | None) -> None:
    """One shard of the bank; without its number all of them by the engine, and the bank of them."""
    stop_when_asked()
    with plain_errors(RESUMES):
        from cgankd.config import ConfigError
        from pipelines.runtime.memory import naming
        from pipelines.runtime.opening import launched, open_shard

        if launched():
            raise ConfigError("`cgankd bank` does not run under torchrun; its shards are processes of their own")
        if shards is None:
            raise ConfigError("--shard needs --shards: how many shards there are, of which this is one, from 0")
        if shard is None:
            from pipelines.repeat.shard_jobs import draw_shards

            with naming(LOWER["bank"]):
                draw_shards(Path.cwd(), shards, settings or (), console())
            run_stage("bank", settings)
            return
        if not 0 <= shard < shards:
            raise ConfigError(f"--shard must be from 0 to {shards - 1} of --shards {shards}, but is {shard}")
        with naming(LOWER["bank"]), open_shard("bank", (shard, shards), settings or ()) as ctx:
            from cgankd.bank.shards import Part
            from pipelines.stages.bank import run_shard

            run_shard(ctx, Part(shard, shards))


def check_stage(name: str) -> None:
    """Raise ConfigError, naming the nearest stage, unless the name is a stage."""
    import difflib

    from cgankd.config import ConfigError

    if name not in STAGES:
        match = difflib.get_close_matches(name, STAGES, n=1)
        hint = f"; did you mean {match[0]}?" if match else ""
        raise ConfigError(f"there is no stage {name!r}{hint} (stages: {', '.join(STAGES)})")
