"""What the feature losses share: which stages are compared, at what size, and among which rows of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, ModelSpec
from cgankd.distill.losses.logit_terms import one_of as one_of
from cgankd.types import Outputs

Scope = Literal["mixed", "within_source"]
"""Relations among all rows of a batch, or among the real rows and among the fake rows apart."""
Pairs = tuple[tuple[int, int], ...]
"""(student stage, teacher stage) numbers from 0."""


def in_range(method: str, low: float = 0.0, high: float = inf, **values: float) -> None:
    """Raise ValueError naming the option unless each value lies in [low, high]."""
    for name, value in values.items():
        if not low <= value <= high:
            raise ValueError(f"{method}.{name} must be from {low:g} to {high:g}, but is {value}; set another value")


def pair_heights(student: Sequence[int], teacher: Sequence[int], method: str) -> Pairs:
    """Stages to compare, given the heights of the stage maps of both nets, from fine to coarse.

    As many stages: one to one. Otherwise the last stages of each height both nets have; without a common height the
    last ones, counted from the end. Raises ValueError where a net shows no stages.
    """
    for who, heights in (("student", student), ("teacher", teacher)):
        if not heights:
            raise ValueError(f"{method} compares stage maps, but {who}.net shows none; choose a net with stages")
    if len(student) == len(teacher):
        return tuple((i, i) for i in range(len(student)))
    last_s = {height: i for i, height in enumerate(student)}
    last_t = {height: i for i, height in enumerate(teacher)}
    common = [(i, last_t[height]) for height, i in last_s.items() if height in last_t]
    if common:
        return tuple(sorted(common))
    num = min(len(student), len(teacher))
    return tuple((len(student) - num + i, len(teacher) - num + i) for i in range(num))


def pair_specs(student: ModelSpec, teacher: ModelSpec, method: str) -> Pairs:
    """`pair_heights` of two nets by their shapes."""
    return pair_heights([s[1] for s in student.stages], [s[1] for s in teacher.stages], method)


def pair_chain(student: ModelSpec, teacher: ModelSpec, method: str) -> Pairs:
    """`pair_specs` of a loss on neighbouring stages. Raises ValueError where there are less than two pairs."""
    pairs = pair_specs(student, teacher, method)
    if len(pairs) < 2:
        raise ValueError(
            f"{method} compares how one stage goes with the next, but student.net and teacher.net have one stage in"
            " common; choose nets with two or more, or another KD loss"
        )
    return pairs


def adapters(student: ModelSpec, teacher: ModelSpec, pairs: Pairs) -> nn.ModuleList:
    """For each pair what takes the student's map to the teacher's number of channels: nothing, or a connector."""

    def one(c_s: int, c_t: int) -> nn.Module:
        return nn.Identity() if c_s == c_t else connector(c_s, c_t)

    return nn.ModuleList(one(student.stages[i][0], teacher.stages[j][0]) for i, j in pairs)


def pair_maps(student: Sequence[Tensor], teacher: Sequence[Tensor], method: str) -> list[tuple[Tensor, Tensor]]:
    """Student maps and the teacher maps [B, C, H, W] they are compared with, in float32, the teacher's cut off."""
    pairs = pair_heights([m.shape[2] for m in student], [m.shape[2] for m in teacher], method)
    return [(student[i].float(), teacher[j].detach().float()) for i, j in pairs]


def same_size(a_BCHW: Tensor, b_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps averaged down to the smaller height and the smaller width of the two."""
    size = (min(a_BCHW.shape[2], b_BCHW.shape[2]), min(a_BCHW.shape[3], b_BCHW.shape[3]))
    return shrink(a_BCHW, size), shrink(b_BCHW, size)


def shrink(x_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Averaged to this size; the map itself where it has the size."""
    return x_BCHW if tuple(x_BCHW.shape[2:]) == size else F.adaptive_avg_pool2d(x_BCHW, size)


def last_maps(student: Outputs, teacher: Outputs, method: str) -> tuple[Tensor, Tensor]:
    """The coarsest stage map of each net in float32, each in its own size, the teacher's cut off."""
    return pair_maps(student.stages[-1:], teacher.stages[-1:], method)[0]


def pooled_pair(student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """Pooled features [B, F] of both nets in float32, the teacher's cut off."""
    assert student.pooled is not None and teacher.pooled is not None, "the engine gives pooled features"
    return student.pooled.float().flatten(1), teacher.pooled.detach().float().flatten(1)


def over_sources(
    loss: Callable[[Tensor, Tensor], Tensor],
    student: Tensor,
    teacher: Tensor,
    batch: Batch,
    scope: Scope,
    normalize_by_batch: bool = False,
) -> Tensor:
    """A relational loss of a batch, or the mean of those of its real and fake rows, weighted by their numbers.

    `normalize_by_batch` multiplies the loss of n rows by n / 64, for losses that shrink as 1 / n and whose usual weight
    was chosen at 64 rows.
    """
    parts = [(student, teacher)]
    if scope == "within_source" and batch.is_fake is not None:
        fake = batch.is_fake
        parts = [(student[rows], teacher[rows]) for rows in (~fake, fake) if bool(rows.any())]
    terms = []
    for s, t in parts:
        share = len(s) / len(student) * (len(s) / 64 if normalize_by_batch else 1.0)
        terms.append(share * loss(s, t))
    return torch.stack(terms).sum()


def row_means(x: Tensor) -> Tensor:
    """Mean over all entries of each row [B, ...] to [B]."""
    return x.flatten(1).mean(1)


def mse_rows(s: Tensor, t: Tensor) -> Tensor:
    """Mean squared difference of each row [B, ...] to [B]."""
    return row_means((s - t).square())


class Norm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics where a batch has one value a channel, which has no variance."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


def unit_rows(x_BF: Tensor, eps: float) -> Tensor:
    """Rows over their length plus eps; a row of zeros stays one."""
    length_B1: Tensor = torch.linalg.vector_norm(x_BF, dim=1, keepdim=True)
    return x_BF / (length_B1 + eps)


def connector(c_in: int, c_out: int) -> nn.Sequential:
    """1x1 convolution and batch norm, initialised by He's rule."""
    conv = nn.Conv2d(c_in, c_out, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, Norm(c_out))


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """All of a net's modules in eval mode, then back as each was."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def probe(net: nn.Module, shape: tuple[int, int, int]) -> Outputs:
    """Outputs of a net in evaluation mode on two fixed images of this shape [C, H, W]; draws nothing, moves nothing."""
    like = next(net.parameters())
    x_BCHW = torch.linspace(0, 1, 2 * shape[0] * shape[1] * shape[2], device=like.device).view(2, *shape)
    with evaluating(net), torch.no_grad():
        out: Outputs = net.outputs(x_BCHW)  # type: ignore[operator]
    return out


def how_pooled(out: Outputs) -> str:
    """How pooled features come from the last map: "mean" over positions, "flat", or "other" (checked on numbers)."""
    assert out.pooled is not None, "the net gives pooled features"
    if out.stages:
        last, pooled = out.stages[-1], out.pooled
        for name, guess in (("mean", last.mean((2, 3))), ("flat", last.flatten(1))):
            if guess.shape == pooled.shape and torch.allclose(guess, pooled, rtol=1e-4, atol=1e-5):
                return name
    return "other"
