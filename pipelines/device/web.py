"""The student as a folder with one page, which any server of files can offer and which computes in the browser.

The page's own files lie in `page/`; onnxruntime-web is copied beside them from a package of npm, whose bytes are pinned.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import importlib.util
import json
import string
import tarfile
import tempfile
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageColor

from cgankd.config import ConfigError, to_dict
from cgankd.data.regular import open_regular, read_bytes
from cgankd.export import ANSWER, MAX_ONNX, PIXELS, open_onnx
from cgankd.labels.answers import Margin, make_answer
from cgankd.types import DatasetInfo

VERSION = "1.30.0"
PACKED = f"onnxruntime-web-{VERSION}.tgz"
"""What `npm pack` calls the package."""
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 of that file as npm states it, in base64."""
MAX_PACKED = 2**26
RUNTIME = "onnxruntime-web"
"""Folder of the page that holds it."""


@dataclass(frozen=True)
class Pinned:
    """A file of the package: its name there, its name in the page's folder, and the SHA-256 of its bytes."""

    source: str
    name: str
    sha256: str


# Servers that do not know .mjs send it as something that no browser runs; .js is known to all.
PINNED = (
    Pinned(
        "dist/ort.wasm.min.js",
        "ort.wasm.min.js",
        "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
    ),
    Pinned(
        "dist/ort-wasm-simd-threaded.mjs",
        "ort-wasm-simd-threaded.js",
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    ),
    Pinned(
        "dist/ort-wasm-simd-threaded.wasm",
        "ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
)
LICENCES = ("LICENSE", "ThirdPartyNotices.txt")
"""Of ONNX Runtime, which its package for Python holds and that of npm does not."""
MARK = '<meta name="generator" content="cgankd">'
"""By what a folder of an earlier export is known."""


@dataclass(frozen=True)
class Page:
    """What a page says of its model beside the answers: a title, a line over it, and facts under the answer by name.

    `info` holds the rules for pictures, `margin` that of the regions, `no_margin` why there is none.
    """

    title: str
    info: DatasetInfo
    margin: Margin | None
    no_margin: str = "none: there were too few validation images"
    kicker: str = "Runs in this browser"
    facts: tuple[tuple[str, str], ...] = ()


def write_web(onnx: Path, out: Path, page: Page, *, workdir: Path, runtime: Path | None = None) -> list[Path]:
    """Write a page for `onnx`, the student.onnx of `cgankd export`, to the folder `out`; returns its files, index.html first.

    `runtime` is the .tgz of `npm pack` or an unpacked onnxruntime-web; without it `find_runtime` looks in `workdir` and in
    `out`. A folder that holds anything but an earlier page is left as it is. Raises ConfigError, having written nothing.
    """
    check_page(out, onnx.name)
    data = read_bytes(onnx, MAX_ONNX)
    _check_fits(onnx, page.info)
    read = find_runtime(workdir, out, runtime)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".web-") as place:
        folder = Path(place) / "page"
        (folder / RUNTIME).mkdir(parents=True)
        for pinned in PINNED:
            (folder / RUNTIME / pinned.name).write_bytes(read(pinned))
        for name, text in _licences():
            (folder / RUNTIME / name).write_text(text, encoding="utf-8")
        (folder / onnx.name).write_bytes(data)
        for name, text in _texts(onnx.name, data, page):
            (folder / name).write_text(text, encoding="utf-8")
        if out.exists():
            out.rename(Path(place) / "former")
        folder.rename(out)
    return sorted((path for path in out.rglob("*") if path.is_file()), key=lambda path: path.name != "index.html")


def page_names(onnx: str = "student.onnx") -> set[str]:
    """Every file of a page by its path in the folder, with strokes between; `onnx` is the name of the model's file."""
    own = {
        entry.name for entry in (importlib.resources.files("pipelines.device") / "page").iterdir() if entry.is_file()
    }
    return own | {onnx} | {f"{RUNTIME}/{name}" for name in (*LICENCES, *(pinned.name for pinned in PINNED))}


def check_page(out: Path, onnx: str = "student.onnx") -> None:
    """Raise ConfigError where `out` holds what an earlier page does not: it would be lost."""
    if out.is_symlink():
        raise ConfigError(f"{out} is a link, whose place the page would take; name another folder with --out")
    check_own_files(out, page_names(onnx))
    index = out / "index.html"
    if out.exists() and any(out.iterdir()) and not (index.is_file() and MARK.encode() in read_bytes(index, MAX_PACKED)):
        raise ConfigError(f"{out} holds no page of an earlier export; move it away, or name another folder with --out")


def check_own_files(out: Path, names: Collection[str]) -> None:
    """Raise ConfigError that names a file in `out`, or `out` itself, which an export that writes `names` did not write."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is no folder; move it away, or name another folder with --out")
    for path in sorted(out.rglob("*")) if out.exists() else ():
        name = path.relative_to(out).as_posix()
        if name not in names and (path.is_symlink() or not path.is_dir()):
            raise ConfigError(
                f"{out} holds {name}, which no export has written and a new one would lose; move that file away, or name"
                " another folder with --out"
            )


def _check_fits(onnx: Path, info: DatasetInfo) -> None:
    """Raise ConfigError unless the file answers images of this data set with its answers."""
    answers = open_onnx(onnx)(torch.zeros(1, info.channels, info.image_size, info.image_size))
    if tuple(answers.shape) != (1, make_answer(info).num_answers):
        raise ConfigError(f"{onnx} gives answers {tuple(answers.shape)} of another data set; run `cgankd export` again")


Read = Callable[[Pinned], bytes]
"""Gives the bytes of a file of the package, which are the pinned ones."""


def find_runtime(workdir: Path, out: Path, named: Path | None) -> Read:
    """onnxruntime-web as the user names it; else as `npm pack` or `npm install` leaves it in `workdir`; else as it is in `out`.

    Nothing is fetched. Raises ConfigError with the command that does, or where bytes are not those that are pinned.
    """
    if named is not None:
        if not named.exists():
            raise ConfigError(f"--onnxruntime-web {named} does not exist; {_get()}")
        return _of_folder(named) if named.is_dir() else _of_packed(named)
    if (workdir / PACKED).is_file():
        return _of_packed(workdir / PACKED)
    installed = workdir / "node_modules" / RUNTIME
    if all((installed / pinned.source).is_file() for pinned in PINNED):
        return _of_folder(installed)
    if all((out / RUNTIME / pinned.name).is_file() for pinned in PINNED):
        former = {pinned.name: _checked(out / RUNTIME / pinned.name, pinned) for pinned in PINNED}
        return lambda pinned: former[pinned.name]
    raise ConfigError(f"the page needs {RUNTIME} {VERSION}, which is not here; {_get()}")


def _get() -> str:
    return f"run `npm pack {RUNTIME}@{VERSION}` in this folder (33 MB), or name that file with --onnxruntime-web"


def _of_folder(folder: Path) -> Read:
    """An unpacked package, as in node_modules, or with one more folder `package` as tar leaves it."""
    root = folder / "package" if (folder / "package").is_dir() else folder
    lacking = [pinned.source for pinned in PINNED if not (root / pinned.source).is_file()]
    if lacking:
        raise ConfigError(f"{folder} is no {RUNTIME}: it has no {lacking[0]}; {_get()}")
    return lambda pinned: _checked(root / pinned.source, pinned)


def _checked(path: Path, pinned: Pinned) -> bytes:
    data = read_bytes(path, MAX_PACKED)
    if hashlib.sha256(data).hexdigest() != pinned.sha256:
        raise ConfigError(f"{path} is not that of {RUNTIME} {VERSION} (its SHA-256 differs); {_get()}")
    return data


def _of_packed(path: Path) -> Read:
    """The package as npm packs it, looked into only where its SHA-512 is the pinned one."""
    with open_regular(path, MAX_PACKED) as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if base64.b64encode(digest).decode() != INTEGRITY:
        raise ConfigError(f"{path} is not {RUNTIME} {VERSION} as npm states it (its SHA-512 differs); {_get()}")
    found: dict[str, bytes] = {}
    wanted = {f"package/{pinned.source}": pinned.name for pinned in PINNED}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if member.name in wanted and (inside := archive.extractfile(member)) is not None:
                found[wanted[member.name]] = inside.read()
    return lambda pinned: found[pinned.name]


def _licences() -> list[tuple[str, str]]:
    """Licence and notices of ONNX Runtime, from the package that the ONNX file was just opened with."""
    found = importlib.util.find_spec("onnxruntime")
    assert found is not None and found.submodule_search_locations, "the file was opened with it"
    folder = Path(found.submodule_search_locations[0])
    return [(name, read_bytes(folder / name, MAX_PACKED).decode("utf-8", "replace")) for name in LICENCES]


def _texts(name: str, data: bytes, page: Page) -> list[tuple[str, str]]:
    """The page's own files, index.html filled in."""
    source = importlib.resources.files("pipelines.device") / "page"
    texts = {entry.name: entry.read_text(encoding="utf-8") for entry in source.iterdir() if entry.is_file()}
    words = {
        "title": html.escape(page.title),
        "kicker": html.escape(page.kicker),
        "model": embedded(_model(name, data, page)),
    }
    texts["index.html"] = string.Template(texts["index.html"]).substitute(words)
    return sorted(texts.items())


def _model(name: str, data: bytes, page: Page) -> dict[str, Any]:
    """What the page's scripts know of the model."""
    info = page.info
    ground = ImageColor.getcolor(info.background, "RGB")
    pad = (
        None if info.pad_colour is None else ImageColor.getcolor(info.pad_colour, "L" if info.channels == 1 else "RGB")
    )
    shown = {"label_period": None, "fit": "refuse", "enlarge": False} | to_dict(info)
    return {
        "file": name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "input": PIXELS,
        "output": ANSWER,
        "runtime": VERSION,
        "info": shown,
        "margin": asdict(page.margin) if page.margin else None,
        "no_margin": page.no_margin,
        "rules": {
            "backgroundLevels": ground,
            "padLevels": [pad] if isinstance(pad, int) else pad,
            "tallFirst": _tall_first(),
        },
        "facts": page.facts,
    }


def _tall_first() -> bool:
    """Whether this Pillow shrinks the height of a tall picture before its width, as it does since version 13.

    Between the two directions levels are rounded, so that one in ten differs by 1 in the other order.
    """
    image = Image.frombytes("L", (20, 60), hashlib.shake_256(b"noise").digest(20 * 60))
    box = Image.Resampling.BOX
    return image.resize((8, 8), box).tobytes() == image.resize((20, 8), box).resize((8, 8), box).tobytes()


def embedded(values: object) -> str:
    """JSON that may stand in a script element: no sequence of its characters begins a tag or a comment.

    A number that is not finite raises ValueError, as JSON has no word for it.
    """
    text = json.dumps(values, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
