"""Which images a folder of class folders holds, of which class and split each is, and what was left out and why."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cgankd.config import ConfigError
from cgankd.data.readers.label_text import loosely, number
from cgankd.data.readers.split_folders import PARTS, called_alike, further_splits, holds_classes, split_word
from cgankd.data.readers.walk import LeftOut, beside, but_for, holds_image, same_form, unwritable, visible_folders, walk

LIKE_A_SPLIT = re.compile(
    rf"({'|'.join(PARTS)}|eval|evaluation|holdout|unlabel+ed)([ _-]?(set|data|images?|imgs?|pics|split|\d+))*"
)
DEEPEST = 3
"""Levels below at which class folders are looked for."""
NUMBERED = re.compile(r"([^\W\d_]+)[ ._-]*\d+")
"""A file name that says what is on the picture, such as cat.12."""
FEW, MOST_WRONG = 3, 10
"""Folders, and faults, that are named one by one."""


@dataclass(frozen=True)
class Listing:
    """The images of a folder with the number of their class and the split they belong to ("train" where all do).

    `lines` are what a user should know of the names; `notes` are counts that are stored with the data set; `within` is the
    sub-folder of its class folder that each image lies in, "." for the class folder itself.
    """

    paths: list[Path]
    labels: list[int]
    parts: list[str]
    class_names: tuple[str, ...]
    left: tuple[LeftOut, ...] = ()
    lines: tuple[str, ...] = ()
    notes: Mapping[str, float] = field(default_factory=dict)
    within: tuple[str, ...] = ()


def list_folder(text: str, blocking: list[str] | None = None) -> Listing:
    """root/<class>/ or root/train/<class>/ with root/test/<class>/ and root/val/<class>/, none of the images opened.

    Class folders are walked into. Raises ConfigError where it cannot be told what is a class and what a split; what is wrong
    with single folders or files goes to `blocking` where that is given, for a caller that goes on to look at the images.
    """
    root = Path(text)
    if not root.is_dir():
        raise ConfigError(f"data.root {text!r} is not a folder; name one with a sub-folder of images for each class")
    folders, left, lines = _parts(root)
    train = folders["train"]
    class_names = tuple(sorted({same_form(path.name) for path in visible_folders(train)}))
    if len(class_names) < 2:
        raise ConfigError(
            f"data.root: {str(train)!r} has {len(class_names)} sub-folders; there must be one for each of"
            f" at least two classes{_deeper(train)}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    part_of: list[str] = []
    within: list[str] = []
    deeper: Counter[Path] = Counter()
    wrong: list[str] = []
    for part, folder in folders.items():
        left += beside(folder) if folder != root else []
        for place in visible_folders(folder):
            name = same_form(place.name)
            if name not in class_names:
                wrong.append(
                    f"{place} is a class that the training folder {train} lacks; add it there{_spelt(name, class_names)}"
                )
                continue
            found = walk(place)
            if not found.images:
                kinds = Counter(entry.reason for entry in found.left if not entry.hidden)
                only = "".join(f", only {count} {kind}" for kind, count in kinds.most_common(1))
                wrong.append(
                    f"{place} has no images that can be read, such as .png or .jpg{only}; add some or remove it"
                )
                continue
            left += found.left
            deeper.update(path.parent for path in found.images if path.parent != place)
            paths += found.images
            within += [same_form(path.parent.relative_to(place).as_posix()) for path in found.images]
            labels += [class_names.index(name)] * len(found.images)
            part_of += [part] * len(found.images)
    wrong += _in_two_classes(paths, labels, class_names)
    wrong += unwritable([root, *paths, *(entry.path for entry in left)])
    if wrong:
        said = "; and ".join(wrong[:MOST_WRONG]) + _more(len(wrong) - MOST_WRONG)
        if blocking is None:
            raise ConfigError(said)
        blocking.append(said)
    if deeper:
        first = next(iter(deeper)).relative_to(root)
        lines.append(
            f"{sum(deeper.values())} images lie in sub-folders of class folders, such as {first}, and are used"
        )
        lines += _same_within(visible_folders(train))
    lines += _about_names(folders, class_names)
    return Listing(paths, labels, part_of, class_names, tuple(left), tuple(lines), within=tuple(within))


def _in_two_classes(paths: Sequence[Path], labels: Sequence[int], class_names: Sequence[str]) -> Iterator[str]:
    """Files that are in folders of two classes by way of links, symbolic or hard."""
    seen: dict[object, int] = {}
    for row, path in enumerate(paths):
        try:
            file = path.stat()
        except OSError:  # a link to nothing, which is told with the files that are no good
            continue
        place = (file.st_dev, file.st_ino) if file.st_ino else os.path.realpath(path)  # 0 where a disk has no numbers
        before = seen.setdefault(place, row)
        if labels[before] != labels[row]:
            names = " and of ".join(repr(class_names[labels[own]]) for own in (before, row))
            yield f"{path} is by a link the same file as {paths[before]}, so that it is of class {names}; remove one of them"


def _more(count: int) -> str:
    return f"; and {count} more" if count > 0 else ""


def _parts(root: Path) -> tuple[dict[str, Path], list[LeftOut], list[str]]:
    """Folder of each split, what lies beside them, and what to say. Raises ConfigError."""
    folders = visible_folders(root)
    around = beside(root)
    loose = sum(holds_image(entry.path) and not entry.hidden for entry in around)
    if not folders:
        if loose:
            raise ConfigError(
                f"data.root {str(root)!r} has {loose} images but no sub-folders; sort them into one sub-folder for each"
                " class, or name a CSV file with the lines path,label"
            )
        raise ConfigError(f"data.root {str(root)!r} is empty{but_for(around)}; put a sub-folder for each class into it")
    named = [path for path in folders if path.name.lower() in PARTS]
    splits = [path for path in named if holds_classes(path)]
    if not any(PARTS[path.name.lower()] == "train" for path in splits):
        if not splits and (called := called_alike(folders)):
            said = ", ".join(f"{path.name} as {part}" for part, path in called.items())
            around += [
                LeftOut(image, f"images in {path.name}, which is no split")
                for path in folders
                if not any(place.is_relative_to(path) for place in called.values())
                for image in walk(path).images
            ]
            return called, around, [f"taken for splits of one set: {said}"]
        return {"train": root}, around, _no_splits(root, folders, splits)
    parts: dict[str, Path] = {}
    for path in splits:
        part = PARTS[path.name.lower()]
        if part in parts:
            raise ConfigError(f"data.root {str(root)!r} has both {parts[part].name} and {path.name}; keep one of them")
        parts[part] = path
    others = [path for path in folders if path not in splits]
    with_images = [path for path in others if walk(path).images]
    like_classes = [path for path in with_images if not LIKE_A_SPLIT.fullmatch(path.name.lower())]
    if len(splits) == 1 and len(like_classes) > 1:
        names = ", ".join(path.name for path in like_classes[:FEW])
        raise ConfigError(
            f"data.root {str(root)!r} has {splits[0].name} with sub-folders, but images in {names} beside it, so that it"
            f" may be a split or a class; name {splits[0]} itself, or take the sub-folders out of it"
        )
    further = further_splits(others, parts)
    as_splits = ", ".join(f"{path.name} as {part}" for part, path in further.items())
    parts |= further
    for path in [path for path in others if path not in further.values()]:
        why = f"images in {path.name}, which has no class folders"
        if path not in named:
            why = f"images in {path.name}, which is no split"
        around += [LeftOut(image, why) for image in walk(path).images] or [LeftOut(path, "folders without images")]
    return (
        {part: parts[part] for part in ("train", "test", "val") if part in parts},
        around,
        ([f"taken for splits of one set: {as_splits}"] if further else []),
    )


def _no_splits(root: Path, folders: Sequence[Path], splits: Sequence[Path]) -> list[str]:
    """What to say where all folders are classes. Raises ConfigError where they look like splits."""
    if splits:
        raise ConfigError(
            f"data.root {str(root)!r} has {splits[0].name} with class folders but no such train; add train with a"
            f" sub-folder for each class, or name {splits[0]} itself"
        )
    like = [path for path in folders if LIKE_A_SPLIT.fullmatch(path.name.lower())]
    flat = next((path for path in like if PARTS.get(path.name.lower()) == "train"), None)
    if flat is None:  # birds_train beside birds_test
        named = [(path, *split_word(path.name)) for path in folders if not holds_classes(path)]
        trains = {rest: path for path, part, rest in named if part == "train"}
        others = [(path, trains.get(rest)) for path, part, rest in named if part]
        pairs = [(path, train) for path, train in others if train not in (None, path)]
        flat, like = (pairs[0][1], [path for pair in pairs for path in pair if path]) if pairs else (None, like)
    if flat is None or len(like) < 2:
        return []
    names = {same_form(path.name.lower()) for path in folders}
    if names != {"train", "test"} or _names_tell(flat):
        raise ConfigError(
            f"{flat} has images but no class folders, and {next(path for path in like if path != flat).name} beside it looks"
            " like another split; sort the images of each into one sub-folder for each class, or name a CSV file with the"
            f" lines path,label (if {flat.name} is a class, rename it)"
        )
    return [f"{' and '.join(path.name for path in folders)} are taken for two classes, as they have no class folders"]


def _names_tell(folder: Path) -> bool:
    """Whether file names such as cat.1.jpg and dog.7.jpg say the class, so that the folder is none."""
    words = Counter(match[1].lower() for path in walk(folder).images if (match := NUMBERED.fullmatch(path.stem)))
    return sum(count > 1 for count in words.values()) > 1


def _same_within(classes: Sequence[Path]) -> Iterator[str]:
    """A warning where all class folders have the same sub-folders, which may be the classes."""
    within = [tuple(same_form(path.name) for path in visible_folders(folder)) for folder in classes]
    if len(set(within)) == 1 and {PARTS.get(name.lower()) for name in within[0]} >= {"train", "test"}:
        yield (
            f"WARNING: all class folders hold {' and '.join(within[0][:FEW])}, but the images are split anew; to keep that"
            f" split, make {' and '.join(within[0][:FEW])} the upper folders"
        )
        return
    if len(set(within)) == 1 and len(within[0]) > 1:
        yield (
            f"WARNING: all class folders hold the same sub-folders, {', '.join(within[0][:FEW])}; if those are the classes,"
            " make them the upper folders"
        )


def _deeper(folder: Path) -> str:
    """A hint where the class folders lie some levels below."""
    places = visible_folders(folder)
    for _ in range(DEEPEST):
        for path in places:
            if len(visible_folders(path)) > 1:
                return f" (did you mean {path}?)"
        places = [inner for path in places[:FEW] for inner in visible_folders(path)]
    return ""


def _spelt(name: str, class_names: Sequence[str]) -> str:
    same = [other for other in class_names if other.casefold() == name.casefold()]
    return f", or rename it {same[0]!r}" if same else ""


def _about_names(folders: Mapping[str, Path], class_names: Sequence[str]) -> Iterator[str]:
    """Names that became one, and names that a person may have meant to be one."""
    for folder in folders.values():
        spelt: dict[str, list[Path]] = {}
        for path in visible_folders(folder):
            spelt.setdefault(same_form(path.name), []).append(path)
        for name, paths in spelt.items():
            if len(paths) > 1:
                yield f"{len(paths)} folders of {folder} are called {name!r} in different Unicode forms; they are one class"
    alike: dict[str, list[str]] = {}
    for name in class_names:
        value = number(name)
        alike.setdefault(loosely(name) if value is None else repr(value), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            what = "are one number" if number(names[0]) is not None else "differ in capital letters or spaces alone"
            yield f"classes {' and '.join(map(repr, names))} {what}; they stay apart"
