"""The seam between classification and regression: the only file (with config) that knows which kind a label is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.config import Config, ConfigError, VicinityConfig
from cgankd.labels.answers import Answer, Margin, Reading
from cgankd.labels.circle import onto_range, wrapped
from cgankd.labels.vicinity import DrawnVicinity, ExactMatch, HardVicinity, Kernel, SoftVicinity, kernel_rules
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
        """The classes themselves, int64 [B]."""
        return label_B.long()

    def loss(self, out_BO: Tensor, label_B: Tensor) -> Tensor:
        """Cross-entropy, mean over the batch."""
        return F.cross_entropy(out_BO.float(), label_B)

    def soft_loss(self, out_BO: Tensor, teacher_BO: Tensor, *, temperature: float) -> Tensor:
        """KL(p_t^T || p_s^T) * T^2, mean over the batch (Hinton et al., arXiv 1503.02531, section 2)."""
        student_BO = F.log_softmax(out_BO.float() / temperature, dim=1)
        teacher_BO = F.log_softmax(teacher_BO.float() / temperature, dim=1)
        return F.kl_div(student_BO, teacher_BO, reduction="batchmean", log_target=True) * temperature**2

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
        self.num_bins = max(1, round(self.span / label_bin))

    @property
    def group_names(self) -> tuple[str, ...]:
        """The ends of each label bin, "10 to 20"."""
        ends = [self.label_min + self.span * i / self.num_bins for i in range(self.num_bins + 1)]
        return tuple(f"{low:.4g} to {high:.4g}" for low, high in zip(ends, ends[1:], strict=False))

    def targets(self, label_B: Tensor) -> Tensor:
        """Labels normalised to [0, 1], float32 [B]."""
        return self.normalise(label_B.float())

    def normalise(self, label_B: Tensor) -> Tensor:
        """Raw units to [0, 1]."""
        return (label_B - self.label_min) / self.span

    def raw(self, out_BO: Tensor) -> Tensor:
        """Outputs [B, 1] to raw units [B], unclipped."""
        return out_BO[:, 0].float() * self.span + self.label_min

    def loss(self, out_BO: Tensor, label_B: Tensor) -> Tensor:
        """Absolute or squared error on the normalised label, the short way round a circle, mean over the batch."""
        return self.size(wrapped(out_BO[:, 0].float() - self.normalise(label_B), self.period)).mean()

    def size(self, gap_B: Tensor) -> Tensor:
        """|gap| or gap^2, by `scalar_loss`."""
        return gap_B.square() if self.squared else gap_B.abs()

    def soft_loss(self, out_BO: Tensor, teacher_BO: Tensor, *, temperature: float) -> Tensor:
        """Difference to the teacher on the normalised label, absolute or squared, mean over the batch; no temperature.

        The same scale as `loss`, so that `soft_weight` means what it says (see CONTRIBUTING, "Decisions").
        """
        return self.size(wrapped(out_BO[:, 0].float() - teacher_BO[:, 0].float(), self.period)).mean()

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
        """Number of the label bin of width `bank.label_bin`, [B]."""
        return (self.normalise(label_B) * self.num_bins).long().clamp(0, self.num_bins - 1)

    def conditions(self, label_N: Tensor) -> Tensor:
        """`bank.num_conditions` evenly spaced labels over the range, [K]; both its ends are one label of a whole circle."""
        if self.label_period == self.span:
            return torch.linspace(self.label_min, self.label_max, self.num_conditions + 1)[:-1]
        return torch.linspace(self.label_min, self.label_max, self.num_conditions)

    def vicinity(self, label_N: Tensor, targets: str = "marginal") -> Vicinity:
        kernel, ends = self.kernel(label_N), self.vicinity_cfg.ends
        if self.vicinity_cfg.kind == "hard":
            hard = HardVicinity(label_N, kernel, self.label_min, self.label_max, self.label_period)
            return hard.with_targets(targets, ends)
        kind = DrawnVicinity if self.vicinity_cfg.draw == "proportional" else SoftVicinity
        floor = self.vicinity_cfg.weight_floor
        soft = kind(label_N, kernel, self.label_min, self.label_max, floor, self.label_period)
        return soft.with_targets(targets, ends)

    def kernel(self, label_N: Tensor) -> Kernel:
        """CcGAN's widths from the training labels."""
        return kernel_rules(label_N, self.vicinity_cfg, self.span if self.label_period == self.span else None)

    def label_embed(self, dim: int) -> nn.Module:
        # Targets beyond the ends of the range are labels of their own, as published.
        beyond = self.vicinity_cfg.ends == "cut" and self.label_period is None
        return ScalarEmbed(dim, self.label_min, self.label_max, clamped=not beyond)


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
    return ScalarTask(info, cfg.cgan.vicinity, cfg.bank.label_bin, cfg.bank.num_conditions, scalar_loss)


class ClassAnswer(nn.Module):
    """Logits [B, O] to class probabilities [B, O]."""

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__()
        self.names = info.class_names
        self.num_answers, self.scale = len(info.class_names), 1.0

    def forward(self, out_BO: Tensor) -> Tensor:
        """Softmax, in float32."""
        return F.softmax(out_BO.float(), dim=1)

    def score(self, answer_BA: Tensor, label_B: Tensor) -> Tensor:
        """100 where the most probable class is wrong, else 0, [B]."""
        return 100.0 * (answer_BA.argmax(dim=1) != label_B).float()

    def miss(self, answer_BA: Tensor, label_B: Tensor) -> Tensor:
        """1 - probability of the label, [B]."""
        return 1.0 - answer_BA.gather(1, label_B[:, None])[:, 0]

    def read(self, answer_BA: Tensor, margin: Margin | None) -> list[Reading]:
        """The most probable class with its probability; the region is every class the margin does not rule out."""
        readings = []
        for row_A in answer_BA:
            order = row_A.argsort(descending=True).tolist()
            kept = [i for i in order if margin is not None and 1.0 - float(row_A[i]) <= margin.width]
            best = order[0]
            readings.append(Reading(self.names[best], float(row_A[best]), tuple(self.names[i] for i in kept)))
        return readings


class ScalarAnswer(nn.Module):
    """The normalised output [B, 1] to the label in raw units [B, 1], clipped to the label range or taken round its circle."""

    num_answers = 1

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__()
        self.names: tuple[str, ...] = (f"label ({info.label_unit})" if info.label_unit else "label",)
        self.label_min, self.label_max = info.label_min, info.label_max
        self.scale = info.label_max - info.label_min
        self.period = info.label_period

    def forward(self, out_BO: Tensor) -> Tensor:
        """Raw units, in float32."""
        return onto_range(out_BO.float() * self.scale + self.label_min, self.label_min, self.label_max, self.period)

    def score(self, answer_BA: Tensor, label_B: Tensor) -> Tensor:
        """Absolute error in raw units, [B]."""
        return wrapped(answer_BA[:, 0] - label_B, self.period).abs()

    def miss(self, answer_BA: Tensor, label_B: Tensor) -> Tensor:
        """Absolute error in raw units, [B]."""
        return self.score(answer_BA, label_B)

    def read(self, answer_BA: Tensor, margin: Margin | None) -> list[Reading]:
        """The label; the region is the interval of the margin around it, cut to the label range.

        On a circle it goes on beyond an end of the range, so that its first end may be the larger number.
        """
        readings = []
        for value in answer_BA[:, 0].tolist():
            ends = () if margin is None else self.region(value, margin.width)
            readings.append(Reading(value, margin.level if margin else None, ends))
        return readings

    def region(self, value: float, width: float) -> tuple[float, float]:
        """First and last label at most `width` from a value; the whole range where they meet behind it."""
        low, high = value - width, value + width
        if self.period is not None:
            if 2 * width >= self.period:
                return self.label_min, self.label_max
            if low < self.label_min and low + self.period <= self.label_max:
                low += self.period
            elif high > self.label_max and high - self.period >= self.label_min:
                high -= self.period
        return max(self.label_min, low), min(self.label_max, high)


def make_answer(info: DatasetInfo) -> Answer:
    """What a model of this data set says to its users."""
    return ClassAnswer(info) if info.kind == "class" else ScalarAnswer(info)
