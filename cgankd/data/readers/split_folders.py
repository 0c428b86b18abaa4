"""Which folders are splits of one set, by their names and by the class folders that they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cgankd.data.readers.walk import beside, holds_image, same_form, visible_folders, walk

PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
}
"""Sub-folders of a set that is split already, in small letters, and the split that each one is."""
SHORT = {"trn": "train", "tst": "test", "eval": "test", "evaluation": "test", "holdout": "test"}
"""Further words by which folders are known as splits where all of them hold the same class folders."""
WORDS = re.compile(r"[\W\d_]+")


def further_splits(folders: Sequence[Path], parts: Mapping[str, Path]) -> dict[str, Path]:
    """Splits that are called otherwise, such as eval or test_set beside train, and hold no other classes; none of those of
    which there are several."""
    classes = {same_form(path.name) for path in visible_folders(parts["train"])}
    found: dict[str, list[Path]] = {}
    for path in folders:
        part, _ = split_word(path.name)
        own = {same_form(inner.name) for inner in visible_folders(path)}
        if part not in ("", *parts) and own <= classes and holds_classes(path):
            found.setdefault(part, []).append(path)
    return {part: paths[0] for part, paths in found.items() if len(paths) == 1}


def split_word(name: str) -> tuple[str, tuple[str, ...]]:
    """The split that a folder's name has as one of its words, empty where there is none or several, and the other words."""
    words = tuple(word for word in WORDS.split(name.lower()) if word)
    found = [word for word in words if word in PARTS or word in SHORT]
    part = {**PARTS, **SHORT}[found[0]] if len(found) == 1 else ""
    return part, tuple(word for word in words if word not in found)


def called_alike(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders such as train_set and test_set, birds-train and birds-val, whose class folders have the same names, by the
    split that each is; nothing where they do not tell."""
    found: dict[str, Path] = {}
    for path in folders:
        part, _ = split_word(path.name)
        inner = visible_folders(path)
        path = inner[0] if len(inner) == 1 and visible_folders(inner[0]) else path  # as some archives are wrapped
        if part and holds_classes(path):
            if part in found:
                return {}
            found[part] = path
    if "train" not in found or len(found) < 2:
        return {}
    own = {part: {same_form(inner.name) for inner in visible_folders(path)} for part, path in found.items()}
    if any(not names <= own["train"] for names in own.values()):
        return {}
    return {part: found[part] for part in ("train", "test", "val") if part in found}


def holds_classes(folder: Path) -> bool:
    """Whether a folder named as a split is one: at least two class folders, which hold more images than lie beside them."""
    classes = [path for path in visible_folders(folder) if walk(path).images]
    loose = sum(holds_image(entry.path) and not entry.hidden for entry in beside(folder))
    inside = sum(len(walk(path).images) for path in classes) if loose else 1
    return bool(classes) and inside > loose and (len(classes) > 1 or not loose)
