"""What a search may turn: the keys of params.yaml, the checks on search.space, and the settings of a trial."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

from cgankd.config import ArmConfig, ConfigError, StudentConfig, to_dict
from cgankd.config.settings import nearest
from cgankd.rng import derive
from pipelines.files.params import changed_meanwhile, flatten
from pipelines.search.config import Knob, SearchConfig, SearchedConfig, load_searched, searched_config

RETRY_OF = "retry_of"
"""The attribute of a trial that has the values of a stopped one, which it names."""
SECTIONS = ("teacher", "cgan", "ratio", "bank", "student")
"""Sections a search may turn; another split of the data would make scores that cannot be compared."""
SWITCHES = ("subsample", "filter", "replace")
"""Keys of `bank` that the searched arm follows, because the section alone only decides what goes into bank.h5."""
NO_EFFECT = ("student.seeds", "student.workers", "student.best_with_kd", "bank.refuse_worthless", "bank.rows_per_file")
KD_KEYS = ("student.soft_weight", "student.temperature", "student.distiller")
FREE = ("search.num_trials", "search.fresh_seeds", "search.storage", "search.study", *NO_EFFECT[:3])
"""Settings that may change while a study goes on: no score depends on them."""


def automatic_arms(student: StudentConfig) -> dict[str, ArmConfig]:
    """The arms with KD that student.best_with_kd may add by itself: <arm>_kd for each arm with fakes and without KD."""
    if not student.best_with_kd:
        return {}
    arms = student.arms
    found = {f"{name}_kd": dataclasses.replace(arm, kd=True) for name, arm in arms.items() if arm.bank and not arm.kd}
    return {name: arm for name, arm in found.items() if name not in arms}


def with_searched_arm(cfg: SearchedConfig) -> SearchedConfig:
    """The settings with search.arm written out among student.arms where it is an automatic one."""
    arm = automatic_arms(cfg.student).get(cfg.search.arm)
    if arm is None:
        return cfg
    student = dataclasses.replace(cfg.student, arms={**cfg.student.arms, cfg.search.arm: arm})
    return dataclasses.replace(cfg, student=student)


def settings_changed(cfg: SearchedConfig, path: Path, overrides: Sequence[str]) -> str | None:
    """A sentence where params.yaml no longer says what a search was opened with; None where it does."""

    def read() -> dict[str, Any]:
        return flatten(to_dict(with_searched_arm(load_searched(path, overrides))))

    text = changed_meanwhile(flatten(to_dict(cfg)), read, "search")
    return text and f"{text}; the trials are of the former settings"


def written_out(arm: ArmConfig) -> dict[str, Any]:
    """The switches of an arm that are on and its own KD loss, as params.yaml has them."""
    return {switch: on for switch, on in to_dict(arm).items() if on}


def searchable(cfg: SearchedConfig) -> dict[str, Any]:
    """Every key that search.space may name, with its value in params.yaml."""
    flat = flatten({name: to_dict(cfg)[name] for name in SECTIONS})
    arm = f"student.arms.{cfg.search.arm}."
    return {
        key: value
        for key, value in flat.items()
        if key not in NO_EFFECT
        and not isinstance(value, list)
        and (not key.startswith("student.arms.") or (key.startswith(arm) and key != f"{arm}bank"))
    }


def defaults(cfg: SearchedConfig) -> dict[str, Any]:
    """The values of the searched keys in params.yaml."""
    known = searchable(cfg)
    return {key: known[key] for key in cfg.search.space}


def moved_along(arm: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the searched arm's switches that follow bank.subsample, bank.filter and bank.replace."""
    follow = {
        f"student.arms.{arm}.{switch}": values[f"bank.{switch}"] for switch in SWITCHES if f"bank.{switch}" in values
    }
    return dict(values) | follow


def with_values(cfg: SearchedConfig, values: Mapping[str, Any]) -> SearchedConfig:
    """The settings of a trial. Raises ConfigError where they do not fit together, KD losses and their options too."""
    nested = copy.deepcopy(to_dict(cfg))
    for dotted, value in moved_along(cfg.search.arm, values).items():
        *path, last = dotted.split(".")
        node = nested
        for key in path:
            node = node[key]
        node[last] = value
    return searched_config(nested)


def check_space(cfg: SearchedConfig) -> list[str]:
    """Raise ConfigError on a search section that cannot work; returns notices on what works but helps nothing.

    An automatic arm has to be written out before (with_searched_arm).
    """
    search = cfg.search
    if search.arm not in cfg.student.arms:
        names = ", ".join([*cfg.student.arms, *automatic_arms(cfg.student)])
        raise ConfigError(
            f"search.arm must be one of student.arms, or with student.best_with_kd an arm with fakes and _kd ({names}),"
            f" but is {search.arm!r}"
        )
    arm = cfg.student.arms[search.arm]
    if not arm.bank:
        raise ConfigError(f"search.arm must be an arm with fakes (bank: true), but {search.arm!r} has none")
    if arm.unlabelled:
        raise ConfigError(
            f"search.arm must be an arm with fakes alone, but {search.arm!r} has unlabelled images too (unlabelled: true)"
        )
    if arm.hard:
        raise ConfigError(f"search.arm must be an arm of plain draws, but {search.arm!r} has hard fakes (hard: true)")
    if strange := sorted(set(search.seeds) - set(cfg.student.seeds)):
        raise ConfigError(
            f"search.seeds must be among student.seeds, so that the student stage trains the winner's students again,"
            f" but {strange} are not"
        )
    if not search.space:
        raise ConfigError("search.space is empty; list keys such as bank.rho: {kind: float, low: 0.5, high: 1.0}")
    known = searchable(cfg)
    for key, knob in search.space.items():
        if key not in known:
            raise ConfigError(unknown_key(cfg, key, known))
        if knob.kind == "categorical":
            ends = list(knob.choices or ())
        else:
            assert knob.low is not None and knob.high is not None
            ends = [int(v) if knob.kind == "int" else v for v in (knob.low, knob.high)]
        for value in ends:
            try:
                with_values(cfg, {key: value})
            except ConfigError as error:
                raise ConfigError(f"search.space.{key} reaches a value that cannot be: {error}") from None
    for switch in SWITCHES:
        if f"bank.{switch}" in search.space and getattr(cfg.bank, switch) != getattr(arm, switch):
            raise ConfigError(
                f"search.space has bank.{switch}, which moves student.arms.{search.arm}.{switch} along, but they"
                " differ in params.yaml; make them equal"
            )
    return notices(cfg)


def unknown_key(cfg: SearchedConfig, key: str, known: Mapping[str, Any]) -> str:
    """Why a key cannot be searched, naming the nearest that can."""
    if key in NO_EFFECT or key.startswith("student.arms."):
        return f"search.space.{key} does not change the score of {cfg.search.arm!r}, so it cannot be searched"
    if key in flatten(to_dict(cfg)):
        return (
            f"search.space.{key} cannot be searched; the sections are {', '.join(SECTIONS)}, and lists stay as they are"
        )
    return f"search.space.{key} is not a setting of params.yaml{nearest(key, known)}"


def notices(cfg: SearchedConfig) -> list[str]:
    """Knobs that the searched arm does not feel."""
    arm, space = cfg.student.arms[cfg.search.arm], cfg.search.space
    found: list[str] = []
    switch = f"student.arms.{cfg.search.arm}"
    if not arm.kd and f"{switch}.kd" not in space:
        found += [key for key in KD_KEYS if key in space]
    if arm.kd and arm.distiller is not None and "student.distiller" in space:
        found.append("student.distiller")
    if not arm.strong and f"{switch}.strong" not in space and "student.strong_augment" in space:
        found.append("student.strong_augment")
    why = "it names a KD loss of its own" if arm.distiller is not None else "its kd or strong is off"
    return [f"{key} does nothing for the arm {cfg.search.arm!r}: {why}" for key in found]


def overruled(search: SearchConfig, settings: Sequence[str]) -> list[str]:
    """Settings given by hand (KEY=VALUE) that the trials set themselves."""
    keys = [text.partition("=")[0].strip() for text in settings]
    return [
        f"--set {key} has no effect on trials, as search.space turns {key}; it only is where a new study starts"
        for key in dict.fromkeys(keys)
        if key in moved_along(search.arm, dict.fromkeys(search.space))
    ]


def in_range(search: SearchConfig, values: Mapping[str, Any]) -> bool:
    """Every value is one that its knob can take."""
    return all(takes(knob, values[key]) for key, knob in search.space.items())


def takes(knob: Knob, value: Any) -> bool:
    """The knob can have this value."""
    if knob.kind == "categorical":
        return any(value == choice and type(value) is type(choice) for choice in knob.choices or ())
    assert knob.low is not None and knob.high is not None
    if value is None or not knob.low <= value <= knob.high:
        return False
    steps = (value - knob.low) / knob.step if knob.step else 0.0
    return bool(abs(steps - round(steps)) < 1e-9)


def identity(cfg: SearchedConfig, dataset: str) -> dict[str, Any]:
    """Everything that scores of one study must share: the settings that are not searched, and the data set's digest."""
    parts = {name: to_dict(cfg)[name] for name in ("seed", "data", *SECTIONS, "search")}
    moved = moved_along(cfg.search.arm, dict.fromkeys(cfg.search.space))
    fixed = {k: v for k, v in flatten(parts).items() if k not in moved and k not in FREE}
    return fixed | {"dataset.h5": dataset[:16]}


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """The first setting in which two identities differ, with both values; None where they are equal."""
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
    return None


def values_text(values: Mapping[str, Any]) -> str:
    """Values in one line, numbers short."""
    return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def distribution(knob: Knob) -> BaseDistribution:
    """A knob in Optuna's words."""
    if knob.kind == "categorical":
        return CategoricalDistribution(knob.choices or ())
    assert knob.low is not None and knob.high is not None
    if knob.kind == "int":
        return IntDistribution(int(knob.low), int(knob.high), log=knob.log, step=int(knob.step or 1))
    return FloatDistribution(knob.low, knob.high, log=knob.log, step=knob.step)


def distributions(search: SearchConfig) -> dict[str, BaseDistribution]:
    """search.space in Optuna's words."""
    return {key: distribution(knob) for key, knob in search.space.items()}


class SamplerByTrial(BaseSampler):
    """Optuna's TPE whose draws are a function of the seed, the trial's place and the trials before it.

    So no two workers draw the same values, on whatever machine, and a search with one worker that was stopped goes on as if
    it had not been.
    """

    def __init__(self, seed: int, startup_trials: int) -> None:
        """Draw at random for `startup_trials` trials, then by the scores."""
        self.seed, self.startup_trials = seed, startup_trials
        self.inner = self.sampler(0)

    def sampler(self, place: int) -> TPESampler:
        """That of the trial in this place."""
        seed = derive(self.seed, "search", "trial", place) % 2**32
        return TPESampler(seed=seed, n_startup_trials=self.startup_trials)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Begin the draws of this trial."""
        earlier = [other for other in study.get_trials(deepcopy=False) if other.number < trial.number]
        # What a stopped trial drew is queued again under a new number, which is no draw.
        self.inner = self.sampler(sum(RETRY_OF not in other.user_attrs for other in earlier))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As TPE."""
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE."""
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As TPE."""
        return self.inner.sample_independent(study, trial, param_name, param_distribution)
