"""Sizes in the bytes that are flashed, where the packages for boards are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cgankd.config import ConfigError
from cgankd.data.store.datasets import read_split
from pipelines.device.making import measure_int8
from pipelines.files.params import load_config
from pipelines.ship.devices import CALIBRATION_IMAGES, Asked, export_devices
from pipelines.sizes import flash as module
from pipelines.sizes.costs import OnDevice, axes_of, costs_of
from tests.pipelines.finished import finished


def test_without_the_packages_for_boards_there_is_no_such_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "tflite_micro" else object())
    assert module.flash_of(tmp_path / "none.h5", load_config(finished(tmp_path) / "params.yaml")) is None


@pytest.mark.parametrize("scalar", [False, True])
def test_size_is_that_of_the_file_that_export_makes_and_its_error_the_files_own(
    scalar: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in module.PACKAGES:
        pytest.importorskip(name, reason="pip install 'cgankd[device]'")
    folder = finished(tmp_path, scalar=scalar)
    dataset, weights = folder / "artifacts/dataset.h5", folder / "artifacts/student.safetensors"
    made: list[bytes] = []

    def measure(*given: Any) -> Any:
        found = measure_int8(*given)
        made.append(found.path.read_bytes())
        return found

    monkeypatch.setattr(module, "measure_int8", measure)
    images = read_split(dataset, "train").images[:CALIBRATION_IMAGES]
    found = costs_of(weights, images, module.flash_of(dataset, load_config(folder / "params.yaml")))
    values = export_devices(folder, folder / "out", Asked(["litert"], 0.9, 0.1, 1))
    (form,) = (form for form in values["forms"] if form["file"] == "student-int8.tflite")
    assert made == [(folder / "out/student-int8.tflite").read_bytes()]
    assert found.costs["int8_bytes"] == form["bytes"] < found.costs["onnx_bytes"]
    assert found.costs["arena"] == form["micro"]["arena"]
    assert found.device is not None and found.device.remark == ""
    assert found.device.validation == pytest.approx(form["validation"])
    assert found.device.loss == pytest.approx(form["validation"] - values["forms"][0]["validation"])
    assert axes_of([found.costs]) == {
        "bytes": "int8_bytes",
        "multiplications": "multiplications",
        "ram": "arena",
        "ms": "ms",
    }


def test_a_student_that_is_not_converted_says_why(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    folder = finished(tmp_path)

    def flash(weights: Path, images: torch.Tensor) -> OnDevice:
        raise ConfigError("LiteRT cannot take the net")

    images = read_split(folder / "artifacts/dataset.h5", "train").images[:20]
    found = costs_of(folder / "artifacts/student.safetensors", images, flash)
    assert found.device == OnDevice(None, None, remark="LiteRT cannot take the net")
    assert {"onnx_bytes", "held_bytes", "ms"} <= set(found.costs) and not {"int8_bytes", "arena"} & set(found.costs)
