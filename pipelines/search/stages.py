"""Teacher, GAN and ratio of a trial: those in artifacts/ where its settings are the same, else trained and kept.

A stage whose settings or inputs differ runs once in a folder of its own under artifacts/search/stages, named by the
fingerprint of both; every later trial and worker with the same settings finds it there.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from cgankd.config import Config, ConfigError, to_dict
from cgankd.data.regular import read_text
from cgankd.types import Diverged
from pipelines.files.artifacts import config_path, file_digest, fingerprint, load_weights, source_digest, write_json
from pipelines.files.layout import missing, reads_teacher
from pipelines.files.made import check_made
from pipelines.files.params import flatten, settings_of, write_text
from pipelines.runtime.context import Context
from pipelines.stages.bank import Inputs

NEEDS = {"teacher": ("dataset",), "cgan": ("dataset",), "ratio": ("dataset", "cgan")}
"""Inputs of the stages before the bank, in their order."""


def base_files(workdir: Path, base: Config) -> dict[str, Path]:
    """The artifacts of params.yaml itself. Raises ConfigError where one is missing, damaged or older than
    params.yaml."""
    files = {"dataset": workdir / "artifacts" / "dataset.h5"}
    files |= {stage: workdir / "artifacts" / f"{stage}.safetensors" for stage in NEEDS}
    for path in files.values():
        if not path.exists():
            raise missing(path)
    check_made(files["dataset"])  # the nets are checked where they are loaded
    sections = to_dict(base)
    for stage in NEEDS:
        config = load_weights(files[stage])[1]
        # The teacher's own config holds its settings at the top, the others' under the name of the stage.
        for key, value in flatten(config.get(stage, config)).items():
            wanted = flatten(sections[stage]).get(key, value)
            if wanted != value:
                raise ConfigError(
                    f"artifacts/{stage}.safetensors was made with {stage}.{key} = {value!r}, but params.yaml has"
                    f" {wanted!r}; run `dvc repro` or `cgankd run` first"
                )
    return files


def read_files(workdir: Path, base: Config) -> list[Path]:
    """All files that trials read: the artifacts with their configs, and those that settings name. Raises ConfigError."""
    files = list(base_files(workdir, base).values())
    files += [config_path(path) for path in files if path.suffix == ".safetensors"]
    sections = (base.teacher, base.student, base.bank.probe)
    own = [section.weights_file for section in sections if section is not None] + [base.teacher.file]
    return files + [path for name in own if name is not None and (path := workdir / name).is_file()]


def inputs_of(ctx: Context, base: Config) -> Inputs:
    """The files the bank of a trial is made of; stages that the trial changes are run where they were not yet.

    `ctx` is the trial's, its settings those of the trial. Raises ConfigError as the stages do.
    """
    own = base_files(ctx.workdir, base)
    files = {"dataset": own["dataset"]}
    for stage, below in NEEDS.items():
        needs = (*below, "teacher") if reads_teacher(ctx.cfg, stage) else below
        same = settings_of(ctx.cfg, stage) == settings_of(base, stage)
        if same and all(files[name] == own[name] for name in needs):
            files[stage] = own[stage]
        else:
            files[stage] = run_kept(ctx, stage, {name: files[name] for name in needs})
    return Inputs(**files)


def run_kept(ctx: Context, stage: str, needs: Mapping[str, Path]) -> Path:
    """Run a stage in the folder of its fingerprint unless it is done; returns its weights.

    A training that diverges does so again under the same settings: later trials are told without trying. Raises Diverged.
    """
    facts: dict[str, Any] = {
        "settings": settings_of(ctx.cfg, stage),
        "code": source_digest(),
        "torch": torch.__version__,
    }
    facts |= {"threads": torch.get_num_threads(), "device": ctx.plan.device, "compile": ctx.plan.compile}
    key = fingerprint(facts, {name: file_digest(path) for name, path in needs.items()})
    folder = ctx.path("search") / "stages" / f"{stage}-{key}"
    done, weights = folder / "done.json", folder / "artifacts" / f"{stage}.safetensors"
    diverged = folder / "diverged.txt"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if done.exists() and weights.exists():
            try:
                load_weights(weights)
                return weights
            except ConfigError as error:
                ctx.say(f"{error}; it is made again")
        if diverged.exists():
            raise Diverged(f"{read_text(diverged, errors='replace')} (as before, under the same settings)")
        for path in needs.values():
            for source in (path, config_path(path)):
                link = folder / "artifacts" / source.name
                link.parent.mkdir(exist_ok=True)
                if source.exists():
                    link.unlink(missing_ok=True)
                    link.symlink_to(source.resolve())
        ctx.say(f"running {stage} under the settings of this trial")
        tracker = ctx.tracker.child(stage, settings_of(ctx.cfg, stage), {"trial.stage": stage, "level": "part"})
        try:
            with Context(stage, ctx.cfg, folder, tracker, ctx.console) as inner:
                importlib.import_module(f"pipelines.stages.{stage}").run(inner)
        except Diverged as error:
            write_text(diverged, str(error))
            raise
        write_json(done, json.loads(json.dumps(facts)))
    return weights
