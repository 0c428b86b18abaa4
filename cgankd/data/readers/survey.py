"""A look at all images before there are any settings: sizes, colour, bits, transparency, and the files that are no good."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from cgankd.config import ConfigError
from cgankd.data.readers.decode import COLOUR, Look, look_at

WHITE = "#ffffff"
LEAST_LEVELS = 4
"""Fewer of the 256 levels in an image leave nothing to see."""
LEAST_BRIGHT = 32
"""An image whose brightest value of 256 is below is nearly black; 12 bits saved as 16 are."""


@dataclass(frozen=True)
class Survey:
    """What all images of a set are; `broken` says for the number of a file why it is no good, and `looks` have the others."""

    paths: tuple[Path, ...]
    looks: dict[int, Look]
    broken: dict[int, str]

    @property
    def median_side(self) -> int:
        """Half of the images have a shorter side as long as that."""
        return int(statistics.median(min(look.size) for look in self.looks.values()))

    @property
    def grey(self) -> bool:
        """Whether no image has colour."""
        return all(look.grey for look in self.looks.values())

    @property
    def not_square(self) -> tuple[Path, ...]:
        """Images that are not square as they are shown."""
        return tuple(self.paths[row] for row, look in self.looks.items() if look.size[0] != look.size[1])

    def counts(self) -> Counter[str]:
        """How many images each name of decode.SAID is true of."""
        return Counter(note for look in self.looks.values() for note in look.notes)

    def unseen(self, background: str) -> list[Path]:
        """Drawings in one colour on a transparent ground, of which nothing is seen on a ground of this one."""
        ground = tuple(bytes.fromhex(background.removeprefix("#")))
        near = {
            row: max(abs(level - other) for level, other in zip(look.ink, ground, strict=True)) < LEAST_LEVELS
            for row, look in self.looks.items()
            if look.ink is not None
        }
        return [self.paths[row] for row, hidden in near.items() if hidden]

    def side(self, row: int, fit: str | None) -> int:
        """Side of the square that an image becomes before it is brought to its size."""
        return (max if fit == "pad" else min)(self.looks[row].size)

    def smallest(self, fit: str | None) -> tuple[Path, int]:
        """The image with the shortest side once it is square, and that side."""
        row = min(self.looks, key=lambda row: self.side(row, fit))
        return self.paths[row], self.side(row, fit)

    def without(self, rows: frozenset[int]) -> Survey:
        """The survey of the other images, numbered anew."""
        kept = [row for row in range(len(self.paths)) if row not in rows]
        looks = {place: self.looks[row] for place, row in enumerate(kept) if row in self.looks}
        broken = {place: self.broken[row] for place, row in enumerate(kept) if row in self.broken}
        return Survey(tuple(self.paths[row] for row in kept), looks, broken)


def survey_images(paths: Sequence[Path], *, threads: int | None = None) -> Survey:
    """Decode every image to its end. Raises ConfigError where none of them is any good."""
    assert paths, "a survey needs images"
    with ThreadPoolExecutor(threads or torch.get_num_threads()) as pool:
        found = list(pool.map(_look, paths))
    looks = {row: look for row, look in enumerate(found) if isinstance(look, Look)}
    broken = {row: look for row, look in enumerate(found) if isinstance(look, str)}
    if not looks:
        raise ConfigError(f"none of {len(paths)} images can be used; {broken[0]}")
    return Survey(tuple(paths), looks, broken)


def _look(path: Path) -> Look | str:
    try:
        return look_at(path)
    except ConfigError as problem:
        return str(problem)


def pixel_range(survey: Survey) -> tuple[tuple[float, float] | None, list[str]]:
    """`data.pixel_range` for grey images of more than 8 bits, and what to say of it.

    The range of the set's own values where all images have more than 8 bits, that of the type where others have 8. Raises
    ConfigError where no one rule brings all images to 8 bits.
    """
    kinds = Counter(look.deep for look in survey.looks.values())
    plain, rows = (
        kinds[""] + kinds[COLOUR],
        [row for row, look in survey.looks.items() if look.deep not in ("", COLOUR)],
    )
    colour = [row for row, look in survey.looks.items() if look.deep == COLOUR]
    dark = [row for row in colour if survey.looks[row].high < LEAST_BRIGHT]
    if 2 * len(dark) > len(colour):
        raise ConfigError(
            f"{len(colour)} images have {COLOUR}, of which the upper 8 are used, but {len(dark)} of them would be nearly black,"
            f" such as {survey.paths[dark[0]]}, whose brightest value of 256 is {survey.looks[dark[0]].high:.0f}; stretch the"
            " values of all images to 16 bits, or save them with 8"
        )
    if not rows:
        said = f"{len(colour)} images have {COLOUR}, of which the upper 8 are used: 0 becomes black and 65535 white"
        return None, [said] if colour else []
    lowest = min(rows, key=lambda row: survey.looks[row].low)
    highest = max(rows, key=lambda row: survey.looks[row].high)
    low, high = survey.looks[lowest].low, survey.looks[highest].high
    words = " and ".join(kind for kind in sorted(kinds) if kind not in ("", COLOUR))
    if plain and (set(kinds) - {"", COLOUR, "16 bits"}):
        raise ConfigError(
            f"{len(rows)} images have more than 8 bits a channel ({words}), such as {survey.paths[rows[0]]}, and {plain} have"
            " 8, so that no one rule brings them together; save all of them with 8 bits"
        )
    said = f"{len(rows)} images have more than 8 bits a channel ({words}), with values from {low:g} to {high:g}"
    ends = (0.0, 65535.0) if plain else (low, high)
    span = max(ends[1] - ends[0], 1e-300) / 256
    flat = [row for row in rows if (survey.looks[row].high - survey.looks[row].low) / span < LEAST_LEVELS]
    if 2 * len(flat) > len(rows):
        raise ConfigError(
            f"{said}, of which fewer than {LEAST_LEVELS} of 256 levels would be left in {len(flat)} of them, such as"
            f" {survey.paths[flat[0]]}; correct {survey.paths[lowest]} and {survey.paths[highest]}, which have the least and"
            " the largest value, or save all images with 8 bits"
        )
    if plain and 256 * high / 65535 < LEAST_BRIGHT:
        raise ConfigError(
            f"{said}, and {plain} have 8 bits, so that 65535 is white; the {len(rows)} would be nearly black, such as"
            f" {survey.paths[rows[0]]}; stretch their values to 16 bits, or save all images with 8"
        )
    if plain:
        return None, [f"{said}: 0 becomes black and 65535 white, as {plain} others have 8 bits"]
    return (low, high), [f"{said}: {low:g} becomes black and {high:g} white in all of them (data.pixel_range)"]
