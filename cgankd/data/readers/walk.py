"""Which files of a folder are images, and which are left out and why; one rule for every reader and for `predict`."""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cgankd.config import ConfigError
from cgankd.data.regular import open_regular

STUBS = frozenset({".h5", ".hdf", ".grib", ".bufr", ".wmf", ".emf", ".mpg", ".mpeg", ".eps", ".ps", ".iim"})
"""Endings that Pillow knows but cannot decode by itself."""
SYSTEM = frozenset(
    {
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "$recycle.bin",
        "system volume information",
        "@eadir",
        "icon\r",
        "lost+found",
        "#recycle",
        "#snapshot",
        "__pycache__",
        "node_modules",
    }
)
"""Names, in small letters, that systems leave behind; those that begin with a point are hidden as well."""
WITHIN = frozenset({"MPO"})
"""Formats that Pillow opens as another one: .mpo files are JPEG with more pictures behind the first."""
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
"""How files of the usual formats begin; WebP has its own within RIFF."""
NO_ENDING = re.compile(r"(\.\d+)?[. ]*")
LONGER = re.compile(r"\.(jpe?g|png|gif|webp)([^a-z0-9~]|\s|$)")
"""Endings that say what a file is and go on, as downloads have them."""
HIDDEN = "files or folders, hidden or of the system"
FEW = 3


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not used, and why."""

    path: Path
    reason: str
    hidden: bool = False


@dataclass(frozen=True)
class Found:
    """The images below a folder, in the order of their paths, and all that was left out."""

    images: list[Path]
    left: list[LeftOut]


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats that images are read in, as Pillow calls them, whatever a file is named: those of `suffixes`.

    Pillow goes by the first bytes and would hand an EPS in the name of a .png to another program.
    """
    Image.preinit()  # the usual ones are tried first, as Pillow does, and those without first bytes of their own last
    known = Image.registered_extensions()
    ours = {form for end, form in known.items() if form in Image.OPEN and end in suffixes()}
    return tuple(form for form in Image.ID if form in ours)


@functools.cache
def suffixes() -> frozenset[str]:
    """Endings, in small letters, of the files that Pillow can decode here."""
    known = Image.registered_extensions()
    stubs = {known[end] for end in STUBS if end in known}
    return frozenset(end for end, form in known.items() if (form in Image.OPEN or form in WITHIN) and form not in stubs)


def is_image(path: Path) -> bool:
    """Whether a file has the name of an image."""
    return path.suffix.lower() in suffixes()


def holds_image(path: Path) -> bool:
    """Whether a file is an image by its name or, where the name has no ending that says what it is (photo, photo.12,
    photo.jpg_large, photo.png?w=200), by its first bytes."""
    if is_image(path):
        return True
    if not (NO_ENDING.fullmatch(path.suffix) or LONGER.match(path.suffix.lower())):
        return False
    try:
        with open_regular(path) as file:
            start = file.read(12)
    except (OSError, ConfigError):
        return False
    return start.startswith(SIGNATURES) or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def no_image(path: Path) -> str:
    """Why a file that does not have the name of an image is left out."""
    if path.is_symlink() and not path.exists():
        return "links to nothing"
    return f"{path.suffix.lower().strip()} files" if path.suffix.strip(" .") else "files without an ending"


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a system leaves behind."""
    return name.startswith((".", "~$")) or name.lower() in SYSTEM


def same_form(name: str) -> str:
    """A name in the one Unicode form (NFC) in which names are compared and stored."""
    return unicodedata.normalize("NFC", name)


def unwritable(paths: Sequence[Path]) -> list[str]:
    """What is wrong with paths that are not UTF-8: neither DVC nor JSON nor HDF5 can write them; empty where all are."""
    wrong = [path for path in paths if not _is_text(str(path))]
    if not wrong:
        return []
    first = os.fsencode(wrong[0]).decode("utf-8", "backslashreplace")
    return [
        f"{len(wrong)} files lie under names that are not UTF-8, such as {first}; rename them"
        " (`convmv -r -f latin1 -t utf-8 --notest FOLDER` does)"
    ]


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def walk(folder: Path) -> Found:
    """All images of a folder and its sub-folders; a link to nothing counts as the image it is named as. Links are followed,
    but for those to a folder that the link itself lies in."""
    images: list[Path] = []
    left: list[LeftOut] = []
    seen: set[str] = set()
    home = Path(os.path.realpath(folder)).parent
    for top, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(top)
        if place in seen or home.is_relative_to(place):  # a link back into the folder, or to one above it
            if place not in seen or os.path.islink(top):
                left.append(LeftOut(Path(top), "links to a folder that is walked already, or that they lie in"))
            folders.clear()
            continue
        seen.add(place)
        left += [LeftOut(Path(top) / name, HIDDEN, hidden=True) for name in folders if is_hidden(name)]
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in names:
            path = Path(top) / name
            if is_hidden(name):
                left.append(LeftOut(path, HIDDEN, hidden=True))
            elif holds_image(path) and (path.is_file() or path.is_symlink()):
                images.append(path)
            else:
                left.append(LeftOut(path, no_image(path)))
    return Found(sorted(images), sorted(left, key=lambda entry: entry.path))


def beside(folder: Path) -> list[LeftOut]:
    """What lies in a folder beside its visible sub-folders."""
    left = []
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            left.append(LeftOut(path, HIDDEN, hidden=True))
        elif not path.is_dir():
            left.append(LeftOut(path, "images outside of a class folder" if is_image(path) else no_image(path)))
    return left


def visible_folders(folder: Path) -> list[Path]:
    """Sub-folders that are not hidden, in order."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def but_for(left: Sequence[LeftOut]) -> str:
    """What a folder without anything to use holds all the same, in words that go on a sentence."""
    kinds = Counter(entry.reason for entry in left if not entry.hidden)
    first = next((entry.path.name for entry in left if not entry.hidden), "")
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(FEW))
    return f" but for {said}, such as {first}" if kinds else ""


def left_out_lines(left: Sequence[LeftOut], root: Path) -> list[str]:
    """For the user: how many files were left out, for each reason with the first names."""
    groups: dict[str, list[Path]] = {}
    for entry in left:
        groups.setdefault(entry.reason, []).append(entry.path)
    lines = []
    for reason, paths in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        names = [str(path.relative_to(root)) if path.is_relative_to(root) else str(path) for path in paths[:FEW]]
        lines.append(f"left out: {len(paths)} {reason} ({', '.join(names)}{', ...' if len(paths) > FEW else ''})")
    return lines
