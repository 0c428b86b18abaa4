"""Settings of the training of a predictor, and those of the teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cgankd.config.data import check_augment
from cgankd.config.members import MembersConfig, overrides, sections_of
from cgankd.config.mix import MixConfig
from cgankd.config.nets import OwnTeacherConfig, check_net, from_library
from cgankd.config.settings import check_milestones, require
from cgankd.config.weights import StartConfig


@dataclass(frozen=True, kw_only=True)
class FitConfig(StartConfig, MixConfig):
    """How a predictor (teacher or student) is trained."""

    net: str
    """Name of a net of this project, torchvision:NAME or timm:NAME, or EXPERIMENT:NAME, which is the net that the paper's
    authors had in that experiment (docs/nets.md)."""
    width: int | None = None
    """Channels of the first stage of convnet, plain-vgg, ds-cnn and tiny-mobilenet; null for all other nets, whose channels are
    fixed."""
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
        require(self.num_steps >= 1, f"{section}.num_steps", "at least 1", self.num_steps)
        rule = "at least 2, as batch normalisation needs more than one image"
        require(self.batch_size >= 2, f"{section}.batch_size", rule, self.batch_size)
        require(self.learning_rate > 0, f"{section}.learning_rate", "positive", self.learning_rate)
        require(self.weight_decay >= 0, f"{section}.weight_decay", "zero or more", self.weight_decay)
        check_augment(self.augment, f"{section}.augment")
        check_milestones(self.milestones, self.schedule, f"{section}.milestones")
        check_net(self.net, self.width, section)
        self.check_start(section, self.net, library=from_library(self.net))
        self.check_mix(section)
        rule = f"none where {section}.tune is head, whose features are those of plain views"
        require(self.tune != "head" or self.mix == "none", f"{section}.mix", rule, self.mix)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(FitConfig, OwnTeacherConfig, MembersConfig):
    """The teacher f_t: which net, and how it is trained on the real training images."""

    def __post_init__(self) -> None:
        self.check("teacher")
        self.check_own(self.net)
        self.check_members()
        if self.members is not None:
            require(self.file is None, "teacher.file", "null where teacher.members is set", self.file)
            sections_of(self, overrides(self.members))
