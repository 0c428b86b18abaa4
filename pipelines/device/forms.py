"""What a file for a device is and says of itself: a sealed record inside the file, which tells how to read its answers."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from cgankd.config import ConfigError, to_dict
from cgankd.config.settings import from_dict
from cgankd.data.regular import parse_json, read_bytes
from cgankd.export import ShippedModel
from cgankd.labels.answers import Answer, Margin, make_answer
from cgankd.types import DatasetInfo

ENTRY = "cgankd"
"""Name of the record inside a file: a metadata entry of LiteRT, a constant method of ExecuTorch."""
MARK = b'{"cgankd_file": 1, '
"""How a record begins, and nothing else in a file."""
SEAL = b'"sha256": "'
NO_SEAL = b"0" * 64
MARGIN_LETTERS = 96
MAX_FILE = 2**31 - 1
"""Bytes of the largest file that is opened."""
OPENED_BY = {".tflite": "ai_edge_litert", ".pte": "executorch"}
"""The package that runs a format."""


@dataclass(frozen=True)
class Source:
    """The float student that files are made of: its module, its data set, the SHA-256 of its weights, and a net's name for
    messages.
    """

    model: ShippedModel
    info: DatasetInfo
    weights: str
    net: str

    @property
    def answer(self) -> Answer:
        """What its outputs say."""
        return self.model.answer


@dataclass(frozen=True)
class Signature:
    """What a file takes and gives: the number type and layout of its one image, and whether it ends with the answer or with
    the net's outputs, which `Answer` reads.

    `input_type` is uint8 (the bytes of the image) or int8 (those less 128).
    """

    input_type: str
    layout: str
    gives: str

    def shape(self, info: DatasetInfo) -> tuple[int, int, int, int]:
        """Shape of the input, one image."""
        side, channels = info.image_size, info.channels
        return (1, side, side, channels) if self.layout == "NHWC" else (1, channels, side, side)


@dataclass(frozen=True)
class Record:
    """What stands in a file: its form, signature, data set, margin, and the SHA-256 of the float student's weights."""

    form: str
    signature: Signature
    info: DatasetInfo
    margin: Margin | None
    weights: str

    def encoded(self) -> bytes:
        """ASCII JSON with room for the seal, of the same length whatever the margin."""
        values: dict[str, Any] = {
            "cgankd_file": 1,
            "version": importlib.metadata.version("cgankd"),
            "form": self.form,
            **asdict(self.signature),
            "info": to_dict(self.info),
            "margin": None,
            "weights": self.weights,
            "sha256": NO_SEAL.decode(),
        }
        margin = json.dumps(asdict(self.margin) if self.margin else None).ljust(MARGIN_LETTERS)
        # Quotes inside a string are escaped, so nothing else reads like this.
        return json.dumps(values).replace('"margin": null', f'"margin": {margin}', 1).encode("ascii")


@dataclass(frozen=True)
class Form:
    """One file for a device with the way to run it here: images uint8 [N, C, H, W] to answers [N, A]."""

    name: str
    path: Path
    run: Callable[[Tensor], Tensor]
    record: Record


def sealed(data: bytes) -> bytes:
    """The bytes of a file with the SHA-256 of all of it (the seal itself taken as zeros) written into its record."""
    place = _seal_place(data)
    assert place is not None and data[place : place + 64] == NO_SEAL, "a file holds one record"
    return data[:place] + hashlib.sha256(data).hexdigest().encode() + data[place + 64 :]


def with_margin(data: bytes, record: Record, margin: Margin | None) -> bytes:
    """A file of this record with another margin in it."""
    start, other = data.find(MARK), replace(record, margin=margin).encoded()
    assert start >= 0 and len(other) == len(record.encoded()), "a margin has room of its own"
    return sealed(data[:start] + other + data[start + len(other) :])


def _seal_place(data: bytes) -> int | None:
    start = data.find(MARK)
    if start < 0 or data.find(MARK, start + 1) >= 0:
        return None
    place = data.find(SEAL, start)
    return None if place < 0 else place + len(SEAL)


def read_record(path: Path) -> tuple[Record, bytes]:
    """The record of a file and the bytes of the whole, which are those that were exported.

    Raises ConfigError where the file is missing, damaged, or none of `cgankd export`.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing; `cgankd export --to` writes such files")
    data = read_bytes(path, MAX_FILE)
    place = _seal_place(data)
    if place is None:
        raise ConfigError(f"{path} has no record of cgankd, so it is damaged or of another program; export it again")
    blank = data[:place] + NO_SEAL + data[place + 64 :]
    if hashlib.sha256(blank).hexdigest().encode() != data[place : place + 64]:
        raise ConfigError(f"{path} is damaged: its bytes are not those that were exported; export it again")
    text = data[data.find(MARK) : place + 66].decode("ascii", errors="replace")
    try:
        values = parse_json(text)
        margin = values["margin"]
        record = Record(
            str(values["form"]),
            Signature(str(values["input_type"]), str(values["layout"]), str(values["gives"])),
            from_dict(DatasetInfo, values["info"], "info."),
            from_dict(Margin, margin, "margin.") if margin else None,
            str(values["weights"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} has a record of another version of cgankd ({error}); export it again") from error
    return record, data


def reader(record: Record, outputs: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Images to answers [N, A], from what a file gives."""
    if record.signature.gives == "answer":
        return outputs
    answer = make_answer(record.info)
    return lambda images: answer(outputs(images))


def refused(error: Exception, what: str, net: str) -> ConfigError:
    """The sentence on a net that a converter cannot take, with the operator that its message names."""
    found = re.findall(
        r"\b(?:aten|tfl|prims|quantized_decomposed|stablehlo|torchvision)[.:]{1,2}\w+(?:\.\w+)?", str(error)
    )
    first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    why = f"it has no form of the operator {found[0]}" if found else f"it says: {first}"
    return ConfigError(f"{what} cannot take the net {net}: {why}; train another net, or leave this format out of --to")
