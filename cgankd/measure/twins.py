"""Images that are there twice: exact and near copies across training, validation and test, which make errors flatter.

`copies` asks how near a fake comes beside the closest two real images, and so takes for granted that no two of those are
copies. Here that is the question, so that near means: by at most a hundredth as different as two images of the set usually
are. The difference of two images is 1 - cos of the angle between their pixels around the mean, which brightness, contrast
and noise hardly change, at 8x8 and at 16x16 pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cgankd.data.batches import chunks
from cgankd.rng import generator
from cgankd.types import Images, LogFn, silent

SIDES = (8, 16)
"""Pixels a side at which images are compared; few first, which leaves few pairs to compare at more."""
SHARE = 0.01
"""Two images are near copies at up to this share of the usual difference, at both sides. Of the 1,797 scanned digits 2 are
so near another one, of CIFAR-10's 10,000 test images 6 a training image (all of them known twins); at 0.02, 10 and 13."""
PAIRS = 4096
"""Pairs drawn to find the usual difference."""
FLAT = 4.0
"""Images whose pixels vary by less than this standard deviation, in levels of 256, show nothing that could be compared; they
are looked at for exact copies alone."""
ROWS, SEARCHED = 1024, 2048
"""Images of a block, and images that they are compared with at a time."""
ACROSS = (("train", "val"), ("train", "test"), ("val", "test"))
"""Splits that must not share images; copies are counted in the second one."""
WORDS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Copies:
    """For each image of a split the row of its copy in another one, -1 where there is none; a near one is looked for where no
    exact one is."""

    exact_B: Tensor
    near_B: Tensor

    @property
    def row_B(self) -> Tensor:
        """The row of the copy of either kind."""
        return torch.maximum(self.exact_B, self.near_B)


def thumbnails(images_NCHW: Images) -> Tensor:
    """uint8 [N, C, 16, 16]: the mean of each block of pixels. Images have a side of a multiple of 16."""
    side = SIDES[-1]
    step = images_NCHW.shape[2] // side
    parts = []
    for part in chunks(images_NCHW, ROWS):
        blocks = part.reshape(*part.shape[:2], side, step, side, step).float()
        parts.append(blocks.mean((3, 5)).round().to(torch.uint8))
    return torch.cat(parts)


def directions(thumb_BCHW: Tensor, side: int) -> Tensor:
    """float32 [B, F]: pixels at so many a side, all channels together around their mean, of length 1; zero where flat."""
    step = thumb_BCHW.shape[2] // side
    small = thumb_BCHW.reshape(*thumb_BCHW.shape[:2], side, step, side, step).float().mean((3, 5)).flatten(1)
    small = small - small.mean(1, keepdim=True)
    length_B1 = small.norm(dim=1, keepdim=True)
    flat_B1 = length_B1 < FLAT * small.shape[1] ** 0.5
    found: Tensor = (small / length_B1.clamp(min=1e-6)).masked_fill(flat_B1, 0.0)
    return found


def usual_difference(thumb_NCHW: Tensor, side: int) -> float:
    """Median of 1 - cos over pairs drawn from a set, without flat images; 0 where none is left."""
    one_P, other_P = torch.randint(len(thumb_NCHW), (2, PAIRS), generator=generator(0, "usual difference"))
    one_PF, other_PF = directions(thumb_NCHW[one_P], side), directions(thumb_NCHW[other_P], side)
    good_P = (one_P != other_P) & one_PF.any(1) & other_PF.any(1)
    return float((1 - (one_PF * other_PF).sum(1))[good_P].median()) if bool(good_P.any()) else 0.0


def near_copies(query_BCHW: Tensor, set_NCHW: Tensor, limits: Sequence[float]) -> Tensor:
    """Row [B] of the nearest near copy of each thumbnail in a set of them, -1 where there is none.

    `limits` is the largest difference at each of SIDES. Blocks are compared one by one, so that no table of all pairs arises.
    """
    row_B = torch.full((len(query_BCHW),), -1)
    best_B = torch.full((len(query_BCHW),), -2.0)
    coarse, fine = SIDES
    queries = [(start, directions(part, coarse)) for start, part in _blocks(query_BCHW, ROWS)]
    for first, part in _blocks(set_NCHW, SEARCHED):
        part_CF = directions(part, coarse)
        for start, query_QF in queries:
            cos_QC = query_QF @ part_CF.T
            rows = (cos_QC.amax(1) >= 1 - limits[0]).nonzero()[:, 0]
            if len(rows) == 0:
                continue
            close_RC = cos_QC[rows] >= 1 - limits[0]
            columns = close_RC.any(0).nonzero()[:, 0]
            own = start + rows
            cos_RC = directions(query_BCHW[own], fine) @ directions(part[columns], fine).T
            cos_RC[~close_RC[:, columns] | (cos_RC < 1 - limits[1])] = -2.0
            most_R, place_R = cos_RC.max(1)
            better_R = most_R > best_B[own]
            best_B[own[better_R]] = most_R[better_R]
            row_B[own[better_R]] = first + columns[place_R[better_R]]
    return row_B


def _blocks(thumb_NCHW: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """The first row of each block, and the block."""
    return ((start, thumb_NCHW[start : start + size]) for start in range(0, len(thumb_NCHW), size))


def digests(images_NCHW: Images) -> list[bytes]:
    """A digest of the pixels of each image."""
    return [
        hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()
        for part in chunks(images_NCHW, ROWS)
        for image in part
    ]


def copies_across(splits: Mapping[str, Images], log: LogFn = silent) -> dict[tuple[str, str], Copies]:
    """For each pair of ACROSS the copies of the images of the second split in the first one."""
    thumbs = {name: thumbnails(images) for name, images in splits.items()}
    marks = {name: digests(images) for name, images in splits.items()}
    together = torch.cat(list(thumbs.values()))
    limits = [SHARE * usual_difference(together, side) for side in SIDES]
    found = {}
    for done, (among, of) in enumerate(ACROSS, start=1):
        first = {mark: row for row, mark in reversed(list(enumerate(marks[among])))}
        exact_B = torch.tensor([first.get(mark, -1) for mark in marks[of]], dtype=torch.int64)
        near_B = near_copies(thumbs[of], thumbs[among], limits)
        found[among, of] = Copies(exact_B, near_B.masked_fill(exact_B >= 0, -1))
        log(done, {}, len(ACROSS))
    return found


def copy_counts(found: Mapping[tuple[str, str], Copies]) -> dict[str, float]:
    """Numbers for metrics/prepare.json: images of the second split with an exact, and with only a near copy in the first."""
    counts = {}
    for (among, of), copies in found.items():
        counts[f"exact_copies.{of}_in_{among}"] = float((copies.exact_B >= 0).sum())
        counts[f"near_copies.{of}_in_{among}"] = float((copies.near_B >= 0).sum())
    return counts


def copy_sentences(metrics: Mapping[str, object]) -> list[str]:
    """What to say of the numbers of `copy_counts` beside `num_val` and `num_test`; nothing where there are no copies."""
    said = []
    for among, of in ACROSS:
        values = [metrics.get(f"{kind}_copies.{of}_in_{among}") for kind in ("exact", "near")]
        exact, near = (int(value) if isinstance(value, int | float) else 0 for value in values)
        size = metrics.get(f"num_{of}")
        if exact + near == 0 or not isinstance(size, int | float):
            continue
        many = exact + near > 1
        said.append(
            f"{exact + near} of {int(size)} {WORDS[of]} images ({share(exact + near, size)} %) {'have' if many else 'has'}"
            f" a copy among the {WORDS[among]} images ({exact} exact, {near} near)"
        )
    return said


def share(num: int, of: float) -> str:
    """A share in percent, whole from 1 % on."""
    percent = 100 * num / of
    return f"{percent:.0f}" if percent >= 1 else f"{percent:.1g}"
