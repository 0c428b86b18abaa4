"""What the user's own images are: how many, how large, which labels. Found out before a project is made of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import torch

from cgankd.config import ConfigError
from cgankd.config.data import check_groups
from cgankd.data.readers.class_folders import list_folder
from cgankd.data.readers.class_words import untested
from cgankd.data.readers.csv_list import list_groups, unmeasured, wild_labels
from cgankd.data.readers.groups import Grouping, column_of
from cgankd.data.readers.image_folder import folder_groups
from cgankd.data.readers.label_text import check_digits, class_names, number, plain
from cgankd.data.readers.list_columns import FOUND, Columns
from cgankd.data.readers.list_lines import Entry, Listed, read_list
from cgankd.data.readers.survey import Survey, survey_images
from cgankd.data.readers.walk import left_out_lines

KINDS = {False: "class", True: "scalar"}
"""Whether labels are measured numbers -> the word for it in params.yaml."""
FEW_LABELS, IMAGES_A_LABEL = 20, 5
"""Whole numbers are classes where there are at most so many different ones, each with so many images on average."""
PADDED = re.compile(r"0\d+", re.ASCII)
"""A number as a person writes a name, a code or a row: 007."""
PLAINLY = (
    "write them as plain numbers alone (digits, sign, decimal point, exponent; no unit, date or mark between thousands)"
)
NUMERAL = r"[+-]?[0-9]+([.,'][0-9]+)*"
WITH_UNIT = re.compile(
    rf"[0-9]{{1,4}}([-/.:])[0-9]{{1,2}}(\1[0-9]{{1,4}})?"
    rf"|(?P<before>([$€£¥<>~]|[A-Z]{{3}} ) ?)?{NUMERAL}(?P<after> ?[^\W\d_]{{1,5}}[²³]?| ?[%‰°$€£¥'\"]+[CF]?)?"
)
"""A date or an hour, or a number with a unit as people write one."""
NO_LABEL = ("nan", "na", "n/a", "#n/a", "none", "null", "nil", "-", "--", "?")
"""Names, in small letters, that tables have where there is no label."""
MOST_NAMED = 10
LEAST_A_CLASS, LEAST_SCALARS = 5, 40
"""Fewer images leave too little to train, validate and test on."""


@dataclass(frozen=True)
class OwnData:
    """The user's images with the text of their labels and the split each belongs to ("train" where all do)."""

    source: str
    root: Path
    scalar: bool
    why: str
    paths: list[Path]
    labels: list[str]
    parts: list[str]
    survey: Survey
    said: tuple[str, ...] = ()
    """What was left out, was guessed or looks odd, in words for the user."""
    switch: str = ""
    """How to have the other kind of labels, where these are numbers and could be either."""
    columns: Columns = FOUND
    """The columns of a list as the user named them."""
    label_period: float | None = None
    """Length of a turn of labels that go round."""
    skipped: tuple[str, ...] = ()
    """Lines of a list that are left out because they are no good, with the reason."""
    own_list: bool = False
    """Whether the project needs a list of its own, as the user's goes on naming what is left out."""
    grouping: Grouping | None = None
    """Which images belong together, where the user said so."""
    blocking: tuple[str, ...] = ()
    """What is wrong with folders or lines and blocks a project; it is told with what is wrong with the images."""

    def without(self, rows: frozenset[int]) -> OwnData:
        """The data without the images of these numbers."""
        kept = [row for row in range(len(self.paths)) if row not in rows]
        return replace(
            self,
            paths=[self.paths[row] for row in kept],
            labels=[self.labels[row] for row in kept],
            parts=[self.parts[row] for row in kept],
            survey=self.survey.without(rows),
            grouping=self.grouping and self.grouping.take(torch.tensor(kept, dtype=torch.int64)),
        )

    @property
    def numbers(self) -> list[float]:
        """Scalar labels in raw units, sorted."""
        return sorted(map(float, self.labels))

    def counts(self, part: str = "train") -> Counter[str]:
        """Images of each label in a split of the user's."""
        return Counter(label for label, own in zip(self.labels, self.parts, strict=True) if own == part)


def look_at_folder(root: Path, task: str | None, groups: str | None = None) -> OwnData:
    """A folder with a sub-folder of images for each class. Raises ConfigError where it cannot be told what is a class."""
    if task == KINDS[True]:
        raise ConfigError("--task scalar needs --csv FILE with the lines path,label; folders are classes")
    blocking: list[str] = []
    found = list_folder(str(root), blocking)
    labels = [found.class_names[label] for label in found.labels]
    why = f"{len(found.class_names)} sub-folders"
    counts = Counter(found.parts)
    said = (
        *([f"splits: {', '.join(f'{part} {count}' for part, count in counts.items())}"] if len(counts) > 1 else []),
        *left_out_lines(found.left, root),
        *found.lines,
        *untested(found.labels, found.parts, found.class_names),
    )
    check_groups(groups, "image-folder")
    grouping = folder_groups(found, groups, root)
    survey = survey_images(found.paths)
    data = OwnData("image-folder", root, False, why, found.paths, labels, found.parts, survey, said)
    return replace(data, grouping=grouping, blocking=tuple(blocking))


def look_at_csv(
    path: Path, task: str | None, columns: Columns = FOUND, groups: str | None = None, *, skip_broken: bool = False
) -> OwnData:
    """A list of path,label; the kind of label is read off the labels unless `task` names it.

    `groups` is `data.groups`. `skip_broken` leaves out lines that cannot be used and says so. Raises ConfigError where the
    list cannot be read.
    """
    check_groups(groups, "csv")
    found = read_list(str(path), columns=replace(columns, groups=column_of(groups)), skip_broken=True)
    entries, said = found.entries, found.said
    slips = [] if task == KINDS[False] else _slips(entries)
    survey = survey_images([entry.path for entry in entries])
    blocking = () if skip_broken else tuple(_blocking(found, slips, len(entries), task))
    lines = [*found.skipped(), *(f"{entry.where}: {entry.label!r} is no finite number" for entry in slips)]
    rows = frozenset(row for row, entry in enumerate(entries) if entry in slips)
    entries = [entry for row, entry in enumerate(entries) if row not in rows]
    labels = [entry.label for entry in entries]
    scalar, why = measured(labels)
    if task is not None:
        scalar, why = task == KINDS[True], f"--task {task}"
    wrong = next((f"{entry.where} has {entry.label!r}" for entry in entries if not _is_number(entry.label)), None)
    if scalar and wrong:
        raise ConfigError(f"--task scalar needs a finite number in every line, but {wrong}; {PLAINLY}")
    if scalar:
        labels = [plain(label) for label in labels]
        said += check_digits(labels, str(path))
        said += wild_labels(entries, [float(label) for label in labels])
    else:
        labels, more = class_names(labels)
        said += [*more, *_doubtful_names(labels)]
    paths = [entry.path for entry in entries]
    data = OwnData("csv", path, scalar, why, paths, labels, ["train"] * len(paths), survey.without(rows))
    switch = ""
    if task is None and all(map(_is_number, labels)):
        switch = f"; if they are {'names' if scalar else 'measured'} add --task {KINDS[not scalar]}"
    # A class may be called nan in another list, so that only a list of its own keeps such a line out of this project.
    own_list = bool(slips) and not scalar
    skipped = tuple(lines)
    grouping = list_groups(replace(found, entries=entries), groups, path)
    data = replace(data, switch=switch, said=tuple(said), columns=columns, grouping=grouping)
    return replace(data, skipped=skipped, own_list=own_list, blocking=blocking)


def _slips(entries: list[Entry]) -> list[Entry]:
    """Lines whose label is no number where those of most are: one slip would make classes of numbers."""
    wrong = unmeasured(entries)
    return wrong if len(wrong) < len(entries) / 2 else []


def _blocking(found: Listed, slips: list[Entry], num: int, task: str | None) -> Iterator[str]:
    """Lines that cannot be used, in words."""
    if found.problem:
        yield found.problem
    if slips:
        more = f", and {len(slips) - 1} more" if len(slips) > 1 else ""
        names = "" if task else ", or add --task class if the labels are names"
        yield (
            f"{slips[0].where}: label {slips[0].label!r} is not a finite number{more}, but {num - len(slips)} of {num}"
            f" labels are; correct or remove the line{names}"
        )


def _is_number(text: str) -> bool:
    return number(text) is not None


def measured(labels: list[str]) -> tuple[bool, str]:
    """Whether labels are measured numbers and not names of classes, and the reason in words."""
    word = next((label for label in labels if not _is_number(label)), None)
    if word is not None:
        return False, f"the label {word!r} is not a number"
    padded = next((label for label in labels if PADDED.fullmatch(label)), None)
    if padded is not None:
        return False, f"labels such as {padded!r} have zeros in front, as numbers that are names have"
    different = set(map(Decimal, map(plain, labels)))
    if not all(value == value.to_integral_value() for value in different):
        return True, "the labels are numbers with fractions"
    if len(different) <= FEW_LABELS and len(labels) >= IMAGES_A_LABEL * len(different):
        return False, f"the labels are {len(different)} different whole numbers"
    return True, f"the labels are numbers, {len(different)} different ones"


def too_little(data: OwnData) -> str | None:
    """What to say where there is too little of the data for a project, with the cure; None where there is enough."""
    if data.scalar:
        if len(data.labels) < LEAST_SCALARS:
            return f"{data.root} lists {len(data.labels)} images; a project of measured labels needs {LEAST_SCALARS} or more"
        if data.numbers[0] == data.numbers[-1]:
            return f"{data.root}: all labels are {data.labels[0]}; there must be different ones"
        return None
    counts = data.counts()
    if len(counts) < 2:
        return f"{data.root} has {len(counts)} class; there must be at least two"
    name, least = min(counts.items(), key=lambda item: item[1])
    if least >= LEAST_A_CLASS:
        return None
    numbers = "; if the labels are measured numbers, add --task scalar" if _is_number(name) else _like_numbers(data)
    return (
        f"class {name!r} of {data.root} has {least} images; a project needs {LEAST_A_CLASS} or more of each class: add some,"
        f" or remove the class{numbers}"
    )


def _like_numbers(data: OwnData) -> str:
    """A hint where labels of a list seem to be numbers with something around them."""
    odd = [label for label in data.labels if any(map(str.isdigit, label)) and not _is_number(label)]
    if data.source != "csv" or 2 * len(set(odd)) < len(set(data.labels)):
        return ""
    return f"; if labels such as {odd[0]!r} are measured, {PLAINLY}"


def _doubtful_names(labels: list[str]) -> Iterator[str]:
    """What to say where all classes are a number with the same unit (12 cm, 5%, $ 3), or a date: they may be measured; and
    of a class whose name stands for no label."""
    names = set(labels)
    for name in sorted(name for name in names if name.lower() in NO_LABEL):
        yield (
            f"WARNING: {labels.count(name)} images are of a class {name!r}, which often stands for no label; if it does,"
            " remove those lines"
        )
    if all(map(_is_number, names)):
        return
    found = [match for name in names if (match := WITH_UNIT.fullmatch(name))]
    units = {(match["before"], match["after"]) for match in found}
    if len(found) < len(names) or len(units) > 1:
        return
    yield f"{len(names)} labels such as {labels[0]!r} are taken for names; if they are measured, {PLAINLY}"
