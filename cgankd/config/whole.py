"""Every setting of the product: one frozen dataclass per params.yaml section, checked by dotted name.

Each field is followed by what it means and its unit. `config_from_dict` takes the nested dict of a params file; how
it is read, and how mistakes are named, is in cgankd.config.settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cgankd.config.bank import BankConfig, RatioConfig
from cgankd.config.cgan import CganConfig
from cgankd.config.data import DataConfig, check_augment
from cgankd.config.distill import (
    KD,
    ArmConfig,
    DistillerConfig,
    check_arms,
    check_list,
    check_own_loss,
    check_unlabelled,
)
from cgankd.config.fit import FitConfig, TeacherConfig
from cgankd.config.members import check_members
from cgankd.config.mix import StudentMixConfig, check_arm_mix, own_mix
from cgankd.config.nets import check_fits
from cgankd.config.probe import check_hard
from cgankd.config.settings import from_dict, require


@dataclass(frozen=True, kw_only=True)
class StudentConfig(FitConfig, StudentMixConfig):
    """The students f_s: which net, how each arm is trained, over which seeds, and with which KD loss."""

    strong_augment: str
    """Augmentation of the arms with `strong`."""
    protocol: Literal["scratch", "finetune"]
    """scratch = from a fresh initialisation; finetune = every arm starts from the same real-only student of its seed."""
    base_steps: int
    """finetune only: steps of that real-only student."""
    base_learning_rate: float
    """finetune only: its peak learning rate; `learning_rate` is then that of the fine-tuning every arm gets."""
    real_share: float | None
    """Share of real images in each batch of an arm with fakes; null = concatenation of real and fakes."""
    distiller: str
    """KD loss of the arms with `kd`, by its name (`cgankd distillers`)."""
    temperature: float
    """KD temperature T of `distiller: kd`."""
    soft_weight: float
    """alpha_kd in (1 - alpha_kd) * hard + alpha_kd * soft of `distiller: kd`."""
    teacher_view: Literal["augmented", "clean"]
    """Which view the teacher sees in the KD loss: the student's own, or the un-augmented image (outputs cached)."""
    seeds: tuple[int, ...]
    """One run of every arm for each; arms are compared pairwise at equal seed."""
    workers: int
    """Processes that train runs side by side, one thread each; 0 = one for each core, at most 4 on a
    CUDA device. On a processor it does not change the numbers."""
    best_with_kd: bool
    """Also train the arm with fakes that is best on validation with KD on top."""
    arms: dict[str, ArmConfig]
    """The arms by name: each is a set of switches, and `real`, the control, has none."""
    teacher_cache: str = "full"
    """How the outputs of teacher_view `clean` are kept: full (float32), half (float16; those of fakes come from the bank
    stage), or topk:NUMBER (the largest logits in float16, the others as one common logit; class labels only)."""
    distiller_options: dict[str, Any] = field(default_factory=dict)
    """Options of `distiller` (`cgankd distillers describe NAME`); what is left out keeps the method's default."""
    distillers: tuple[DistillerConfig, ...] = ()
    """Several KD losses at once, in place of `distiller`."""
    task_weight: float | None = None
    """Weight of the task's own loss in arms with `kd`; null = the method's own."""
    base_milestones: tuple[float, ...] | None = None
    """finetune only: the milestones of that real-only student; null = those of the fine-tuning."""
    base_batch_size: int | None = field(default=None, metadata={"left_out": True})
    """finetune only: images in each step of that real-only student; null = batch_size."""
    keep_best: bool = False
    """Also keep each student as it was at its best validation point, for `evaluate` to report; the last one ships."""
    sampling: Literal["natural", "balanced"] = field(default="natural", metadata={"left_out": True})
    """How the images of a batch are drawn, in all arms alike: natural = each image equally often; balanced = each class or
    label range (bank.label_bin) equally often, real images by their label and fakes by theirs."""

    spread_weight: float = field(default=0.0, metadata={"left_out": True})
    """s of the weight exp(-s d / median d) of each fake's soft label in `distiller: kd`, with a mean of 1 over the arm's fakes; d
    is how far the members of the teacher disagree (teacher.members). Arms of mixtures or stored views learn without it. 0 = all
    alike."""

    def balances(self, arm: ArmConfig) -> bool:
        """Whether an arm draws each class or label range equally often."""
        return arm.balanced or self.sampling == "balanced"

    def _check_base(self) -> None:
        steps, shares = self.base_milestones, self.base_milestones or ()
        require(
            steps is None or (self.schedule == "multistep" and bool(steps) and all(0 < share < 1 for share in shares)),
            "student.base_milestones",
            "null, or between 0 and 1 where student.schedule is multistep",
            list(shares),
        )

    @property
    def base(self) -> StudentConfig:
        """These settings for the real-only student that fine-tuning starts from."""
        milestones = self.milestones if self.base_milestones is None else self.base_milestones
        base = replace(self, num_steps=self.base_steps, learning_rate=self.base_learning_rate, milestones=milestones)
        return replace(base, batch_size=self.base_batch_size or self.batch_size)

    def for_arm(self, arm: ArmConfig) -> StudentConfig:
        """These settings with the arm's own mixing, KD loss and options in place of the section's."""
        mix = own_mix(arm)
        # Other arms are not asked whether they would go with the mixing of this one.
        own = replace(self, arms={"real": ArmConfig()}, **mix) if mix else self
        if not arm.own_loss:
            return own
        if arm.distiller is None:
            return replace(own, distiller_options=self.distiller_options | arm.distiller_options)
        return replace(own, distiller=arm.distiller, distiller_options=arm.distiller_options, distillers=())

    @property
    def kd_parts(self) -> tuple[DistillerConfig, ...]:
        """The KD losses of the arms with `kd`; for `distiller: kd` temperature and soft_weight are those above."""
        if self.distillers:
            return self.distillers
        own = {"temperature": self.temperature, "soft_weight": self.soft_weight} if self.distiller == KD else {}
        return (DistillerConfig(name=self.distiller, options=own | self.distiller_options),)

    def __post_init__(self) -> None:
        self.check("student")
        self.check_views("student")
        kind, _, number = self.teacher_cache.partition(":")
        known = self.teacher_cache in ("full", "half") or (kind == "topk" and number.isdigit() and int(number) >= 1)
        require(known, "student.teacher_cache", "full, half or topk:NUMBER", self.teacher_cache)
        check_augment(self.strong_augment, "student.strong_augment")
        check_list(self.distillers, self.distiller_options, self.task_weight)
        require(self.base_steps >= 1, "student.base_steps", "at least 1", self.base_steps)
        require(self.base_learning_rate > 0, "student.base_learning_rate", "positive", self.base_learning_rate)
        size = self.base_batch_size
        require(size is None or size >= 2, "student.base_batch_size", "null or at least 2", size)
        self._check_base()
        require(self.spread_weight >= 0, "student.spread_weight", "zero or more", self.spread_weight)
        share = self.real_share
        require(share is None or 0 < share < 1, "student.real_share", "null or between 0 and 1", share)
        require(self.temperature > 0, "student.temperature", "positive", self.temperature)
        require(0 <= self.soft_weight <= 1, "student.soft_weight", "in [0, 1]", self.soft_weight)
        require(
            len(self.seeds) >= 2 and len(set(self.seeds)) == len(self.seeds),
            "student.seeds",
            "at least 2 different numbers (an interval needs them)",
            list(self.seeds),
        )
        require(self.workers >= 0, "student.workers", "zero or more", self.workers)
        check_arms(self.arms)
        for name, arm in self.arms.items():
            check_own_loss(name, arm, listed=bool(self.distillers))
            kd = arm.kd or (arm.uses_pool and self.best_with_kd)
            check_arm_mix(name, arm, self, clean_kd=kd and self.teacher_view == "clean")
            self._check_rows(name, arm)

    def _check_rows(self, name: str, arm: ArmConfig) -> None:
        """Raise ConfigError where an arm shows mixtures to what goes by single images."""
        if self.shows_single(arm):
            return
        rule = f"all, as student.arms.{name} is shown mixtures or stored views"
        require(self.tune != "head" or arm.kd, "student.tune", rule, self.tune)

    def shows_single(self, arm: ArmConfig) -> bool:
        """Whether an arm learns from single images alone, neither mixtures nor stored views."""
        mixes = (self.mix if arm.mix is None else arm.mix) != "none"
        return not (mixes or (self.num_views if arm.views is None else arm.views))


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The comparison of the arms on the test split."""

    confidence: float
    """Level of every interval."""
    headline: Literal["mean", "balanced"] = "mean"
    """What validation chooses by, the best arms, the one that ships and its seed: mean = the error over all images; balanced =
    the mean of the errors of each class or label range (bank.label_bin). Both are reported of test."""

    def __post_init__(self) -> None:
        require(0.5 < self.confidence < 1, "evaluate.confidence", "between 0.5 and 1", self.confidence)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """How runs are recorded."""

    experiment: str
    """Name of the MLflow experiment."""
    preset: str
    """Which preset these parameters came from; a tag of every run."""
    mlflow: bool
    """Log to MLflow as well as to the JSON lines under artifacts/logs."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What stages read of a params.yaml; its sections `search` and `sizes` are no stage's (pipelines.search.config)."""

    seed: int
    """Seed of all random draws of all stages; runs with equal settings and seed give equal files."""
    data: DataConfig
    teacher: TeacherConfig
    cgan: CganConfig
    ratio: RatioConfig
    bank: BankConfig
    student: StudentConfig
    evaluate: EvaluateConfig
    tracking: TrackingConfig

    @property
    def scalar_labels(self) -> bool:
        """True where labels are numbers and not classes."""
        return self.data.task == "scalar"

    def __post_init__(self) -> None:
        scalar = self.data.task == "scalar"
        sections = {
            "cgan.vicinity": self.cgan.vicinity,
            "cgan.label_input": self.cgan.label_input,
            "bank.label_bin": self.bank.label_bin,
            "bank.num_conditions": self.bank.num_conditions,
        }
        topk = self.student.teacher_cache.startswith("topk")
        require(not (scalar and topk), "student.teacher_cache", "full or half for scalar labels", "topk")
        for name, value in sections.items():
            if scalar:
                require(value is not None, name, "set for scalar labels (data.task is scalar)", value)
            else:
                require(value is None, name, "null for class labels (data.task is class)", value)
        nets = {"teacher": self.teacher, "student": self.student}
        for section, fit in (nets if self.bank.probe is None else nets | {"bank.probe": self.bank.probe}).items():
            size_name = "data.image_size" if fit.input_size is None else f"{section}.input_size"
            check_fits(fit.net, fit.input_size or self.data.image_size, self.data.task, section, size_name)
        check_augment(self.cgan.augment, "cgan.augment")
        plain = not scalar or self.cgan.embed_std == 1
        require(plain, "cgan.embed_std", "1, or left out, for scalar labels (data.task is scalar)", self.cgan.embed_std)
        aux = self.cgan.aux_weight
        require(scalar or aux == 0, "cgan.aux_weight", "0 for class labels (data.task is class)", aux)
        check_unlabelled(self.student.arms, self.data.unlabelled)
        check_hard(self.student.arms, self.bank.rounds, self.cgan.file)
        attention, largest = self.cgan.attention, self.data.image_size // 2
        rule = f"null or a power of two from 8 to {largest}, half of data.image_size"
        require(attention is None or attention <= largest, "cgan.attention", rule, attention)
        own = self.cgan.file is not None and self.bank.bound_scope == "label"
        require(
            not own, "bank.bound_scope", "group where cgan.file is set, whose images are dealt out by group", "label"
        )
        check_members(self.teacher.members, self.bank.filter_by, self.student.spread_weight)
        if not scalar:
            for section in ("teacher", "student", "ratio"):
                loss = getattr(self, section).scalar_loss
                rule = "absolute, or left out, for class labels (data.task is class)"
                require(loss == "absolute", f"{section}.scalar_loss", rule, loss)
            scope = self.bank.bound_scope
            require(scope == "group", "bank.bound_scope", "group for class labels (data.task is class)", scope)
            radius = self.cgan.file_radius
            require(radius is None, "cgan.file_radius", "null for class labels (data.task is class)", radius)
            require(
                self.ratio.vicinity_drop is None,
                "ratio.vicinity_drop",
                "null for class labels (data.task is class)",
                self.ratio.vicinity_drop,
            )


BESIDE = ("search", "sizes")
"""Sections of params.yaml that commands beside the stages read."""


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Build the whole configuration; the sections `search` and `sizes`, which no stage reads, are left out.

    Raises ConfigError with the dotted name of the first bad field.
    """
    return from_dict(Config, {name: section for name, section in values.items() if name not in BESIDE}, "")
