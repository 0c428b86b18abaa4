"""One draw of the whole pipeline in a folder of its own; a stage runs only where settings, inputs or code changed."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from cgankd.config import Config
from cgankd.data.regular import read_json
from pipelines.files.artifacts import config_path, file_digest, fingerprint, read_record, source_digest, write_json
from pipelines.files.layout import INPUTS, OUTPUTS, STAGES, reads_teacher
from pipelines.files.made import note_made
from pipelines.files.made_with import NO_EFFECT
from pipelines.files.params import settings_of
from pipelines.networks.named_files import with_files
from pipelines.repeat.own_files import own_digests
from pipelines.runtime.context import Context
from pipelines.tracking.journal import Tracker

CODE = (
    *(
        "cgankd",
        "pipelines/stages",
        "pipelines/networks",
        "pipelines/rounds",
        "pipelines/students",
        "pipelines/teachers",
    ),
    "pipelines/runtime/machine.py",
)
"""What the numbers of a draw depend on."""
BY_DIGEST = "a file"
"""In the place of the path of a net."""


@dataclass(frozen=True)
class Draw:
    """The settings of one draw, its seed among them, and the folder where its stages leave what they make."""

    seed: int
    cfg: Config
    folder: Path

    def done(self, stage: str) -> Path:
        """The record of a finished stage."""
        return self.folder / "done" / f"{stage}.json"

    def outputs(self, stage: str) -> list[Path]:
        """The files that a stage leaves: artifacts with the configs beside weights, and its metrics."""
        files = [self.folder / "artifacts" / name for name in OUTPUTS[stage]]
        files += [config_path(path) for path in files if path.suffix == ".safetensors"]
        return [*files, self.folder / "metrics" / f"{stage}.json"]


def make_draw(cfg: Config, seed: int, workdir: Path) -> Draw:
    """The draw of a seed below artifacts/repeat."""
    return Draw(seed, replace(cfg, seed=seed), workdir / "artifacts" / "repeat" / f"draw-{seed}")


def key_of(draw: Draw, stage: str, device: Mapping[str, Any]) -> str:
    """Digest of all that the results of a stage depend on: settings, files it reads, code, and how this machine computes."""
    digests = own_digests(draw.cfg, stage)
    # A net counts by what its file holds: its path is a whole one, and another one where the project was moved.
    cfg = with_files(draw.cfg, lambda name, path: BY_DIGEST if name in digests else path)
    settings = {k: v for k, v in settings_of(cfg, stage).items() if k not in NO_EFFECT}
    facts = {"settings": settings, "code": source_digest(*CODE), "torch": torch.__version__} | dict(device)
    read = {name: file_digest(draw.folder / "artifacts" / name) for name in files_read(draw.cfg, stage)}
    return fingerprint(facts, read | digests)


def files_read(cfg: Config, stage: str) -> list[str]:
    """The artifacts that a stage looks at under these settings."""
    return [name for name in INPUTS[stage] if reads_teacher(cfg, stage) or not name.startswith("teacher.")]


def is_done(draw: Draw, stage: str, key: str) -> bool:
    """Whether the stage was finished under this key and all that it left is still as it was."""
    record = draw.done(stage)
    if not record.exists() or not all(path.exists() for path in draw.outputs(stage)):
        return False
    try:
        made = read_json(record)
    except ValueError:
        return False
    return isinstance(made, dict) and made.get("key") == key and made.get("files") == _files(draw, stage)


def mark_done(draw: Draw, stage: str, key: str) -> None:
    """Note that the stage is finished under this key, with the digests of what it left."""
    draw.done(stage).parent.mkdir(parents=True, exist_ok=True)
    write_json(draw.done(stage), {"key": key, "files": _files(draw, stage)})


def _files(draw: Draw, stage: str) -> dict[str, str]:
    return {path.relative_to(draw.folder).as_posix(): file_digest(path) for path in draw.outputs(stage)}


def adopt(draw: Draw, workdir: Path, device: Mapping[str, Any]) -> None:
    """Take over all stages of the project itself, which the caller knows to be made under the settings of this draw.

    Nothing is marked done before all is there, and `prepare` last, so that what a kill leaves is taken over once more.
    """
    draw.done("prepare").unlink(missing_ok=True)
    for stage in STAGES:
        for target in draw.outputs(stage):
            source = workdir / target.relative_to(draw.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(source, target)
            else:
                shutil.copyfile(source, target)
        note_made(draw.folder, stage)
    for stage in reversed(STAGES):
        mark_done(draw, stage, key_of(draw, stage, device))


def run_draw(
    draw: Draw, tracker: Tracker, console: Console, device: Mapping[str, Any], stages: Sequence[str] = STAGES
) -> list[str]:
    """Run those of the stages of a draw that are not done; returns their names. Raises as the stages do."""
    ran = []
    for stage in stages:
        key = key_of(draw, stage, device)
        if is_done(draw, stage, key):
            continue
        console.rule(f"draw {draw.seed}: {stage}", align="left")
        draw.done(stage).unlink(missing_ok=True)
        child = tracker.child(stage, settings_of(draw.cfg, stage), {"draw": str(draw.seed), "draw.stage": stage})
        with Context(stage, draw.cfg, draw.folder, child, console) as inner:
            importlib.import_module(f"pipelines.stages.{stage}").run(inner)
        mark_done(draw, stage, key)
        ran.append(stage)
    return ran


def result_of(draw: Draw) -> dict[str, Any]:
    """metrics/evaluate.json of a finished draw."""
    return read_record(draw.folder / "metrics" / "evaluate.json", ("headline", "arms", "chosen_arm", "best_real_arm"))
