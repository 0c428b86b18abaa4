"""Batches in pieces where the whole one finds no memory: a step stays what it is or is refused, answers stay the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from cgankd.fit.device import ignore
from cgankd.fit.ranks import backward, ranks
from cgankd.fit.room import NoRoom, lacking, out_of_memory

Say = Callable[[str], None]
Losses = Callable[[Tensor, Any], Mapping[str, Tensor]]
"""Images [B, C, H, W] and their batch to {"loss": ..., parts}, each a scalar."""


def norms_of_batches(net: nn.Module) -> bool:
    """Whether the net has batch norms that look at the batch as they are now."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in net.modules())


def give_back() -> None:
    """Let a CUDA device have the memory of what has just failed."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def rows_of(batch: Any, rows: slice) -> Any:
    """The same rows of every tensor of a batch."""
    return replace(batch, **{f.name: getattr(batch, f.name)[rows] for f in fields(batch)})


@dataclass
class Steps:
    """Gradients of a training's steps. `net` is what is trained, `by_image` says that the loss is a mean over images each of
    which is judged by itself; `count` pieces make a batch, one until memory runs out."""

    net: nn.Module
    by_image: bool
    say: Say = ignore
    count: int = 1

    def gradient(
        self, losses: Losses, unit_BCHW: Tensor, batch: Any, begin: Callable[[], None]
    ) -> Mapping[str, Tensor]:
        """Add the gradient of the step's loss to weights that have none; the loss and its parts. `begin` forgets gradients.

        Raises NoRoom where memory is short and the batch cannot be halved, or the step would not be the same.
        """
        while True:
            try:
                return self._whole(losses, unit_BCHW, batch, begin)
            except (RuntimeError, MemoryError) as error:
                self._halve(error, len(unit_BCHW))
            give_back()  # after the error and all that its trace holds is gone

    def _whole(self, losses: Losses, unit_BCHW: Tensor, batch: Any, begin: Callable[[], None]) -> Mapping[str, Tensor]:
        if self.count == 1:
            parts = losses(unit_BCHW, batch)
            begin()
            backward(parts["loss"])
            return parts
        begin()
        total: dict[str, Tensor] = {}
        size = -(-len(unit_BCHW) // self.count)
        for low in range(0, len(unit_BCHW), size):
            rows = slice(low, low + size)
            share = len(unit_BCHW[rows]) / len(unit_BCHW)
            parts = losses(unit_BCHW[rows], rows_of(batch, rows))
            (share * parts["loss"]).backward()  # type: ignore[no-untyped-call]
            for name, value in parts.items():
                total[name] = total.get(name, torch.zeros(())).to(value.device) + share * value.detach()
        return total

    def _halve(self, error: Exception, size: int) -> None:
        if not out_of_memory(error):
            raise error
        short = f"a training step on {-(-size // self.count)} images finds no memory: {lacking(error)}"
        why = None
        if ranks().size > 1:
            raise NoRoom(f"{short}; lower batch_size or the net, or let more ranks share the batch") from error
        if not self.by_image:
            why = "its loss compares the images of a batch with each other"
        elif norms_of_batches(self.net):
            why = "the net's batch norms look at the whole batch"
        if why is not None:
            raise NoRoom(
                f"{short}; in pieces it would be another step, as {why}: lower batch_size, or the net"
            ) from error
        if self.count >= size:
            raise NoRoom(f"{short}; not even one image fits: lower the net's width, or the size of images") from error
        self.count *= 2
        self.say(f"{short}; from here on a step is made of {self.count} pieces, which add up to the same gradient")


class Halves:
    """Answers on rows in pieces that memory has room for: as many at a time as asked until there is none, then half."""

    def __init__(self, say: Say = ignore) -> None:
        self.say, self.most = say, 0

    def __call__(self, run: Callable[..., Any], *rows: Tensor) -> Any:
        """run(*rows): a tensor [B, ...], or a tuple of such and None. Raises NoRoom where not even one row fits."""
        while True:
            size = min(self.most or len(rows[0]), max(1, len(rows[0])))
            try:
                if size == len(rows[0]):
                    return run(*rows)
                return joined([run(*part) for part in zip(*(torch.split(r, size) for r in rows), strict=True)])
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if size <= 1:
                    raise NoRoom(
                        f"not even one image fits into memory: {lacking(error)}; lower the net's width"
                    ) from error
                self.say(
                    f"{size} images at a time find no memory: {lacking(error)}; from here on {size // 2} at a time, which moves"
                    " the last bits at most"
                )
                self.most = size // 2
            give_back()


def joined(parts: Sequence[Any]) -> Any:
    """Answers on pieces as one: tensors end to end, tuples place by place."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return tuple(None if of[0] is None else torch.cat(of) for of in zip(*parts, strict=True))
