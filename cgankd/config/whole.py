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
from cgankd.config.nets import OwnTeacherConfig, check_fits, check_net
from cgankd.config.settings import check_milestones, from_dict, require


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a predictor (teacher or student) is trained."""

    net: str
    """Name of a net of this project, torchvision:NAME or timm:NAME, or EXPERIMENT:NAME, which is the net that the paper's
    authors had in that experiment (docs/nets.md)."""
    width: int | None = None
    """Channels of the first stage of convnet and plain-vgg; null for all other nets, whose channels are fixed."""
    num_steps: int
    """Optimiser steps of the whole training."""
    batch_size: int
    """Images in each step."""
    optimizer: Literal["sgd", "adamw"]
    """sgd = SGD with Nesterov momentum 0.9; adamw = AdamW."""
    learning_rate: float
    """Peak learning rate."""
    weight_decay: float
    """Weight decay, on weights of two or more dimensions only; 0 = none."""
    schedule: Literal["onecycle", "cosine", "constant", "multistep"]
    """Factor of the learning rate over the steps: onecycle = linear up over the first quarter, then a cosine down to 0; cosine =
    a cosine from 1 to 0; constant; multistep = a tenth from each of the milestones on."""
    augment: str
    """Plain augmentation of the training images, names of AUGMENTS joined by "+", applied in that order."""
    precision: Literal["auto", "fp32", "bf16"]
    """Arithmetic of the forward pass: auto = bf16 where the device has units for it."""
    milestones: tuple[float, ...] = ()
    """multistep only: shares of the steps after each of which the rate is a tenth."""
    scalar_loss: Literal["absolute", "squared"] = field(default="absolute", metadata={"left_out": True})
    """Scalar labels: the loss to the label, normalised to [0, 1]: absolute difference, which is what the error is measured by,
    or its square (as published). The term to the teacher's answer is that of the KD loss, absolute in `kd`."""

    def check(self, section: str) -> None:
        """Range checks; called by the sub-class that knows its section name."""
        for name in ("num_steps", "batch_size"):
            require(getattr(self, name) >= 1, f"{section}.{name}", "at least 1", getattr(self, name))
        require(self.learning_rate > 0, f"{section}.learning_rate", "positive", self.learning_rate)
        require(self.weight_decay >= 0, f"{section}.weight_decay", "zero or more", self.weight_decay)
        check_augment(self.augment, f"{section}.augment")
        check_milestones(self.milestones, self.schedule, f"{section}.milestones")
        check_net(self.net, self.width, section)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(FitConfig, OwnTeacherConfig):
    """The teacher f_t: which net, and how it is trained on the real training images."""

    def __post_init__(self) -> None:
        self.check("teacher")
        self.check_own(self.net)


@dataclass(frozen=True, kw_only=True)
class StudentConfig(FitConfig):
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
        """These settings with the arm's own KD loss and options in place of the section's."""
        if not arm.own_loss:
            return self
        if arm.distiller is None:
            return replace(self, distiller_options=self.distiller_options | arm.distiller_options)
        return replace(self, distiller=arm.distiller, distiller_options=arm.distiller_options, distillers=())

    @property
    def kd_parts(self) -> tuple[DistillerConfig, ...]:
        """The KD losses of the arms with `kd`; for `distiller: kd` temperature and soft_weight are those above."""
        if self.distillers:
            return self.distillers
        own = {"temperature": self.temperature, "soft_weight": self.soft_weight} if self.distiller == KD else {}
        return (DistillerConfig(name=self.distiller, options=own | self.distiller_options),)

    def __post_init__(self) -> None:
        self.check("student")
        kind, _, number = self.teacher_cache.partition(":")
        known = self.teacher_cache in ("full", "half") or (kind == "topk" and number.isdigit() and int(number) >= 1)
        require(known, "student.teacher_cache", "full, half or topk:NUMBER", self.teacher_cache)
        check_augment(self.strong_augment, "student.strong_augment")
        check_list(self.distillers, self.distiller_options, self.task_weight)
        require(self.base_steps >= 1, "student.base_steps", "at least 1", self.base_steps)
        require(self.base_learning_rate > 0, "student.base_learning_rate", "positive", self.base_learning_rate)
        size = self.base_batch_size
        require(size is None or size >= 1, "student.base_batch_size", "null or at least 1", size)
        self._check_base()
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
    """What stages read of a params.yaml; its section `search` is no stage's (pipelines.search.config)."""

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
        for section, fit in (("teacher", self.teacher), ("student", self.student)):
            check_fits(fit.net, self.data.image_size, self.data.task, section)
        check_augment(self.cgan.augment, "cgan.augment")
        check_unlabelled(self.student.arms, self.data.unlabelled)
        attention, largest = self.cgan.attention, self.data.image_size // 2
        rule = f"null or a power of two from 8 to {largest}, half of data.image_size"
        require(attention is None or attention <= largest, "cgan.attention", rule, attention)
        own = self.cgan.file is not None and self.bank.bound_scope == "label"
        require(
            not own, "bank.bound_scope", "group where cgan.file is set, whose images are dealt out by group", "label"
        )
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


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Build the whole configuration; the section `search`, which no stage reads, is left out.

    Raises ConfigError with the dotted name of the first bad field.
    """
    return from_dict(Config, {name: section for name, section in values.items() if name != "search"}, "")
