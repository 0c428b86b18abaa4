"""Every reader as one function of bytes, and what it may do with them: answer, or refuse in a sentence of bounded length."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cgankd.config.settings import LONGEST_MESSAGE
from cgankd.data.readers.decode import look_at, read_image
from cgankd.data.readers.hdf5_sets import load_hdf5_classes, load_hdf5_scalars
from cgankd.data.readers.list_lines import read_list
from cgankd.data.readers.own_fakes import load_own_fakes
from cgankd.data.readers.plain_pickle import read_plain_pickle
from cgankd.data.readers.scalar_files import load_steering_angle
from cgankd.data.store.banks import read_attributes, read_bank, read_pool_scores
from cgankd.data.store.datasets import read_class_counts, read_info, read_split
from cgankd.export import open_onnx, open_torch_export
from cgankd.nets.predictors.program import open_program
from pipelines.device.forms import read_record as read_device_record
from pipelines.files.artifacts import read_record
from pipelines.files.dvc_lock import made_md5, read_md5
from pipelines.files.params import changed, load_config
from pipelines.files.pinned import read_pin
from pipelines.files.runs import read_metrics
from pipelines.networks.state_dicts import read_state
from pipelines.report.records import from_texts
from pipelines.runtime.faults import told_to_user
from pipelines.ship.door import Door, answer
from pipelines.tracking.journal import read_roots
from tests.data.builders import data_config
from tests.fuzz import corpus
from tests.pipelines.finished import made_data

INFO = made_data(False).info
RULES = data_config(image_size=16, channels=3, enlarge=True, fit="crop")


@dataclass(frozen=True)
class Reader:
    """A reader: the name its file has, sound files to begin with, a call of it, and pieces that mean something to it."""

    file: str
    seeds: Callable[[], list[bytes]]
    call: Callable[[Path], object]
    tokens: tuple[bytes, ...] = ()


def _image(path: Path) -> None:
    try:
        read_image(path, RULES)
    finally:
        look_at(path)


def _list(path: Path) -> None:
    read_list(str(path), skip_broken=True)


def _frames(path: Path) -> None:
    load_steering_angle(
        data_config(
            task="scalar", source="steering-angle", root=str(path.parent), num_val=1, val_per_label=None, test_share=0.2
        ),
        0,
    )


def _data_set(path: Path) -> None:
    info = read_info(path)
    read_split(path, "train")
    read_class_counts(path, max(1, len(info.class_names)))


def _bank(path: Path) -> None:
    read_attributes(path)
    read_pool_scores(path)
    read_bank(path)


def _hdf5(path: Path) -> None:
    load_hdf5_classes(data_config(source="hdf5", root=str(path)), 0)


def _hdf5_scalars(path: Path) -> None:
    load_hdf5_scalars(data_config(task="scalar", source="hdf5", root=str(path), num_val=2, val_per_label=None), 0)


def _own_fakes(path: Path) -> None:
    load_own_fakes(path, INFO)


def _state(path: Path) -> None:
    for value in read_state("teacher.file", path).values():
        assert value.numel() * value.element_size() <= path.stat().st_size, "every number is in the file"


def _onnx(path: Path) -> None:
    open_onnx(path)(torch.zeros(2, 1, 16, 16))


def _params(path: Path) -> None:
    load_config(path)


def _rewritten(path: Path) -> None:
    changed(path.read_text(encoding="utf-8", errors="replace"), "params.yaml", {"seed": 3})


def _lock(path: Path) -> None:
    text = path.read_text(encoding="utf-8", errors="replace")
    made_md5(text)
    read_md5(text, "a", "x")


def _record(path: Path) -> None:
    read_record(path, ("arms",))
    read_metrics(path, "cgankd evaluate")
    from_texts("a", "b", path.read_text(encoding="utf-8", errors="replace"), None, None)


def _pin(path: Path) -> None:
    read_pin(path.parent)


def _journal(path: Path) -> None:
    read_roots(path)


def _pickle(path: Path) -> None:
    read_plain_pickle(path.read_bytes())


def _program(path: Path) -> None:
    open_program(path.read_bytes())


def _exported(path: Path) -> None:
    open_torch_export(path)


def _predict(images_BCHW: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    assert np.isfinite(images_BCHW).all() and images_BCHW.shape[1:] == (1, 4, 4), (
        "the door lets images in, and nothing else"
    )
    return images_BCHW.reshape(len(images_BCHW), -1)[:, :3]


def _request(path: Path) -> None:
    head, _, body = path.read_bytes().partition(b"\n\n")
    headers = [tuple(part.strip() for part in line.partition(b":")[::2]) for line in head.split(b"\n") if b":" in line]
    scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": headers}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Door(lambda given: answer(given, _predict, (1, 4, 4)), "1")(scope, receive, send))
    status, said = sent[0]["status"], sent[1]["body"]
    assert status == 200 or (400 <= status < 500 and len(said) < 400), (status, said)


MARKS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff" * 8)
WORDS = (
    b"[" * 600,
    b"{" * 600,
    b"9" * 4500,
    b"NaN",
    b"1e999",
    b"-1",
    b"null",
    b'"',
    b"\0",
    b"\xff",
    b"\xc3\xa9",
    b"x" * 5000,
)
YAML = (
    *WORDS,
    b"&a ",
    b"*a",
    b"<<: *a\n",
    b"!!int ",
    b"!!binary ",
    b"? ",
    b"- " * 40,
    b"0x" + b"f" * 400,
    b"%YAML 1.1\n---\n",
    b"\t",
)
CELLS = (*WORDS, b"," * 1200, b"\n", b"\r", b"../" * 20, b"a.png", b";", b"\xff\xfe", b"PK\x03\x04", b"#", b"%00", b"?")
HTTP = (
    *WORDS,
    b"Origin: null\n",
    b"Host: evil\n",
    b"Content-Length: " + b"9" * 30 + b"\n",
    b"\n\n",
    b"[::1",
    b"true",
    b"[]",
)
READERS: dict[str, Reader] = {
    "image": Reader("x.png", corpus.images, _image, MARKS),
    "list": Reader("labels.csv", corpus.lists, _list, CELLS),
    "JSON list": Reader("labels.jsonl", corpus.lists, _list, CELLS),
    "data.txt": Reader("data.txt", corpus.frames, _frames, CELLS),
    "dataset.h5": Reader("dataset.h5", corpus.data_sets, _data_set, MARKS),
    "pool.h5 and bank.h5": Reader("pool.h5", corpus.banks, _bank, MARKS),
    "HDF5 of classes": Reader("x.h5", corpus.hdf5_sets, _hdf5, MARKS),
    "HDF5 of scalars": Reader("x.h5", corpus.hdf5_sets, _hdf5_scalars, MARKS),
    "HDF5 of fakes": Reader("x.h5", corpus.hdf5_sets, _own_fakes, MARKS),
    "safetensors": Reader("x.safetensors", corpus.safetensors, _state, (*MARKS, *WORDS)),
    "torch.save": Reader(
        "x.pt", corpus.torch_files, _state, (*MARKS, b"cbuiltins\nbytearray\n", b"ctorch\nUntypedStorage\n")
    ),
    "ONNX": Reader("x.onnx", corpus.onnx_files, _onnx, MARKS),
    "record of a device file": Reader("x.tflite", corpus.device_files, read_device_record, MARKS),
    "TorchScript": Reader("x.pt", corpus.programs, _program, MARKS),
    "torch.export": Reader("x.pt2", corpus.exported, _exported, (*MARKS, *WORDS)),
    "params.yaml": Reader("params.yaml", corpus.params, _params, YAML),
    "params.yaml rewritten": Reader("params.yaml", corpus.params, _rewritten, YAML),
    "dvc.lock": Reader("dvc.lock", corpus.locks, _lock, YAML),
    "metrics": Reader("evaluate.json", corpus.records, _record, WORDS),
    "code.json": Reader("code.json", corpus.records, _pin, WORDS),
    "events": Reader("teacher.jsonl", corpus.journals, _journal, WORDS),
    "CIFAR pickle": Reader(
        "data_batch_1", corpus.pickles, _pickle, (*MARKS, b"cos\nsystem\n", b"(", b"R", b"a", b"e", b"h\0")
    ),
    "request": Reader("request", corpus.requests, _request, HTTP),
}


FORBIDDEN = (
    *("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "socket.connect"),
    *("os.remove", "os.rename", "os.mkdir", "os.symlink", "os.chmod"),
)
"""Audit events of Python that no reader causes."""
CODE = (sys.prefix, sys.base_prefix, "/proc/", "/sys/", "/etc/os-release", "/etc/lsb-release", "/dev/urandom")
"""Where modules lie, and what torch reads of the machine."""


class Watch:
    """What Python code opens, starts and connects to while a reader works; the hook stays for the life of the process."""

    def __init__(self) -> None:
        self.inside: tuple[str, ...] = ()
        self.on = False
        self.wrong: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in FORBIDDEN:
            self.wrong.append(f"{event} {str(arguments)[:100]}")
        if event == "open" and isinstance(arguments[0], str | bytes):
            path, mode = os.path.abspath(os.fsdecode(arguments[0])), arguments[1] or ""
            writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
            code = not writes and path.startswith((*CODE, *map(os.path.abspath, sys.path)))
            if not code and not path.startswith(self.inside):
                self.wrong.append(f"open {path}")


WATCH = Watch()


def prepare(folder: Path) -> None:
    """What lies beside a file that is read: the images that lists name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("a", "b", "c"):
        Image.fromarray(np.full((16, 16), ord(name), np.uint8)).save(folder / f"{name}.png")
    for number in range(6):
        Image.fromarray(np.full((16, 16), number, np.uint8)).save(folder / f"d{number}.png")


def feed(name: str, data: bytes, folder: Path) -> bool:
    """Give bytes to a reader; whether it took them. Raises AssertionError where it did what no reader may."""
    reader = READERS[name]
    path = folder / reader.file
    path.write_bytes(data)
    WATCH.inside, WATCH.wrong, WATCH.on = (str(folder),), [], True
    before = set(os.listdir(folder))
    try:
        reader.call(path)
        taken = True
    except ValueError as refusal:
        WATCH.on = False
        if not told_to_user(refusal):
            raise
        said = str(refusal)
        assert said and len(said) <= LONGEST_MESSAGE, f"{len(said)} letters: {said[:200]}"
        taken = False
    finally:
        WATCH.on = False
    assert not WATCH.wrong, WATCH.wrong[:3]
    assert set(os.listdir(folder)) == before, "nothing is written"
    return taken


def mutated(data: bytes, steps: list[tuple[int, int, int]], other: bytes, tokens: tuple[bytes, ...]) -> bytes:
    """Bytes changed step by step; a step is (what, where, how), its numbers taken as they fit."""
    out = bytearray(data)
    for what, where, how in steps:
        at = where % (len(out) + 1)
        if what == 0 and at < len(out):
            out[at] ^= 1 << how % 8
        elif what == 1 and at < len(out):
            out[at] = how % 256
        elif what == 2:
            del out[at : at + 1 + how % 64]
        elif what == 3:
            out[at:at] = out[at : at + 1 + how % 64] * (1 + how % 5)
        elif what == 4 and tokens:
            out[at:at] = tokens[how % len(tokens)]
        elif what == 5 and tokens:
            token = tokens[how % len(tokens)]
            out[at : at + len(token)] = token
        elif what == 6:
            out = out[:at] + other[how % (len(other) + 1) :]
        elif what == 7:
            out = out[:at]
    return bytes(out)
