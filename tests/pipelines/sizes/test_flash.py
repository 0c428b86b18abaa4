"""Sizes in the bytes that are flashed, where the packages for boards are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgankd.data.store.datasets import read_split
from pipelines.device.forms import Source
from pipelines.device.making import measure_int8
from pipelines.ship.saved import load_package
from pipelines.sizes import flash as module
from pipelines.sizes.costs import axes_of, costs_of
from tests.pipelines.finished import finished


def test_without_the_packages_for_boards_there_is_no_such_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "tflite_micro" else object())
    assert module.flash_of(tmp_path / "none.h5") is None


@pytest.mark.parametrize("scalar", [False, True])
def test_bytes_and_arena_are_those_of_the_file_for_boards(scalar: bool, tmp_path: Path) -> None:
    for name in module.PACKAGES:
        pytest.importorskip(name, reason="pip install 'cgankd[device]'")
    folder = finished(tmp_path, scalar=scalar)
    dataset, weights = folder / "artifacts/dataset.h5", folder / "artifacts/student.safetensors"
    images = read_split(dataset, "train").images[:20]
    costs = costs_of(weights, images, module.flash_of(dataset))
    package = load_package(weights)
    source = Source(package.model, package.info, "", "student")
    file = measure_int8(source, images, read_split(dataset, "val"), tmp_path / "again")
    assert abs(costs["int8_bytes"] - file.bytes) <= 64, "the net's name and the margin have other lengths"
    assert costs["arena"] == file.micro.arena and costs["int8_bytes"] < costs["onnx_bytes"]
    assert axes_of([costs]) == {"bytes": "int8_bytes", "multiplications": "multiplications", "ram": "arena", "ms": "ms"}
