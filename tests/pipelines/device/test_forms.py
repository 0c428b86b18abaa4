"""The record inside a file: what it says, and that a changed file is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from cgankd.config import ConfigError
from cgankd.labels.answers import Margin, make_answer
from pipelines.device.forms import MARK, Record, Signature, read_record, reader, refused, sealed, with_margin
from tests.pipelines.device.samples import CIRCLE, INFOS

SIGNATURE = Signature("int8", "NHWC", "outputs")
MARGIN = Margin(0.9, 0.123456789012345, 40)


def stored(path: Path, record: Record) -> bytes:
    data = sealed(b"TFL3 weights" + record.encoded() + b"more weights")
    path.write_bytes(data)
    return data


@pytest.mark.parametrize("kind", INFOS)
@pytest.mark.parametrize("margin", [None, MARGIN], ids=["no margin", "margin"])
def test_a_record_is_read_back(tmp_path: Path, kind: str, margin: Margin | None) -> None:
    record = Record("litert-int8", SIGNATURE, INFOS[kind], margin, "5" * 64)
    data = stored(tmp_path / "a.tflite", record)
    assert read_record(tmp_path / "a.tflite") == (record, data)


def test_a_margin_takes_its_room_and_no_other(tmp_path: Path) -> None:
    record = Record("x", SIGNATURE, CIRCLE, None, "5" * 64)
    data = stored(tmp_path / "a.pte", record)
    (tmp_path / "a.pte").write_bytes(with_margin(data, record, MARGIN))
    found, after = read_record(tmp_path / "a.pte")
    assert found.margin == MARGIN and len(after) == len(data)
    start, end = b"TFL3 weights", b"more weights"
    assert after.startswith(start) and after.endswith(end)


def test_the_seal_is_the_digest_of_the_file_without_it(tmp_path: Path) -> None:
    data = stored(tmp_path / "a.pte", Record("x", SIGNATURE, CIRCLE, None, "5" * 64))
    said = json.loads(data[data.find(MARK) : data.rfind(b"}") + 1])["sha256"]
    assert said == hashlib.sha256(data.replace(said.encode(), b"0" * 64)).hexdigest()


def test_every_changed_byte_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    data = stored(path, Record("x", SIGNATURE, CIRCLE, MARGIN, "5" * 64))
    for place in [*range(0, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ConfigError, match="damaged"):
            read_record(path)


@pytest.mark.parametrize("data", [b"", b"TFL3 of somebody else", b"PK\x03\x04" * 50])
def test_a_file_of_another_program_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tflite").write_bytes(data)
    with pytest.raises(ConfigError, match="damaged or of another program"):
        read_record(tmp_path / "a.tflite")


def test_a_cut_or_doubled_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    data = stored(path, Record("x", SIGNATURE, CIRCLE, MARGIN, "5" * 64))
    for other in (data[:-5], data + data):
        path.write_bytes(other)
        with pytest.raises(ConfigError, match="damaged"):
            read_record(path)
    with pytest.raises(ConfigError, match="is missing"):
        read_record(tmp_path / "none.tflite")


def test_a_sealed_record_that_says_other_things_is_refused(tmp_path: Path) -> None:
    text = json.dumps({"cgankd_file": 1, "form": "x", "sha256": "0" * 64}).encode()
    (tmp_path / "a.pte").write_bytes(sealed(text))
    with pytest.raises(ConfigError, match="another version of cgankd"):
        read_record(tmp_path / "a.pte")


def test_outputs_are_read_by_the_answer() -> None:
    record = Record("x", SIGNATURE, CIRCLE, None, "")
    outputs = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    read = reader(record, lambda images: outputs)(torch.zeros(2))
    torch.testing.assert_close(read, make_answer(CIRCLE)(outputs))
    torch.testing.assert_close(read[:, 0], torch.tensor([90.0, 180.0]))
    whole = Record("x", Signature("uint8", "NHWC", "answer"), CIRCLE, None, "")
    assert reader(whole, lambda images: outputs)(torch.zeros(2)) is outputs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Lowering not found: aten._upsample_bicubic2d_aa.default", "operator aten._upsample_bicubic2d_aa.default"),
        ("failed to legalize operation 'tfl.foo' marked illegal", "operator tfl.foo"),
        ("something else\nand a trace", "it says: something else;"),
    ],
)
def test_a_net_that_is_refused_is_named_with_the_operator(text: str, said: str) -> None:
    sentence = str(refused(RuntimeError(text), "LiteRT", "resnet8x4"))
    assert said in sentence and "LiteRT cannot take the net resnet8x4" in sentence and "\n" not in sentence
