"""Settings of rounds of hard fakes: the probe student that finds them, and what has to be there for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cgankd.config.distill import ArmConfig
from cgankd.config.fit import FitConfig
from cgankd.config.settings import require


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(FitConfig):
    """The probe: a student that is trained in the stage `bank`, with KD from the teacher's outputs on the clean images.

    It stands for the students to come, so its net and settings should be those of `student`. They are keys of its own, so
    that another student does not draw every bank anew.
    """

    batch_size: int = 64
    """Images in each step."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """sgd = SGD with Nesterov momentum 0.9; adamw = AdamW."""
    learning_rate: float = 0.003
    """Peak learning rate."""
    weight_decay: float = 0.01
    """Weight decay, on weights of two or more dimensions only; 0 = none."""
    schedule: Literal["onecycle", "cosine", "constant", "multistep"] = "onecycle"
    """Factor of the learning rate over the steps, as that of the student."""
    augment: str = "none"
    """Augmentation of the images, names of AUGMENTS joined by "+"."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward pass: auto = bf16 where the device has units for it."""
    real_share: float | None = 0.5
    """Share of real images in each batch; null = concatenation of real and fakes."""
    temperature: float = 4.0
    """Temperature T of the soft loss of class labels."""
    soft_weight: float = 0.7
    """alpha in (1 - alpha) * hard + alpha * soft, the two terms of the loss."""

    def __post_init__(self) -> None:
        name = "bank.probe"
        self.check(name)
        rule = "none, as the teacher's outputs are those on clean images"
        require(self.mix == "none", f"{name}.mix", rule, self.mix)
        share, size = self.real_share, self.batch_size
        rule = "null, or such that each batch has real images and fakes"
        require(share is None or 0 < round(share * size) < size, f"{name}.real_share", rule, share)
        require(self.temperature > 0, f"{name}.temperature", "positive", self.temperature)
        require(0 <= self.soft_weight <= 1, f"{name}.soft_weight", "in [0, 1]", self.soft_weight)


def check_hard(arms: Mapping[str, ArmConfig], rounds: int, own_generator: str | None) -> None:
    """Raise ConfigError where an arm wants hard fakes and there are no rounds, or no latents to draw near."""
    for name, arm in arms.items():
        if arm.hard:
            rule = f"at least 2 where student.arms.{name}.hard is true"
            require(rounds >= 2, "bank.rounds", rule, rounds)
            rule = f"null where student.arms.{name}.hard is true, as the latents of other generators are not known"
            require(own_generator is None, "cgan.file", rule, own_generator)
