"""`cgankd export` and `cgankd predict` on a finished folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cgankd.config import ConfigError
from cgankd.data.store import read_split
from pipelines import export as module
from pipelines.cli import app
from pipelines.export import export
from pipelines.predict import image_files, label_files, open_predictor
from pipelines.shipping import load_package
from tests.pipelines.finished import finished

INVOKE = CliRunner()


@pytest.fixture(scope="module", params=[False, True], ids=["classes", "scalars"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder with its export and the validation images as PNG files."""
    folder = finished(tmp_path_factory.mktemp("exported"), scalar=request.param)
    export(folder, folder / "out", level=0.8, int8_tolerance=0.1, repeats=3)
    (folder / "png").mkdir()
    for i, image in enumerate(read_split(folder / "artifacts/dataset.h5", "val").images):
        Image.fromarray(image[0].numpy()).save(folder / "png" / f"{i:03d}.png")
    return folder


def test_export_writes_what_it_says(exported: Path) -> None:
    values = json.loads((exported / "out/export.json").read_text())
    assert set(values["files"]) | {"export.json"} == {p.name for p in (exported / "out").iterdir()}
    assert {"student.onnx", "student.pt2"} <= set(values["files"])
    assert values["parity"]["images"] == 60 and values["parity"]["onnx"] <= values["parity"]["allowed"]
    forms = {(m["network"], m["arithmetic"]): m for m in values["models"]}
    assert list(forms) == [("teacher", "fp32"), ("teacher", "int8"), ("student", "fp32"), ("student", "int8")]
    assert forms["student", "fp32"]["parameters"] < forms["teacher", "fp32"]["parameters"]
    student = load_package(exported / "artifacts/student.safetensors")
    val = read_split(exported / "artifacts/dataset.h5", "val")
    score = float(student.answer.score(student.model.run(val.images), val.labels).mean())
    assert forms["student", "fp32"]["validation"] == pytest.approx(score, rel=1e-4)
    int8 = forms["student", "int8"]
    assert int8["holds"] is (int8["validation"] <= 1.1 * score)
    assert ("student-int8.onnx" in values["files"]) is int8["holds"]


def test_int8_that_does_not_hold_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, forms = finished(tmp_path), module._forms
    monkeypatch.setattr(module, "_forms", lambda *given: forms(*given[:5], -1.0, 1))  # nothing is better by 100 %
    (folder / "out").mkdir()
    (folder / "out/student-int8.onnx").write_bytes(b"of an earlier export")
    values = export(folder, folder / "out", level=0.8, int8_tolerance=0.1, repeats=1)
    assert [form["holds"] for form in values["models"]] == [True, False, True, False]
    assert {p.name for p in (folder / "out").iterdir()} == {"student.onnx", "student.pt2", "export.json"}
    assert any("does not hold" in str(cell) for cell in module.sizes_table(values).columns[-1].cells)


def test_a_format_that_disagrees_is_refused() -> None:
    module._check_parity("ONNX", 0.9e-4 * 80, 80.0)
    for worst in (1.1e-4 * 80, float("nan")):
        with pytest.raises(ConfigError, match="nothing was exported"):
            module._check_parity("ONNX", worst, 80.0)


def test_student_and_onnx_label_alike(exported: Path) -> None:
    files = image_files(exported / "png")
    student = label_files(open_predictor(exported, None, 0.8), files)
    onnx = label_files(open_predictor(Path("/nowhere"), exported / "out/student.onnx", 0.8), files)
    assert len(student) == 40
    for left, right in zip(student, onnx, strict=True):
        assert left.reading and right.reading
        if isinstance(left.reading.label, str):
            assert left.reading.label == right.reading.label
            assert left.reading.confidence == pytest.approx(right.reading.confidence, abs=1e-4)
        else:
            assert left.reading.label == pytest.approx(right.reading.label, abs=1e-3)
            assert left.reading.region == pytest.approx(right.reading.region, abs=1e-3)


def test_regions_hold_the_share_of_validation_labels_they_promise(exported: Path) -> None:
    val = read_split(exported / "artifacts/dataset.h5", "val")
    package = load_package(exported / "artifacts/student.safetensors")
    inside = 0
    for label, entry in zip(
        val.labels.tolist(),
        label_files(open_predictor(exported, None, 0.8), image_files(exported / "png")),
        strict=True,
    ):
        assert entry.reading
        region = entry.reading.region
        if package.info.class_names:
            inside += package.info.class_names[label] in region
        else:
            assert isinstance(region[0], float) and isinstance(region[1], float)
            inside += region[0] - 1e-4 <= label <= region[1] + 1e-4
    # ceil(41 * 0.8) = 33 of the 40 misses are within the margin; ties can only add.
    assert inside >= 33 and (inside == 33 or package.info.class_names)


def test_one_bad_image_costs_no_other_its_label(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported)
    (tmp_path / "deep").mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "deep/large.png")
    Image.fromarray(rng.integers(0, 255, (20, 16), dtype=np.uint8)).save(tmp_path / "tall.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image either")
    done = INVOKE.invoke(app, ["predict", str(tmp_path), "--csv", str(tmp_path / "out.csv")])
    assert done.exit_code == 2 and "tall.png is 16x20" in done.output and "broken.jpg" in done.output
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [Path(row["path"]).name for row in rows] == ["broken.jpg", "large.png", "tall.png"]
    assert rows[1]["label"] and rows[1]["confidence"] and not rows[1]["error"] and not rows[0]["label"]
    shown = INVOKE.invoke(app, ["predict", str(tmp_path / "deep/large.png")], env={"COLUMNS": "300"})
    assert shown.exit_code == 0 and rows[1]["label"] in shown.output and "90 % (40 validation images)" in shown.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.png"], "does not exist"),
        (["artifacts"], "has no images"),
        (["png", "--model", "other.onnx"], "other.onnx is missing"),
        (["png", "--model", "other.safetensors"], "is missing"),
        (["png", "--level", "1.5"], "between 0 and 1"),
        (["png", "--server", "localhost"], "such as http://"),
        (["png", "--model", "artifacts/cgan.safetensors"], "missing"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    finished(tmp_path)
    (tmp_path / "png").mkdir()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "png/0.png")
    monkeypatch.chdir(tmp_path)
    done = INVOKE.invoke(app, ["predict", *arguments])
    assert done.exit_code == 2 and words in done.output and len(done.output.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["export", "ship"])
def test_what_passes_a_student_on_says_that_settings_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(finished(tmp_path))
    (tmp_path / "metrics/evaluate.json").unlink()  # so that the command ends before the slow part
    done = INVOKE.invoke(app, [name])
    assert done.exit_code == 2 and "evaluate.json is missing" in done.stderr
    assert "warning: artifacts/student.safetensors was made with" in done.stderr
    assert "teacher.width 16, params.yaml says 32" in done.stderr and "run `dvc repro`" in done.stderr


def test_export_needs_a_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = INVOKE.invoke(app, ["export"])
    assert done.exit_code == 2 and "student.safetensors is missing; run `cgankd evaluate` first" in done.output
