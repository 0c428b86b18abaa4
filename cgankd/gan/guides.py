"""What guides a GAN's training beside its plain losses, as `cgan` sets it: heads on fixed features, adaptive augmentation,
labels read back by the discriminator, the teacher's loss on fakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cgankd.config import CganConfig
from cgankd.data.pixels import signed_to_unit
from cgankd.gan.augment import Strength, diff_augment
from cgankd.gan.critics import Critics
from cgankd.gan.losses import label_miss
from cgankd.nets.gans.features import FixedFeatures
from cgankd.nets.gans.projection import add_answer
from cgankd.types import Split, Task, Vicinity

TeacherLoss = Callable[[Tensor, Tensor], Tensor]
"""Images [B, C, H, W] in [0, 1] and the labels asked [B] in raw units to the teacher's mean loss, which has a gradient."""


@dataclass(frozen=True)
class Given:
    """Trained nets that a training of the GAN is guided by; None where its settings want none. They lie on its device."""

    features: FixedFeatures | None = None
    teacher: TeacherLoss | None = None


NOTHING = Given()


class Guides:
    """All guides of one training; at the default settings they hold nothing, draw nothing and add nothing."""

    def __init__(self, given: Given, cfg: CganConfig, task: Task) -> None:
        assert (given.features is not None) == (cfg.features is not None), "the net of cgan.features is given"
        assert (given.teacher is not None) == (cfg.teacher_weight > 0), "the teacher of cgan.teacher_weight is given"
        self.cfg, self.task, self.given = cfg, task, given
        self.strength = None if cfg.augment_target is None else Strength(cfg.augment_target, cfg.augment_speed)
        self.critics: Critics | None = None
        self.seen: dict[str, list[float]] = {}

    def with_answer(self, net_d: nn.Module) -> nn.Module:
        """The discriminator, with a second head where it is to read labels."""
        if self.cfg.aux_weight > 0:
            add_answer(net_d, self.task.period)
        return net_d

    def begin(self, train: Split, vicinity: Vicinity, embed: nn.Module, seed: int) -> None:
        """Make what needs the training images."""
        if self.given.features is not None:
            self.critics = Critics(self.given.features, train, vicinity, embed, self.cfg, seed)

    def parts(self) -> dict[str, nn.Module | torch.optim.Adam]:
        """What a resumed training needs of them beside the nets."""
        parts: dict[str, nn.Module | torch.optim.Adam] = {}
        if self.strength is not None:
            parts["strength"] = self.strength
        return parts | (self.critics.parts() if self.critics is not None else {})

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """Nets with spectral norms that the generator's step runs through."""
        return () if self.critics is None else (self.critics.heads,)

    @property
    def probability(self) -> float | None:
        """With which each part of DiffAugment changes an image; None = always."""
        return None if self.strength is None else float(self.strength.p)

    def views(self, x_BCHW: Tensor, gen: torch.Generator, *, paired: bool = False) -> Tensor:
        """Images as the discriminators see them. `paired`: the halves of a batch, of the same labels, are to be compared."""
        if paired and self.critics is not None:
            one_BCHW, other_BCHW = x_BCHW.chunk(2)
            return self.critics.pair_views(one_BCHW, other_BCHW, gen, self.probability)
        return diff_augment(x_BCHW, self.cfg.diffaugment, gen, self.cfg.cutout_share, self.probability)

    def judged(
        self, loss: Tensor, real_B: Tensor, weight_B: Tensor, answer_BO: Tensor | None, label_B: Tensor
    ) -> Tensor:
        """The discriminator's loss after it scored real images of these labels, with the miss of what it reads from them."""
        if self.strength is not None:
            self.strength.see(real_B, weight_B)
        if answer_BO is None:
            return loss
        missed = self.missed(answer_BO, label_B)
        self.note("aux_real", missed)
        return loss + self.cfg.aux_weight * missed

    def missed(self, answer_BO: Tensor, label_B: Tensor) -> Tensor:
        """How far the discriminator's second head is from labels in raw units."""
        return label_miss(answer_BO, self.task.targets(label_B).to(answer_BO.device), self.task.period)

    def after_d(self, both_BCHW: Tensor, target_B: Tensor, weights: tuple[Tensor, Tensor], step: int) -> None:
        """What follows a step of the discriminator on `both`, reals and then fakes as it saw them."""
        if self.critics is not None:
            self.critics.learn(both_BCHW, target_B, weights, step)
        if self.strength is not None:
            self.strength.step()

    def pulled(
        self,
        loss: Tensor,
        fake_BCHW: Tensor,
        seen_BCHW: Tensor,
        label_B: Tensor,
        answer_BO: Tensor | None,
        step: int,
    ) -> Tensor:
        """The generator's loss on fakes for these labels, `seen` as the discriminators saw them, with what the guides add."""
        cfg = self.cfg
        if answer_BO is not None:
            missed = self.missed(answer_BO, label_B)
            self.note("aux_fake", missed)
            loss = loss + cfg.aux_weight * missed
        if self.critics is not None:
            by_heads, values = self.critics.pull(seen_BCHW, label_B)
            for name, value in values.items():
                self.note(name, value)
            loss = loss + by_heads
        if self.given.teacher is not None and step >= cfg.teacher_start * cfg.num_steps:
            by_teacher = self.given.teacher(signed_to_unit(fake_BCHW), label_B.to(fake_BCHW.device))
            self.note("loss_teacher", by_teacher)
            loss = loss + cfg.teacher_weight * by_teacher
        return loss

    def note(self, name: str, value: Tensor | float) -> None:
        """Keep a number of this step for the log."""
        self.seen.setdefault(name, []).append(float(value.detach()) if isinstance(value, Tensor) else value)

    def begin_step(self) -> None:
        """Forget the numbers of the step before."""
        self.seen.clear()

    def values(self) -> dict[str, float]:
        """The numbers of this step, means over its micro-batches and, of reals, over its steps of the discriminator."""
        found = {name: sum(values) / len(values) for name, values in self.seen.items()}
        if self.critics is not None:
            found |= self.critics.values
        if self.strength is not None:
            found |= {"augment_p": float(self.strength.p), "augment_r": float(self.strength.r)}
        return found
