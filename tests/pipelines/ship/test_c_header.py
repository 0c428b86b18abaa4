"""The C header is written for the whole-int8 file of this very student, and for none that loses too much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cgankd.config import ConfigError
from pipelines.files.artifacts import file_digest
from pipelines.ship import folders


@pytest.fixture()
def work(tmp_path: Path) -> Path:
    (tmp_path / "artifacts" / "export").mkdir(parents=True)
    (tmp_path / "artifacts" / "student.safetensors").write_bytes(b"weights")
    (tmp_path / "artifacts" / "export" / "student-int8.tflite").write_bytes(b"model")
    return tmp_path


def record(work: Path, **row: Any) -> None:
    """device.json as `export` writes it, one row of it changed."""
    file = work / "artifacts" / "export" / "student-int8.tflite"
    micro = {"arena": 4000, "operators": {"CONV_2D": True, "SOFTMAX": True}}
    own = {"file": file.name, "sha256": file_digest(file), "holds": True, "micro": micro}
    weights = row.pop("weights", file_digest(work / "artifacts" / "student.safetensors"))
    values = {"weights": weights, "forms": [{"file": None}, own | row]}
    (file.parent / "device.json").write_text(json.dumps(values))


def test_arena_and_operators_are_those_measured(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(work)
    asked: list[Any] = []
    monkeypatch.setattr(folders, "write_c", lambda path, out, **given: asked.append((path.name, out.name, given)) or [])
    folders.write_header(work, work / "artifacts" / "export")
    told = json.loads((work / "artifacts/export/folders.json").read_text())
    assert list(told["folders"]["c"]["of"]) == ["student-int8.tflite"]
    assert asked == [("student-int8.tflite", "c", {"arena": 4000, "operators": ["CONV_2D", "SOFTMAX"]})]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"weights": "0" * 64}, "is of another student than artifacts/ holds"),
        ({"sha256": "0" * 64}, r"is not the file that its device\.json tells of"),
        ({"file": "other.tflite"}, r"is not in the device\.json beside it"),
        ({"holds": False}, "loses more than was allowed at its export"),
        ({"micro": {"agrees": False}, "holds": False}, "answers otherwise under the interpreter for microcontrollers"),
        ({"micro": None}, "was not run by the interpreter for microcontrollers"),
    ],
)
def test_a_file_that_is_not_fit_is_refused_with_the_cure(work: Path, row: dict[str, Any], words: str) -> None:
    record(work, **row)
    with pytest.raises(ConfigError, match=words):
        folders.write_header(work, work / "artifacts" / "export")
    assert not (work / "artifacts" / "export" / "c").exists()


def test_without_the_file_the_command_that_makes_it_is_named(work: Path) -> None:
    with pytest.raises(ConfigError, match=r"run `cgankd export --to litert,c`"):
        folders.write_header(work, work / "artifacts" / "export")


def test_other_files_beside_the_header_are_said(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(work)
    folder = work / "artifacts" / "export" / "c"
    folder.mkdir()
    monkeypatch.setattr(folders, "write_c", lambda *given, **more: pytest.fail("nothing may be written"))
    (folder / "main.cc").write_text("mine")
    with pytest.raises(ConfigError, match=r"c holds main\.cc, which no export has written"):
        folders.write_header(work, folder.parent)


def test_a_damaged_record_of_folders_is_said_with_the_cure(work: Path) -> None:
    (work / "artifacts/export/folders.json").write_text("[")
    with pytest.raises(ConfigError, match=r"folders\.json is damaged; delete it, then give the same command"):
        folders.check_folders(work / "artifacts/export", ["c"])
