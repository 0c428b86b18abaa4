"""Unlabelled images through the real DVC: copies left out by name, rows behind the fakes, arms of all families."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from cgankd.data.store.banks import of_fakes, read_pool_images, read_pool_scores
from cgankd.data.store.datasets import read_split
from cgankd.data.store.unlabelled import read_unlabelled
from tests.measure.test_known import CHANGES, as_pil
from tests.tiny import project, run, tiny, write_params

ARMS = {
    "unlabelled": {"unlabelled": True, "subsample": True, "filter": True},
    "both": {"bank": True, "subsample": True, "filter": True, "unlabelled": True},
}


def settings(**data: Any) -> dict[str, Any]:
    values = tiny("digits")
    arms = {name: values["student"]["arms"][name] for name in ("real", "raw")}
    values["student"] |= {"arms": arms, "num_steps": 20}
    values["tracking"]["mlflow"] = False
    values["data"] |= {"train_per_label": 4, "num_test": 300} | data
    return values


def numbers(work: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / f"metrics/{stage}.json").read_text())
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without unlabelled images, then with a folder that holds 60 others, 20 copies and 20 near copies."""
    top = tmp_path_factory.mktemp("unlabelled")
    folder = project(top / "work", settings())
    run(folder, "dvc", "repro", "-q")
    before = {path.name: path.read_bytes() for path in (folder / "artifacts").glob("*.*") if path.is_file()}
    (folder / "before").mkdir()
    for name, content in before.items():
        (folder / "before" / name).write_bytes(content)
    test = read_split(folder / "artifacts/dataset.h5", "test").images[:]
    more = top / "more" / "of" / "them"
    more.mkdir(parents=True)
    for row in range(20):
        as_pil(test[row]).save(top / "more" / f"copy{row:02}.png")
        as_pil(CHANGES[row % len(CHANGES)](test[20 + row])).save(more / f"near{row:02}.png")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    for row in range(60):
        Image.fromarray(pixels[row]).resize((16, 16), Image.Resampling.BICUBIC).save(more / f"other{row:02}.png")
    shutil.copyfile(more / "other00.png", more / "zagain.png")
    values = settings(unlabelled=str(top / "more"))
    values["student"]["arms"] |= ARMS
    write_params(folder, values)
    (folder / "log").write_text(run(folder, "dvc", "repro", COLUMNS="300"))
    return folder


def test_twenty_copies_and_twenty_near_copies_are_left_out_by_name(work: Path) -> None:
    found = numbers(work, "prepare")
    assert (found["unlabelled.exact_copies.test"], found["unlabelled.near_copies.test"]) == (20, 20)
    assert (found["num_unlabelled"], found["unlabelled.repeats"]) == (60, 1)
    rows = list(csv.reader((work / "artifacts/unlabelled.csv").read_text().splitlines()))
    assert rows[0] == ["image", "why", "of"] and len(rows) == 42
    named = {name: (why, of) for name, why, of in rows[1:]}
    for row in range(20):
        assert named[f"copy{row:02}.png"] == ("a copy of test", f"test image {row}")
        assert named[f"of/them/near{row:02}.png"] == ("a near copy of test", f"test image {20 + row}")
    assert named["of/them/zagain.png"] == ("a repeat", "")
    said = (work / "log").read_text()
    assert "101 unlabelled images, of which 60 are used" in said and "copy00.png is a copy of test" in said
    assert len(read_unlabelled(work / "artifacts/unlabelled.h5")) == 60


def test_teacher_gan_and_ratio_are_not_trained_again(work: Path) -> None:
    for name in ("dataset.h5", "teacher.safetensors", "cgan.safetensors", "ratio.safetensors"):
        assert (work / "artifacts" / name).read_bytes() == (work / "before" / name).read_bytes()
    said = (work / "log").read_text()
    assert "Stage 'teacher' didn't change, skipping" in said and "Running stage 'bank'" in said
    with h5py.File(work / "before/unlabelled.h5") as file:
        assert file["images"].shape == (0, 1, 16, 16)
    assert (work / "before/unlabelled.csv").read_text() == "image,why,of\n"


def test_their_rows_lie_behind_the_fakes_which_stay_as_they_were(work: Path) -> None:
    pool, before = work / "artifacts/pool.h5", read_pool_scores(work / "before/pool.h5")
    scores = read_pool_scores(pool)
    assert "source" not in before and scores["source"].bincount().tolist()[1] == 60
    fakes = of_fakes(scores)
    assert fakes.keys() == before.keys() and all(torch.equal(fakes[name], before[name]) for name in before)
    rows = (scores["source"] == 1).nonzero()[:, 0]
    assert torch.equal(read_pool_images(pool, rows), read_unlabelled(work / "artifacts/unlabelled.h5")[:])
    assert torch.equal(scores["asked"][rows], scores["teacher_output"][rows].float().argmax(1))
    odds = scores["teacher_output"][rows].float().log_softmax(1).amax(1)
    assert torch.allclose(scores["teacher_error"][rows], -odds, atol=5e-3), "the outputs are kept in half precision"
    assert not scores["in_raw"][rows].any() and not scores["unlabelled_filter"][: rows[0]].any()
    report = numbers(work, "bank")
    assert report["unlabelled.filter.kept"] == int(scores["unlabelled_filter"].sum()) > 0
    assert len(read_pool_scores(work / "artifacts/bank.h5")["labels"]) == 60, "the bank holds fakes alone"


def test_the_families_are_told_apart(work: Path) -> None:
    result = numbers(work, "evaluate")
    arms = result["arms"]
    assert {name for name, arm in arms.items() if arm.get("uses_unlabelled")} == {
        *("unlabelled", "unlabelled_kd", "both", "both_kd"),
    }
    assert result["best_unlabelled_arm"] in ("unlabelled", "unlabelled_kd")
    assert result["best_both_arm"] in ("both", "both_kd") and result["best_bank_arm"] in ("raw", "raw_kd")
    assert result["best_real_arm"] == "real"
    assert "unlabelled_gain" in arms["both"] and "unlabelled_gain" not in arms[result["best_unlabelled_arm"]]
    assert "unlabelled images" in result["verdict"] and "too few" in result["verdict"]


def test_an_arm_without_images_to_take_is_refused_before_anything_runs(work: Path) -> None:
    values = settings()
    values["student"]["arms"] |= ARMS
    other = work.parent / "other"
    other.mkdir()
    write_params(other, values)
    said = run(other, "python", "-m", "cgankd", "prepare", code=2, PYTHONPATH=str(work))
    assert "student.arms.unlabelled.unlabelled must be false where data.unlabelled is null" in said
