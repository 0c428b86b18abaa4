"""KD losses on where a net looks: attention transfer (AT) and class attention transfer (CAT-KD)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.losses.feature_terms import (
    how_pooled,
    in_range,
    mse_rows,
    one_of,
    pair_maps,
    probe,
    same_size,
    shrink,
)
from cgankd.distill.losses.logit_terms import row_mean
from cgankd.types import Outputs


class AttentionTransfer(Distiller):
    """w sum_l d(q_s, q_t) over paired stages, q the unit vector of the squared map averaged over channels [B, H W].

    form "code": d = mean over batch and positions of (q_s - q_t)^2, as in the authors' program, which the usual weight
    1000 belongs to. form "paper": d = mean over the batch of the Euclidean length of q_s - q_t. Maps of unlike size are
    averaged down to the smaller. A fake counts `fake_weight` times. Neither form depends on the scale of the maps, nor on
    the batch size.
    """

    name = "at"
    needs = Needs(stages=True)
    scalar = True
    source = "Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928"
    flows = (Flow("teacher.stages", "student.stages", "mean of squares over channels, unit length", "MSE", "1000"),)

    def __init__(
        self, *, attention_weight: float = 1000.0, form: Literal["code", "paper"] = "code", fake_weight: float = 1.0
    ) -> None:
        super().__init__()
        in_range(self.name, attention_weight=attention_weight, fake_weight=fake_weight)
        one_of(self.name, ("code", "paper"), form=form)
        self.attention_weight, self.form, self.fake_weight = attention_weight, form, fake_weight

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"attention"}."""
        terms = [self._distance(*same_size(s, t)) for s, t in pair_maps(student.stages, teacher.stages, self.name)]
        attention = row_mean(torch.stack(terms, dim=1).sum(1), batch.is_fake, self.fake_weight)
        return {"attention": self.attention_weight * attention}

    def _distance(self, s_BCHW: Tensor, t_BCHW: Tensor) -> Tensor:
        gap_BF = _attention(s_BCHW) - _attention(t_BCHW)
        if self.form == "code":
            return gap_BF.square().mean(1)
        length_B: Tensor = torch.linalg.vector_norm(gap_BF, dim=1)
        return length_B


def _attention(map_BCHW: Tensor) -> Tensor:
    return F.normalize(map_BCHW.square().mean(1).flatten(1))


class ClassAttention(Distiller):
    """w MSE of class activation maps averaged to `map_size` squared (Guo et al., CVPR 2023), mean over all entries.

    A map is [B, O, H, W]: the last linear layer applied at each position of the last stage map before the positions are
    averaged, without bias. A layer on the flattened map has weights of its own at each position; its map is scaled by
    H W, so that positions average to the logits in both cases. `unit_maps` compares maps of unit length (the authors'
    weight is then 400; without it 15, 12 or 0.7 by pair). Raises ValueError where the last layer of a net does not look
    at its last map directly.
    """

    name = "cat_kd"
    needs = Needs(logits=True, stages=True, pooled=True, teacher_head=True)
    source = "Guo et al., CVPR 2023 (CAT-KD)"
    flows = (Flow("teacher.stage:last + head", "student.stage:last + head", "class maps, 2x2 mean", "MSE", "15"),)

    def __init__(
        self, *, map_weight: float = 15.0, map_size: int = 2, unit_maps: bool = False, fake_weight: float = 1.0
    ) -> None:
        super().__init__()
        in_range(self.name, map_weight=map_weight, fake_weight=fake_weight)
        in_range(self.name, low=1, map_size=map_size)
        self.map_weight, self.map_size, self.unit_maps = map_weight, map_size, unit_maps
        self.fake_weight = fake_weight

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Check that both nets' last layers look at their last maps. Raises TaskNotSupported and ValueError."""
        super().build(student, teacher, data)
        for who, spec in (("student", student), ("teacher", teacher)):
            if spec.net is not None and how_pooled(probe(spec.net, data.image_shape)) == "other":
                raise ValueError(_no_maps(who))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"class_maps"}."""
        maps_s, maps_t = same_size(class_maps(student, "student"), class_maps(teacher, "teacher").detach())
        size = (min(self.map_size, maps_s.shape[2]), min(self.map_size, maps_s.shape[3]))
        maps_s, maps_t = shrink(maps_s, size), shrink(maps_t, size)
        if self.unit_maps:
            maps_s, maps_t = F.normalize(maps_s.flatten(2), dim=2), F.normalize(maps_t.flatten(2), dim=2)
        rows_B = mse_rows(maps_s, maps_t)
        return {"class_maps": self.map_weight * row_mean(rows_B, batch.is_fake, self.fake_weight)}


def class_maps(out: Outputs, who: str) -> Tensor:
    """Class activation maps [B, O, H, W] whose mean over positions is pred without the bias.

    Raises ValueError where the last layer does not fit the last map.
    """
    head, last = out.head, out.stages[-1].float()
    if not isinstance(head, nn.Linear):
        raise ValueError(_no_maps(who))
    _, channels, height, width = last.shape
    weight = head.weight.float()
    if weight.shape[1] == channels:
        return torch.einsum("oc,bchw->bohw", weight, last)
    if weight.shape[1] == channels * height * width:
        return height * width * torch.einsum("ochw,bchw->bohw", weight.view(-1, channels, height, width), last)
    raise ValueError(_no_maps(who))


def _no_maps(who: str) -> str:
    return (
        f"cat_kd needs class maps, but the last layer of {who}.net is no linear layer on its last stage map "
        "(averaged or flattened); choose another net or another distiller"
    )


METHODS: dict[str, type[Distiller]] = {"at": AttentionTransfer, "cat_kd": ClassAttention}
