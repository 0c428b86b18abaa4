"""Settings of a student arm and of its KD losses; what a method's options may be is its own matter (cgankd.distill)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cgankd.config.settings import ConfigError, require

KD = "kd"


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """One student arm: a set of switches; everything is off by default."""

    bank: bool = False
    """Mix the bank's fakes into the batches."""
    subsample: bool = False
    """M1: of the fakes only those that rejection by the density ratio keeps; needs `bank` or `unlabelled`."""
    filter: bool = False
    """M2: of the fakes only those with a small teacher error (bank.rho); needs `bank` or `unlabelled`."""
    replace: bool = False
    """M2: the teacher's prediction as label of each fake in place of the label asked for; needs `bank`."""
    strong: bool = False
    """Strong augmentation (student.strong_augment) in place of the plain one."""
    kd: bool = False
    """Add a KD loss: that of student.distiller unless `distiller` names another."""
    distiller: str | None = None
    """KD loss of this arm in place of the section's (`cgankd distillers`); null = the section's."""
    distiller_options: dict[str, Any] = field(default_factory=dict)
    """Options of `distiller`; where that is null, laid over student.distiller_options."""
    balanced: bool = field(default=False, metadata={"left_out": True})
    """Draw each class or label range equally often, as student.sampling does for all arms."""
    unlabelled: bool = field(default=False, metadata={"left_out": True})
    """Mix images of data.unlabelled into the batches, with the teacher's answers as labels; with `bank` half of the places that
    fakes have go to them. `subsample` and `filter` choose among them as among fakes."""

    hard: bool = field(default=False, metadata={"left_out": True})
    """As many fakes as without, but only the first of bank.rounds parts are plain draws; the others are drawn near fakes on which
    a probe student and the teacher differ most. Needs `bank`."""

    @property
    def uses_pool(self) -> bool:
        """Whether the batches hold anything but real labelled images."""
        return self.bank or self.unlabelled

    mix: Literal["none", "mixup", "cutmix"] | None = field(default=None, metadata={"left_out": True})
    """student.mix of this arm; null = the section's."""
    mix_pairs: Literal["any", "real", "across"] | None = field(default=None, metadata={"left_out": True})
    """student.mix_pairs of this arm; needs `bank`; null = the section's."""
    views: int | None = field(default=None, metadata={"left_out": True})
    """student.views of this arm, 0 for none; null = the section's."""
    views_share: float | None = field(default=None, metadata={"left_out": True})
    """student.views_share of this arm, which stores views; null = the section's."""
    real_share: float | None = field(default=None, metadata={"left_out": True})
    """student.real_share of this arm; needs `bank` or `unlabelled`; null = the section's. Good images, such as unlabelled ones,
    may take more of each batch than poor ones."""

    @property
    def own_loss(self) -> bool:
        """True where the arm's KD loss or an option of it is not the section's."""
        return self.distiller is not None or bool(self.distiller_options)


@dataclass(frozen=True, kw_only=True)
class DistillerConfig:
    """One of several KD losses that are added up."""

    name: str
    """Name of a KD loss (`cgankd distillers`)."""
    weight: float = 1.0
    """What its terms are multiplied by."""
    options: dict[str, Any] = field(default_factory=dict)
    """Its options (`cgankd distillers describe NAME`)."""

    def __post_init__(self) -> None:
        require(self.weight > 0, "student.distillers.weight", "positive", self.weight)


def check_list(distillers: tuple[DistillerConfig, ...], options: Mapping[str, Any], task_weight: float | None) -> None:
    """Raise ConfigError where options stand beside a list, or the task's weight is negative."""
    if distillers and options:
        raise ConfigError(
            "student.distiller_options must be empty where student.distillers is given; write them as options of its"
            " entries"
        )
    require(task_weight is None or task_weight >= 0, "student.task_weight", "null, zero or more", task_weight)


def distiller_label(settings: Mapping[str, Any]) -> str:
    """The KD loss of a student section in words: its name, or the names of a list joined by "+"."""
    names = [str(entry["name"]) for entry in settings.get("distillers") or ()]
    return "+".join(names) or str(settings["distiller"])


def arm_label(settings: Mapping[str, Any], switches: Mapping[str, Any]) -> str | None:
    """The KD loss of one arm in words, with the options of its own in brackets; None where it has no KD loss."""
    if not switches["kd"]:
        return None
    name = str(switches.get("distiller") or distiller_label(settings))
    own = (switches.get("distiller_options") or {}).items()
    options = ", ".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in own)
    return f"{name} ({options})" if options else name


def check_own_loss(name: str, arm: ArmConfig, *, listed: bool) -> None:
    """Raise ConfigError where an arm's own KD loss has no effect, or its options have no one loss to belong to."""
    where = f"student.arms.{name}"
    if not arm.kd:
        require(arm.distiller is None, f"{where}.distiller", "null where kd is false", arm.distiller)
        require(
            not arm.distiller_options, f"{where}.distiller_options", "empty where kd is false", arm.distiller_options
        )
    if listed and arm.distiller is None and arm.distiller_options:
        raise ConfigError(
            f"{where}.distiller_options need {where}.distiller, as student.distillers is a list of several KD losses"
        )


def check_arms(arms: Mapping[str, ArmConfig]) -> None:
    """Raise ConfigError unless there is the control `real` and every arm's name and switches make sense."""
    require("real" in arms, "student.arms", "given an arm called real, the control", sorted(arms))
    require(
        arms["real"] == ArmConfig(),
        "student.arms.real",
        "free of switches, it is the control",
        arms["real"],
    )
    for name, arm in arms.items():
        require(
            name.replace("_", "").isalnum(),
            f"student.arms.{name}",
            "named in letters, digits and underscores",
            name,
        )
        if name.endswith("_kd"):
            require(arm.kd, f"student.arms.{name}.kd", "true, as names in _kd are those of arms with a KD loss", arm.kd)
        off = ("replace", "hard") if arm.unlabelled else ("subsample", "filter", "replace", "hard")
        for switch in () if arm.bank else off:
            require(not getattr(arm, switch), f"student.arms.{name}.{switch}", "false where bank is false", True)


def check_unlabelled(arms: Mapping[str, ArmConfig], given: str | None) -> None:
    """Raise ConfigError where an arm takes unlabelled images and there are none."""
    for name, arm in arms.items():
        rule = "false where data.unlabelled is null; name a folder of images there"
        require(given is not None or not arm.unlabelled, f"student.arms.{name}.unlabelled", rule, True)
