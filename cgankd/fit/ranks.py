"""One training on several devices: the processes of a torch.distributed group, its ranks, compute the step of one process.

Every rank draws the whole batch and computes the whole loss. What is cut is the nets' work: `spread` runs a net on this rank's
rows, and gives all ranks the outputs on all rows. Batch norms look at the rows of all ranks, dropout is drawn for all rows and
cut. Each rank takes its share of the loss, and gradients are summed, so that a weight gets the gradient of the whole batch
wherever it is used, up to the order of sums. Alone, all of this is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

HALVES = (torch.bfloat16, torch.float16)
"""Sent as float32, as not every backend adds them."""


NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
"""What torch.nn.functional.batch_norm takes, in its order."""


@dataclass(frozen=True)
class Ranks:
    """How many processes train together, and which one this is."""

    rank: int = 0
    size: int = 1


ALONE = Ranks()


def ranks() -> Ranks:
    """Those of the group that this process is in."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return ALONE


def rows_of_rank(total: int, rank: int, size: int) -> slice:
    """The rows of a batch that a rank computes: neighbours, numbers that differ by one at most."""
    low = rank * (total // size) + min(rank, total % size)
    return slice(low, low + total // size + (rank < total % size))


def spread(net: Callable[..., Any]) -> Callable[..., Any]:
    """The net, run by each rank on its rows of the batch, with the outputs on all rows; alone the net itself.

    Tensors with as many rows as the first are cut; outputs may be a tensor, or tuples, dataclasses and None of such. A batch with
    fewer rows than ranks is computed whole by each.
    """
    here = ranks()
    if here.size == 1:
        return net

    def run(*args: Any) -> Any:
        total = len(args[0])
        if total < here.size:
            return net(*args)
        rows = rows_of_rank(total, here.rank, here.size)
        own = [a[rows] if isinstance(a, Tensor) and a.ndim and len(a) == total else a for a in args]
        with Together(rows, total):
            found = net(*own)
        return _all_rows(found, total)

    return run


def backward(loss: Tensor) -> None:
    """Add this rank's share of the gradient of a loss that all ranks computed; `sum_gradients` follows before the step."""
    size = ranks().size
    (loss if size == 1 else loss / size).backward()  # type: ignore[no-untyped-call]


def sum_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Give every weight of an optimiser the gradient of the whole batch."""
    if ranks().size == 1:
        return
    found = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not found:
        return
    flat = torch.cat([grad.flatten() for grad in found])
    dist.all_reduce(flat)
    for grad, part in zip(found, torch.split(flat, [grad.numel() for grad in found]), strict=True):
        grad.copy_(part.view(grad.shape))


def agreed(flag: bool) -> bool:
    """What the first rank says."""
    if ranks().size == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    found = torch.tensor([int(flag)], device=device)
    dist.broadcast(found, 0)
    return bool(found.item())


def same_everywhere(value: int) -> bool:
    """Whether all ranks have the same number."""
    if ranks().size == 1:
        return True
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    found = torch.tensor([value, -value], device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found[0]) == -int(found[1])


class _Sum(torch.autograd.Function):
    """Sum over ranks; so is its gradient, as each rank has a share of the loss."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _Sum.apply(grads[0])


class _Gather(torch.autograd.Function):
    """The rows of all ranks end to end; the gradient of this rank's rows is the sum over what all ranks do with them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        sent = x.contiguous()
        if len(sent) < max(sizes):
            sent = torch.cat([sent, sent.new_zeros(max(sizes) - len(sent), *sent.shape[1:])])
        parts = [torch.empty_like(sent) for _ in sizes]
        dist.all_gather(parts, sent)
        return torch.cat([part[:num] for part, num in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return torch.split(total, ctx.sizes)[dist.get_rank()], None


def _all_rows(found: Any, total: int) -> Any:
    """Outputs on this rank's rows to outputs on all."""
    if isinstance(found, Tensor):
        size = ranks().size
        # A net may give several rows for each of its own, such as the scores of patches.
        times = len(found) // max(1, _length(total))
        sizes = [times * (s.stop - s.start) for s in (rows_of_rank(total, rank, size) for rank in range(size))]
        wire = found.float() if found.dtype in HALVES else found
        return cast(Tensor, _Gather.apply(wire, sizes)).to(found.dtype)
    if isinstance(found, Mapping):
        return {name: _all_rows(part, total) for name, part in found.items()}
    if isinstance(found, tuple | list):
        return type(found)(_all_rows(part, total) for part in found)
    if is_dataclass(found) and not isinstance(found, type):
        return replace(found, **{f.name: _all_rows(getattr(found, f.name), total) for f in fields(found)})
    return found


def _length(total: int) -> int:
    here = ranks()
    rows = rows_of_rank(total, here.rank, here.size)
    return int(rows.stop - rows.start)


class Together(TorchFunctionMode):
    """Within it batch norms that are trained take the mean and variance over all ranks, and random numbers for each row are
    those that one process would draw for it."""

    def __init__(self, rows: slice, total: int) -> None:
        super().__init__()
        self.rows, self.total, self.num = rows, total, rows.stop - rows.start

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            given = dict(zip(NORM, args, strict=False)) | kwargs
            if not given.get("training", False):
                return func(*args, **kwargs)
            moved, affine = (tuple(map(given.get, names)) for names in (NORM[1:3], NORM[3:5]))
            return self._batch_norm(given["input"], moved, affine, given.get("momentum", 0.1), given.get("eps", 1e-5))
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is torch.rand and args and args[0] == self.num:
            return func(self.total, *args[1:], **kwargs)[self.rows]
        return func(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return x
        times = len(x) // self.num
        ones = torch.ones(times * self.total, *x.shape[1:], dtype=x.dtype, device=x.device)
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            ones = ones.contiguous(memory_format=torch.channels_last)
        return x * F.dropout(ones, p)[times * self.rows.start : times * self.rows.stop]

    def _batch_norm(
        self, x: Tensor, moved: Sequence[Any], affine: Sequence[Any], momentum: float, eps: float
    ) -> Tensor:
        (running_mean, running_var), (weight, bias) = moved, affine
        wide = x.float() if x.dtype in HALVES else x
        dims, shape = [0, *range(2, x.ndim)], (1, -1, *(1,) * (x.ndim - 2))
        count = torch.full((1,), float(x.numel() // x.shape[1]), dtype=wide.dtype, device=x.device)
        sums = cast(Tensor, _Sum.apply(torch.cat([wide.sum(dims), count])))
        num = sums[-1].detach()
        mean_C = sums[:-1] / num
        centred = wide - mean_C.view(shape)
        var_C = cast(Tensor, _Sum.apply(centred.square().sum(dims))) / num
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean_C.detach().to(running_mean.dtype), momentum)
                running_var.lerp_((var_C.detach() * num / (num - 1)).to(running_var.dtype), momentum)
        out = centred * (var_C + eps).rsqrt().view(shape)
        if weight is not None:
            out = out * weight.to(out.dtype).view(shape)
        if bias is not None:
            out = out + bias.to(out.dtype).view(shape)
        return out.to(x.dtype)
