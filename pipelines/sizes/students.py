"""The students of all sizes, trained as the student stage trains its own, and kept where it keeps them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cgankd.config import ArmConfig
from cgankd.fit.course import Setback
from pipelines.runtime.context import Context
from pipelines.search.students import quiet_context
from pipelines.sizes.plan import Size, Sizes
from pipelines.stages.student import Runner
from pipelines.students.run_arm import Job, score_key


@dataclass(frozen=True)
class Trained:
    """The students of one size: validation scores of each arm, one a seed, and the files of their weights."""

    size: Size
    values: dict[str, list[float]]
    weights: dict[str, list[Path]]


class Trainer:
    """Trains sizes; what is finished under equal settings, by the student stage too, is kept."""

    def __init__(self, ctx: Context, plan: Sizes) -> None:
        self.ctx, self.plan = ctx, plan
        self.runner = Runner(ctx, *ctx.inputs("dataset.h5", "teacher.safetensors", "pool.h5"))

    def train(self, sizes: Sequence[Size], arms: Sequence[str] | None = None) -> list[Trained]:
        """Every arm of the plan, or those named, at every seed, of each size. Raises as trainings do."""
        chosen = {name: self.plan.arms[name] for name in arms or self.plan.arms}
        runners = {size: self._at(size) for size in sizes}
        bases: dict[tuple[Size, int], Job] = {}
        if self.plan.cfg.student.protocol == "finetune":
            bases = {
                (s, n): r.job("base", ArmConfig(), n, stage="base") for s, r in runners.items() for n in self.plan.seeds
            }
            self.runner.run(list(bases.values()), "base students of all sizes")
        jobs = {
            (size, name, seed): runner.job(name, arm, seed)
            for size, runner in runners.items()
            for name, arm in chosen.items()
            for seed in self.plan.seeds
        }
        if bases:
            jobs = {key: job.starting_from(bases[key[0], key[2]].out) for key, job in jobs.items()}
        self.runner.run(list(jobs.values()), "students of all sizes")
        for job in bases.values():
            job.mark_used()
        return [self._result(size, list(chosen), jobs) for size in sizes]

    def _at(self, size: Size) -> Runner:
        """The runner under the settings of a size."""
        other = copy.copy(self.runner)
        other.ctx = quiet_context(self.plan.at(size), self.ctx.workdir)
        return other

    def _result(self, size: Size, arms: Sequence[str], jobs: dict[tuple[Size, str, int], Job]) -> Trained:
        by = score_key(self.plan.cfg.evaluate.headline)
        values: dict[str, list[float]] = {name: [] for name in arms}
        weights: dict[str, list[Path]] = {name: [] for name in arms}
        for name in arms:
            for seed in self.plan.seeds:
                job = jobs[size, name, seed]
                found = job.result()
                job.mark_used()
                values[name].append(float(found[by]))
                weights[name].append(job.out)
                for setback in found.get("setbacks", []):
                    self.ctx.setback(f"{size} {name} seed {seed}", Setback(**setback))
        return Trained(size, values, weights)
