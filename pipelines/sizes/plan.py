"""What `cgankd sizes` trains: the sizes, the two arms, the seeds; settings that cannot work are refused before a run opens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cgankd.config import ArmConfig, Config, ConfigError, to_dict
from cgankd.config.settings import nearest
from pipelines.files.layout import within
from pipelines.files.params import flatten
from pipelines.files.runs import read_metrics
from pipelines.search.config import SearchedConfig
from pipelines.search.space import automatic_arms

RESULT = "metrics/evaluate.json"
SECTIONS = ("seed", "data", "student", "evaluate", "bank.label_bin")
"""Settings that the results depend on beside the files that were read."""


@dataclass(frozen=True)
class Size:
    """A student net, by its name and width."""

    net: str
    width: int | None

    def __str__(self) -> str:
        return self.net if self.width is None else f"{self.net} {self.width}"

    def settings(self) -> str:
        """The options that make it the student of the pipeline."""
        width = "null" if self.width is None else self.width
        return f"--set student.net={self.net} --set student.width={width}"


@dataclass(frozen=True)
class Sizes:
    """The sizes in order, that of student.net first; the arms by name, the judged one first; and the seeds."""

    cfg: SearchedConfig
    sizes: tuple[Size, ...]
    arms: Mapping[str, ArmConfig]
    seeds: tuple[int, ...]

    def at(self, size: Size) -> Config:
        """The settings of the pipeline with this student and these seeds and arms. Raises ConfigError, naming the net."""
        student = self.cfg.student
        if size.net != student.net and student.weights is not None:
            raise ConfigError(
                f"sizes.nets has {size.net}, but student.weights are those of {student.net}; set student.weights to null"
            )
        arms = {"real": ArmConfig(), **self.arms}
        try:
            own = replace(student, net=size.net, width=size.width, seeds=self.seeds, arms=arms)
            return replace(self.cfg, student=own)
        except ConfigError as error:
            raise ConfigError(
                f"sizes.nets has {size.net}, which does not go with the other settings: {error}"
            ) from None


def plan_of(cfg: SearchedConfig, workdir: Path) -> Sizes:
    """The plan of the section `sizes`, every size checked. Raises ConfigError."""
    listed = [Size(cfg.student.net, cfg.student.width)]
    listed += [Size(net, width) for net, widths in cfg.sizes.nets.items() for width in widths or (None,)]
    seeds = cfg.sizes.seeds or cfg.student.seeds
    if strange := sorted(set(seeds) - set(cfg.student.seeds)):
        raise ConfigError(f"sizes.seeds must be among student.seeds, but {strange} are not")
    plan = Sizes(cfg, tuple(dict.fromkeys(listed)), arms_of(cfg, workdir), seeds)
    for size in plan.sizes:
        plan.at(size)
    return plan


def arms_of(cfg: SearchedConfig, workdir: Path) -> dict[str, ArmConfig]:
    """The arm that sizes are judged by and the one beside it, if there is one.

    Where the settings name none they are those of metrics/evaluate.json: the arm that ships, and the best of real images
    alone, or, where that one ships, the best with fakes.
    """
    known = {**cfg.student.arms, **automatic_arms(cfg.student)}
    arm, against = cfg.sizes.arm, cfg.sizes.against
    if arm is None or against is None:
        result = read_metrics(workdir / RESULT, "cgankd evaluate")
        if result is None:
            raise ConfigError(f"{RESULT} is missing; run `cgankd evaluate` first, or set sizes.arm and sizes.against")
        arm = arm or str(result.get("chosen_arm"))
        if against is None:
            rivals = [result.get(key) for key in ("best_real_arm", "best_bank_arm", "best_unlabelled_arm")]
            against = next((str(name) for name in rivals if name not in (None, arm)), None)
    for setting, name in (("sizes.arm", arm), ("sizes.against", against)):
        if name is not None and name not in known:
            raise ConfigError(f"{setting} must be one of {', '.join(known)}, but is {name!r}{nearest(name, known)}")
    return {name: known[name] for name in (arm, against) if name is not None}


def record_of(plan: Sizes) -> dict[str, Any]:
    """The part of metrics/sizes.json that tells what was trained."""
    return {"arms": list(plan.arms), "seeds": list(plan.seeds), "steps": plan.cfg.student.num_steps}


def settings_of(cfg: Config) -> dict[str, Any]:
    """The settings behind the results, as JSON has them, without those that the sizes themselves take."""
    flat = json.loads(json.dumps(flatten(to_dict(cfg))))
    sizes = ("student.net", "student.width", "student.seeds", "student.workers")
    return {key: value for key, value in flat.items() if within(key, SECTIONS) and key not in sizes}
