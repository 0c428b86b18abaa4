"""Programs are opened where this project made them, or where the user says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cgankd.config import ConfigError
from cgankd.export import open_torch_export
from pipelines.commands.app import app
from pipelines.files.artifacts import file_digest
from pipelines.files.made import note_made
from pipelines.ship.predict import open_predictor
from pipelines.ship.trust import RECORD, check_own, is_program, known, remember
from tests.gan.test_own_program import torchscript
from tests.pipelines.finished import finished


class Opened(Exception):
    """A program was about to be opened."""


@pytest.fixture()
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever opens a program raises instead."""

    def refuse(*given: object, **named: object) -> None:
        raise Opened

    for name in ("torch.export.load", "torch.jit.load"):
        monkeypatch.setattr(name, refuse)
    yield


def stranger(folder: Path) -> Path:
    """A .pt2 file with its export.json, as somebody may send them."""
    (folder / "sent").mkdir(parents=True)
    (folder / "sent/x.pt2").write_bytes(torchscript(torch.nn.Flatten()))
    (folder / "sent/export.json").write_text("{}")
    return folder / "sent/x.pt2"


def test_a_program_of_somebody_else_is_not_opened(tmp_path: Path, guarded: None) -> None:
    path = stranger(tmp_path)
    with pytest.raises(ConfigError, match=r"x\.pt2 is a program, which runs with your rights.*--trust"):
        open_predictor(tmp_path, path, 0.9)


def test_weights_that_hold_a_program_are_one(tmp_path: Path, guarded: None) -> None:
    """A student.safetensors whose config tells of a program, itself or in a member."""
    folder = finished(tmp_path / "project")
    (tmp_path / "sent").mkdir()
    for name in ("student.safetensors", "student.config.json"):
        shutil.copyfile(folder / "artifacts" / name, tmp_path / "sent" / name)
    assert open_predictor(folder, tmp_path / "sent/student.safetensors", 0.9).info.channels == 1
    config = json.loads((tmp_path / "sent/student.config.json").read_text())
    for changed in (config | {"program": "torchscript"}, config | {"members": [config, config | {"program": "x"}]}):
        assert is_program(changed)
        (tmp_path / "sent/student.config.json").write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match="--trust"):
            open_predictor(folder, tmp_path / "sent/student.safetensors", 0.9)


def test_own_programs_are_known_by_their_digests(tmp_path: Path) -> None:
    path = stranger(tmp_path)
    check_own(tmp_path, path, trust=True)
    remember(tmp_path, file_digest(path), "student.pt2")
    remember(tmp_path, "0" * 64, "models:/x/1")
    assert list(known(tmp_path).values()) == ["models:/x/1", "student.pt2"]
    check_own(tmp_path, path, trust=False)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ConfigError, match="--trust"):
        check_own(tmp_path, path, trust=False)
    record = tmp_path / "artifacts" / RECORD
    for damaged in (
        "[",
        "[1]",
        record.read_text().replace("0000", "0001", 1),
        record.read_text().replace("x/1", "x/2"),
    ):
        record.write_text(damaged)
        with pytest.raises(ConfigError, match=r"own-programs\.json is damaged.*cgankd ship"):
            known(tmp_path)
    remember(tmp_path, "1" * 64, "models:/x/1")
    assert known(tmp_path) == {"1" * 64: "models:/x/1"}


def test_a_place_in_the_project_makes_no_program_its_own(tmp_path: Path, guarded: None) -> None:
    (tmp_path / "artifacts/export").mkdir(parents=True)
    for name in ("evil.pt2", "export.json"):
        shutil.copyfile(
            stranger(tmp_path / f"of-{name}").with_name(name.replace("evil", "x")), tmp_path / "artifacts/export" / name
        )
    with pytest.raises(ConfigError, match=r"evil\.pt2 is a program.*--trust"):
        open_predictor(tmp_path, tmp_path / "artifacts/export/evil.pt2", 0.9)


def test_what_a_stage_left_is_known_by_the_digest_it_noted(tmp_path: Path) -> None:
    own = tmp_path / "artifacts/teacher.safetensors"
    own.parent.mkdir()
    own.write_bytes(torchscript(torch.nn.Flatten()))
    with pytest.raises(ConfigError, match="--trust"):
        check_own(tmp_path, own, trust=False)
    note_made(tmp_path, "teacher")
    check_own(tmp_path, own, trust=False)
    with pytest.raises(ConfigError, match="--trust"):
        check_own(tmp_path / "other", own, trust=False)
    own.write_bytes(own.read_bytes() + b"x")
    with pytest.raises(ConfigError, match="--trust"):
        check_own(tmp_path, own, trust=False)


def test_a_program_for_one_number_of_images_is_a_sentence(tmp_path: Path) -> None:
    graph = torch.export.export(torch.nn.Flatten(), (torch.rand(2, 1, 4, 4),))
    torch.export.save(graph, tmp_path / "fixed.pt2")
    run = open_torch_export(tmp_path / "fixed.pt2")
    with pytest.raises(ConfigError, match=r"fixed\.pt2 does not answer as a file of `cgankd export` does"):
        run(torch.zeros(3, 1, 4, 4, dtype=torch.uint8))


def test_the_command_line_refuses_with_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: None) -> None:
    path = stranger(finished(tmp_path))
    (tmp_path / "png").mkdir()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["predict", "png", "--model", str(path)])
    assert done.exit_code == 2 and "add --trust" in " ".join(done.output.split())
