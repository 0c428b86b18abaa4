"""Settings of the search, which knobs are turned, how far, and what a trial is judged by; and those of `cgankd sizes`.

In this wing and not in cgankd.config, as no stage reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cgankd.config import Config, ConfigError
from cgankd.config.nets import SCALED_NETS, check_net
from cgankd.config.settings import check_name, from_dict, require
from pipelines.files.distillers import check_distillers
from pipelines.files.params import read_values
from pipelines.tracking.masks import by_form

KINDS = ("int", "float", "categorical")


@dataclass(frozen=True, kw_only=True)
class Knob:
    """The values one key of params.yaml may take in a search."""

    kind: str
    """int, float or categorical."""
    low: float | None = None
    """int and float: smallest value."""
    high: float | None = None
    """int and float: largest value, itself allowed."""
    step: float | None = None
    """int and float: distance of the values from low to high; null = every value. Not with log."""
    log: bool = False
    """int and float: equal ratios instead of equal differences are equally likely."""
    choices: tuple[Any, ...] | None = None
    """categorical: the values."""

    def check(self, name: str) -> None:
        """Raise ConfigError, with the dotted name of the knob, where its parts do not fit together."""
        if self.kind not in KINDS and "log" in self.kind.lower():
            require(False, f"{name}.kind", "int, float or categorical (use kind float with log: true)", self.kind)
        check_name(self.kind, KINDS, f"{name}.kind")
        if self.kind == "categorical":
            require(
                self.choices is not None and len(self.choices) >= 2,
                f"{name}.choices",
                "a list of at least 2 values for a categorical knob",
                list(self.choices or ()),
            )
            plain = all(isinstance(c, str | int | float | bool | None) for c in self.choices or ())
            require(plain, f"{name}.choices", "made of numbers, text, true, false or null", list(self.choices or ()))
            for part in ("low", "high", "step"):
                value = getattr(self, part)
                require(value is None, f"{name}.{part}", "absent from a categorical knob", value)
            return
        require(self.choices is None, f"{name}.choices", f"absent from a knob of kind {self.kind}", self.choices)
        for part in ("low", "high"):
            require(getattr(self, part) is not None, f"{name}.{part}", f"set for a knob of kind {self.kind}", None)
        assert self.low is not None and self.high is not None
        require(self.low < self.high, f"{name}.low", f"less than {name}.high", self.low)
        require(not self.log or self.low > 0, f"{name}.low", "positive for a logarithmic knob", self.low)
        require(not self.log or self.step is None, f"{name}.step", "absent from a logarithmic knob", self.step)
        require(self.step is None or self.step > 0, f"{name}.step", "null or positive", self.step)
        if self.kind == "int":
            for part in ("low", "high", "step"):
                value = getattr(self, part)
                require(value is None or value == int(value), f"{name}.{part}", "a whole number", value)


def default_space() -> dict[str, Knob]:
    """The knobs of subsampling and filtering, and the two that mix their fakes in, for either kind of label."""
    return {
        "bank.rho": Knob(kind="float", low=0.5, high=1.0),
        "bank.filter_scope": Knob(kind="categorical", choices=("label", "global")),
        "bank.bound_quantile": Knob(kind="float", low=0.95, high=1.0),
        "bank.num_fakes": Knob(kind="int", low=500, high=8000, log=True),
        "student.real_share": Knob(kind="float", low=0.2, high=0.8),
    }


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Which settings are searched, how far, and what a trial is judged by."""

    arm: str = "filter"
    """The arm of student.arms whose validation score is searched; with student.best_with_kd also an arm with fakes and _kd."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Students a trial; its score is their mean on validation. They must be among student.seeds."""
    num_trials: int = 20
    """Finished trials (complete or pruned) at which the search ends, whoever ran them."""
    rungs: int = 2
    """Rounds with shortened students before the full one, after each of which hopeless trials end; 0 = no pruning."""
    reduction: int = 3
    """Successive halving: of the trials in a round one in this many goes on, with this many times the steps."""
    against: Literal["student_size", "bank_size"] | None = None
    """A second objective to keep small: parameters of the student, or bank.num_fakes; null = the score alone."""
    fresh_seeds: int = 10
    """Seeds, none of them used in the search, over which `cgankd search best` measures the margin."""
    study: str = "cgankd"
    """Name of the study in the storage."""
    storage: str | None = None
    """Database URL of the study, without a password; null = artifacts/search.db."""
    space: dict[str, Knob] = field(default_factory=default_space)
    """Key of params.yaml -> the values it may take; bank.subsample, bank.filter and bank.replace move the arm along."""

    def __post_init__(self) -> None:
        require(
            len(self.seeds) >= 1 and len(set(self.seeds)) == len(self.seeds),
            "search.seeds",
            "at least one number, each once",
            list(self.seeds),
        )
        require(self.num_trials >= 1, "search.num_trials", "at least 1", self.num_trials)
        require(0 <= self.rungs <= 8, "search.rungs", "from 0 to 8", self.rungs)
        require(self.reduction >= 2, "search.reduction", "at least 2", self.reduction)
        require(self.fresh_seeds >= 2, "search.fresh_seeds", "at least 2 (an interval needs them)", self.fresh_seeds)
        require(bool(self.study.strip()), "search.study", "a name", self.study)
        if by_form(self.storage or "") != (self.storage or ""):
            shown = "the URL with a password"
            require(False, "search.storage", "free of passwords, as params.yaml is kept in git (use --storage)", shown)
        for key, knob in self.space.items():
            knob.check(f"search.space.{key}")


def default_nets() -> dict[str, tuple[int, ...]]:
    """The plain student and those for small boards, each at three widths."""
    return {"convnet": (4, 8, 16), "ds-cnn": (16, 32, 64), "tiny-mobilenet": (4, 8, 16)}


@dataclass(frozen=True, kw_only=True)
class SizesConfig:
    """The students that `cgankd sizes` trains beside that of student.net, and by which arms."""

    nets: dict[str, tuple[int, ...]] = field(default_factory=default_nets)
    """Net -> its widths, such as ds-cnn: [16, 32, 64]; an empty list for a net whose channels are fixed."""
    arm: str | None = None
    """The arm that every size is trained by; null = the one that ships (metrics/evaluate.json)."""
    against: str | None = None
    """The arm beside it; null = the best of real images alone, or, where that one ships, the best with fakes."""
    seeds: tuple[int, ...] | None = None
    """Which of student.seeds every size is trained at; null = all of them."""

    def __post_init__(self) -> None:
        require(bool(self.nets), "sizes.nets", "a net with its widths, such as ds-cnn: [16, 32, 64]", {})
        for net, widths in self.nets.items():
            rule = "a list of widths" if net in SCALED_NETS else "an empty list, as the channels of this net are fixed"
            require((net in SCALED_NETS) == bool(widths) or not known(net), f"sizes.nets.{net}", rule, list(widths))
            for width in widths or (None,):
                check_net(net, width, f"sizes.nets.{net}")
        few = self.seeds is not None and len(set(self.seeds)) != max(2, len(self.seeds))
        require(not few, "sizes.seeds", "null or at least 2 different numbers", list(self.seeds or ()))


def known(net: str) -> bool:
    """Whether a net's name is one that exists."""
    try:
        check_net(net, 1 if net in SCALED_NETS else None, "sizes.nets")
    except ConfigError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class SearchedConfig(Config):
    """A whole params.yaml: what stages read, and what `cgankd search` and `cgankd sizes` read."""

    search: SearchConfig = field(default_factory=SearchConfig)
    """Where to look for better settings; a params file may do without."""
    sizes: SizesConfig = field(default_factory=SizesConfig)
    """Which other students to train; a params file may do without."""


def searched_config(values: Mapping[str, Any]) -> SearchedConfig:
    """The checked configuration of a nested dict, KD losses and their options too. Raises ConfigError."""
    cfg = from_dict(SearchedConfig, values, "")
    check_distillers(cfg)
    return cfg


def load_searched(path: Path, overrides: Sequence[str] = ()) -> SearchedConfig:
    """The checked configuration of a params file, its section `search` too, with settings laid over it.

    Raises ConfigError.
    """
    return searched_config(read_values(path, overrides))
