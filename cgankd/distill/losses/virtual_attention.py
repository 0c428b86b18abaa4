"""VAM: virtual attention between blocks of channels, put into the student after each of its stages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.losses.feature_terms import evaluating, in_range
from cgankd.distill.losses.logit_terms import kl_terms, row_mean
from cgankd.labels.circle import is_label, label_of, miss
from cgankd.types import Outputs


class VirtualAttentionKD(Distiller):
    """a KD_T + g mean_l mean_i H(A_l,i) + (1 - a) task, with attention modules in the student (Xue et al., section 4).

    A module stands behind each stage [B, C, H, W]: channels are split into blocks X_j, X'_i = sum_j A_ij X_j with A =
    softmax(theta / tau) by rows, then a 1x1 convolution within each block. theta begins at 3 I and the convolution at the
    identity, so the student begins near itself; H, the entropy of a row, draws each block to few others. Scalars: KD_T is
    the absolute difference of the normalised labels. A block count that does not divide the channels becomes their
    greatest common divisor. The modules stay in the shipped net. The authors' program for this part is not public: a
    reconstruction, in which num_blocks and entropy_weight are guesses. The entropy term is not zero where the nets agree.
    """

    name = "vam"
    needs = Needs(teacher_pred_only=True)
    scalar = True
    source = "Xue et al., IJCAI 2021, arXiv 2105.04181 (KDExplainer), virtual attention"
    status = "reconstruction"
    flows = (
        Flow(
            "teacher.pred",
            "student.pred",
            "attention modules in the student; softmax at T",
            "KL T^2 (scalar: L1)",
            "0.9",
        ),
        Flow("student.attention", "student.attention", "entropy of rows", "none", "0.005"),
    )

    def __init__(
        self,
        *,
        soft_weight: float = 0.9,
        temperature: float = 4.0,
        entropy_weight: float = 0.005,
        num_blocks: int = 4,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        in_range(self.name, fake_weight=fake_weight)
        self.fake_weight = fake_weight
        in_range(self.name, high=1, soft_weight=soft_weight)
        in_range(self.name, low=1e-3, temperature=temperature)
        in_range(self.name, entropy_weight=entropy_weight)
        in_range(self.name, low=1, num_blocks=num_blocks)
        self.soft_weight, self.temperature = soft_weight, temperature
        self.entropy_weight, self.num_blocks = entropy_weight, num_blocks
        self.task_weight = 1 - soft_weight
        self.attentions = nn.ModuleList()

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make the modules and hang them behind the live student's stages. Raises ValueError where no stage is found."""
        super().build(student, teacher, data)
        assert student.net is not None, "built with the live student"
        places = stage_modules(student.net, data.image_shape)
        self.attentions = nn.ModuleList(VirtualAttention(shape[0], self.num_blocks) for shape in student.stages)
        for place, attention in zip(places, self.attentions, strict=True):
            for key in [k for k, hook in place._forward_hooks.items() if isinstance(hook, _Behind)]:
                del place._forward_hooks[key]
            place.register_forward_hook(_Behind(attention))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"soft"}, and {"entropy"} of the built modules."""
        rows_B = soft_rows(student.pred, teacher.pred, self.temperature, self.period)
        terms = {"soft": self.soft_weight * row_mean(rows_B, batch.is_fake, self.fake_weight)}
        if self.attentions:
            rows = [module.matrix() for module in self.attentions if isinstance(module, VirtualAttention)]
            entropy = torch.stack([-(a.clamp_min(1e-12).log() * a).sum(1).mean() for a in rows])
            terms["entropy"] = self.entropy_weight * entropy.mean()
        return terms

    def no_decay(self) -> set[str]:
        """The attention and its temperature."""
        names = [name for name, _ in self.named_parameters()]
        return {name for name in names if name.endswith(("theta", "log_tau"))}

    def student_for_inference(self) -> nn.Module:
        """The student with its attention modules, whose weights are in its state."""
        return Attended(super().student_for_inference(), self.attentions)


def soft_rows(student_BO: Tensor, teacher_BO: Tensor, temperature: float, period: float | None = None) -> Tensor:
    """T^2 KL [B] of the softened classes, or of scalar labels the absolute difference (`circle.miss`)."""
    s_BO, t_BO = student_BO.float(), teacher_BO.detach().float()
    if is_label(s_BO, period):
        return miss(s_BO, label_of(t_BO, period), period)
    return temperature**2 * kl_terms(s_BO, t_BO, temperature).sum(1)


class VirtualAttention(nn.Module):
    """Attention among blocks of channels and a 1x1 convolution within each; the temperature tau is one for all rows."""

    def __init__(self, channels: int, num_blocks: int) -> None:
        super().__init__()
        self.num_blocks = math.gcd(channels, num_blocks)
        self.theta = nn.Parameter(3 * torch.eye(self.num_blocks))
        self.log_tau = nn.Parameter(torch.zeros(()))
        self.mix = nn.Conv2d(channels, channels, 1, groups=self.num_blocks, bias=False)
        nn.init.dirac_(self.mix.weight, groups=self.num_blocks)

    def matrix(self) -> Tensor:
        """A, rows sum to 1: what each block takes from which."""
        return (self.theta / self.log_tau.exp()).softmax(1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        blocks = x_BCHW.reshape(x_BCHW.shape[0], self.num_blocks, -1, *x_BCHW.shape[2:])
        mixed = torch.einsum("ij,bjchw->bichw", self.matrix().to(x_BCHW.dtype), blocks).flatten(1, 2)
        out: Tensor = self.mix(mixed)
        return out


class _Behind:
    """A forward hook that passes the output on through a module; copied with the net it hangs in."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, place: nn.Module, args: object, output: Tensor) -> Tensor:
        passed: Tensor = self.module(output)
        return passed


class Attended(nn.Module):
    """The net `vam` ships: the student, and as modules of its own those that hang behind its stages."""

    def __init__(self, student: nn.Module, attentions: nn.ModuleList) -> None:
        super().__init__()
        self.student, self.attentions = student, attentions

    def forward(self, unit_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] to outputs [B, O]."""
        out_BO: Tensor = self.student(unit_BCHW)
        return out_BO

    def outputs(self, unit_BCHW: Tensor) -> Outputs:
        """The same with features, which come from behind the attention."""
        out: Outputs = self.student.outputs(unit_BCHW)  # type: ignore[operator]
        return out


def stage_modules(net: nn.Module, shape: tuple[int, int, int]) -> list[nn.Module]:
    """The module of a net whose output is each stage map, found by a run on a blank image [C, H, W].

    Raises ValueError where a stage map comes out of no module, or of one that runs more than once.
    """
    seen: list[tuple[nn.Module, object]] = []
    hooks = [m.register_forward_hook(lambda m, a, out: seen.append((m, out))) for m in net.modules() if m is not net]
    try:
        with evaluating(net), torch.no_grad():
            like = next(net.parameters())
            stages: Sequence[Tensor] = net.outputs(torch.zeros(2, *shape, device=like.device)).stages  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    runs = [module for module, _ in seen]
    places = []
    for number, stage in enumerate(stages):
        owners = [module for module, out in seen if out is stage and runs.count(module) == 1]
        if not owners:
            raise ValueError(
                f"vam finds no module behind stage {number} of student.net; choose another net or distiller"
            )
        places.append(owners[0])
    if not places:
        raise ValueError("vam puts attention behind stages, but student.net shows none; choose a net with stages")
    return places


METHODS: dict[str, type[Distiller]] = {"vam": VirtualAttentionKD}
