"""A generator that is a finite set of labelled images, for example the output of a diffusion model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cgankd.types import Split


class ImageDraw:
    """Images of the asked labels out of a set (cgankd.types.Draw), those of the nearest labels within `radius` first.

    With `reuse` a call is a function of labels and generator alone: each image within the radius is as likely, none
    comes twice in a call before all have come. Without, images are dealt: none comes twice until `restart`, and an
    image serves labels of its own group only (`group_of`: labels [B] to numbers [B]), so that groups do not compete.
    Labels on a circle of length `period` (raw units) are near each other round it.
    """

    def __init__(
        self,
        fakes: Split,
        group_of: Callable[[Tensor], Tensor],
        radius: float,
        *,
        reuse: bool,
        source: str,
        period: float | None = None,
    ) -> None:
        self.fakes, self.group_of, self.radius, self.period = fakes, group_of, radius, period
        self.reuse, self.source = reuse, source
        # Rows are numbered by label; the images stay in their own order, for they may be more than memory holds.
        self.order = torch.argsort(fakes.labels, stable=True)
        label_N = fakes.labels[self.order]
        self.labels = label_N.double().numpy()
        self.groups = group_of(label_N).numpy()
        self.used = np.zeros(len(fakes), np.int64)

    def __call__(self, label_B: Tensor, gen: torch.Generator) -> Tensor:
        """uint8 [B, C, H, W]. Raises ValueError where no image is near enough, or all of them were dealt."""
        if not self.reuse:
            return self.images(self._deal(label_B))
        self.used[:] = 0
        priority = torch.rand(len(self.used), generator=gen).numpy()
        rows = np.empty(len(label_B), np.int64)
        for value, places in self._asked(label_B):
            near = self.near(value)
            near = near[np.lexsort((priority[near], self.used[near]))]
            chosen = near[np.arange(len(places)) % len(near)]
            rows[places] = chosen
            np.add.at(self.used, chosen, 1)
        return self.images(torch.from_numpy(rows))

    def images(self, rows: Tensor) -> Tensor:
        """The images at row numbers [B] in the order of their labels."""
        return self.fakes.images[self.order[rows]]

    def restart(self, label_B: Tensor) -> None:
        """Deal the images of these labels' groups anew."""
        self.used[np.isin(self.groups, self.group_of(label_B).numpy())] = 0

    def skip(self, label_B: Tensor) -> None:
        """Deal images that the caller has already, so that the next ones are those that come after them."""
        self._deal(label_B)

    def near(self, value: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Rows of the images that may serve a label. Raises ValueError where there are none."""
        rows = self._near(value)
        if len(rows) == 0:
            reach = f" within cgan.file_radius ({self.radius:g})" if self.radius else ""
            bins = "" if self.reuse or not self.radius else " and in its label bin"
            raise ValueError(f"cgan.file {self.source!r} has no image of label {value:g}{reach}{bins}; add some")
        return rows

    def _near(self, value: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if self.period is None:
            low = np.searchsorted(self.labels, value - self.radius, "left")
            high = np.searchsorted(self.labels, value + self.radius, "right")
            rows = np.arange(low, high)
        else:
            rows = np.flatnonzero(self._away(value) <= self.radius)
        if not self.reuse:
            asked = self.group_of(torch.tensor([value], dtype=self.fakes.labels.dtype))
            rows = rows[self.groups[rows] == int(asked)]
        return rows

    def _away(self, value: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """How far the label of each row is from a value, the short way round a circle."""
        away: np.ndarray[tuple[int], np.dtype[np.float64]] = np.abs(self.labels - value)
        if self.period is None:
            return away
        away %= self.period
        return np.minimum(away, self.period - away)

    def _asked(self, label_B: Tensor) -> list[tuple[float, np.ndarray[tuple[int], np.dtype[np.int64]]]]:
        """Each label asked for, in ascending order, with the places in the batch that ask for it."""
        values, which = np.unique(label_B.double().numpy(), return_inverse=True)
        order = np.argsort(which, kind="stable")
        return list(zip(values.tolist(), np.split(order, np.cumsum(np.bincount(which))[:-1]), strict=True))

    def servable(self, label_B: Tensor) -> Tensor:
        """True [B] for the labels that an image is left for: of each label the first ones asked for."""
        before = self.used.copy()
        rows = self._dealt(label_B)
        self.used = before
        return torch.from_numpy(rows >= 0)

    def _deal(self, label_B: Tensor) -> Tensor:
        assert not self.reuse, "dealing and reusing do not mix"
        before = self.used.copy()
        rows = self._dealt(label_B)
        if (rows < 0).any():
            self.used = before
            value = float(label_B[int(np.flatnonzero(rows < 0)[0])])
            near, more = self.near(value), int((label_B == value).sum())
            left = int((before[near] == 0).sum())
            raise ValueError(
                f"cgan.file {self.source!r} has {len(near)} images for label {value:g}, of which {left} are left"
                f" where {more} more are asked for; add images, or lower bank.num_fakes, bank.burn_in or"
                " bank.block_size"
            )
        return torch.from_numpy(rows)

    def _dealt(self, label_B: Tensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Rows [B] for the labels, -1 where none is left, marked as used."""
        rows = np.full(len(label_B), -1, np.int64)
        for value, places in self._asked(label_B):
            near = self._near(value)
            free = near[self.used[near] == 0]
            nearest = np.argsort(self._away(value)[free], kind="stable")
            places = places[: len(free)]
            rows[places] = free[nearest[: len(places)]]
            self.used[rows[places]] = 1
        return rows
