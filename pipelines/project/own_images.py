"""What becomes of the user's own images: found out for all of them before a project is made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from cgankd.data.readers.decode import SAID
from cgankd.data.readers.image_files import problems
from cgankd.data.readers.survey import WHITE, Survey, pixel_range
from cgankd.data.readers.walk import walk
from pipelines.project.fitted import LEAST_SIZE, image_size
from pipelines.project.own_data import OwnData, too_little

FITS = ("crop", "pad", "stretch")
MOST_NAMED = 10
"""Files that are no good that are named one by one."""

LINES_CURE = " (--skip-broken leaves out what cannot be used)"
OTHERS = ("#000000", WHITE, "#808080")
"""Grounds that drawings in one colour are told to try."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The settings of `data` that say what becomes of an image file."""

    image_size: int
    channels: int
    fit: str = "refuse"
    enlarge: bool = False
    pad_colour: str | None = None
    background: str = WHITE
    pixel_range: tuple[float, float] | None = None

    def changes(self) -> dict[str, Any]:
        """By dotted name what is not as usual, for params.yaml."""
        found = {
            spec.name: getattr(self, spec.name) for spec in fields(self) if getattr(self, spec.name) != spec.default
        }
        return {f"data.{name}": list(value) if isinstance(value, tuple) else value for name, value in found.items()}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asks for of the images."""

    size: int | None = None
    """Pixels a side; None leaves it to the data."""
    fit: str | None = None
    """How images become square: crop, pad or stretch."""
    enlarge: bool = False
    """Whether images smaller than the size are enlarged."""
    background: str = WHITE
    """Colour on which transparent images are laid."""
    skip_broken: bool = False
    """Whether files that are no good are left out."""


def looked_over(data: OwnData, wish: Wanted) -> tuple[OwnData, Rules, tuple[str, ...]]:
    """The images to use, the rules for them, and why others are left out. Raises ConfigError with all that blocks."""
    wrong = dict(data.survey.broken)
    if not wish.enlarge:
        wrong |= _too_small(data.survey, wish)
    skipped = tuple(wrong[row] for row in sorted(wrong))
    if wish.skip_broken and wrong:
        data = data.without(frozenset(wrong))
    blocking = [*data.blocking, *_blocking(data, wish)]
    if wrong and not wish.skip_broken:
        blocking.append(
            f"{len(wrong)} of {len(data.paths)} files cannot be used; replace or remove them, or add --skip-broken:"
            + "".join(f"\n  {line}" for line in few_lines(skipped))
        )
    if blocking:
        raise ConfigError("; and ".join(blocking) + (LINES_CURE if data.blocking and data.source == "csv" else ""))
    survey = data.survey
    ends, _ = pixel_range(survey)
    tinted = survey.counts()["images_transparent"] and len(set(bytes.fromhex(wish.background[1:]))) > 1
    rules = Rules(
        image_size=image_size(data, wish.size, wish.fit, enlarge=wish.enlarge),
        channels=1 if survey.grey and not tinted else 3,
        fit=wish.fit or "refuse",
        enlarge=wish.enlarge,
        background=wish.background,
        pixel_range=ends,
    )
    return data, rules, skipped


def _blocking(data: OwnData, wish: Wanted) -> Iterator[str]:
    """What blocks a project of these images, but for files that are no good."""
    survey, odd = data.survey, data.survey.not_square
    if (little := too_little(data)) is not None:
        yield little
    if odd and wish.fit is None:
        yield (
            f"{len(odd)} of {len(data.paths)} images are not square, such as {odd[0]}; add --square crop (their middle),"
            " --square pad (all of them, on a square) or --square stretch (all of them, out of proportion)"
        )
    if lost := survey.unseen(wish.background):
        other = min(OTHERS, key=lambda colour: len(survey.unseen(colour)))
        yield (
            f"{len(lost)} of {len(data.paths)} images have transparent parts and show nothing on {wish.background}, such as"
            f" {lost[0]}; add --background with another colour, such as '{other}'"
        )


def _too_small(survey: Survey, wish: Wanted) -> dict[int, str]:
    """Images that would have to be enlarged, unless that is the most of them: then the size is what is wrong."""
    least = wish.size or LEAST_SIZE
    small = {row: look.size for row, look in survey.looks.items() if survey.side(row, wish.fit) < least}
    if 2 * len(small) > len(survey.looks):
        return {}
    return {
        row: f"{survey.paths[row]} is {width}x{height}, smaller than {least} (--enlarge enlarges it)"
        for row, (width, height) in small.items()
    }


def about_images(survey: Survey, rules: Rules) -> Iterator[str]:
    """What will be done to the images, with their numbers."""
    counts = survey.counts()
    num = len(survey.looks)
    if survey.not_square:
        how = {"crop": "their middle is used", "pad": "they are padded", "stretch": "they are stretched"}[rules.fit]
        yield f"{len(survey.not_square)} of {num} images are not square: {how} (data.fit)"
    small = sum(survey.side(row, rules.fit) < rules.image_size for row in survey.looks)
    if small:
        yield f"{small} of {num} images are smaller than {rules.image_size} and are enlarged (data.enlarge)"
    if counts["images_transparent"]:
        yield (
            f"{counts['images_transparent']} of {num} images have transparent parts, laid on {rules.background}"
            " (data.background)"
        )
    for name in ("images_several", "images_blank"):
        if counts[name]:
            yield f"{counts[name]} of {num} images are {SAID[name]}"
    yield from pixel_range(survey)[1]


def few_lines(lines: Sequence[str]) -> list[str]:
    """The first ten, and how many more there are."""
    more = len(lines) - MOST_NAMED
    return [*lines[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])]


@dataclass(frozen=True)
class More:
    """A folder of images without labels, by the words of the user, where it is, and the images in it."""

    given: Path
    place: Path
    paths: tuple[Path, ...]


def unlabelled(given: Path, project: Path, data: OwnData) -> More:
    """A folder of images without labels beside the labelled ones. Raises ConfigError where it cannot be used."""
    if not given.is_dir():
        raise ConfigError(f"--unlabelled {given} is not a folder; name one that holds images, in sub-folders or not")
    place = given.resolve()
    if place.is_relative_to(project) or project.is_relative_to(place):
        raise ConfigError(
            f"--unlabelled {given} and the project {project} lie in each other; name another folder for one"
        )
    if place == data.root:
        raise ConfigError(
            f"--unlabelled {given} is the folder of the labelled images; move the images without labels out of it into a folder"
            " of their own and name that"
        )
    paths = walk(place).images
    if not paths:
        raise ConfigError(
            f"--unlabelled {given} has no images that can be read, such as .png or .jpg; name another folder"
        )
    mine, labelled = ({os.path.realpath(path) for path in of} for of in (paths, data.paths))
    if data.source != "csv" and place.is_relative_to(data.root) and mine & labelled:
        raise ConfigError(
            f"--unlabelled {given} lies inside the labelled images in {data.root}, where folders are classes and its images"
            " have the labels of these; move it out of there"
        )
    if mine <= labelled:
        raise ConfigError(
            f"--unlabelled {given} has only images that are labelled ones as well, of which none is used; name another folder"
        )
    return More(given, place, tuple(paths))


def usable(more: More, rules: Rules, *, skip_broken: bool) -> tuple[list[str], bool]:
    """What is to be said of images without labels, and whether some cannot be used. Raises ConfigError.

    Each is decoded by the rules of the labelled ones, as `prepare` does, which would otherwise be the first to stop.
    """
    wrong = [problem for problem in problems(more.paths, rules) if problem]
    num = len(more.paths) - len(wrong)
    named = "".join(f"\n  {line}" for line in few_lines(wrong))
    if wrong and not skip_broken:
        raise ConfigError(
            f"{len(wrong)} of {len(more.paths)} files of --unlabelled {more.given} cannot be used; replace or remove them, or"
            f" add --skip-broken:{named}"
        )
    if num == 0:
        raise ConfigError(f"--unlabelled {more.given} has no image that can be used; name another folder:{named}")
    lines = [f"{num} images without labels in {more.place}, for the arms unlabelled and both"]
    if wrong:
        lines += [f"{len(wrong)} files without labels skipped (--skip-broken):", *few_lines(wrong)]
    return lines, bool(wrong)


def with_unlabelled(folder: Path | None, scalar: bool) -> dict[str, Any]:
    """Settings of a project that has images without labels: where they are, an arm with them alone, and one with fakes too."""
    if folder is None:
        return {}
    chosen = {"unlabelled": True, "filter": True}
    fakes = {"bank": True, "subsample": True} | ({"replace": True} if scalar else {})
    arms = {"unlabelled": chosen, "both": fakes | chosen}
    return {"data.unlabelled": str(folder)} | {f"student.arms.{name}": switches for name, switches in arms.items()}
