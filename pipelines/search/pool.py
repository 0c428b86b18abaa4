"""What trials build on: the pool of scored fakes that all share, and the networks that a trial changes.

A block drawn once is read from then on, whatever is cut from it. A block of fakes is a function of its generator's seed and
its labels alone, so remembering blocks changes no number: the stage `bank` and a trial run the same functions of
cgankd.bank.build and get the same rows, bit for bit.

Teacher, GAN and ratio are those in artifacts/ where their settings are the same, else trained and kept: a stage whose
settings or inputs differ runs once in a folder of its own under artifacts/search/stages, named by the fingerprint of both;
every later trial and worker with the same settings finds it there.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from cgankd.bank import build
from cgankd.bank.scores import block_key
from cgankd.config import Config, ConfigError, to_dict
from cgankd.data.regular import read_text
from cgankd.data.store.banks import BankWriter, PoolRows
from cgankd.data.store.datasets import read_info, read_split
from cgankd.data.store.files import SLAB_ROWS
from cgankd.fit.device import Plan
from cgankd.labels.task import make_task
from cgankd.measure.health import check_bound
from cgankd.rng import derive
from cgankd.types import Diverged
from pipelines.files.artifacts import config_path, file_digest, fingerprint, load_weights, source_digest, write_json
from pipelines.files.kept_runs import keep_tensors, kept_tensors
from pipelines.files.layout import missing, reads_teacher
from pipelines.files.made import check_made
from pipelines.files.params import flatten, settings_of, write_text
from pipelines.networks.named_files import beside, named_files
from pipelines.runtime.context import Context
from pipelines.runtime.machine import arithmetic
from pipelines.stages import bank

NEEDS = {"teacher": ("dataset",), "cgan": ("dataset",), "ratio": ("dataset", "cgan")}
"""Inputs of the stages before the bank, in their order."""


class Remembered:
    """A `build.ScoreFn` that keeps every block in a folder; several processes may share the folder.

    `drawn` counts the fakes that were not there yet.
    """

    def __init__(self, score_fn: build.ScoreFn, folder: Path) -> None:
        self.score_fn, self.folder, self.drawn = score_fn, folder, 0
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, label_B: Tensor, gen: torch.Generator, shard: int) -> build.Scores:
        path = self.folder / f"{block_key(gen, label_B)}.safetensors"
        found, drawn = self._read(path, shard), self.drawn
        if found is None:
            # One process draws at a time, so that two workers never draw the same block side by side.
            with FileLock(self.folder / ".lock"):
                found = self._read(path, shard)
                if found is None:
                    scores = self.score_fn(label_B, gen, shard)
                    self.drawn += len(scores)
                    columns = {name: values.contiguous() for name, values in scores.parts().items()}
                    if (error := keep_tensors(path, columns)) is not None:
                        raise error
                    found = scores
        if drawn == self.drawn and isinstance(self.score_fn, build.Scorer):
            self.score_fn.skip(label_B, shard)
        return found

    def _read(self, path: Path, shard: int) -> build.Scores | None:
        found = kept_tensors(path)
        return None if found is None else build.Scores(**found, shard=shard)


def pool_name(inputs: bank.Inputs, plan: Plan, expected: int) -> str:
    """The name of the blocks drawn by these networks; the bits also depend on code, threads, compilation and processor."""
    facts: dict[str, str | int] = {
        "code": source_digest(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    facts |= {"device": plan.device, "compile": plan.compile, "expected": expected}
    facts |= {"arithmetic": arithmetic(plan.device)}
    return fingerprint(facts, inputs.digests())


@contextmanager
def cut(ctx: Context, inputs: bank.Inputs, selection: str) -> Iterator[tuple[Path, int]]:
    """A pool file with the rows of one selection, as `bank` would select them under ctx.cfg, and the fakes newly drawn.

    It lives as long as the context: writing it again takes seconds. Raises EmptyBankError and ConfigError as `bank` does.
    """
    cfg = ctx.cfg.bank
    info = read_info(inputs.dataset)
    task = make_task(info, ctx.cfg)
    selections = bank.wanted_selections(cfg, ctx.cfg.student.arms)
    bank.refuse_worthless(ctx, inputs, selections)
    seed = derive(ctx.seed, "bank")
    labels = read_split(inputs.dataset, "train").labels
    conditions = build.arrange(task, build.asked_labels(task, labels, cfg), cfg, seed=seed)
    expected = bank.expected_draws(conditions, cfg)
    scorer = bank.make_scorer(inputs, info, task, ctx.plan, expected)
    bank.check_members(cfg, scorer)
    remembered = Remembered(scorer, ctx.path("search") / "pools" / pool_name(inputs, ctx.plan, expected))
    source = build.Source(remembered, conditions, cfg, seed)
    limits = build.burn_in(source)
    if any(build.SELECTIONS[name][0] for name in selections):
        bank.refuse(ctx, check_bound(len(limits.dead_groups()), len(conditions.labels)))

    def blocks() -> Iterator[build.Scores]:
        return build.grow_pool(source, limits, selections)

    # Twice over the blocks, from the folder the second time: their scores are small, all their images are not.
    kept = [(block.asked, block.columns(0)) for block in blocks()]
    groups = conditions.grouping.groups(torch.cat([asked for asked, _ in kept]))
    columns = dataclasses.replace(build.Columns.joined([scores for _, scores in kept]), group=groups)
    rows = build.select(selection, columns, limits, conditions.quota_G)
    path = ctx.path("search") / "cuts" / f"{os.getpid()}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        shape = (info.channels, info.image_size, info.image_size)
        with BankWriter(path, shape, task.num_outputs, task.label_dtype, spread=scorer.spreading is not None) as writer:
            for piece in rows_of(blocks(), rows):
                writer.append(PoolRows(**piece))
            writer.set_columns({f"in_{selection}": torch.ones(len(rows), dtype=torch.bool).numpy()})
            writer.close({"cgan": file_digest(inputs.cgan), "teacher": file_digest(inputs.teacher)})
        yield path, remembered.drawn
    finally:
        path.unlink(missing_ok=True)


def rows_of(blocks: Iterable[build.Scores], rows: Tensor) -> Iterator[dict[str, Tensor]]:
    """The columns of a pool at ascending row numbers, some thousand rows at a time: single blocks append slowly."""
    start, waiting = 0, list[dict[str, Tensor]]()
    for s in blocks:
        take = rows[(rows >= start) & (rows < start + len(s))] - start
        start += len(s)
        kept = {name: values[take] for name, values in s.parts().items()}
        waiting.append(kept | {"shard": torch.full((len(take),), s.shard, dtype=torch.int32)})
        if sum(len(part["shard"]) for part in waiting) >= SLAB_ROWS:
            yield {name: torch.cat([part[name] for part in waiting]) for name in waiting[0]}
            waiting = []
    if waiting:
        yield {name: torch.cat([part[name] for part in waiting]) for name in waiting[0]}


# Networks


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
    return files + [path for name in named_files(base).values() if (path := workdir / name).is_file()]


def inputs_of(ctx: Context, base: Config) -> bank.Inputs:
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
    return bank.Inputs(**files)


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
    own = {name: ctx.workdir / path for name, path in named_files(ctx.cfg).items() if name.startswith(f"{stage}.")}
    read = dict(needs) | {name: path for name, path in own.items() if path.is_file()}
    key = fingerprint(facts, {name: file_digest(path) for name, path in read.items()})
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
            with Context(stage, beside(ctx.cfg, ctx.workdir), folder, tracker, ctx.console) as inner:
                importlib.import_module(f"pipelines.stages.{stage}").run(inner)
        except Diverged as error:
            write_text(diverged, str(error))
            raise
        write_json(done, json.loads(json.dumps(facts)))
    return weights
