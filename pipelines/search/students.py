"""Students of a search: the jobs of the student stage, run one after the other, and the scores of a trial by them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from rich.console import Console

from cgankd.bank.build import selection_name
from cgankd.config import ArmConfig, Config
from cgankd.types import Diverged
from pipelines.files.artifacts import load_weights
from pipelines.runtime.context import Context
from pipelines.search.config import SearchedConfig
from pipelines.search.pool import cut, inputs_of
from pipelines.search.space import with_values
from pipelines.stages.bank import Inputs
from pipelines.stages.student import Runner
from pipelines.students.run_arm import Job, score_key, train_job
from pipelines.tracking.journal import FanOut, Tracker

Alive = Callable[[], None]
"""Called between two students; raises where the search must stop."""


def check_parent(parent: int | None) -> None:
    """Raise KeyboardInterrupt when the process that started this worker is gone."""
    if parent is not None and os.getppid() != parent:
        raise KeyboardInterrupt


@contextmanager
def one_thread() -> Iterator[None]:
    """Students train on one thread, as in the student stage, or their bits would differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def quiet_context(cfg: Config, workdir: Path, tracker: Tracker | None = None) -> Context:
    """A context under other settings than params.yaml that prints nothing and writes neither metrics nor plots."""
    silent = Tracker(FanOut([], lambda sink, error: None), "search", {})
    return Context("student", cfg, workdir, tracker or silent, Console(quiet=True))


def train_seeds(runner: Runner, name: str, arm: ArmConfig, seeds: Sequence[int], alive: Alive) -> list[float]:
    """Validation scores of an arm as evaluate.headline counts them, one a seed; a student trained before under equal
    settings is not trained again."""
    by = score_key(runner.ctx.cfg.evaluate.headline)
    return [run_job(job, alive).result()[by] for job in jobs(runner, name, arm, seeds, alive)]


def jobs(runner: Runner, name: str, arm: ArmConfig, seeds: Sequence[int], alive: Alive) -> Iterator[Job]:
    """The arm's jobs, just as Runner.train makes them; with protocol finetune after the base student of the seed."""
    for seed in seeds:
        job = runner.job(name, arm, seed)
        if runner.ctx.cfg.student.protocol == "finetune":
            job = job.starting_from(run_job(runner.job("base", ArmConfig(), seed, stage="base"), alive).out)
        yield job


def run_job(job: Job, alive: Alive) -> Job:
    """Train one student unless it is there."""
    alive()
    if not job.finished():
        with one_thread():
            train_job(job)
    job.mark_used()
    return job


def shortened(cfg: SearchedConfig, rung: int) -> SearchedConfig:
    """The settings of the proxy students of a rung: num_steps / reduction^(rungs - rung) steps."""
    share = cfg.search.reduction ** (cfg.search.rungs - rung)
    return dataclasses.replace(
        cfg, student=dataclasses.replace(cfg.student, num_steps=max(1, -(-cfg.student.num_steps // share)))
    )


@contextmanager
def students_of(
    ctx: Context, inputs: Inputs, arm: ArmConfig
) -> Iterator[tuple[Callable[[SearchedConfig], Runner], int]]:
    """Cut the arm's bank, then give a maker of runners on it (under settings of the student) and the fakes drawn."""
    with cut(ctx, inputs, selection_name(arm.subsample, arm.filter)) as (pool, drawn):

        def runner(cfg: SearchedConfig) -> Runner:
            return Runner(quiet_context(cfg, ctx.workdir), inputs.dataset, inputs.teacher, pool)

        yield runner, drawn


def finite(score: Any) -> float:
    """A mean score. Raises Diverged where it is no number: a student answers with none."""
    if not np.isfinite(score):
        raise Diverged(f"the validation score is {float(score)}; lower student.learning_rate")
    return float(score)


def num_parameters(weights: Path) -> int:
    """Numbers in a file of weights."""
    return sum(tensor.numel() for tensor in load_weights(weights)[0].values())


def objective(
    base: SearchedConfig,
    workdir: Path,
    unit: str,
    trial: optuna.Trial,
    values: Mapping[str, Any],
    child: Tracker,
    alive: Alive,
) -> tuple[float, ...]:
    """The trial's scores: the mean validation headline of the arm over search.seeds, and the size to keep small.

    Successive halving: the students of each rung have `reduction` times the steps of the one before. Raises
    TrialPruned, and whatever training raises; `hopeless` tells what of it the values are to blame for.
    """
    cfg = with_values(base, values)
    own, arm = cfg.search, cfg.student.arms[cfg.search.arm]
    ctx = quiet_context(cfg, workdir, child)
    with students_of(ctx, inputs_of(ctx, base), arm) as (runner, drawn):
        child.metrics({"fakes_drawn": drawn})
        for rung in range(0 if own.against else own.rungs):
            short = shortened(cfg, rung)
            score = finite(np.mean(train_seeds(runner(short), own.arm, arm, own.seeds, alive)))
            child.curve("rung_val", [(short.student.num_steps, score)])
            trial.report(score, own.reduction**rung)
            if trial.should_prune():
                raise optuna.TrialPruned(f"{score:.2f} {unit} after {short.student.num_steps} steps")
        full = runner(cfg)
        found = train_seeds(full, own.arm, arm, own.seeds, alive)
    score = finite(np.mean(found))
    trial.set_user_attr("val", found)
    trial.set_user_attr("steps", cfg.student.num_steps)
    child.curve("rung_val", [(cfg.student.num_steps, score)])
    child.metrics({"val": score} | {f"val.{seed}": v for seed, v in zip(own.seeds, found, strict=True)})
    if own.against is None:
        return (score,)
    size = cfg.bank.num_fakes
    if own.against != "bank_size":
        size = num_parameters(full.job(own.arm, arm, own.seeds[0]).out)
    child.metrics({own.against: size})
    return score, float(size)
