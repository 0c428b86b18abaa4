"""Are there training images in the bank? Nearest neighbours, the distances real images have, exact and shifted copies.

Distances of pixels are root mean square differences in [0, 1] (pixel L2 over the root of the number of pixels), those
of features plain L2. Sets are compared piece by piece, so memory grows with neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from cgankd.data.pixels import to_unit
from cgankd.types import Images

CHUNK = 2048
"""Rows of the searched set compared at a time."""
EXACT = 2.0 / 255.0
"""Largest distance of an exact copy: two grey levels of 256, which rounding and compression leave."""
SHIFTS = tuple((dy, dx) for dy in (0, -1, 1) for dx in (0, -1, 1))
"""Shifts tried, in pixels, none first."""
NEAR_SHARE = 0.5
"""A fake at less than this share of the distance of the closest two real images is a near copy."""
CLOSEST_SHARE = 0.01
"""Quantile of the real-to-real distances under which a fake counts as suspiciously close."""


@dataclass(frozen=True)
class Nearest:
    """For each of B images the distance [B] to the nearest row of a set, and its row number [B]."""

    distance: Tensor
    index: Tensor


@dataclass(frozen=True)
class Shifted:
    """As Nearest, with the shift (dy, dx) [B, 2] of the searched image at which the distance is least."""

    distance: Tensor
    index: Tensor
    shift: Tensor


def candidates(query_BF: Tensor, set_NF: Images, k: int, *, among_A: Tensor | None = None) -> Tensor:
    """Row numbers [B, k] of the k nearest rows by |a|^2 - 2 a . b, nearest first.

    Only the rows `among_A` are searched where given. Fast, but off by rounding where distances are small: measure the
    distances of the candidates anew.
    """
    among_A = torch.arange(len(set_NF)) if among_A is None else among_A
    best_BK = torch.empty(len(query_BF), 0)
    index_BK = torch.empty(len(query_BF), 0, dtype=torch.int64)
    for rows_C in torch.split(among_A, CHUNK):
        part_CF = as_float(set_NF[rows_C])
        squared_BC = part_CF.square().sum(1) - 2 * query_BF @ part_CF.T
        both = torch.cat([best_BK, squared_BC], 1)
        best_BK, place = both.topk(min(k, both.shape[1]), largest=False)
        index_BK = torch.cat([index_BK, rows_C.expand(len(query_BF), -1)], 1).gather(1, place)
    return index_BK


def as_float(rows: Tensor) -> Tensor:
    """Images at rest to [0, 1], features to float32; flat [B, ...]."""
    return (to_unit(rows) if rows.dtype == torch.uint8 else rows.float()).flatten(1)


def nearest(
    query_B: Tensor, set_N: Images, *, own_B: Tensor | None = None, among_A: Tensor | None = None, k: int = 4
) -> Nearest:
    """Nearest row of a set: uint8 images by root mean square pixel difference, float features by L2.

    The distance is measured exactly on the k best candidates, so that equal images are at distance 0. With `own_B` [B]
    given, that row of the set is not its own neighbour (leave one out): infinite where there is no other. Only the
    rows `among_A` are searched where given.
    """
    query_BF = as_float(query_B)
    index_BK = candidates(query_BF, set_N, k, among_A=among_A)
    columns = [(query_BF - as_float(set_N[index_BK[:, i]])).square() for i in range(index_BK.shape[1])]
    pixels = query_B.dtype == torch.uint8
    distance_BK = torch.stack([c.mean(1) if pixels else c.sum(1) for c in columns], dim=1).sqrt()
    if own_B is not None:
        distance_BK[index_BK == own_B[:, None]] = math.inf
    least_B, place_B = distance_BK.min(dim=1)
    return Nearest(least_B, index_BK.gather(1, place_B[:, None])[:, 0])


def leave_one_out(set_N: Images, batch_size: int = 512) -> Tensor:
    """Distance [N] of each row to the nearest other row: what is usual between real images."""
    rows = torch.split(torch.arange(len(set_N)), batch_size)
    return torch.cat([nearest(set_N[row], set_N, own_B=row).distance for row in rows])


def closeness_limit(real_distance_N: Tensor) -> float:
    """The rule: a fake nearer to a training image than the 1st percentile of leave-one-out distances is suspicious.

    About one in a hundred fresh real images would be, too; a far larger share among fakes means memorised images.
    """
    return float(torch.quantile(real_distance_N.double(), CLOSEST_SHARE))


def closest_real(*real_distances: Tensor) -> float:
    """Distance of the two most alike of real images that are not the same picture; infinite where there are none.

    Pictures that a data set holds twice say nothing about how close different ones come.
    """
    distance = torch.cat(real_distances)
    different = distance[distance > EXACT]
    return float(different.min()) if len(different) else math.inf


def near_limit(closest: float) -> float:
    """The rule: a fake nearer to a training image than NEAR_SHARE of the closest real pair is a copy with small changes.

    An exact copy is always one.
    """
    return max(EXACT, NEAR_SHARE * closest) if math.isfinite(closest) else EXACT


def shift_distance(a_BCHW: Tensor, b_BCHW: Tensor, dy: int, dx: int) -> Tensor:
    """Root mean square pixel difference [B] of a(y, x) and b(y - dy, x - dx) where the two overlap; uint8 images."""
    height, width = a_BCHW.shape[2:]

    def part(images: Tensor, y: int, x: int) -> Tensor:
        return to_unit(images[:, :, max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)])

    return (part(a_BCHW, dy, dx) - part(b_BCHW, -dy, -dx)).square().flatten(1).mean(1).sqrt()


def nearest_shifted(query_BCHW: Tensor, set_NCHW: Images, index_BK: Tensor) -> Shifted:
    """The nearest of the candidate images [B, K] when each may be shifted by up to one pixel.

    Only candidates are tried (nearest unshifted pixels, nearest features): a search over all shifts of all images
    would cost nine times the whole comparison. Which candidate and shift fit best is told by the pixels inside a
    border of one, by products; the distance is then measured exactly, and the first candidate as it is counts too.
    """
    rows, height, width = len(query_BCHW), *query_BCHW.shape[2:]
    crops = [query_BCHW[:, :, 1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx] for dy, dx in SHIFTS]
    crop_BSD = to_unit(torch.stack([crop.flatten(1) for crop in crops], dim=1))
    inner_BKD = to_unit(set_NCHW[index_BK.flatten()][:, :, 1:-1, 1:-1].reshape(*index_BK.shape, -1))
    squared_BSK = crop_BSD.square().sum(2)[:, :, None] - 2 * crop_BSD @ inner_BKD.transpose(1, 2)
    squared_BSK += inner_BKD.square().sum(2)[:, None]
    place_B = squared_BSK.flatten(1).argmin(dim=1)
    turn_B = place_B // index_BK.shape[1]
    index_B = index_BK.gather(1, (place_B % index_BK.shape[1])[:, None])[:, 0]
    distance_B = torch.empty(rows)
    for turn, (dy, dx) in enumerate(SHIFTS):
        row = (turn_B == turn).nonzero()[:, 0]
        distance_B[row] = shift_distance(query_BCHW[row], set_NCHW[index_B[row]], dy, dx)
    plain_B = shift_distance(query_BCHW, set_NCHW[index_BK[:, 0]], 0, 0)
    as_is = plain_B < distance_B
    shift_B2 = torch.tensor(SHIFTS)[turn_B].masked_fill(as_is[:, None], 0)
    return Shifted(torch.minimum(distance_B, plain_B), torch.where(as_is, index_BK[:, 0], index_B), shift_B2)


def nearest_within(set_N: Images, groups: Iterable[Tensor], batch_size: int = 512) -> Tensor:
    """Distance [N] of each row to the nearest other row of its own group; infinite for a row alone or in no group.

    `groups` are row numbers: of one label for duplicates anywhere in the bank, or random blocks of the size of the
    training set, in which distances can be set beside those of the training images (more rows lie closer together).
    """
    distance_N = torch.full((len(set_N),), math.inf)
    for rows_A in groups:
        for part_B in torch.split(rows_A, batch_size):
            distance_N[part_B] = nearest(set_N[part_B], set_N, own_B=part_B, among_A=rows_A).distance
    return distance_N
