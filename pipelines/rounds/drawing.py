"""What the fakes of a bank are drawn from: its files, the nets that draw and score, and the settings that its files keep."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgankd.bank import build
from cgankd.bank.scores import Kept
from cgankd.config import BANK_UNSAID, ArmConfig, BankConfig, ConfigError, DataConfig, to_dict
from cgankd.fit.device import PLAIN, Plan
from cgankd.fit.predictor import make_predict
from cgankd.nets.predictors.ensemble import Ensemble, Spreading
from cgankd.types import DatasetInfo, Task
from pipelines.files.artifacts import config_path, file_digest, read_record
from pipelines.networks.generator import load_draw
from pipelines.networks.predictor import load_predictor
from pipelines.networks.ratio import load_ratio


@dataclass(frozen=True)
class Inputs:
    """The files that a bank is made of."""

    dataset: Path
    teacher: Path
    cgan: Path
    ratio: Path

    def digests(self) -> dict[str, str]:
        """Digest of each, by name."""
        return {name: file_digest(path) for name, path in vars(self).items()}


def wanted_selections(bank: BankConfig, arms: Mapping[str, ArmConfig]) -> list[str]:
    """The selections that the arms and the bank itself need, in the order of the method."""
    wanted = {build.selection_name(bank.subsample, bank.filter)}
    wanted |= {build.selection_name(arm.subsample, arm.filter) for arm in arms.values() if arm.bank}
    return [name for name in build.SELECTIONS if name in wanted]


def kept_settings(cfg: BankConfig) -> dict[str, Any]:
    """The section as the files of a bank keep it."""
    unsaid = BANK_UNSAID.items()
    return {name: value for name, value in to_dict(cfg).items() if (name, value) not in unsaid}


WHERE = ("root", "download", "memory_budget_gb", "unlabelled", "num_unlabelled")
"""Settings of `data` that say where images come from and lie, and change none of those that the fakes were made from."""


def made_from(cfg: DataConfig, seed: int, inputs: Inputs) -> dict[str, str | int | float]:
    """Attributes of a bank beside its own section: the seed, and the settings of data, GAN and ratio as JSON.

    Those of the networks are the ones they were made with, whatever params.yaml says by now.
    """
    data = {name: value for name, value in to_dict(cfg).items() if name not in WHERE}
    gan, ratio = (read_record(config_path(getattr(inputs, name)), (name,)) for name in ("cgan", "ratio"))
    sections = {"data": data, "cgan": gan["cgan"], "ratio": ratio["ratio"]}
    attributes: dict[str, str | int | float] = {"seed": seed}
    return attributes | {f"config.{name}": json.dumps(found, sort_keys=True) for name, found in sections.items()}


def expected_draws(conditions: build.Conditions, cfg: BankConfig) -> int:
    """About how many fakes will be drawn, by which networks are compiled or not: three times the burn-in.

    It must not follow num_fakes or rho: compiled networks give other last bits, and a block of fakes is the same
    whatever is cut from it.
    """
    return 3 * cfg.burn_in * len(conditions.labels)


def make_scorer(
    inputs: Inputs, info: DatasetInfo, task: Task, plan: Plan = PLAIN, expected: int = 0, kept: Kept | None = None
) -> build.Scorer:
    """What draws and scores a block of fakes, `expected` of which are to come, those in `kept` aside."""
    net, teacher_config = load_predictor(inputs.teacher, info, task)
    teacher = make_predict(net, teacher_config["precision"], plan=plan, expected=expected)
    draw = load_draw(inputs.cgan, info, task, plan, expected)
    ratio = load_ratio(inputs.ratio, info, task, plan, expected)
    scorer = build.Scorer(draw, ratio, teacher, task, kept=kept)
    if not isinstance(net, Ensemble):
        return scorer
    spreading = make_predict(Spreading(net), teacher_config["precision"], plan=plan, expected=expected)
    return dataclasses.replace(scorer, spreading=spreading)


def check_members(cfg: BankConfig, scorer: build.Scorer) -> None:
    """Raise ConfigError where the filter looks at members that the teacher does not have."""
    if cfg.filter_by != "error" and scorer.spreading is None:
        raise ConfigError(
            f"bank.filter_by is {cfg.filter_by}, but artifacts/teacher.safetensors has no members that could disagree (auto keeps"
            " one where their mean is no better); set bank.filter_by to error, or teacher.members to 2 or more"
        )
