"""The beginning of a stage run: settings read, code and machine checked, the folder locked, the tracked run opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from cgankd.config import to_dict
from pipelines.files.layout import BESIDE_STAGES, STAGES
from pipelines.files.params import flatten, load_config
from pipelines.files.pinned import check_pin
from pipelines.locks.holding import clean, release, take
from pipelines.runtime.context import Context
from pipelines.runtime.machine import make_plan, plan_facts, plan_line, set_threads
from pipelines.tracking.open import open_tracker


def open_context(
    stage: str,
    overrides: Sequence[str] = (),
    workdir: Path | None = None,
    *,
    console: Console | None = None,
    made_with: Mapping[str, str] | None = None,
) -> Context:
    """Begin a run of a stage in a work folder that holds params.yaml.

    The tracked run is given its settings, save those `made_with` which the file it looks at was made before.
    Raises ConfigError when a setting is wrong or another process goes on running this stage in the same folder.
    """
    assert stage in (*STAGES, *BESIDE_STAGES), stage
    workdir = (workdir or Path.cwd()).resolve()
    cfg = load_config(workdir / "params.yaml", overrides)
    check_pin(workdir, stage)
    set_threads()
    make_plan()  # a wrong variable is refused before a run opens
    lock_path = workdir / "artifacts" / "resume" / f"{stage}.lock"
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_path)
    console = console or Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    take(lock, stage, say)
    try:
        clean(workdir, cache=stage == "prepare")
        tracker = open_tracker(
            workdir,
            stage,
            cfg.tracking,
            tags={"overrides": " ".join(overrides)} if overrides else {},
            lock=lock_path,
            say=say,
        )
        tracker.params(flatten(to_dict(cfg)) | dict(made_with or {}))
    except BaseException:
        release(lock)
        raise
    context = Context(stage, cfg, workdir, tracker, console)
    context._lock = lock
    if stage in STAGES:
        tracker.tags(plan_facts(context.plan))
        context.say(plan_line(context.plan))
    return context
