"""The seam between classification and regression: the only file (with config) that knows which kind a label is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.config import Config, ConfigError, VicinityConfig
from cgankd.labels.circle import is_whole, label_of, miss, onto_range, wrapped
from cgankd.labels.kernel import Kernel, kernel_rules
from cgankd.labels.vicinity import DrawnVicinity, ExactMatch, HardVicinity, SoftVicinity
from cgankd.nets.gans.label_embed import ClassEmbed, ScalarEmbed
from cgankd.types import DatasetInfo, Headline, Task, Vicinity


class ClassTask:
    """Class labels int64 in 0..O-1; outputs are logits [B, O]."""

    label_dtype = torch.int64
    headline = Headline("test error", "%", higher_is_better=False)
    group_kind = ("class", "classes")
    period: float | None = None

    def __init__(self, info: DatasetInfo) -> None:
        self.num_outputs = self.num_classes = len(info.class_names)
        self.class_names = info.class_names

    @property
    def group_names(self) -> tuple[str, ...]:
        """The classes."""
        return self.class_names

    def targets(self, label_B: Tensor) -> Tensor:
        """The classes themselves, int64 [B]; of mixtures [B, O] the class with the greater share."""
        return label_B.argmax(dim=1) if label_B.ndim == 2 else label_B.long()

    def mixed_labels(self, label_B: Tensor, other_B: Tensor, weight_B: Tensor) -> Tensor:
        """Probabilities of the classes, float32 [B, O]: lambda for the first image's, 1 - lambda for the other's."""
        one_BO, other_BO = (F.one_hot(label.long(), self.num_outputs) for label in (label_B, other_B))
        return torch.lerp(other_BO.float(), one_BO.float(), weight_B[:, None])

    def loss(self, out_BO: Tensor, label_B: Tensor) -> Tensor:
        """Cross-entropy against classes [B] or probabilities of classes [B, O], mean over the batch."""
        return F.cross_entropy(out_BO.float(), label_B)

    def soft_loss(self, out_BO: Tensor, teacher_BO: Tensor, *, temperature: float) -> Tensor:
        """KL(p_t^T || p_s^T) * T^2, mean over the batch (Hinton et al., arXiv 1503.02531, section 2)."""
        student_BO = F.log_softmax(out_BO.float() / temperature, dim=1)
        teacher_BO = F.log_softmax(teacher_BO.float() / temperature, dim=1)
        return F.kl_div(student_BO, teacher_BO, reduction="batchmean", log_target=True) * temperature**2

    def divergence(self, out_BO: Tensor, teacher_BO: Tensor) -> Tensor:
        """KL(p_t || p_s) in nats, [B]."""
        log_s_BO, log_t_BO = (F.log_softmax(of_BO.float(), dim=1) for of_BO in (out_BO, teacher_BO))
        return F.kl_div(log_s_BO, log_t_BO, reduction="none", log_target=True).sum(1)

    def score(self, out_BO: Tensor, label_B: Tensor) -> Tensor:
        """100 where the arg max is wrong, else 0, [B]; its mean is the error in %."""
        return 100.0 * (self.predict(out_BO) != label_B).float()

    def error(self, out_BO: Tensor, label_B: Tensor) -> Tensor:
        """Cross-entropy in nats against the asked class, [B]."""
        return F.cross_entropy(out_BO.float(), label_B, reduction="none")

    def predict(self, out_BO: Tensor) -> Tensor:
        """Arg max class [B]."""
        return out_BO.argmax(dim=1)

    def filter_groups(self, label_B: Tensor) -> Tensor:
        """The class itself."""
        return label_B.long()

    def conditions(self, label_N: Tensor) -> Tensor:
        """Every class, [K]."""
        return torch.arange(self.num_outputs)

    def vicinity(self, label_N: Tensor, targets: str = "marginal") -> Vicinity:
        return ExactMatch(label_N).with_targets(targets)

    def label_embed(self, dim: int) -> nn.Module:
        return ClassEmbed(self.num_outputs, dim)


class ScalarTask:
    """Scalar labels float32 in raw units; the single output is the label normalised to [0, 1] by the label range."""

    label_dtype = torch.float32
    num_outputs = 1
    num_classes = 0
    group_kind = ("label range", "label ranges")

    def __init__(
        self,
        info: DatasetInfo,
        vicinity: VicinityConfig,
        label_bin: float,
        num_conditions: int,
        scalar_loss: str = "absolute",
    ) -> None:
        self.squared = scalar_loss == "squared"
        self.label_min, self.label_max = info.label_min, info.label_max
        self.span = info.label_max - info.label_min
        self.headline = Headline("test MAE", info.label_unit, higher_is_better=False)
        self.vicinity_cfg = vicinity
        self.label_bin = label_bin
        self.num_conditions = num_conditions
        self.label_period = info.label_period
        self.period = None if info.label_period is None else info.label_period / self.span
        self.whole = is_whole(self.label_min, self.label_max, info.label_period)
        self.num_bins = max(1, round(self.span / label_bin))

    @property
    def group_names(self) -> tuple[str, ...]:
        """The ends of each label bin, "10 to 20"."""
        ends = [self.label_min + self.span * i / self.num_bins for i in range(self.num_bins + 1)]
        return tuple(f"{low:.4g} to {high:.4g}" for low, high in zip(ends, ends[1:], strict=False))

    def targets(self, label_B: Tensor) -> Tensor:
        """Labels normalised to [0, 1], float32 [B]."""
        return self.normalise(label_B.float())

    def mixed_labels(self, label_B: Tensor, other_B: Tensor, weight_B: Tensor) -> Tensor:
        """lambda y + (1 - lambda) y' [B] in raw units; round a whole circle y + (1 - lambda) d, d the short way from y to y'.

        Of two labels half a turn apart neither way is shorter: the one towards smaller numbers is taken.
        """
        period = self.label_period if self.whole else None
        between_B = label_B + (1 - weight_B) * wrapped(other_B - label_B, period)
        return onto_range(between_B, self.label_min, self.label_max, period)

    def normalise(self, label_B: Tensor) -> Tensor:
        """Raw units to [0, 1]."""
        return (label_B - self.label_min) / self.span

    def raw(self, out_BO: Tensor) -> Tensor:
        """Outputs [B, 1] to raw units [B], unclipped."""
        return out_BO[:, 0].float() * self.span + self.label_min

    def loss(self, out_BO: Tensor, label_B: Tensor) -> Tensor:
        """Absolute or squared error on the normalised label (on a circle: `circle.miss`), mean over the batch."""
        return self.size(miss(out_BO.float(), self.normalise(label_B), self.period)).mean()

    def size(self, gap_B: Tensor) -> Tensor:
        """The miss or its square, by `scalar_loss`."""
        return gap_B.square() if self.squared else gap_B

    def soft_loss(self, out_BO: Tensor, teacher_BO: Tensor, *, temperature: float) -> Tensor:
        """`loss` with the label that the teacher answers, mean over the batch; a scalar has no temperature.

        The same scale as `loss`, so that `soft_weight` means what it says (see CONTRIBUTING, "Decisions").
        """
        return self.size(miss(out_BO.float(), label_of(teacher_BO.float(), self.period), self.period)).mean()

    def divergence(self, out_BO: Tensor, teacher_BO: Tensor) -> Tensor:
        """Absolute difference of the answers in raw units, the short way round a circle, float64 [B].

        Taken in normalised units and then scaled in float64, so that no two differences become one and ranks are the same.
        """
        gap_B = label_of(out_BO.float(), self.period) - label_of(teacher_BO.float(), self.period)
        return wrapped(gap_B, self.period).abs().double() * self.span

    def score(self, out_BO: Tensor, label_B: Tensor) -> Tensor:
        """Absolute error in raw units, the short way round a circle, [B]."""
        return wrapped(self.predict(out_BO) - label_B, self.label_period).abs()

    def error(self, out_BO: Tensor, label_B: Tensor) -> Tensor:
        """Absolute error in raw units, [B]."""
        return self.score(out_BO, label_B)

    def predict(self, out_BO: Tensor) -> Tensor:
        """Label [B] in raw units, clipped to the range (round a circle: `onto_range`), never truncated to an integer."""
        return onto_range(self.raw(out_BO), self.label_min, self.label_max, self.label_period)

    def filter_groups(self, label_B: Tensor) -> Tensor:
        """Number of the label bin of width `bank.label_bin`, [B]; the bins of a whole circle go round it."""
        bin_B = (self.normalise(label_B) * self.num_bins).floor().long()
        return bin_B % self.num_bins if self.whole else bin_B.clamp(0, self.num_bins - 1)

    def conditions(self, label_N: Tensor) -> Tensor:
        """`bank.num_conditions` evenly spaced labels over the range, [K]; both its ends are one label of a whole circle."""
        if self.whole:
            return torch.linspace(self.label_min, self.label_max, self.num_conditions + 1)[:-1]
        return torch.linspace(self.label_min, self.label_max, self.num_conditions)

    def vicinity(self, label_N: Tensor, targets: str = "marginal") -> Vicinity:
        kernel, ends = self.kernel(label_N), self.vicinity_cfg.ends
        if self.vicinity_cfg.kind == "hard":
            hard = HardVicinity(label_N, kernel, self.label_min, self.label_max, self.label_period)
            return hard.with_targets(targets, ends).with_least(self.vicinity_cfg.least)
        kind = DrawnVicinity if self.vicinity_cfg.draw == "proportional" else SoftVicinity
        floor = self.vicinity_cfg.weight_floor
        soft = kind(label_N, kernel, self.label_min, self.label_max, floor, self.label_period)
        return soft.with_targets(targets, ends).with_least(self.vicinity_cfg.least)

    def kernel(self, label_N: Tensor) -> Kernel:
        """CcGAN's widths from the training labels."""
        return kernel_rules(label_N, self.vicinity_cfg, self.label_period, whole=self.whole)

    def label_embed(self, dim: int) -> nn.Module:
        # Targets beyond the ends of the range are labels of their own, as published.
        beyond = self.vicinity_cfg.ends == "cut" and self.label_period is None
        return ScalarEmbed(dim, self.label_min, self.label_max, self.label_period, clamped=not beyond)


class CircleTask(ScalarTask):
    """Scalar labels on a circle of length P; the two outputs are a point (c, s), read as the angle of atan2(s, c).

    Angles are counted from `label_min`. Unlike a single output it has no seam that a net would have to jump over.
    """

    num_outputs = 2

    def raw(self, out_BO: Tensor) -> Tensor:
        """Outputs [B, 2] to raw units [B], less than half a turn from `label_min`."""
        return label_of(out_BO.float(), self.label_period) + self.label_min


def make_task(info: DatasetInfo, cfg: Config, scalar_loss: str = "absolute") -> Task:
    """The task of a data set; `scalar_loss` is that of the section whose net is trained.

    Raises ConfigError where the data set and the params are of different kinds.
    """
    if info.kind != cfg.data.task:
        raise ConfigError(
            f"data.task is {cfg.data.task}, but artifacts/dataset.h5 holds {info.kind} labels; run `cgankd prepare` again"
        )
    if info.kind == "class":
        return ClassTask(info)
    assert cfg.cgan.vicinity and cfg.bank.label_bin and cfg.bank.num_conditions, "Config checks this"
    if info.label_period != cfg.data.label_period:
        raise ConfigError(
            f"data.label_period is {cfg.data.label_period}, but artifacts/dataset.h5 was made with {info.label_period};"
            " run `cgankd prepare` again"
        )
    if info.label_answer != cfg.data.answer:
        raise ConfigError(
            f"data.label_answer is {cfg.data.answer}, but artifacts/dataset.h5 was made with {info.label_answer};"
            " run `cgankd prepare` again"
        )
    kind = CircleTask if info.label_answer == "circle" else ScalarTask
    return kind(info, cfg.cgan.vicinity, cfg.bank.label_bin, cfg.bank.num_conditions, scalar_loss)
