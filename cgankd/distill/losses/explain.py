"""KDExplainer: a student tree whose branches tell which classes share which features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.losses.feature_terms import Norm, in_range
from cgankd.distill.losses.logit_terms import row_mean
from cgankd.distill.losses.virtual_attention import soft_rows
from cgankd.types import Outputs


class KDExplainer(Distiller):
    """0.1 CE + 0.9 KD_4 of a tree of blocks on a student's stage [B, C, H, W]; the tree is what is shipped (Xue et al.).

    Levels of `levels` blocks (two 3x3 convolutions with batch norm and ReLU, then a 2x2 maximum), then one leaf a class.
    Child i takes sum_j d_ij of its parents' outputs, d = softmax(log softmax(b / 0.5) / t) over j with t = 10 / (e + 1) in
    epoch e from 0: soft at first, one parent a child at last. In the last `hard_share` of the run d is the one-hot of its
    largest entry and only the weights move. `StudentTree.groups` says which classes hang below which block.
    An adaptation: the tree grows on the student's stage `root_stage` instead of its own stem, leaves are small
    perceptrons, blocks have `block_channels` channels. Branches learn at `branch_rate` times the rate of the weights (0.01
    and 0.05 in the authors' program). task_weight is 0, as the tree's own cross-entropy takes its place. Means, so the
    batch size does not matter.
    """

    name = "kdexplainer"
    needs = Needs(logits=True, stages=True, label=True, teacher_pred_only=True)
    source = "Xue et al., IJCAI 2021, arXiv 2105.04181 (KDExplainer)"
    status = "adaptation"
    flows = (
        Flow("labels", "tree.logits", "tree on student.stage:0", "CE", "0.1"),
        Flow("teacher.logits", "tree.logits", "softmax at T", "KL T^2", "0.9", "branches sharpen as 10 / epoch"),
    )
    task_weight = 0.0

    def __init__(
        self,
        *,
        label_weight: float = 0.1,
        soft_weight: float = 0.9,
        temperature: float = 4.0,
        levels: Sequence[int] = (2, 4, 8),
        block_channels: int = 32,
        root_stage: int = 0,
        first_sharpness: float = 10.0,
        hard_share: float = 0.5,
        branch_rate: float = 0.2,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        in_range(self.name, fake_weight=fake_weight)
        self.fake_weight = fake_weight
        in_range(self.name, label_weight=label_weight, soft_weight=soft_weight)
        in_range(self.name, low=1e-3, temperature=temperature, first_sharpness=first_sharpness)
        in_range(self.name, high=1, hard_share=hard_share)
        in_range(self.name, branch_rate=branch_rate)
        in_range(self.name, low=1, block_channels=block_channels, **{f"levels[{k}]": n for k, n in enumerate(levels)})
        if not levels:
            raise ValueError("kdexplainer.levels must name at least one level, such as [2, 4, 8], but is empty")
        self.label_weight, self.soft_weight, self.temperature = label_weight, soft_weight, temperature
        self.levels, self.block_channels, self.root_stage = tuple(levels), block_channels, root_stage
        self.first_sharpness, self.hard_share, self.branch_rate = first_sharpness, hard_share, branch_rate

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make the tree. Raises TaskNotSupported, and ValueError where the student has no such stage."""
        super().build(student, teacher, data)
        num = len(student.stages)
        if not -num <= self.root_stage < num:
            raise ValueError(
                f"kdexplainer.root_stage must be from {-num} to {num - 1}, as the student has {num} stages, but is "
                f"{self.root_stage}"
            )
        channels = student.stages[self.root_stage][0]
        self.tree = StudentTree(channels, self.levels, self.block_channels, data.num_classes)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"label", "soft"} of the tree's logits."""
        self.tree.sharpness.fill_(self.first_sharpness / (1 + int(epoch)))
        self.tree.hard.fill_(self._is_hard(epoch))
        logits_BO = self.tree(student.stages[self.root_stage].float())
        label_B = F.cross_entropy(logits_BO, batch.y, reduction="none")
        soft_B = soft_rows(logits_BO, teacher.pred, self.temperature)
        return {
            "label": self.label_weight * row_mean(label_B, batch.is_fake, self.fake_weight),
            "soft": self.soft_weight * row_mean(soft_B, batch.is_fake, self.fake_weight),
        }

    def _is_hard(self, epoch: float) -> bool:
        data = self.data_spec
        epochs = data.num_steps * data.batch_size / max(1, data.num_samples)
        return epochs > 0 and epoch >= (1 - self.hard_share) * epochs

    def no_decay(self) -> set[str]:
        """The branches."""
        return {name for name, _ in self.named_parameters() if ".branches." in name}

    def rates(self) -> dict[str, float]:
        """The branches at `branch_rate`."""
        return dict.fromkeys(self.no_decay(), self.branch_rate)

    def student_for_inference(self) -> nn.Module:
        """The student up to the root, and the tree."""
        return Rooted(super().student_for_inference(), self.tree, self.root_stage)


class StudentTree(nn.Module):
    """Levels of blocks with learnt branches; each level is one grouped convolution."""

    sharpness: Tensor
    hard: Tensor

    def __init__(self, c_in: int, levels: Sequence[int], channels: int, num_classes: int) -> None:
        super().__init__()
        first = nn.Conv2d(c_in, levels[0] * channels, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        for number, num in enumerate(levels):
            width = num * channels
            own = first if number == 0 else nn.Conv2d(width, width, 3, padding=1, groups=num, bias=False)
            second = nn.Conv2d(width, width, 3, padding=1, groups=num, bias=False)
            norms = [Norm(width), Norm(width)]
            self.blocks.append(nn.Sequential(own, norms[0], nn.ReLU(), second, norms[1], nn.ReLU()))
        sizes = [*levels, num_classes]
        self.branches = nn.ParameterList(torch.rand(b, a) for a, b in zip(sizes, sizes[1:], strict=False))
        self.leaf_in = nn.Conv1d(num_classes * channels, num_classes * channels, 1, groups=num_classes)
        self.leaf_out = nn.Conv1d(num_classes * channels, num_classes, 1, groups=num_classes)
        self.register_buffer("sharpness", torch.tensor(1.0))
        self.register_buffer("hard", torch.tensor(False))

    def shares(self) -> list[Tensor]:
        """d of each level [children, parents], rows sum to 1; one-hot where the tree is hard."""
        # Copies, as the buffers change before a second backward pass may need them.
        sharpness, hard = self.sharpness.clone(), self.hard.clone()
        soft = [((b / 0.5).log_softmax(1) / sharpness).softmax(1) for b in self.branches]
        one_hot = [F.one_hot(b.detach().argmax(1), b.shape[1]).to(b.dtype) for b in self.branches]
        return [torch.where(hard, h, s) for s, h in zip(soft, one_hot, strict=True)]

    def parents(self) -> list[list[int]]:
        """The parent that counts most for each child, level by level; the last list is that of the classes."""
        return [b.detach().argmax(1).tolist() for b in self.branches]

    def groups(self) -> list[list[list[int]]]:
        """Classes below each block, level by level."""
        parents = self.parents()
        below: list[list[int]] = [[k] for k in range(len(parents[-1]))]
        found = []
        for above, num in zip(reversed(parents), [b.shape[1] for b in reversed(self.branches)], strict=True):
            below = [sorted(k for child, up in enumerate(above) if up == p for k in below[child]) for p in range(num)]
            found.append(below)
        return found[::-1]

    def forward(self, root_BCHW: Tensor) -> Tensor:
        """The root's map to logits [B, O]."""
        x_BCHW = root_BCHW
        for block, share in zip(self.blocks, self.shares(), strict=True):
            x_BCHW = block(x_BCHW)
            if min(x_BCHW.shape[2:]) > 1:
                x_BCHW = F.max_pool2d(x_BCHW, 2)
            parents = x_BCHW.reshape(x_BCHW.shape[0], share.shape[1], -1, *x_BCHW.shape[2:])
            x_BCHW = torch.einsum("ij,bjchw->bichw", share, parents).flatten(1, 2)
        leaf = F.relu(self.leaf_in(x_BCHW.mean((2, 3))[:, :, None]))
        logits_BO: Tensor = self.leaf_out(leaf)[:, :, 0]
        return logits_BO


class Rooted(nn.Module):
    """The net KDExplainer ships: the student up to the root, and the tree on it."""

    def __init__(self, student: nn.Module, tree: StudentTree, root_stage: int) -> None:
        super().__init__()
        self.student, self.tree, self.root_stage = student, tree, root_stage

    def forward(self, unit_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] to logits [B, O]."""
        shown: Outputs = self.student.outputs(unit_BCHW)  # type: ignore[operator]
        out_BO: Tensor = self.tree(shown.stages[self.root_stage])
        return out_BO


METHODS: dict[str, type[Distiller]] = {"kdexplainer": KDExplainer}
