"""What a path may name in place of a file: pipes, devices, sockets, folders, links in a circle, a terabyte of nothing."""

from __future__ import annotations

import os
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from cgankd.config import ConfigError, config_from_dict
from cgankd.config.settings import LONGEST_MESSAGE
from cgankd.data.readers.decode import open_image
from cgankd.data.readers.list_lines import read_list
from cgankd.data.readers.walk import walk
from cgankd.data.regular import HOLLOW_BYTES, open_regular, parse_json
from cgankd.export import open_onnx, open_torch_export
from pipelines.files.artifacts import ResumeFile, file_digest, load_tensors
from pipelines.files.params import parse, read_params, read_values
from pipelines.networks.state_dicts import read_state
from pipelines.runtime.faults import told_to_user
from tests.conftest import ROOT, preset
from tests.fuzz import corpus
from tests.fuzz.readers import READERS


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to(path.name)


def listener(path: Path) -> None:
    """A socket; its path must be short."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


KINDS: dict[str, Callable[[Path], None]] = {
    "a pipe": pipe,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a socket": listener,
    "a folder": Path.mkdir,
    "a link to itself": link,
    "a terabyte of nothing": hole,
}
READ_AS_TEXT = ("params.yaml rewritten", "dvc.lock", "CIFAR pickle", "TorchScript", "request", "metrics")
"""Readers that the fuzzing hands bytes or text, whose files are opened elsewhere."""
MAY_BE_MISSING = ("code.json", "events")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in READERS if name not in READ_AS_TEXT])
def test_what_is_no_file_is_refused_at_once(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / READERS[name].file
    KINDS[kind](path)
    if name in MAY_BE_MISSING and not path.exists():  # a link to nothing is as good as no file
        READERS[name].call(path)
        return
    with pytest.raises((ValueError, OSError)) as refusal:
        READERS[name].call(path)
    said = refusal.value
    assert isinstance(said, FileNotFoundError | PermissionError) or (
        isinstance(said, ValueError) and told_to_user(said)
    )
    assert len(str(said)) <= LONGEST_MESSAGE


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a folder"])
@pytest.mark.parametrize("open_it", [file_digest, load_tensors, open_torch_export, open_onnx, read_params])
def test_what_stages_open_first_is_refused_too(open_it: Callable[[Path], object], kind: str, tmp_path: Path) -> None:
    """The digests of cgan.file and teacher.file, weights, exported files, params.yaml."""
    path = tmp_path / "x.pt2"
    KINDS[kind](path)
    with pytest.raises(ConfigError, match=r"name a plain file|name the right file|no such file|is missing"):
        open_it(path)


@pytest.mark.parametrize("kind", KINDS)
def test_progress_that_is_no_file_starts_afresh(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / "loop.pt")
    said: list[str] = []
    assert ResumeFile(tmp_path / "loop.pt", "mark", said.append).load() is None
    assert kind == "a link to itself" or "starting afresh" in said[0]


def test_a_folder_with_pipes_is_walked(tmp_path: Path) -> None:
    for name in ("a.png", "photo", "photo.12"):
        pipe(tmp_path / name)
    Image.new("L", (4, 4)).save(tmp_path / "b.png")
    assert [path.name for path in walk(tmp_path).images] == ["b.png"]


def test_large_files_with_holes_are_read_where_much_is_stored(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.write(b"x" * (HOLLOW_BYTES // 50))
        file.truncate(HOLLOW_BYTES + 1)
    with open_regular(tmp_path / "x") as opened:
        assert opened.read(1) == b"x" and opened.tell() == 1


def test_an_eps_called_png_reaches_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("Ghostscript was asked"))
    head = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n%%EOF\n"
    (tmp_path / "x.png").write_bytes(head)
    with pytest.raises(ConfigError, match="cannot be read as an image"), open_image(tmp_path / "x.png") as image:
        image.load()


@pytest.mark.parametrize(("form", "size"), [("png", 9000), ("qoi", 2100)])
def test_pixels_are_counted_before_they_are_decoded(form: str, size: int, tmp_path: Path) -> None:
    """Formats that Pillow decodes in Python may have fewer."""
    Image.init()
    if form.upper() not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {form}")
    Image.new("RGB", (size, size)).save(tmp_path / f"x.{form}")
    with pytest.raises(ConfigError, match="megapixels"), open_image(tmp_path / f"x.{form}") as image:
        pytest.fail(f"{image.size} were let in")


def bomb() -> str:
    """309 bytes that stand for nine to the tenth."""
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]" for i in range(9)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "aliases make this larger"),
        ("a: &a [*a]", "stands within what it names"),
        ("[" * 500, "within each other"),
        ("{a: " * 500, "within each other"),
        ("- " * 3000, "within each other"),
        (f"a: {'9' * 5000}", "a number of 5000 digits"),
        (f"a: 0x{'f' * 5000}", "a number of 5002 digits"),
        ("a" * 600_000, "shorten it"),
        ("a: 2001-99-99", "no YAML that can be read"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_yaml_is_bounded(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refusal:
        parse(text, "params.yaml")
    assert len(str(refusal.value)) < 500


def test_a_few_aliases_are_as_good_as_what_they_stand_for() -> None:
    assert parse("a: &a [1, 2]\nb: [*a, *a]", "x") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("student.seeds", list(range(100_000)), "at most 1000 entries, but has 100000"),
        ("student.num_steps", 10**30, "within 63 bits"),
        ("teacher.learning_rate", 10**400, "within 63 bits, but is a whole number of 1329 bits"),
        ("bank.rho", "x" * 10**6, "bank.rho must be a number"),
        ("data.source", "x" * 10**6, "data.source must be"),
        ("student.arms", {f"a{i}": {} for i in range(2000)}, "at most 1000 entries"),
        ("y" * 10**6, 1, "not a known setting"),
    ],
)
def test_settings_are_bounded_and_so_are_their_errors(setting: str, value: object, said: str) -> None:
    values = preset("digits")
    section, _, name = setting.partition(".")
    values[section] = values[section] | {name: value} if name else value
    with pytest.raises(ConfigError, match=said) as refusal:
        config_from_dict(values)
    assert len(str(refusal.value)) < 1500


def test_a_long_override_is_refused_shortly(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "pipelines/presets/digits.yaml").read_text())
    with pytest.raises(ConfigError, match=r"must look like bank\.rho") as refusal:
        read_values(tmp_path / "params.yaml", ["x" * 10**6])
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "NaN", "[Infinity]", '{"a": -Infinity}', "{"])
def test_json_is_bounded(text: str) -> None:
    from json import JSONDecodeError

    with pytest.raises(JSONDecodeError) as refusal:
        parse_json(text)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("a.png,1" + "," * 5000 + "\n", "cells, more than the 1000"),
        ("".join(f'{{"k{i}": 1}}\n' for i in range(2000)), "different keys, more than the 1000"),
        (f'a.png,"{"x" * 200_000}"\n', "not a CSV file"),
        (f"b.png,1\n,{'x' * 100_000}\nc.png,2\n", "expected"),
    ],
)
def test_lists_are_bounded(lines: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(lines)
    with pytest.raises(ConfigError, match=said) as refusal:
        read_list(str(tmp_path / "labels.csv"))
    assert len(str(refusal.value)) <= LONGEST_MESSAGE


def save(values: object, path: Path) -> Path:
    torch.save(values, path)
    return path


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(1).expand(10**12),
        lambda: torch.empty(10**12, device="meta"),
        lambda: torch.sparse_coo_tensor(size=(10**6, 10**6)),
    ],
    ids=["one number that poses as many", "none", "sparse"],
)
def test_every_number_of_a_state_dict_is_in_its_file(make: Callable[[], Tensor], tmp_path: Path) -> None:
    value = make()
    with pytest.raises(ConfigError, match=r"teacher\.file"):
        read_state("teacher.file", save({"x": value}, tmp_path / "x.pt"))


def test_a_packed_or_building_pickle_is_refused(tmp_path: Path) -> None:
    sound = corpus.torch_files()[0]
    (tmp_path / "sound.pt").write_bytes(sound)
    with (
        zipfile.ZipFile(tmp_path / "sound.pt") as archive,
        zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    assert len(read_state("teacher.file", tmp_path / "sound.pt")) == 3
    (tmp_path / "y.pt").write_bytes(
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + struct.pack("<Q", 2**36)[:5] + b"\x85R."
    )
    for name in ("x.pt", "y.pt"):
        with pytest.raises(ConfigError, match="cannot be read as weights"):
            read_state("teacher.file", tmp_path / name)


def test_an_onnx_file_reads_no_other_file(tmp_path: Path) -> None:
    import onnx

    model = onnx.load_model_from_string(corpus.onnx_files()[0])
    (weight,) = model.graph.initializer
    (tmp_path / "secret").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "secret"), ("length", str(256 * 3 * 4))):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match="numbers in other files"):
        open_onnx(tmp_path / "x.onnx")
