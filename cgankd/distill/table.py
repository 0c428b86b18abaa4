"""A teacher's outputs on un-augmented images, kept for a whole training: in full, in half precision, or the k largest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def top_of(precision: str) -> int | None:
    """The k of "topk:K", None for "full" and "half". Raises ValueError on other names."""
    if precision in ("full", "half"):
        return None
    name, _, number = precision.partition(":")
    if name != "topk" or not number.isdigit() or int(number) < 1:
        raise ValueError(f"student.teacher_cache must be full, half or topk:NUMBER, but is {precision!r}")
    return int(number)


def pack(out_BO: Tensor, precision: str) -> dict[str, Tensor]:
    """Outputs [B, O] as the columns that are kept; see `TeacherTable`. Raises ValueError on an unknown precision."""
    k = top_of(precision)
    if k is None:
        return {"outputs": out_BO.to(torch.float32 if precision == "full" else torch.float16)}
    out_BO = out_BO.float()
    value_BK, index_BK = out_BO.topk(min(k, out_BO.shape[1]), dim=1)
    others = out_BO.shape[1] - value_BK.shape[1]
    rest_BO = out_BO.scatter(1, index_BK, -torch.inf)
    # One logit for all the others that leaves their probability together as it was (of no use where none are left).
    rest_B = rest_BO.logsumexp(1) - torch.tensor(float(others)).log() if others else torch.zeros(len(out_BO))
    kind = torch.int16 if out_BO.shape[1] < 2**15 else torch.int32
    return {"values": value_BK.half(), "classes": index_BK.to(kind), "rest": rest_B.half()}


class TeacherTable:
    """Outputs [N, O] kept as columns: `outputs` in float32 ("full") or float16 ("half"), or the largest ("topk:K").

    "topk" keeps the K largest logits of each row and gives all the others one common logit, so that the softmax of the
    kept ones stays what it was, up to half precision (5e-4 of a logit), and so does what the others have together.
    Memory a row: 4 O, 2 O and 2 + 4 K bytes.
    """

    def __init__(self, columns: Mapping[str, Tensor], num_outputs: int) -> None:
        self.columns, self.num_outputs = dict(columns), num_outputs

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def rows(self, index_B: Tensor) -> Tensor:
        """Outputs [B, O] in float32."""
        if "outputs" in self.columns:
            return self.columns["outputs"][index_B].float()
        kept = {name: column[index_B] for name, column in self.columns.items()}
        out_BO = kept["rest"].float()[:, None].repeat(1, self.num_outputs)
        return out_BO.scatter(1, kept["classes"].long(), kept["values"].float())


def rows_of(tables: list[TeacherTable], index_B: Tensor) -> Tensor:
    """Outputs [B, O] at positions [B] in tables laid end to end."""
    if len(tables) == 1:
        return tables[0].rows(index_B)
    out_BO = torch.empty(len(index_B), tables[0].num_outputs)
    start = 0
    for table in tables:
        inside_B = (index_B >= start) & (index_B < start + len(table))
        out_BO[inside_B] = table.rows(index_B[inside_B] - start)
        start += len(table)
    return out_BO
