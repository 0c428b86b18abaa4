"""SimKD: the student learns the teacher's last features and predicts with the teacher's last layer."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.losses.feature_terms import Norm, how_pooled, in_range, mse_rows, pair_specs, probe, shrink
from cgankd.distill.losses.logit_terms import row_mean
from cgankd.types import Outputs


class SimKD(Distiller):
    """w MSE(p(F_s), F_t) on the last maps, nothing else; the shipped net is student, projector p and the teacher's head.

    p: 1x1, 3x3, 1x1 convolutions, each with batch norm and ReLU, with C_t / `bottleneck` channels inside; the student's
    map is averaged down to the teacher's size first where it is larger (the target where it is smaller). Where the
    teacher's pooled features are not its averaged or flattened last map (a hidden layer, say), p ends in a linear layer
    on the averaged map and the pooled features [B, F] are compared: an adaptation. The student's own last layer is not
    used and `task_weight` is 0. A mean over all entries, so the batch size does not matter.
    """

    name = "simkd"
    needs = Needs(stages=True, pooled=True, teacher_head=True)
    scalar = True
    source = "Chen et al., CVPR 2022, arXiv 2203.14001"
    flows = (
        Flow("teacher.stage:last", "student.stage:last", "projector of three convolutions", "MSE", "1"),
        Flow("teacher.head", "student.head", "copied, frozen", "none", "none"),
    )
    task_weight = 0.0

    def __init__(self, *, feature_weight: float = 1.0, bottleneck: int = 2, fake_weight: float = 1.0) -> None:
        super().__init__()
        in_range(self.name, feature_weight=feature_weight, fake_weight=fake_weight)
        self.fake_weight = fake_weight
        in_range(self.name, low=1, bottleneck=bottleneck)
        self.feature_weight, self.bottleneck = feature_weight, bottleneck

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make the projector and copy the teacher's last layer. Raises ValueError where that cannot be read off."""
        super().build(student, teacher, data)
        pair_specs(student, teacher, self.name)
        assert teacher.net is not None, "built with the live teacher"
        shown = probe(teacher.net, data.image_shape)
        if shown.head is None:
            raise ValueError(
                "simkd predicts with the teacher's last layer, but teacher.net shows none; choose another net"
            )
        self.head = copy.deepcopy(shown.head).eval().requires_grad_(False)
        (_, h_s, w_s), (_, h_t, w_t) = student.stages[-1], teacher.stages[-1]
        size = (min(h_s, h_t), min(w_s, w_t))
        pooling = how_pooled(shown)
        if pooling == "flat" and size != (h_t, w_t):
            pooling = "other"
        self.projector = Projector(student.stages[-1][0], teacher, self.bottleneck, pooling, size)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"feature"}."""
        guess = self.projector(student.stages[-1].float())
        target = teacher.pooled if self.projector.pooling == "other" else teacher.stages[-1]
        assert target is not None, "the engine gives pooled features"
        target = target.detach().float()
        target = shrink(target, self.projector.size) if target.ndim == 4 else target
        rows_B = mse_rows(guess, target)
        return {"feature": self.feature_weight * row_mean(rows_B, batch.is_fake, self.fake_weight)}

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """The projector's; the head is frozen."""
        return list(self.projector.parameters())

    def student_for_inference(self) -> nn.Module:
        """Student, projector and the teacher's last layer as one net."""
        return BorrowedHead(super().student_for_inference(), self.projector, self.head)


class Projector(nn.Module):
    """From the student's last map [B, C_s, H, W] to the teacher's last map, or to its pooled features ("other")."""

    def __init__(self, c_s: int, teacher: ModelSpec, bottleneck: int, pooling: str, size: tuple[int, int]) -> None:
        super().__init__()
        c_t = teacher.stages[-1][0]
        mid = max(1, c_t // bottleneck)
        layers: list[nn.Module] = []
        for c_in, c_out, kernel in ((c_s, mid, 1), (mid, mid, 3), (mid, c_t, 1)):
            layers += [nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False), Norm(c_out), nn.ReLU()]
        if pooling == "other":
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_t, teacher.pooled_dim)]
        self.layers = nn.Sequential(*layers)
        self.pooling, self.size = pooling, size

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """[B, C_t, H, W], or [B, F] for pooling "other"."""
        out: Tensor = self.layers(shrink(map_BCHW, self.size))
        return out

    def pooled(self, map_BCHW: Tensor) -> Tensor:
        """Guess [B, F] of the teacher's pooled features."""
        out: Tensor = self(map_BCHW)
        return out.mean((2, 3)) if self.pooling == "mean" else out.flatten(1)


class BorrowedHead(nn.Module):
    """The net SimKD ships: the student up to its last map, the projector, the teacher's last layer."""

    def __init__(self, student: nn.Module, projector: Projector, head: nn.Module) -> None:
        super().__init__()
        self.student, self.projector, self.head = student, projector, head

    def forward(self, unit_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] to outputs [B, O]."""
        shown: Outputs = self.student.outputs(unit_BCHW)  # type: ignore[operator]
        out_BO: Tensor = self.head(self.projector.pooled(shown.stages[-1]))
        return out_BO


METHODS: dict[str, type[Distiller]] = {"simkd": SimKD}
