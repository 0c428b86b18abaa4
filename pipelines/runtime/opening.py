"""The beginning of a stage run: settings read, code and machine checked, the folder locked, the tracked run opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console

from cgankd.config import Config, ConfigError, to_dict
from cgankd.fit.ranks import ranks
from pipelines.files.layout import BESIDE_STAGES, SECTIONS, STAGES, within
from pipelines.files.params import changed_meanwhile, flatten, load_config, settings_of
from pipelines.files.pinned import check_pin
from pipelines.locks.holding import clean, release, take
from pipelines.locks.ranks import among_ranks
from pipelines.locks.ranks import launched as launched
from pipelines.runtime.context import Context
from pipelines.runtime.machine import make_plan, plan_facts, plan_line, set_threads
from pipelines.runtime.outputs import place_all, place_made
from pipelines.runtime.room import check_room
from pipelines.tracking.journal import FanOut, Tracker
from pipelines.tracking.open import open_tracker

AUDITED = ("seed", "data", "bank.label_bin")
"""What `bank audit` reads of params.yaml."""
COMMANDS = {"audit": "bank audit"}
"""Commands of another name than their run."""


def open_context(
    stage: str,
    overrides: Sequence[str] = (),
    workdir: Path | None = None,
    *,
    console: Console | None = None,
    made_with: Mapping[str, str] | None = None,
    tracked: bool = True,
    work: str | None = None,
) -> Context:
    """Begin a run of a stage in a work folder that holds params.yaml.

    The tracked run is given its settings, save those `made_with` which the file it looks at was made before. Not `tracked`, it
    is a run of which nothing is kept but what it writes. `work` is that of `open_tracker`.
    Raises ConfigError when a setting is wrong or another process goes on running this stage in the same folder.
    """
    assert stage in (*STAGES, *BESIDE_STAGES), stage
    workdir = (workdir or Path.cwd()).resolve()
    cfg = load_config(workdir / "params.yaml", overrides)
    check_pin(workdir, stage)
    set_threads()
    make_plan()  # a wrong variable is refused before a run opens
    check_room(stage, cfg, workdir)
    lock_path = workdir / "artifacts" / "resume" / f"{stage}.lock"
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_path)
    console = console or Console()

    told = list[str]()

    def say(text: str) -> None:
        told.append(text)
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    take(lock, stage, say)
    try:
        place_made(workdir, stage)
        place_all(workdir)
        clean(workdir, cache=stage == "prepare")
        tags = {"overrides": " ".join(overrides)} if overrides else {}
        tracker = (
            open_tracker(workdir, stage, cfg.tracking, tags=tags, lock=lock_path, say=say, work=work)
            if tracked
            else untracked(stage)
        )
        for text in told:  # what was said before there was a run to keep it
            tracker.say(text)
        tracker.params(flatten(to_dict(cfg)) | dict(made_with or {}))
    except BaseException:
        release(lock)
        raise
    context = Context(stage, cfg, workdir, tracker, console)
    context._lock, context.overrides = lock, tuple(overrides)
    context.changed = lambda: params_changed(stage, cfg, workdir, overrides)
    if stage in STAGES:
        tracker.tags(plan_facts(context.plan))
        context.say(plan_line(context.plan))
    return context


def untracked(stage: str) -> Tracker:
    """A tracked run that goes nowhere."""
    return Tracker(FanOut([], lambda sink, error: None), stage, {})


@contextmanager
def open_stage(stage: str, overrides: Sequence[str] = (), workdir: Path | None = None) -> Iterator[Context]:
    """`open_context`; of several ranks that torchrun started the first has the work folder, its console and the tracked run.

    Raises ConfigError where the stage's trainings are not shared by ranks.
    """
    if not launched():
        with open_context(stage, overrides, workdir) as ctx:
            yield ctx
        return
    with among_ranks(stage, (workdir or Path.cwd()).resolve(), make_plan().device) as folder:
        first = ranks().rank == 0
        console = None if first else Console(quiet=True)
        with open_context(stage, overrides, folder, console=console, tracked=first) as ctx:
            ctx.say(f"{ranks().size} ranks train together; each runs the nets on its rows of a batch")
            ctx.tracker.tags({"compute.ranks": str(ranks().size)})
            yield ctx


@contextmanager
def open_shard(
    stage: str,
    shard: tuple[int, int],
    overrides: Sequence[str] = (),
    workdir: Path | None = None,
    *,
    console: Console | None = None,
) -> Iterator[Context]:
    """A context of one of so many shards of a stage, which the others may run beside: it reports to the console alone and
    leaves neither metrics and pictures nor a tracked run.

    Raises ConfigError as `open_context` does; only the same shard is kept from running twice.
    """
    workdir = (workdir or Path.cwd()).resolve()
    cfg = load_config(workdir / "params.yaml", overrides)
    check_pin(workdir, stage)
    set_threads()
    make_plan()
    check_room(stage, cfg, workdir)
    lock = FileLock(workdir / "artifacts" / "resume" / f"{stage}-{shard[0]}-of-{shard[1]}.lock")
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    console = console or Console()
    context = Context(stage, cfg, workdir, untracked(stage), console)
    context.overrides = tuple(overrides)
    take(lock, f"{stage} --shards {shard[1]} --shard {shard[0]}", context.say)
    try:
        context.say(plan_line(context.plan))
        yield context
        context.check_unchanged()
    finally:
        context._meter.stop()
        release(lock)


def watched(cfg: Config, stage: str) -> dict[str, Any]:
    """Dotted name -> value of what a run looks at: the settings of a stage, and for `repeat` and `sizes` those of all."""
    if stage in SECTIONS:
        return settings_of(cfg, stage)
    every = flatten(to_dict(cfg))
    return {key: value for key, value in every.items() if within(key, AUDITED)} if stage == "audit" else every


def params_changed(stage: str, cfg: Config, workdir: Path, overrides: Sequence[str]) -> str | None:
    """A sentence where params.yaml no longer says what this run of a stage was made with; None where it does.

    Raises ConfigError under DVC, which notes the settings of params.yaml as it is after the run.
    """
    path = workdir / "params.yaml"
    text = changed_meanwhile(
        watched(cfg, stage), lambda: watched(load_config(path, overrides), stage), COMMANDS.get(stage, stage)
    )
    if text is None:
        return None
    if os.environ.get("DVC_STAGE"):
        raise ConfigError(f"{text}; run `dvc repro` again, as DVC would note the new settings for the old results")
    return f"{text}; the results are of the former settings"
