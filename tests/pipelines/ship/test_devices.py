"""`cgankd export --to litert` on a finished folder, what `ship` takes of it, and `predict` by its files."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.artifacts
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from cgankd.config import ConfigError
from cgankd.data.store.datasets import read_split
from cgankd.labels.task import make_task
from cgankd.types import Split
from pipelines.commands.app import app
from pipelines.device import measuring
from pipelines.device.boards import board_of
from pipelines.device.forms import Form
from pipelines.device.running import Micro, Ran
from pipelines.device.table import board_lines, device_remarks, device_table
from pipelines.files.artifacts import file_digest, write_sealed_json
from pipelines.files.made import note_made
from pipelines.files.params import load_config
from pipelines.ship import devices
from pipelines.ship.devices import Asked, export_devices, formats_of, lessons_of
from pipelines.ship.export import export
from pipelines.ship.exported import device_section, exported_of, note_folder, record_of
from pipelines.ship.predict import label_files, open_predictor
from pipelines.ship.release import ship
from pipelines.ship.saved import load_finished, load_package
from pipelines.tracking.mlflow_sink import environment
from pipelines.tracking.places import store_uri
from tests.pipelines.finished import COUNTS, finished

INVOKE = CliRunner()


def row(file: str | None, **other: Any) -> dict[str, Any]:
    found = {"form": "litert-int8", "file": file, "bytes": 6776, "latency_ms": 0.5, "peak_bytes": 4e7, "added_bytes": 0}
    found |= {"validation": 61.0, "test": 60.0, "test_low": 40.0, "test_high": 80.0, "balanced": 60.0, "groups": [1.0]}
    if file is not None:
        found |= {"agreement": 90.0, "difference": 0.1, "loss": 1.0, "loss_low": -1.0, "loss_high": 3.0}
    return found | {"holds": True} | other


def device_json(folder: Path, weights: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    headline = {"name": "test error", "unit": "%", "higher_is_better": False}
    values = {
        "weights": weights,
        "headline": headline,
        "confidence": 0.95,
        "tolerance": 0.1,
        "num_val": 40,
        "num_test": 10,
    }
    out = folder / "artifacts" / "export"
    out.mkdir(exist_ok=True)
    (out / "device.json").write_text(json.dumps(values | {"forms": rows}))
    return values | {"forms": rows}


def stored(folder: Path, name: str, data: bytes) -> str:
    path = folder / "artifacts" / "export" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return file_digest(path)


@pytest.mark.parametrize(
    ("text", "formats"),
    [("onnx,torch", ["onnx", "torch"]), (" litert , executorch,litert", ["litert", "executorch"])],
)
def test_formats_are_words(text: str, formats: list[str]) -> None:
    assert formats_of(text) == formats


@pytest.mark.parametrize(
    ("text", "said"), [("tflite", "choose from onnx"), ("litertt", "did you mean 'litert'"), (",", "names no")]
)
def test_a_format_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        formats_of(text)


def test_a_board_needs_files_for_boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = INVOKE.invoke(app, ["export", "--board", "pico"])
    assert result.exit_code == 2 and "--board needs --to litert" in result.output
    for option, words in (("--recover", "--recover needs --to litert"), ("--onnxruntime-web=x.tgz", "needs --to web")):
        result = INVOKE.invoke(app, ["export", option])
        assert result.exit_code == 2 and words in result.output, "what would be left undone is said"


def test_ship_takes_what_holds_and_says_what_does_not(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = finished(tmp_path / "project")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    plain = ship(folder, name=None, licence=None, level=0.9, promote=False)
    digest = stored(folder, "student-int8.tflite", b"good")
    other = stored(folder, "student-float32.tflite", b"bad")
    weights = file_digest(folder / "artifacts/student.safetensors")
    rows = [row(None), row("student-int8.tflite", sha256=digest, micro={"arena": 3904})]
    rows += [row("student-float32.tflite", sha256=other, holds=False)]
    device_json(folder, weights, rows)
    done = ship(folder, name=None, licence=None, level=0.9, promote=False)
    again = ship(folder, name=None, licence=None, level=0.9, promote=False)
    assert (plain.registered.version, done.registered.version, again.registered.version) == (1, 2, 2)
    assert plain.files == () and done.files == ("student-int8.tflite",) and done.left_out == ("student-float32.tflite",)
    with environment({"MLFLOW_TRACKING_URI": store_uri(folder)}):
        place = mlflow.artifacts.download_artifacts("models:/digits-student/2", dst_path=str(tmp_path / "got"))
    assert [path.read_bytes() for path in Path(place).rglob("*.tflite")] == [b"good"]
    card = done.card.read_text()
    assert "| student-int8.tflite | 6,776 | 3,904 |" in card and "does not hold, left out" in card


def test_ship_takes_the_folders_too_and_names_what_no_record_knows(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = finished(tmp_path / "project")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    out, weights = folder / "artifacts/export", file_digest(folder / "artifacts/student.safetensors")
    digest = stored(folder, "student-int8.tflite", b"good")
    device_json(folder, weights, [row(None), row("student-int8.tflite", sha256=digest)])
    stored(folder, "student.onnx", b"graph")
    for name, inner in (("web", "index.html"), ("web", "onnxruntime-web/ort.js"), ("c", "student.h")):
        (out / name / inner).parent.mkdir(parents=True, exist_ok=True)
        (out / name / inner).write_text(inner)
    note_folder(out, weights, "web", [out / "web/index.html", out / "web/onnxruntime-web/ort.js"], out / "student.onnx")
    note_folder(out, weights, "c", [out / "c/student.h"], out / "student-int8.tflite")
    monkeypatch.chdir(folder)
    done = INVOKE.invoke(app, ["ship"])
    assert done.exit_code == 0 and "registered beside it: student-int8.tflite, web/, c/\n" in done.output
    assert "export/student.onnx is in no record of this student's exports" in done.output
    with environment({"MLFLOW_TRACKING_URI": store_uri(folder)}):
        place = Path(mlflow.artifacts.download_artifacts("models:/digits-student/1", dst_path=str(tmp_path / "got")))
    (page,) = place.rglob("web")
    assert (page / "onnxruntime-web/ort.js").read_text() == "onnxruntime-web/ort.js"
    assert [path.parent.name for path in place.rglob("student.h")] == ["c"]
    (out / "web/index.html").write_text("changed")
    with pytest.raises(ConfigError, match=r"web/index\.html is missing or not the file that its record tells of"):
        exported_of(folder, weights)
    (out / "web/index.html").write_text("index.html")
    device_json(folder, weights, [row(None), row("student-int8.tflite", sha256=digest, holds=False)])
    assert exported_of(folder, weights).left_out == ("student-int8.tflite", "c/"), "nor what was made of it"
    found = exported_of(folder, "f" * 64)
    assert found.files == {} and found.unlisted == ("student-int8.tflite", "student.onnx", "c/", "web/")


def merged(folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """A second device export, of a format whose files are not made here, after `change` of what the first has left."""
    monkeypatch.setattr(devices, "make_forms", lambda *given: [])
    out = folder / "out"
    first = export_devices(folder, out, Asked(["executorch"], 0.9, 0.1, 1))
    names = ("student-float32.tflite", "student-int8.tflite")
    for name in names:
        (out / name).write_bytes(name.encode())
    first["forms"] += [row(name, sha256=file_digest(out / name)) for name in names]
    first["inputs"] = first["margins"] = dict.fromkeys(names, {"a": 1})
    change(first)
    write_sealed_json(out / "device.json", {key: value for key, value in first.items() if key != "seal"})
    return export_devices(folder, out, Asked(["executorch"], 0.9, 0.5, 1))


def test_a_second_device_export_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished(tmp_path)
    values = merged(folder, monkeypatch, lambda first: None)
    assert "dropped" not in values and values == json.loads((folder / "out/device.json").read_text())
    kept = {form["file"]: form for form in values["forms"]}
    assert list(kept) == [None, "student-float32.tflite", "student-int8.tflite"]
    assert kept["student-int8.tflite"]["tolerance"] == 0.1, "with which it was found to hold"
    assert set(values["inputs"]) == set(values["margins"]) == set(kept) - {None}
    lines = device_remarks(values, Path("out"))
    assert "student-int8.tflite was exported before, with --tolerance 0.1" in lines


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda first: first.update(weights="f" * 64), "is of another student"),
        (lambda first: first.update(num_val=39), "was measured on other images or otherwise"),
        (lambda first: [form.update(sha256="0" * 64) for form in first["forms"][1:]], "is gone or was changed since"),
    ],
)
def test_entries_that_no_longer_hold_are_dropped_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    values = merged(finished(tmp_path), monkeypatch, change)
    assert [form["file"] for form in values["forms"]] == [None]
    assert values["dropped"] == [
        f"{name} in device.json {words}, so it is not taken"
        for name in ("student-float32.tflite", "student-int8.tflite")
    ]


def test_a_damaged_record_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished(tmp_path)
    monkeypatch.setattr(devices, "make_forms", lambda *given: [])
    (folder / "out").mkdir()
    (folder / "out/device.json").write_text("[")
    values = export_devices(folder, folder / "out", Asked(["executorch"], 0.9, 0.1, 1))
    assert "device.json is damaged" in values["dropped"][0] and len(values["forms"]) == 1


def test_after_a_narrower_server_export_ship_takes_what_is_there(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    folder = finished(tmp_path)
    weights = file_digest(folder / "artifacts/student.safetensors")
    digests = {name: stored(folder, name, name.encode()) for name in ("student.pt2", "student-int8.tflite")}
    device_json(folder, weights, [row(None), *(row(name, sha256=digest) for name, digest in digests.items())])
    values = export(folder, folder / "artifacts/export", level=0.9, int8_tolerance=0.1, repeats=1, formats=("onnx",))
    assert values["dropped"] == [
        "deleted: student.pt2 of an earlier export, which is of a format that --to does not name",
        "student.pt2 in device.json is gone or was changed since, so it is not taken",
    ]
    found = exported_of(folder, weights)
    assert {"student.onnx", "student-int8.tflite"} <= {path.name for path in found.files} and found.unlisted == ()
    (folder / "artifacts/export/student-int8.tflite").unlink()
    export(folder, folder / "artifacts/export", level=0.9, int8_tolerance=0.1, repeats=1, formats=("onnx",))
    assert not (folder / "artifacts/export/device.json").exists(), "a record of nothing"


@pytest.mark.parametrize("tolerance", ["nan", "inf", "-0.1"])
def test_a_tolerance_that_is_no_share_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tolerance: str
) -> None:
    folder = finished(tmp_path)
    monkeypatch.chdir(folder)
    done = INVOKE.invoke(app, ["export", "--to", "onnx,litert", f"--tolerance={tolerance}"])
    assert (
        done.exit_code == 2
        and f"--tolerance must be a finite number of zero or more, but is {tolerance}" in done.output
    )
    assert not (folder / "artifacts/export").exists()


def test_a_file_that_answers_otherwise_on_a_microcontroller_is_said(tmp_path: Path) -> None:
    micro = {"runs": True, "arena": 3904, "operators": {"CONV_2D": True}, "error": "", "images": 50, "difference": 0.5}
    rows = [row(None), row("a.tflite", holds=False, micro=micro | {"agreement": 90.0, "agrees": False})]
    rows += [row("b.tflite", micro=micro | {"agreement": 98.0, "agrees": True}), row("c.tflite", micro=micro)]
    lines = device_remarks(device_json(finished(tmp_path), "x", rows), Path("out"))
    start = "on a microcontroller in 3,904 bytes of RAM"
    assert (
        f"a.tflite {start} gives the labels of LiteRT on 90 % of 50 images, which is too far, so it does not hold"
        in lines
    )
    assert f"b.tflite {start} gives the labels of LiteRT on 98 % of 50 images" in lines
    assert f"c.tflite {start} differs from LiteRT by at most 0.5 on 50 images" in lines


@pytest.mark.parametrize(
    ("scalar", "off", "agrees"), [(False, 1, True), (False, 2, False), (True, 1, True), (True, 3, False)]
)
def test_the_interpreter_for_boards_is_held_against_litert(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scalar: bool, off: int, agrees: bool
) -> None:
    """Of 50 labels one may differ; of a scalar 2 % of its range."""
    folder = finished(tmp_path, scalar=scalar)
    student = load_package(folder / "artifacts/student.safetensors")
    images = read_split(folder / "artifacts/dataset.h5", "val").images[:1].repeat(50, 1, 1, 1)
    split = Split(images, torch.zeros(50))
    own = torch.tensor([[4.0]] if scalar else [[1.0, 0.0, 0.0]]).repeat(50, 1)
    other = own.clone()
    if scalar:
        other += off / 100 * student.answer.scale
    else:
        other[:off] = torch.tensor([0.0, 1.0, 0.0])
    monkeypatch.setattr(measuring, "micro_of", lambda *given: Micro(100, ("CONV_2D",), (), other))
    monkeypatch.setattr(measuring, "run_apart", lambda *given, **more: Ran(own, 1.0, None, None, ""))
    task = make_task(student.info, load_config(folder / "params.yaml"))
    bench = measuring.Bench(student.model, student.info, task, split, split, 0.95, 0.1, 1)
    form = Form("litert-int8", tmp_path / "a.tflite", lambda given: own, None)  # type: ignore[arg-type]
    found = measuring.on_board(bench, form, lambda outputs: outputs)
    assert found["agrees"] is agrees and found["images"] == 50


def test_a_record_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    weights = file_digest(folder / "artifacts/student.safetensors")
    digest = stored(folder, "student.onnx", b"graph")
    entry = {"of": {"student.onnx": digest}, "files": {"../../student.config.json": "0" * 64}}
    write_sealed_json(folder / "artifacts/export/folders.json", {"weights": weights, "folders": {"web": entry}})
    with pytest.raises(ConfigError, match="has a record of a file elsewhere"):
        exported_of(folder, weights)


def test_files_of_another_student_or_another_export_are_not_taken(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    digest = stored(folder, "student-int8.tflite", b"good")
    device_json(folder, "f" * 64, [row(None), row("student-int8.tflite", sha256=digest)])
    weights = file_digest(folder / "artifacts/student.safetensors")
    assert exported_of(folder, weights).files == {}
    device_json(folder, weights, [row(None), row("student-int8.tflite", sha256=digest)])
    assert exported_of(folder, weights).files == {folder / "artifacts/export/student-int8.tflite": digest}
    stored(folder, "student-int8.tflite", b"changed")
    with pytest.raises(ConfigError, match="not the file that its record tells of"):
        exported_of(folder, weights)
    (folder / "artifacts/export/device.json").write_text("[")
    with pytest.raises(ConfigError, match=r"device\.json is damaged"):
        exported_of(folder, weights)


def test_a_record_carries_its_seal(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    values = write_sealed_json(
        path, {"weights": "a" * 64, "files": {"student.onnx": "b"}, "number": 1.5, "none": math.nan}
    )
    good = path.read_text()
    assert record_of(path, "a" * 64) == {k: v for k, v in values.items() if k != "seal"} and values["none"] is None
    for before, after in (
        ("1.5", "1.4"),
        ("student.onnx", "student.onny"),
        ("a" * 64, "a" * 63 + "c"),
        ("null", "true"),
    ):
        path.write_text(good.replace(before, after, 1))
        with pytest.raises(ConfigError, match=r"export\.json is damaged .*run `cgankd export` again"):
            record_of(path, "a" * 64)


def test_a_damaged_bank_teaches_nothing(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    shutil.copyfile(folder / "artifacts/pool.h5", folder / "artifacts/bank.h5")
    note_made(folder, "bank")
    whole, cfg = load_finished(folder, 0.9), load_config(folder / "params.yaml")
    task = make_task(whole.student.info, cfg)
    data = bytearray((folder / "artifacts/bank.h5").read_bytes())
    data[len(data) // 2] ^= 4
    (folder / "artifacts/bank.h5").write_bytes(data)
    with pytest.raises(ConfigError, match=r"bank\.h5 is damaged.*run `cgankd bank` again"):
        lessons_of(folder, whole, task)


def test_the_table_says_what_does_not_hold(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    micro = {"runs": True, "arena": 3904, "operators": {"CONV_2D": True}, "error": ""}
    rows = [row(None), row("a.tflite", holds=False, micro=micro), row("b.pte", bytes=9000, peak_bytes=None)]
    values = device_json(folder, "x", rows)
    stream = io.StringIO()
    Console(width=200, file=stream).print(device_table(values))
    text = stream.getvalue()
    assert re.search(r"a\.tflite .* NO ", text) and "3.9" in text and re.search(r"60\.00 +20\.00", text)
    lines = device_remarks(values, Path("out"))
    assert "a.tflite does not hold; `cgankd ship` leaves it out" in lines
    assert "the smallest file that holds: out/b.pte (9,000 bytes)" in lines
    said = board_lines(values, [board_of("flash=6k,ram=1M")])
    assert len(said) == 3 and "does not fit: 17,016 bytes of flash too little" in said[1]
    assert device_section(values).count("\n|") == 5


@pytest.fixture(scope="module", params=[False, True], ids=["classes", "scalars"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished folder with LiteRT files, trained on for a few steps, and the validation images as PNG files."""
    pytest.importorskip("litert_torch", reason="the extra device is not installed")
    folder = finished(tmp_path_factory.mktemp("devices"), scalar=request.param)
    (folder / "artifacts/bank.h5").unlink(missing_ok=True)
    values = export_devices(folder, folder / "out", Asked(["litert"], 0.8, 0.1, 2, recover=3))
    (folder / "png").mkdir()
    for i, image in enumerate(read_split(folder / "artifacts/dataset.h5", "val").images[:5]):
        Image.fromarray(image[0].numpy()).save(folder / "png" / f"{i:03d}.png")
    return folder, values


def test_device_json_holds_what_was_measured(exported: tuple[Path, dict[str, Any]]) -> None:
    folder, values = exported
    assert values == json.loads((folder / "out/device.json").read_text())
    student = load_package(folder / "artifacts/student.safetensors")
    val, test = (read_split(folder / "artifacts/dataset.h5", name) for name in ("val", "test"))
    scores = [student.answer.score(student.model.run(s.images[:]), s.labels).double().numpy() for s in (val, test)]
    twin = values["forms"][0]
    assert twin["validation"] == pytest.approx(scores[0].mean()) and twin["test"] == pytest.approx(scores[1].mean())
    half = 2.2622 * scores[1].std(ddof=1) / np.sqrt(COUNTS["test"])  # t of 9 degrees of freedom at 95 %
    assert twin["test_high"] - twin["test"] == pytest.approx(half, rel=1e-3)
    for form in values["forms"][1:]:
        path = folder / "out" / form["file"]
        run = open_predictor(folder, path, None).run
        own = student.answer.score(run(val.images[:]), val.labels).double().numpy()
        assert form["validation"] == pytest.approx(own.mean(), rel=1e-4)
        assert form["holds"] is bool(own.mean() <= 1.1 * scores[0].mean())
        loss = student.answer.score(run(test.images[:]), test.labels).double().numpy() - scores[1]
        assert form["loss"] == pytest.approx(loss.mean(), abs=1e-4)
        assert form["bytes"] == path.stat().st_size and form["sha256"] == file_digest(path)
    assert set(values["forms"][3]["micro"]["operators"]) >= {"CONV_2D", "FULLY_CONNECTED"}


def test_recover_keeps_the_better_on_validation(exported: tuple[Path, dict[str, Any]]) -> None:
    _, values = exported
    record, kept = values["recover"], values["forms"][3]
    assert record["steps"] == 3 and len(record["validations"]) == 2
    assert kept["sha256"] == record[record["kept"]]["sha256"]
    assert kept["validation"] <= record["before"]["validation"]


def test_predict_labels_alike_by_every_file(exported: tuple[Path, dict[str, Any]]) -> None:
    folder, values = exported
    files = sorted((folder / "png").iterdir())
    own = label_files(open_predictor(folder, None, 0.8), files)
    for form in values["forms"][1:3]:
        other = label_files(open_predictor(folder, folder / "out" / form["file"], 0.8), files)
        for a, b in zip(own, other, strict=True):
            assert a.reading is not None and b.reading is not None
            if isinstance(a.reading.label, float):
                assert b.reading.label == pytest.approx(a.reading.label, abs=0.2)
                assert b.reading.region == pytest.approx(a.reading.region, abs=0.5)
            else:
                assert b.reading.confidence == pytest.approx(a.reading.confidence, abs=0.05)


def test_predict_refuses_a_file_of_another_project(exported: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, values = exported
    scalar = values["headline"]["unit"] != "%"
    elsewhere = finished(tmp_path / "other", scalar=not scalar)
    path = folder / "out/student-int8.tflite"
    with pytest.raises(ConfigError, match="is of another project"):
        open_predictor(elsewhere, path, None)
    assert open_predictor(tmp_path, path, None).margin is not None, (
        "outside of a project the file says all that is needed"
    )
    with pytest.raises(
        ConfigError, match=r"--level 0\.5 is not in .*int8\.tflite, which holds regions at a level of 0\.8"
    ):
        open_predictor(folder, path, 0.5)
    (tmp_path / "a.pte").write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match=r"a\.pte is a file of LiteRT, not of ExecuTorch.*end in \.tflite"):
        open_predictor(folder, tmp_path / "a.pte", None)
    (tmp_path / "a.tflite").write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="damaged"):
        open_predictor(folder, tmp_path / "a.tflite", None)
