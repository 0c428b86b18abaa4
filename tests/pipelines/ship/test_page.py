"""The page of a finished student: what it says of it, and that its ONNX file is that student's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cgankd.config import ConfigError
from pipelines.commands.app import app
from pipelines.files.artifacts import read_record
from pipelines.ship.export import export
from pipelines.ship.folders import write_page
from tests.pipelines.device.pages import fake_runtime, model_of
from tests.pipelines.finished import finished

pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose student was exported."""
    work = finished(tmp_path_factory.mktemp("page") / "work")
    export(work, work / "out", level=0.9, int8_tolerance=10.0, repeats=1)
    return work


def test_page_says_what_its_student_is(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = fake_runtime(monkeypatch, tmp_path)
    files = write_page(exported, exported / "out", level=0.9, runtime=runtime)
    assert files[0] == exported / "out" / "web" / "index.html"
    found, record = model_of(files[0].parent), read_record(exported / "out" / "export.json")
    assert found["info"]["class_names"] == ["ant", "bee", "cat"] and found["sha256"] == record["files"]["student.onnx"]
    assert found["margin"] == record["margin"] and found["facts"] == [["Test error", "52 %"]]
    assert "<h1>digits-student</h1>" in files[0].read_text()
    none = write_page(exported, exported / "out", level=0.99, runtime=runtime)
    assert model_of(none[0].parent)["margin"] is None and "99 %" in model_of(none[0].parent)["no_margin"]


def test_what_a_user_changed_in_the_page_is_not_replaced(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = finished(tmp_path / "work")
    shutil.copytree(exported / "out", work / "out", ignore=shutil.ignore_patterns("web"))
    runtime = fake_runtime(monkeypatch, tmp_path)
    page = write_page(work, work / "out", level=0.9, runtime=runtime)[0].parent
    (page / "page.css").write_text("body { color: red }")
    with pytest.raises(ConfigError, match=r"page\.css was changed since its export"):
        write_page(work, work / "out", level=0.9, runtime=runtime)
    assert (page / "page.css").read_text() == "body { color: red }"


def test_a_folder_in_the_way_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = finished(tmp_path)
    monkeypatch.chdir(work)
    for name, file in (("web", "notes.txt"), ("c", "main.cc")):
        (work / "artifacts/export" / name).mkdir(parents=True)
        (work / "artifacts/export" / name / file).write_text("mine")
        done = CliRunner().invoke(app, ["export", "--to", f"onnx,{name}"])
        assert done.exit_code == 2 and f"{name} holds {file}" in done.output and "--out" in done.output
    assert not (work / "artifacts/export/student.onnx").exists()


def test_file_of_another_student_gets_no_page(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = fake_runtime(monkeypatch, tmp_path)
    other = finished(tmp_path / "other", student_seed=8)
    shutil.copytree(exported / "out", other / "out", ignore=shutil.ignore_patterns("web"))
    for damage, words in (
        (None, "of another student"),
        ("student.onnx", "are missing"),
        ("export.json", "are missing"),
    ):
        if damage is not None:
            (other / "out" / damage).rename(other / "kept")
        with pytest.raises(ConfigError, match=words):
            write_page(other, other / "out", level=0.9, runtime=runtime)
        if damage is not None:
            (other / "kept").rename(other / "out" / damage)
    assert not (other / "out" / "web").exists()
