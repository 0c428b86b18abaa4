"""`cgankd export` and `cgankd predict` on a finished folder."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from cgankd.config import ConfigError, to_dict
from cgankd.data.readers.sources import load
from cgankd.data.store.datasets import read_split
from cgankd.labels.answers import Margin, Reading
from cgankd.measure.conformal import conformal_margin, images_needed
from cgankd.types import DatasetInfo
from pipelines.commands.app import app
from pipelines.files.artifacts import save_weights
from pipelines.networks.predictor import build_predictor
from pipelines.ship import export as module
from pipelines.ship.card import image_rules
from pipelines.ship.export import export
from pipelines.ship.predict import Labelled, as_csv, image_files, label_files, labels_table, open_predictor
from pipelines.ship.saved import load_package
from tests.data.builders import data_config
from tests.pipelines.finished import finished, save_net

INVOKE = CliRunner()
MARGIN = Margin(0.9, 0.1, 40)


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
    # Nothing is better by 100 %.
    monkeypatch.setattr(module, "_forms", lambda *given: forms(*given[:3], replace(given[3], tolerance=-1.0)))
    (folder / "out").mkdir()
    (folder / "out/student-int8.onnx").write_bytes(b"of an earlier export")
    values = export(folder, folder / "out", level=0.8, int8_tolerance=0.1, repeats=1)
    assert [form["holds"] for form in values["models"]] == [True, False, True, False]
    assert {p.name for p in (folder / "out").iterdir()} == {"student.onnx", "student.pt2", "export.json"}
    assert any("does not hold" in str(cell) for cell in module.sizes_table(values).columns[-1].cells)


@pytest.mark.parametrize(
    ("size", "latency", "said"),
    [(27, 0.1, "neither smaller nor faster"), (20, 0.2, "not faster"), (30, 0.05, "not smaller"), (20, 0.05, "")],
)
def test_int8_that_gains_nothing_is_said(size: int, latency: float, said: str) -> None:
    fp32 = {"network": "n", "arithmetic": "fp32", "parameters": 9, "bytes": 27, "latency_ms": 0.1, "validation": 9.0}
    int8 = fp32 | {"arithmetic": "int8", "bytes": size, "latency_ms": latency, "holds": True}
    values = {
        "headline": {"unit": "%"},
        "parity": {"images": 1, "onnx": 0.0, "torch_export": 0.0, "allowed": 1.0},
        "models": [fp32 | {"holds": True}, int8 | {"holds": False}, fp32 | {"holds": True}, int8],
        "output": {"columns": ["a"]},
        "int8_tolerance": 0.1,
        "input": {"type": "float32", "shape": ["batch", 1, 16, 16]},
        "files": {},
    }
    cells = list(module.sizes_table(values).columns[-1].cells)
    assert cells[1] == "does not hold (+0)"
    assert cells[3] == "holds (+0)" + (f", but {said}" if said else "")
    lines = [line for line in module.remarks(values, Path("out")) if line.startswith("student-int8.onnx is")]
    assert len(lines) == bool(said) and (not said or f"is {said}: {size / 27:.2f} times the size" in lines[0])
    assert any("use student.onnx" in line for line in lines) is said.startswith("neither")


@pytest.mark.parametrize(
    ("size", "latency", "said"),
    [
        (10, 0.05, "2.7 times smaller, 2.0 times faster"),
        (2700, 0.4, "100.0 times larger, 4.0 times slower"),
        (27, 0.1, "1.0 times smaller, 1.0 times faster"),
    ],
)
def test_a_student_that_is_larger_or_slower_than_its_teacher_is_called_that(
    size: int, latency: float, said: str
) -> None:
    teacher = {"bytes": 27, "latency_ms": 0.1}
    student = {"bytes": size, "latency_ms": latency, "holds": True}
    values = {
        "parity": {"images": 1, "onnx": 0.0, "torch_export": 0.0, "allowed": 1.0},
        "models": [teacher, teacher, student, student | {"holds": False}],
        "output": {"columns": ["a"]},
        "int8_tolerance": 0.1,
        "input": {"type": "float32", "shape": ["batch", 1, 16, 16]},
        "files": {},
    }
    assert f"student against teacher, fp32: {said}" in module.remarks(values, Path("out"))


def test_a_format_that_disagrees_is_refused() -> None:
    module._check_parity("ONNX", 0.9e-4 * 80, 80.0)
    for worst in (1.1e-4 * 80, float("nan")):
        with pytest.raises(ConfigError, match="nothing was exported"):
            module._check_parity("ONNX", worst, 80.0)


def test_student_and_its_exports_label_alike(exported: Path) -> None:
    files = image_files(exported / "png")
    student = label_files(open_predictor(exported, None, 0.8), files)
    onnx, graph = (
        label_files(open_predictor(Path("/nowhere"), exported / f"out/student.{kind}", 0.8, trust=True), files)
        for kind in ("onnx", "pt2")
    )
    assert len(student) == len(graph) == 40
    for left, right in [*zip(student, onnx, strict=True), *zip(student, graph, strict=True)]:
        assert left.reading and right.reading
        if isinstance(left.reading.label, str):
            assert left.reading.label == right.reading.label
            assert left.reading.confidence == pytest.approx(right.reading.confidence, abs=1e-4)
        else:
            assert left.reading.label == pytest.approx(right.reading.label, abs=1e-3)
            assert left.reading.region == pytest.approx(right.reading.region, abs=1e-3)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_level_that_an_exported_file_has_not_is_refused(exported: Path, kind: str) -> None:
    path = exported / f"out/student.{kind}"
    for level in (None, 0.8):
        found = open_predictor(exported, path, level, trust=True).margin
        assert found is not None and found.level == 0.8
    done = INVOKE.invoke(app, ["predict", str(exported / "png"), "--model", str(path), "--level", "0.5", "--trust"])
    assert done.exit_code == 2 and "--level 0.5 is not in " in done.output
    assert "which holds regions at a level of 0.8 and no other" in " ".join(done.output.split())
    own = open_predictor(exported, None, None).margin
    assert own is not None and own.level == 0.9


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
    assert "left out: 1 .txt files (notes.txt)" in done.output
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [Path(row["path"]).name for row in rows] == ["broken.jpg", "large.png", "tall.png"]
    assert rows[1]["label"] and rows[1]["confidence"] and not rows[1]["error"] and not rows[0]["label"]
    done = INVOKE.invoke(app, ["predict", str(tmp_path / "tall.png"), "--square", "pad"])
    assert done.exit_code == 0 and "tall.png" in done.output
    done = INVOKE.invoke(app, ["predict", str(tmp_path / "tall.png"), "--square", "round"])
    assert done.exit_code == 2 and "--square must be crop, pad or stretch" in done.output
    shown = INVOKE.invoke(app, ["predict", str(tmp_path / "deep/large.png")], env={"COLUMNS": "300"})
    assert shown.exit_code == 0 and rows[1]["label"] in shown.output and "90 % (40 validation images)" in shown.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.png"], "does not exist"),
        (["artifacts"], "has no images"),
        (["png", "--model", "other.onnx"], "other.onnx is missing"),
        (["png", "--model", "other.safetensors"], "error: other.safetensors is missing; --model needs"),
        (
            ["png", "--model", "params.yaml"],
            "params.yaml is no model; name a .safetensors, .onnx, .pt2, .tflite or .pte file",
        ),
        (["png", "--model", "damaged/a.pt2", "--trust"], "damaged/a.pt2 cannot be opened as a torch.export file"),
        (["png", "--csv", "png"], "png is a folder; name a file in it"),
        (["png", "--csv", "params.yaml/x.csv"], "params.yaml/x.csv cannot be written"),
        (["params.yaml"], "params.yaml cannot be read as an image"),
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
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/a.pt2").write_bytes(b"no archive")
    info = to_dict(load_package(tmp_path / "artifacts/student.safetensors").info)
    (tmp_path / "damaged/export.json").write_text(json.dumps({"info": info, "margin": None}))
    monkeypatch.chdir(tmp_path)
    done = INVOKE.invoke(app, ["predict", *arguments])
    assert done.exit_code == 2 and words in done.output and len(done.output.strip().splitlines()) == 1


def test_a_missing_or_empty_region_is_put_in_words(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(exported)
    image = str(exported / "png/000.png")
    done = INVOKE.invoke(app, ["predict", image, "--level", "0.99"])
    assert done.exit_code == 0 and "a level of 99 % needs 99 validation images, and there are 40" in done.output
    reading = Reading("ant", 0.4, ())
    for margin, said in ((Margin(0.9, 0.1, 40), 1), (None, 0)):
        Console(width=200).print(labels_table([Labelled(Path("a.png"), reading)], margin))
        shown = capsys.readouterr().out
        assert shown.count("none fits") == said and "ant" in shown
    (exported / "artifacts/dataset.h5").rename(exported / "kept.h5")
    try:
        done = INVOKE.invoke(app, ["predict", image])
    finally:
        (exported / "kept.h5").rename(exported / "artifacts/dataset.h5")
    assert done.exit_code == 0 and "artifacts/dataset.h5, which is missing" in done.output


@pytest.mark.parametrize("level", [0.05, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1 / 3])
def test_as_many_images_are_asked_for_as_a_level_needs(level: float) -> None:
    num = images_needed(level)
    assert conformal_margin(torch.arange(float(num)), level) is not None
    assert num == 1 or conformal_margin(torch.arange(float(num - 1)), level) is None


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


def test_the_rules_of_a_model_are_applied_to_new_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide, small, transparent, turned and 16-bit images of a model whose data set had such, without a word."""
    folder = finished(tmp_path / "run")
    config = json.loads((folder / "artifacts/student.config.json").read_text())
    rules = {"fit": "pad", "enlarge": True, "background": "#000000", "pixel_range": [0.0, 4095.0]}
    config["info"] |= rules
    (folder / "artifacts/student.config.json").write_text(json.dumps(config))
    (folder / "artifacts/dataset.h5").unlink()
    predictor = open_predictor(folder, None, 0.8)
    assert to_dict(predictor.info) == config["info"] and predictor.info.pixel_range == (0.0, 4095.0)
    seen: list[torch.Tensor] = []
    run = predictor.run
    predictor = replace(predictor, run=lambda images: (seen.append(images), run(images))[1])
    new = tmp_path / "new"
    new.mkdir()
    Image.new("L", (24, 12), 100).save(new / "a.png")
    Image.new("RGBA", (16, 16), (200, 200, 200, 0)).save(new / "b.png")
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(new / "c.png")
    (new / "._a.png").write_bytes(b"of another system")
    labelled = label_files(predictor, image_files(new))
    assert [entry.error for entry in labelled] == ["", "", ""]
    levels = [sorted(set(image.flatten().tolist())) for image in seen[0]]
    assert levels == [[100], [0], [255]]


def test_names_of_classes_come_whole_out_of_the_table(tmp_path: Path) -> None:
    names = ('say "hi" now', "a, b", "猫")
    rows = list(csv.reader(as_csv([Labelled(Path("a.png"), Reading(names[0], 0.9, names))], MARGIN).splitlines()))
    assert rows[1][1] == names[0] and tuple(json.loads(rows[1][3])) == names
    assert list(csv.reader(as_csv([Labelled(Path("a.png"), Reading("b", 0.9, ()))], MARGIN).splitlines()))[1][3] == "[]"
    assert list(csv.reader(as_csv([Labelled(Path("a.png"), Reading("b", 0.9, ()))], None).splitlines()))[1][3] == ""
    assert ",1.5..2.5," in as_csv([Labelled(Path("a.png"), Reading(2.0, 0.9, (1.5, 2.5)))], MARGIN)


def test_a_student_that_answers_with_a_point_is_rebuilt(tmp_path: Path) -> None:
    info = DatasetInfo("scalar", "csv", "degrees", 1, 16, (0.5,), (0.2,), (), 0.0, 360.0, 360.0, "circle")
    net, path = build_predictor({"net": "convnet", "width": 4}, info, 2), tmp_path / "student.safetensors"
    save_weights(path, net, {"net": "convnet", "width": 4, "precision": "fp32", "info": to_dict(info)})
    package, images = load_package(path), torch.randint(256, (9, 1, 16, 16), dtype=torch.uint8)
    net.eval()
    with torch.no_grad():
        out = net(images / 255).numpy()
    expected = np.degrees(np.arctan2(out[:, 1], out[:, 0])) % 360
    np.testing.assert_allclose(package.model.run(images)[:, 0], expected, atol=1e-3)


def test_an_interval_over_the_end_of_a_turn_reads_right() -> None:
    over = [Labelled(Path("a.png"), Reading(9.5, 0.9, (8.75, 0.25), 10.0))]
    assert as_csv(over, MARGIN).splitlines()[1] == "a.png,9.5,0.9000,8.75..0.25,"
    console = Console(width=200, file=io.StringIO())
    console.print(labels_table(over, MARGIN))
    assert "8.75..0.25 (over 10)" in console.file.getvalue()  # type: ignore[attr-defined]
    console.print(labels_table([Labelled(Path("a.png"), Reading(2.0, 0.9, (1.5, 2.5)))], MARGIN))
    assert console.file.getvalue().count("over") == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({}, "Images must be square. Larger images are averaged down to that size; smaller ones are not taken."),
        (
            {"fit": "crop", "enlarge": True},
            "the middle square is used. Larger images are averaged down to that size, smaller",
        ),
        ({"fit": "pad"}, "padded to a square with the mean colour of its edge"),
        ({"fit": "pad", "pad_colour": "#aabbcc"}, "padded to a square with #aabbcc"),
        ({"background": "#000000"}, "Transparent parts are laid on #000000."),
        ({"pixel_range": (0.0, 4095.0)}, "of more than 8 bits from 0 to 4095 become 0 to 255"),
    ],
)
def test_the_model_card_says_what_is_done_to_images(tmp_path: Path, rules: dict[str, object], said: str) -> None:
    info = load_package(finished(tmp_path) / "artifacts/student.safetensors").info
    assert said in image_rules(replace(info, **rules))  # type: ignore[arg-type]


def test_photos_that_a_model_was_made_of_are_read_as_prepare_read_them(tmp_path: Path) -> None:
    for place in range(24):
        pixels = np.random.default_rng(place).integers(0, 256, (20, 32, 3), dtype=np.uint8)
        exif = Image.Exif()
        image = Image.fromarray(pixels)
        if place % 2:  # stored turned by 90 degrees, with the tag that says so
            exif[0x0112] = 6
            image = image.transpose(Image.Transpose.ROTATE_90)
        path = tmp_path / "in" / ("up", "down")[place % 3 == 0] / f"IMG_{place}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=95, exif=exif)
    changes = {"source": "image-folder", "root": str(tmp_path / "in"), "test_share": 0.2, "fit": "pad"}
    data = load(data_config(**changes), 0)
    save_net(tmp_path / "artifacts/student.safetensors", data, 3, 4)
    package = load_package(tmp_path / "artifacts/student.safetensors")
    images = torch.cat([split.images[:] for split in data.splits().values()])
    prepared = [reading.confidence for reading in package.answer.read(package.model.run(images), None)]
    found = label_files(open_predictor(tmp_path, None, 0.9), image_files(tmp_path / "in"))
    new = [entry.reading.confidence for entry in found if entry.reading is not None]
    assert len(new) == 24 and len(set(new)) > 12
    assert sorted(map(float, filter(None, new))) == pytest.approx(sorted(map(float, filter(None, prepared))), abs=1e-6)
