"""Micro-batches: a batch in pieces, each with its own backward pass, whose gradients add up to those of the whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from cgankd.config import CganConfig
from cgankd.fit.ranks import backward as add_share
from cgankd.fit.ranks import ranks
from cgankd.fit.room import NoRoom, lacking, out_of_memory
from cgankd.fit.watch import NotFinite
from cgankd.nets.gans.spectral import hold_spectral


def micro_batches(num: int, count: int, *nets: nn.Module) -> Iterator[Tensor]:
    """Row numbers [B / count] of each micro-batch; the two fakes of a pair, num / 2 rows apart, stay together.

    The spectral norms of `nets` move in the first one only, so that all of a step see the same weights.
    """
    for part, rows_2B in enumerate(torch.arange(num).view(2, -1).chunk(count, dim=1)):
        for net in nets:
            hold_spectral(net, part > 0)
        yield rows_2B.flatten()
    for net in nets:
        hold_spectral(net, False)


class Turns:
    """Who is at work in a step, and in how many pieces: `cfg` is that of the discriminator's steps, whose `accumulate` grows
    where memory runs out. Its gradients add up to the same; the generator's step needs its whole batch."""

    def __init__(self, cfg: CganConfig) -> None:
        self.cfg, self.judging = cfg, False

    def halve(self, error: Exception) -> str:
        """Twice the pieces for the discriminator after its step found no memory; what is said of it.

        Raises NoRoom where the generator's did, or the batch cannot be halved; any error that is not of memory.
        """
        if not out_of_memory(error):
            raise error
        short = f"the GAN finds no memory: {lacking(error)}"
        if ranks().size > 1:
            raise NoRoom(f"{short}; lower cgan.batch_size or let more ranks share it") from error
        if not self.judging:
            raise NoRoom(
                f"{short}; the generator's step in pieces would be another one, as its batch norms look at the whole batch: lower"
                f" cgan.batch_size (now {self.cfg.batch_size}), or raise cgan.accumulate if that is as good to you"
            ) from error
        count = 2 * self.cfg.accumulate
        if self.cfg.batch_size % (2 * count):
            raise NoRoom(
                f"{short}, and cgan.batch_size {self.cfg.batch_size} cannot be cut into {count} pieces of pairs: lower it, or"
                " cgan.width"
            ) from error
        self.cfg = replace(self.cfg, accumulate=count)
        return (
            f"{short}; the discriminator's steps are made of {count} pieces from here on, which add up to the same gradient, and"
            " the training goes on from what was saved last"
        )


def backward(loss: Tensor, count: int, setting: str, step: int) -> float:
    """Add the gradient of a micro-batch's share of the mean loss, which is returned; `count` shares make the mean.

    Raises NotFinite where the loss is not finite, naming the setting to lower.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NotFinite(f"loss {value}", setting, step + 1)
    add_share(loss / count)
    return value / count
