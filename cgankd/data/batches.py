"""Batches of real images, or of real images and the bank's fakes, as a function of (seed, step) alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cgankd.config import ConfigError
from cgankd.rng import generator
from cgankd.types import Images, Split


def chunks(images_NCHW: Images, size: int) -> Iterator[Tensor]:
    """The images in order, `size` at a time, as `torch.split` cuts a tensor (one empty chunk where there are none)."""
    for start in range(0, max(1, len(images_NCHW)), size):
        yield images_NCHW[start : start + size]


@dataclass(frozen=True)
class Batch:
    """Rows of one step: images uint8 [B, C, H, W], labels [B], row numbers [B], is_fake [B].

    A real row has its number in `real`, a fake one len(real) + its number in the bank.
    """

    images_BCHW: Tensor
    labels_B: Tensor
    index_B: Tensor
    is_fake_B: Tensor

    def to(self, device: str) -> Batch:
        """The batch on a device, but for its row numbers, which look things up in tables that are not there."""
        if device == "cpu":
            return self
        return Batch(self.images_BCHW.to(device), self.labels_B.to(device), self.index_B, self.is_fake_B.to(device))


class Walk(Protocol):
    """An endless walk over rows."""

    def rows(self, start: int, count: int) -> Tensor:
        """Row numbers [count] at positions start, start + 1, ... of the walk."""


class Stream:
    """An endless walk over rows: one shuffled epoch after the other, each a function of (seed, name, epoch)."""

    def __init__(self, num_rows: int, name: str, seed: int) -> None:
        self.num_rows, self.name, self.seed = num_rows, name, seed
        self._orders: dict[int, Tensor] = {}

    def rows(self, start: int, count: int) -> Tensor:
        """Row numbers [count] at positions start, start + 1, ... of the walk, across epoch borders."""
        first, last = start // self.num_rows, (start + count - 1) // self.num_rows
        orders = {epoch: self._order(epoch) for epoch in range(first, last + 1)}
        self._orders = orders  # Cache only: the epochs of this call are likely those of the next.
        offset = start - first * self.num_rows
        return torch.cat(list(orders.values()))[offset : offset + count]

    def _order(self, epoch: int) -> Tensor:
        if epoch in self._orders:
            return self._orders[epoch]
        return torch.randperm(self.num_rows, generator=generator(self.seed, "epoch", self.name, epoch))


class EvenStream:
    """An endless walk in which each group of rows comes equally often: rounds of one row of each group, in an order drawn for
    the round; the rows of a group go through its own shuffled epochs. A function of (seed, name, position)."""

    def __init__(self, group_N: Tensor, name: str, seed: int) -> None:
        self.name, self.seed = name, seed
        self.members = [(group_N == group).nonzero()[:, 0] for group in torch.unique(group_N)]
        self.streams = [Stream(len(rows), f"{name}/{place}", seed) for place, rows in enumerate(self.members)]

    def rows(self, start: int, count: int) -> Tensor:
        """Row numbers [count] at positions start, start + 1, ... of the walk."""
        groups = len(self.members)
        first, last = start // groups, (start + count - 1) // groups
        rounds = range(first, last + 1)
        walks = zip(self.members, self.streams, strict=True)
        row_RG = torch.stack([rows[stream.rows(first, len(rounds))] for rows, stream in walks], dim=1)
        keys = [generator(self.seed, "round", self.name, number) for number in rounds]
        order_RG = torch.stack([torch.randperm(groups, generator=key) for key in keys])
        offset = start - first * groups
        return row_RG.gather(1, order_RG).flatten()[offset : offset + count]


GroupFn = Callable[[Tensor], Tensor]
"""From labels [N] to group numbers [N]."""


@dataclass(frozen=True)
class TwoSources(Split):
    """A bank of fakes and, from row `edge` on, of unlabelled images."""

    edge: int

    def __post_init__(self) -> None:
        super().__post_init__()
        assert 0 <= self.edge <= len(self), "the edge lies among the rows"


class Mixture:
    """M3's training set: real images, and the bank's fakes by concatenation or at a set share of each batch.

    Without a bank all rows are real. With `real_share` s each batch has round(s * B) rows of the real stream and the
    rest of the bank's; with None one stream runs over the N + M rows together, as in the paper. A bank of two sources
    has a stream for each: the rest of the batch is halved between them, whatever their sizes, and an odd place is a fake's.
    `groups` of labels makes each group come equally often in each stream, in place of each row.

    Raises ConfigError where a set is empty or the share leaves a batch without real or without fake rows.
    """

    def __init__(
        self,
        real: Split,
        bank: Split | None,
        *,
        real_share: float | None,
        batch_size: int,
        seed: int,
        groups: GroupFn | None = None,
    ) -> None:
        if len(real) == 0:
            raise ConfigError("the training split is empty; give data.root more images")
        if bank is not None and len(bank) == 0:
            raise ConfigError("the bank is empty; raise bank.num_fakes or bank.rho")
        if bank is not None:
            assert bank.labels.dtype == real.labels.dtype, "real and bank labels are of one type"
            assert bank.images.shape[1:] == real.images.shape[1:], "real and bank images are of one shape"
        self.real, self.bank, self.batch_size = real, bank, batch_size
        self.num_real = batch_size
        self.shares: list[tuple[int, int]] = []
        """Rows of each further stream in a batch, and the number of its first row."""

        def walk(label_N: Tensor, name: str) -> Walk:
            return Stream(len(label_N), name, seed) if groups is None else EvenStream(groups(label_N), name, seed)

        self.streams = [walk(real.labels, "real")]
        if bank is None:
            return
        if real_share is None:
            self.streams = [walk(torch.cat([real.labels, bank.labels]), "all")]
            return
        self.num_real = round(real_share * batch_size)
        if not 0 < self.num_real < batch_size:
            raise ConfigError(
                f"student.real_share {real_share} of a batch of {batch_size} is {self.num_real} real images;"
                " choose a share that leaves at least one real and one fake image in a batch"
            )
        if not isinstance(bank, TwoSources):
            self.streams.append(walk(bank.labels, "bank"))
            self.shares = [(batch_size - self.num_real, len(real))]
            return
        second = (batch_size - self.num_real) // 2
        if not 0 < bank.edge < len(bank) or second == 0:
            raise ConfigError(
                "an arm with fakes and unlabelled images needs some of both, and room for one of each in a batch beside the"
                f" {self.num_real} real ones; lower student.real_share or raise student.batch_size"
            )
        self.streams += [walk(bank.labels[: bank.edge], "bank"), walk(bank.labels[bank.edge :], "unlabelled")]
        self.shares = [(batch_size - self.num_real - second, len(real)), (second, len(real) + bank.edge)]

    def batch(self, step: int) -> Batch:
        """The batch of a step; the same step gives the same batch, whatever was asked before."""
        index_B = self.streams[0].rows(step * self.num_real, self.num_real)
        for walk, (num, first) in zip(self.streams[1:], self.shares, strict=True):
            index_B = torch.cat([index_B, walk.rows(step * num, num) + first])
        is_fake_B = index_B >= len(self.real)
        if self.bank is None:
            return Batch(self.real.images[index_B], self.real.labels[index_B], index_B, is_fake_B)
        images_BCHW = torch.empty((len(index_B), *self.real.images.shape[1:]), dtype=torch.uint8)
        labels_B = torch.empty(len(index_B), dtype=self.real.labels.dtype)
        for split, mask_B, first in ((self.real, ~is_fake_B, 0), (self.bank, is_fake_B, len(self.real))):
            rows = index_B[mask_B] - first
            images_BCHW[mask_B], labels_B[mask_B] = split.images[rows], split.labels[rows]
        return Batch(images_BCHW, labels_B, index_B, is_fake_B)
