"""What may guide the conditional GAN beside its plain discriminator: fixed features, adaptive augmentation, labels read back."""

from __future__ import annotations

from dataclasses import dataclass, field

from cgankd.config.settings import check_name, require
from cgankd.config.weights import PACKAGE, PACKAGED, Packaged


@dataclass(frozen=True, kw_only=True)
class GuidesConfig:
    """All are off by default, and then cost nothing."""

    features: str | None = field(default=None, metadata={"left_out": True})
    """A trained net whose fixed features small heads judge beside the plain discriminator (projected GANs, arXiv 2111.01007):
    `package:efficientnet-lite0` (1, 2), weights that a Python package carries (extra `pretrained`); null = none. Its pooled
    features have a diversity floor too, by diversity_weight. The saved GAN does not need the package."""
    feature_size: int = field(default=64, metadata={"left_out": True})
    """Side in pixels to which images are resized for that net, a multiple of 32. Time grows with its square."""
    feature_weight: float = field(default=1.0, metadata={"left_out": True})
    """Weight of the heads' mean loss in the generator's loss; the plain discriminator's has 1."""
    feature_rate: float = field(default=0.5, metadata={"left_out": True})
    """Learning rate of the heads, as a multiple of lr_d."""
    augment_target: float | None = field(default=None, metadata={"left_out": True})
    """Each part of DiffAugment is applied to an image with a probability p that starts at 0, rises while the mean sign of the
    discriminator's scores of real images is above this, and falls while it is below (arXiv 2006.06676, which has 0.6); null =
    always."""
    augment_speed: int = field(default=50_000, metadata={"left_out": True})
    """augment_target: real images over which p can go from 0 to 1 (published: 500,000, for far longer trainings)."""
    aux_weight: float = field(default=0.0, metadata={"left_out": True})
    """Scalar labels: weight of the squared error of a second head of the discriminator, which reads the normalised label from
    real images, and in the generator's loss of what it reads from fakes against the label asked (arXiv 2508.01725); 0 = none."""
    teacher_weight: float = field(default=0.0, metadata={"left_out": True})
    """Weight of the teacher's own loss on fakes against the label asked in the generator's loss; its gradient passes through the
    image, not augmented. 0 = the teacher is not read."""
    teacher_start: float = field(default=0.25, metadata={"left_out": True})
    """Share of num_steps after which that loss counts."""

    @property
    def feature_weights(self) -> Packaged | None:
        """The packaged weights that `features` names."""
        return None if self.features is None else PACKAGED[self.features.removeprefix(PACKAGE)]

    def check_guides(self) -> None:
        """Range checks. Raises ConfigError."""
        if self.features is not None:
            rule = f"null or {PACKAGE}NAME, with a NAME of {', '.join(PACKAGED)}"
            require(self.features.startswith(PACKAGE), "cgan.features", rule, self.features)
            check_name(self.features.removeprefix(PACKAGE), tuple(PACKAGED), f"cgan.features {PACKAGE}NAME")
        size = self.feature_size
        require(32 <= size <= 512 and size % 32 == 0, "cgan.feature_size", "a multiple of 32 from 32 to 512", size)
        require(self.feature_rate > 0, "cgan.feature_rate", "positive", self.feature_rate)
        for name in ("feature_weight", "aux_weight", "teacher_weight"):
            require(getattr(self, name) >= 0, f"cgan.{name}", "zero or more", getattr(self, name))
        target = self.augment_target
        require(target is None or -1 < target < 1, "cgan.augment_target", "null or between -1 and 1", target)
        require(self.augment_speed >= 1, "cgan.augment_speed", "at least 1", self.augment_speed)
        require(0 <= self.teacher_start < 1, "cgan.teacher_start", "in [0, 1)", self.teacher_start)
