"""Every setting of the product: one frozen dataclass per params.yaml section, checked by dotted name.

Each field is followed by what it means and its unit. `config_from_dict` takes the nested dict of a params file; how
it is read, and how mistakes are named, is in cgankd.settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cgankd.config_cgan import CganConfig as CganConfig
from cgankd.config_cgan import LabelInputConfig as LabelInputConfig
from cgankd.config_cgan import VicinityConfig as VicinityConfig
from cgankd.config_data import DataConfig as DataConfig
from cgankd.config_distill import KD, DistillerConfig, check_arms, check_list, check_own_loss
from cgankd.config_distill import ArmConfig as ArmConfig
from cgankd.config_nets import NETS as NETS
from cgankd.config_nets import OwnTeacherConfig, check_net
from cgankd.config_search import SearchConfig
from cgankd.settings import ConfigError as ConfigError
from cgankd.settings import from_dict, nearest, require
from cgankd.settings import to_dict as to_dict

AUGMENTS = ("none", "shift", "affine", "zoom", "hue", "colour", "cutout", "flip", "crop", "cutout_half", "randaugment")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a predictor (teacher or student) is trained."""

    net: str
    """Name in cgankd.nets.zoo, or torchvision:NAME or timm:NAME."""
    width: int | None = None
    """Channels of the first stage of convnet and plain-vgg; null for all other nets, whose channels are fixed."""
    num_steps: int
    """Optimiser steps."""
    batch_size: int
    """Images a step."""
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    """Peak learning rate."""
    weight_decay: float
    schedule: Literal["onecycle", "cosine", "constant", "multistep"]
    augment: str
    """Plain augmentation, joined by "+" out of the names in AUGMENTS (config.py)."""
    precision: Literal["auto", "fp32", "bf16"]
    """Arithmetic of the forward pass: auto = bf16 where the device has units for it."""
    milestones: tuple[float, ...] = ()
    """multistep only: shares of the steps after each of which the rate is a tenth."""

    def check(self, section: str) -> None:
        """Range checks; called by the sub-class that knows its section name."""
        for name in ("num_steps", "batch_size"):
            require(getattr(self, name) >= 1, f"{section}.{name}", "at least 1", getattr(self, name))
        require(self.learning_rate > 0, f"{section}.learning_rate", "positive", self.learning_rate)
        require(self.weight_decay >= 0, f"{section}.weight_decay", "zero or more", self.weight_decay)
        check_augment(self.augment, f"{section}.augment")
        steps = self.milestones
        require(all(0 < share < 1 for share in steps), f"{section}.milestones", "between 0 and 1", list(steps))
        require(
            bool(steps) == (self.schedule == "multistep"),
            f"{section}.milestones",
            "given where the schedule is multistep, and empty otherwise",
            list(steps),
        )
        check_net(self.net, self.width, section)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(FitConfig, OwnTeacherConfig):
    def __post_init__(self) -> None:
        self.check("teacher")
        self.check_own(self.net)


@dataclass(frozen=True, kw_only=True)
class RatioConfig:
    extractor: Literal["compact", "resnet34"] = "compact"
    """The feature extractor: compact = the project's own, which is also the sparse auto-encoder of scalar labels; resnet34 =
    the published one of class labels."""
    feature_width: int | None
    """Units of the feature map the ratio sees; null = C*H*W as in the paper."""
    feature_channels: int
    """Channels of the first stage of the feature extractor (64 for resnet34)."""
    feature_steps: int
    feature_batch_size: int
    feature_learning_rate: float
    feature_augment: str
    """Augmentation while the extractor is trained."""
    reconstruct_weight: float
    """Weight of the pixel MSE: 1 makes the extractor the sparse auto-encoder used for scalars, 0 a plain classifier."""
    l1_weight: float
    """Weight of mean |features| (1e-3 in the paper's auto-encoder; 0 for the classifier)."""
    label_weight: float
    """Weight of the label loss in the extractor's loss."""
    hidden: tuple[int, ...]
    """Hidden widths of the ratio MLP (2048, 1024, 512, 256, 128 in the paper)."""
    dropout: float
    num_steps: int
    batch_size: int
    learning_rate: float
    beta1: float
    beta2: float
    weight_decay: float
    ratio_penalty: float
    """lambda, weight of (mean ratio on fakes - 1)^2."""
    penalty_per_label: bool
    """Take the penalty's mean within each filter group instead of over the batch."""
    vicinity_drop: float | None
    """zeta in raw units, scalar labels only; null = 6 * largest label gap (and null for classes)."""
    max_redraws: int
    """Rounds in which fakes whose predicted label leaves the vicinity are redrawn."""
    pool_size: int
    """Fakes in the pool that batches are taken from (features computed once)."""
    pool_refresh_steps: int
    """Steps after which the pool is drawn anew; 0 = never."""
    eval_every_steps: int
    """How often the loss on validation reals and fresh fakes is taken; the best network is kept."""
    precision: Literal["auto", "fp32", "bf16"]

    def __post_init__(self) -> None:
        for name in ("feature_channels", "feature_steps", "num_steps", "eval_every_steps", "pool_size", "max_redraws"):
            require(getattr(self, name) >= 1, f"ratio.{name}", "at least 1", getattr(self, name))
        require(
            len(self.hidden) >= 1 and all(h >= 8 and h % 8 == 0 for h in self.hidden),
            "ratio.hidden",
            "multiples of 8, from 8",
            self.hidden,
        )
        if self.extractor == "resnet34":
            weight, channels = self.reconstruct_weight, self.feature_channels
            rule = "0 for ratio.extractor resnet34, which has no decoder; the auto-encoder is ratio.extractor compact"
            require(weight == 0, "ratio.reconstruct_weight", rule, weight)
            require(channels == 64, "ratio.feature_channels", "64 for ratio.extractor resnet34", channels)
        for name in ("feature_batch_size", "batch_size"):
            require(getattr(self, name) >= 2, f"ratio.{name}", "at least 2", getattr(self, name))
        for name in ("feature_learning_rate", "learning_rate"):
            require(getattr(self, name) > 0, f"ratio.{name}", "positive", getattr(self, name))
        width, drop = self.feature_width, self.vicinity_drop
        require(width is None or width >= 1, "ratio.feature_width", "null or at least 1", width)
        require(drop is None or drop > 0, "ratio.vicinity_drop", "null or positive", drop)
        require(0 <= self.dropout < 1, "ratio.dropout", "in [0, 1)", self.dropout)
        weights = ("reconstruct_weight", "l1_weight", "label_weight", "weight_decay", "ratio_penalty")
        for name in (*weights, "pool_refresh_steps"):
            require(getattr(self, name) >= 0, f"ratio.{name}", "zero or more", getattr(self, name))
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, f"ratio.{name}", "in [0, 1)", getattr(self, name))
        require(self.pool_size >= self.batch_size, "ratio.pool_size", "at least ratio.batch_size", self.pool_size)
        check_augment(self.feature_augment, "ratio.feature_augment")


@dataclass(frozen=True, kw_only=True)
class BankConfig:
    num_fakes: int
    """M^g, processed fakes in the bank, shared evenly among the conditions."""
    subsample: bool
    """M1: rejection by the density ratio."""
    filter: bool
    """M2: drop the fakes with the largest teacher error."""
    replace: bool
    """M2: label := the teacher's prediction."""
    rho: float
    """Share of the fakes with the smallest teacher error that stays."""
    filter_scope: Literal["label", "global"]
    """Where the rho-quantile is taken: in each class or label bin, or once over all."""
    label_bin: float | None
    """Scalar labels only: width of a label bin in raw units; null for classes."""
    num_conditions: int | None
    """Scalar labels only: evenly spaced labels asked of the generator; null for classes."""
    bound_quantile: float
    """The rejection bound M is this quantile of the burn-in ratios (1 = their maximum)."""
    burn_in: int
    """Draws in each class or label bin that estimate the bound and the cutoff."""
    max_draws_factor: float
    """Cap on draws: this many times num_fakes for each selection."""
    batch_size: int
    """Fakes generated and scored at a time in the burn-in."""
    refuse_worthless: bool
    """Stop with an error when a health check says the bank is worthless."""
    block_size: int = 100
    """Fakes generated and scored at a time after it; whatever num_fakes is, the draws of a label begin with the same."""
    refill: bool = True
    """Draw on until num_fakes are kept; false = draw num_fakes once and keep what passes (published for scalars)."""
    bound: Literal["frozen", "running"] = "frozen"
    """frozen = M stays as the burn-in left it; running = each larger ratio raises it (published; quantile 1)."""

    def __post_init__(self) -> None:
        require(0 < self.rho <= 1, "bank.rho", "in (0, 1]", self.rho)
        require(0.9 < self.bound_quantile <= 1, "bank.bound_quantile", "in (0.9, 1]", self.bound_quantile)
        fits = self.bound == "frozen" or self.bound_quantile == 1
        require(fits, "bank.bound_quantile", "1 where bank.bound is running", self.bound_quantile)
        for name in ("num_fakes", "burn_in", "batch_size", "block_size"):
            require(getattr(self, name) >= 1, f"bank.{name}", "at least 1", getattr(self, name))
        conditions = self.num_conditions
        require(conditions is None or conditions >= 1, "bank.num_conditions", "null or at least 1", conditions)
        require(self.max_draws_factor >= 1, "bank.max_draws_factor", "at least 1", self.max_draws_factor)
        require(self.label_bin is None or self.label_bin > 0, "bank.label_bin", "null or positive", self.label_bin)


BANK_UNSAID: dict[str, Any] = {"refill": True, "bound": "frozen"}
"""Settings of `bank` that came later: its files leave them out at these values, and so are the same as before."""


@dataclass(frozen=True, kw_only=True)
class StudentConfig(FitConfig):
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
    keep_best: bool = False
    """Also keep each student as it was at its best validation point, for `evaluate` to report; the last one ships."""

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
        return replace(self, num_steps=self.base_steps, learning_rate=self.base_learning_rate, milestones=milestones)

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
    confidence: float
    """Level of every interval."""

    def __post_init__(self) -> None:
        require(0.5 < self.confidence < 1, "evaluate.confidence", "between 0.5 and 1", self.confidence)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    experiment: str
    """Name of the MLflow experiment."""
    preset: str
    """Which preset these parameters came from; a tag of every run."""
    mlflow: bool
    """Log to MLflow as well as to the JSON lines under artifacts/logs."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole params.yaml."""

    seed: int
    data: DataConfig
    teacher: TeacherConfig
    cgan: CganConfig
    ratio: RatioConfig
    bank: BankConfig
    student: StudentConfig
    evaluate: EvaluateConfig
    tracking: TrackingConfig
    search: SearchConfig = field(default_factory=SearchConfig)
    """Not read by any stage, so that a params file may do without."""

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
        check_augment(self.cgan.augment, "cgan.augment")
        attention, largest = self.cgan.attention, self.data.image_size // 2
        rule = f"null or a power of two from 8 to {largest}, half of data.image_size"
        require(attention is None or attention <= largest, "cgan.attention", rule, attention)
        if not scalar:
            radius = self.cgan.file_radius
            require(radius is None, "cgan.file_radius", "null for class labels (data.task is class)", radius)
            require(
                self.ratio.vicinity_drop is None,
                "ratio.vicinity_drop",
                "null for class labels (data.task is class)",
                self.ratio.vicinity_drop,
            )


def check_augment(text: str, name: str) -> None:
    """Raise ConfigError unless the text is known augmentation names joined by "+"."""
    for part in text.split("+"):
        if part not in AUGMENTS:
            raise ConfigError(
                f"{name} must be made of {', '.join(AUGMENTS)} joined by '+', but has {part!r}{nearest(part, AUGMENTS)}"
            )


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Build the whole configuration. Raises ConfigError with the dotted name of the first bad field."""
    return from_dict(Config, values, "")
