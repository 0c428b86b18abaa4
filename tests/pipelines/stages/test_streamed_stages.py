"""`prepare` and a `cgan` of the user's own images leave the same files when none of the images fits in the budget."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from rich.console import Console

from cgankd.data.store.datasets import read_info
from cgankd.gan.own_images import ImageDraw
from cgankd.labels.task import make_task
from pipelines.files import artifacts
from pipelines.files.params import load_config
from pipelines.networks.generator import load_draw
from pipelines.runtime import scratch
from pipelines.runtime.opening import open_context
from tests.data.builders import save_picture
from tests.tiny import tiny, write_params

SETTINGS = ("tracking.mlflow=false",)


def run(folder: Path, stage: str, *overrides: str) -> None:
    with open_context(stage, [*SETTINGS, *overrides], folder, console=Console(quiet=True)) as ctx:
        importlib.import_module(f"pipelines.stages.{stage}").run(ctx)


def outputs(folder: Path) -> dict[str, bytes]:
    """Everything a stage leaves, without logs, locks and settings."""
    kept = [path for part in ("artifacts", "metrics", "plots") for path in (folder / part).rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept if not {"resume", "logs"} & set(p.parts)}


def rooms(patch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The scratch files that a stage asks for."""
    given: list[torch.Tensor] = []
    real = scratch.mapped

    def mapped(*what: Any) -> torch.Tensor:
        given.append(real(*what))
        return given[-1]

    patch.setattr(scratch, "mapped", mapped)
    return given


@pytest.fixture()
def values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("CGANKD_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tiny("digits")


def test_prepare(tmp_path: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for at, name in enumerate("abc"):
        for i in range(9):
            save_picture(tmp_path / "set" / name / f"{i}.png", 9 * at + i, size=(32, 32) if i else (16, 16))
    values["data"] |= {"source": "image-folder", "root": str(tmp_path / "set"), "val_per_label": 2}
    values["data"] |= {"train_per_label": None, "test_share": 0.25}
    found, given = [], rooms(monkeypatch)
    for name, gb in (("held", None), ("streamed", 0.0)):
        folder = tmp_path / name
        folder.mkdir()
        write_params(folder, values | {"data": values["data"] | {"memory_budget_gb": gb}})
        run(folder, "prepare")
        found.append(outputs(folder))
        assert [tuple(room.shape) for room in given] == ([] if gb is None else [(27, 1, 16, 16)])
    assert found[0] == found[1] and {
        "artifacts/dataset.h5",
        "metrics/prepare.json",
        "plots/prepare/contact.png",
    } <= set(found[0])
    assert list((tmp_path / "streamed/artifacts/resume/prepare").iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "hdf5"])
def test_own_images(tmp_path: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    write_params(tmp_path, values)
    run(tmp_path, "prepare")
    if kind == "folder":
        own = "own"
        for digit in range(10):
            for i in range(4):
                save_picture(tmp_path / own / str(digit) / f"{i}.png", 4 * digit + i)
    else:
        own = "own.h5"
        with h5py.File(tmp_path / own, "w") as file:
            file["images"] = np.random.default_rng(0).integers(0, 256, (40, 1, 16, 16), np.uint8)
            file["labels"] = np.arange(40) % 10
    saved: list[torch.Tensor] = []
    real = artifacts.save_file

    def save_file(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
        saved.append(tensors["images"])
        real(tensors, path, metadata)

    monkeypatch.setattr(artifacts, "save_file", save_file)
    given, found = rooms(monkeypatch), []
    for budget in ("null", "0.0"):
        run(tmp_path, "cgan", f"cgan.file={own}", f"data.memory_budget_gb={budget}")
        found.append(outputs(tmp_path))
    assert found[0] == found[1] and "artifacts/cgan.safetensors" in found[0]
    # Written from the scratch file itself: a copy on the way would hold all images in memory.
    (room,) = given
    assert [image.data_ptr() == room.data_ptr() for image in saved] == [False, True]
    assert list((tmp_path / "artifacts/resume/cgan").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what lies at an address")
def test_later_stages_draw_from_the_file(tmp_path: Path, values: dict[str, Any]) -> None:
    """What draws keeps the images where safetensors maps them: no stage after `cgan` holds a copy."""
    write_params(tmp_path, values)
    run(tmp_path, "prepare")
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["images"] = np.random.default_rng(0).integers(0, 256, (40, 1, 16, 16), np.uint8)
        file["labels"] = np.arange(40) % 10
    run(tmp_path, "cgan", "cgan.file=own.h5")
    info, weights = read_info(tmp_path / "artifacts/dataset.h5"), tmp_path / "artifacts/cgan.safetensors"
    draw = load_draw(weights, info, make_task(info, load_config(tmp_path / "params.yaml")))
    assert isinstance(draw, ImageDraw)
    place = draw.fakes.images[:].data_ptr()
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    (file_name,) = [
        words[5] for words in lines if int(words[0].split("-")[0], 16) <= place < int(words[0].split("-")[1], 16)
    ]
    assert file_name == str(weights)
