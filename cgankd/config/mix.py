"""Settings of mixed images and stored views: those of every training, and what the students have beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from cgankd.config.distill import ArmConfig
from cgankd.config.settings import ConfigError, require


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Whether a training is shown mixtures of two images."""

    mix: Literal["none", "mixup", "cutmix"] = field(default="none", metadata={"left_out": True})
    """Images of two after augmentation: mixup = lambda times one and 1 - lambda times another (arXiv 1710.09412); cutmix = a
    box of another image, of the share 1 - lambda of the area (arXiv 1905.04899). Labels are mixed by lambda too."""
    mix_alpha: float = field(default=1.0, metadata={"left_out": True})
    """lambda is drawn for each image from Beta(alpha, alpha); 1 = each share alike, less = mostly one of the two images."""
    mix_share: float = field(default=1.0, metadata={"left_out": True})
    """With this probability an image is mixed; else it stays as it is."""

    def check_mix(self, section: str) -> None:
        """Range checks. Raises ConfigError."""
        require(self.mix_alpha > 0, f"{section}.mix_alpha", "positive", self.mix_alpha)
        require(0 < self.mix_share <= 1, f"{section}.mix_share", "above 0 and at most 1", self.mix_share)


@dataclass(frozen=True, kw_only=True)
class StudentMixConfig(MixConfig):
    """What students have beside: partners among real images and fakes, stored views, and longer trainings."""

    mix_pairs: Literal["any", "real", "across"] = field(default="any", metadata={"left_out": True})
    """Partners in arms with fakes: any = any image of the batch; real = real images among themselves, while fakes stay as
    they are; across = each real image with a fake, and each fake with a real image."""
    views: int | None = field(default=None, metadata={"left_out": True})
    """So many augmented and mixed images are made once for all seeds, with the teacher's outputs in half precision, and a part
    of each batch is drawn from them; null (or 0) = batches are mixed anew at each step, and the teacher runs on them."""
    views_share: float = field(default=0.5, metadata={"left_out": True})
    """Share of each batch that is stored views; the rest are images that are not mixed, with the teacher's outputs on the
    clean image. All are augmented when they are shown."""
    step_factors: tuple[int, ...] = field(default=(), metadata={"left_out": True})
    """Train every arm also for so many times num_steps, such as [4, 16], and report where the gain of fakes goes; what
    ships is chosen at num_steps."""

    @property
    def mixes(self) -> bool:
        """Whether images are mixed."""
        return self.mix != "none"

    @property
    def num_views(self) -> int:
        """Stored views; 0 = none are stored."""
        return self.views or 0

    def check_views(self, section: str) -> None:
        """Range checks of what students alone have. Raises ConfigError."""
        require(self.num_views >= 0, f"{section}.views", "null, zero or more", self.views)
        share = self.views_share
        require(0 < share <= 1, f"{section}.views_share", "above 0 and at most 1", share)
        factors = list(self.step_factors)
        rising = factors == sorted(set(factors)) and all(factor > 1 for factor in factors)
        require(rising, f"{section}.step_factors", "empty or rising whole numbers above 1", factors)


def own_mix(arm: ArmConfig) -> dict[str, Any]:
    """The settings of mixing and of the shares of each batch that an arm has of its own, by name."""
    names = ("mix", "mix_pairs", "views", "views_share", "real_share")
    return {name: getattr(arm, name) for name in names if getattr(arm, name) is not None}


def check_arm_mix(name: str, arm: ArmConfig, section: StudentMixConfig, *, clean_kd: bool) -> None:
    """Raise ConfigError where what an arm says of mixing has no effect, or its teacher could not see the mixtures.

    `clean_kd`: it has, or may get, a KD loss whose teacher sees the clean image.
    """
    where = f"student.arms.{name}"
    require(arm.views is None or arm.views >= 0, f"{where}.views", "null, zero or more", arm.views)
    mixes = (section.mix if arm.mix is None else arm.mix) != "none"
    stores = bool(section.num_views if arm.views is None else arm.views)
    share = arm.views_share
    require(share is None or 0 < share <= 1, f"{where}.views_share", "null, or above 0 and at most 1", share)
    require(share is None or stores, f"{where}.views_share", "null where no views are stored (views)", share)
    share = arm.real_share
    require(share is None or 0 < share < 1, f"{where}.real_share", "null or between 0 and 1", share)
    rule = "null where neither bank nor unlabelled is true, as all images are real there"
    require(share is None or arm.uses_pool, f"{where}.real_share", rule, share)
    if arm.mix_pairs is not None:
        require(mixes, f"{where}.mix_pairs", "null where nothing is mixed (mix is none)", arm.mix_pairs)
        rule = "null where bank is false, as there are no fakes to pair"
        require(arm.bank, f"{where}.mix_pairs", rule, arm.mix_pairs)
    if clean_kd and mixes and not stores:
        raise ConfigError(
            f"student.teacher_view must be augmented for {where}, whose images are mixed and whose teacher has to see the"
            f" mixture, but is 'clean'; or store views: set {where}.views to a number, such as 10000"
        )
