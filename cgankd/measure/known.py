"""Images that are known already, exactly or with small changes: a wider search than `twins`, for images that come from anywhere.

An unlabelled image that is left out for nothing costs nothing, a test image among those that are trained on flatters; so this
search goes further: past a shift by a pixel, and past pixels that a change of brightness has cut off at black or white. Near
means: by at most SHARE as different as two images of the set usually are. Mirrored and turned copies are not looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.measure.twins import FLAT, ROWS, SEARCHED, SIDES, digests, directions, thumbnails, usual_difference
from cgankd.types import Images, LogFn, silent

SHARE = 0.04
"""Largest difference of a near copy as a share of the usual one. Of 1,000 other images of CIFAR-10, hands and digits one is so
near the nearest of 1,000 at 0.12, 0.09 and 0.04; 99 % of copies changed in one of the ways of docs/howto/unlabelled.md are
below 0.04."""
COARSE = 0.25
"""Pairs that differ by more than this share at SIDES[0] pixels a side are not looked at again."""
BEST = 2
"""Known images that are looked at again for each shift of an image: the nearest at SIDES[0] pixels a side."""
SHIFTS = tuple((dy, dx) for dy in (0, -1, 1) for dx in (0, -1, 1))
"""Shifts by up to a pixel, under each of which the nearest images are found and pairs compared."""
DARK, LIGHT = 4, 251
"""Pixels up to the one and from the other on may be cut off, and are left out of a comparison."""
SEEN = 0.3
"""Where less than this share of the pixels is left, all of them are compared."""
PAIRS = 8192
"""Pairs compared at a time."""


@dataclass(frozen=True)
class Known:
    """For each of U images the known image it is a copy of: the number of its set (-1 where there is none), its row there,
    and whether all pixels are equal."""

    part_U: Tensor
    row_U: Tensor
    exact_U: Tensor


def known_images(images_UCHW: Images, sets: Mapping[str, Images], log: LogFn = silent) -> Known:
    """Exact and near copies of the images of several sets among others; of a copy of several the first set counts."""
    part_U, row_U = torch.full((len(images_UCHW),), -1), torch.full((len(images_UCHW),), -1)
    exact_U = torch.zeros(len(images_UCHW), dtype=torch.bool)
    if len(images_UCHW) == 0 or not sets:
        return Known(part_U, row_U, exact_U)
    first: dict[bytes, tuple[int, int]] = {}
    for part, images in enumerate(sets.values()):
        for row, mark in enumerate(digests(images)):
            first.setdefault(mark, (part, row))
    for place, mark in enumerate(digests(images_UCHW)):
        if mark in first:
            part_U[place], row_U[place] = first[mark]
            exact_U[place] = True
    thumbs = [thumbnails(images) for images in sets.values()]
    limits = [usual_difference(torch.cat(thumbs), side) for side in SIDES]
    known = [(part, start, block) for part, thumb in enumerate(thumbs) for start, block in _blocks(thumb, SEARCHED)]
    rest = (~exact_U).nonzero()[:, 0]
    for done, rows in enumerate(torch.split(rest, ROWS), start=1):
        if len(rows) == 0:
            break
        found = _near(images_UCHW[rows], known, list(sets.values()), limits)
        part_U[rows], row_U[rows] = found
        log(done, {}, -(-len(rest) // ROWS))
    return Known(part_U, row_U, exact_U)


def _blocks(thumb_NCHW: Tensor, size: int) -> list[tuple[int, Tensor]]:
    return [
        (start, directions(thumb_NCHW[start : start + size], SIDES[0])) for start in range(0, len(thumb_NCHW), size)
    ]


def _near(
    query_BCHW: Tensor, known: list[tuple[int, int, Tensor]], sets: list[Images], usual: list[float]
) -> tuple[Tensor, Tensor]:
    """Set [B] and row [B] of the nearest near copy of each image, -1 where there is none."""
    part_B, row_B = torch.full((len(query_BCHW),), -1), torch.full((len(query_BCHW),), -1)
    views = [directions(thumbnails(shifted(query_BCHW, dy, dx)), SIDES[0]) for dy, dx in SHIFTS]
    best = [[torch.empty(len(query_BCHW), 0) for _ in sets] for _ in views]
    rows = [[torch.empty(len(query_BCHW), 0, dtype=torch.int64) for _ in sets] for _ in views]
    for part, start, block_CF in known:
        for view, query_BF in enumerate(views):
            cos_BC = query_BF @ block_CF.T
            top_BK, place_BK = cos_BC.topk(min(BEST, cos_BC.shape[1]), dim=1)
            both = torch.cat([best[view][part], top_BK], 1)
            best[view][part], order = both.topk(min(BEST, both.shape[1]), dim=1)
            rows[view][part] = torch.cat([rows[view][part], place_BK + start], 1).gather(1, order)
    least_B = torch.full((len(query_BCHW),), SHARE * usual[1])
    for view, (dy, dx) in enumerate(SHIFTS):
        for part, images in enumerate(sets):
            close = (best[view][part] >= 1 - COARSE * usual[0]).nonzero()
            if len(close) == 0:
                continue
            near = rows[view][part][close[:, 0], close[:, 1]]
            for own_P, near_P in zip(torch.split(close[:, 0], PAIRS), torch.split(near, PAIRS), strict=True):
                away_P = difference(query_BCHW[own_P], images[near_P], dy, dx)
                for place in (away_P <= least_B[own_P]).nonzero()[:, 0].tolist():
                    own, away = int(own_P[place]), float(away_P[place])
                    # The nearest one; of equally near ones, which copies of copies are, the first set's.
                    if away < float(least_B[own]) or part_B[own] < 0:
                        least_B[own], part_B[own], row_B[own] = away, part, near_P[place]
    return part_B, row_B


def shifted(images_BCHW: Tensor, dy: int, dx: int) -> Tensor:
    """Images moved by so many pixels, up to one each way; the edge is repeated."""
    height, width = images_BCHW.shape[2:]
    padded = F.pad(images_BCHW.float(), (1, 1, 1, 1), mode="replicate").to(torch.uint8)
    return padded[:, :, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]


def difference(one_PCHW: Tensor, other_PCHW: Tensor, dy: int, dx: int) -> Tensor:
    """1 - cos [P] of the pixels around their means, brightness and contrast aside, of images moved by (dy, dx) and others.

    Both are averaged to about SIDES[1] pixels a side, without a border, as what a shift brings in is not known. Pixels cut off
    in one of them are left out.
    """
    size = one_PCHW.shape[2]
    step = max(1, size // SIDES[1])
    inner = size - 2 * step

    def cut(x_PCHW: Tensor, down: int, right: int) -> Tensor:
        part = x_PCHW[:, :, step + down : step + down + inner, step + right : step + right + inner].float()
        return F.avg_pool2d(part, step).flatten(1)

    moves = ((one_PCHW, -dy, -dx), (other_PCHW, 0, 0))
    seen = [cut((x > DARK) & (x < LIGHT), *move) > 1 - 1e-3 for x, *move in moves]
    mask_PF = (seen[0] & seen[1]).float()
    mask_PF[mask_PF.mean(1) < SEEN] = 1.0
    one_PF, other_PF = (cut(x, *move) for x, *move in moves)
    return _apart(one_PF, other_PF, mask_PF)


def _apart(one_PF: Tensor, other_PF: Tensor, mask_PF: Tensor) -> Tensor:
    num_P1 = mask_PF.sum(1, keepdim=True)
    sides = []
    for x_PF in (one_PF, other_PF):
        around_PF = (x_PF - (x_PF * mask_PF).sum(1, keepdim=True) / num_P1) * mask_PF
        length_P1 = around_PF.norm(dim=1, keepdim=True)
        flat_P1 = length_P1 < FLAT * num_P1.sqrt()
        sides.append((around_PF / length_P1.clamp(min=1e-6)).masked_fill(flat_P1, 0.0))
    found: Tensor = 1 - (sides[0] * sides[1]).sum(1)
    return found


def repeats(images_UCHW: Images) -> Tensor:
    """True [U] for the images that an earlier one equals pixel by pixel."""
    seen: set[bytes] = set()
    again = []
    for mark in digests(images_UCHW):
        again.append(mark in seen)
        seen.add(mark)
    return torch.tensor(again, dtype=torch.bool)
