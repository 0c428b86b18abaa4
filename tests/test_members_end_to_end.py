"""A teacher of two members from params.yaml to the verdict through the real DVC, on tiny settings."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from tests.tiny import project, run, tiny


def test_two_members_teach_through_the_whole_pipeline(tmp_path: Path) -> None:
    values = tiny("digits")
    values["tracking"]["mlflow"] = False
    values["teacher"]["members"] = 2
    values["ratio"]["extractor"] = "teacher"
    values["bank"]["filter_by"] = "both"
    values["student"] |= {"spread_weight": 1.0, "best_with_kd": False, "num_steps": 10, "step_factors": [2]}
    filtered = {"bank": True, "subsample": True, "filter": True}
    values["student"]["arms"] = {
        "real": {},
        "real_kd": {"kd": True},
        "filter": filtered,
        "filter_kd": filtered | {"kd": True},
    }
    folder = project(tmp_path / "work", values)
    run(folder, "dvc", "repro")
    metrics = json.loads((folder / "metrics/teacher.json").read_text())
    weights = [metrics[f"members.{k}.weight"] for k in range(2)]
    config = json.loads((folder / "artifacts/teacher.config.json").read_text())
    assert [member["weight"] for member in config["members"]] == weights and abs(sum(weights) - 1) < 1e-9
    ratio = json.loads((folder / "artifacts/ratio.config.json").read_text())
    assert ratio["extractor"]["weight"] == max(weights)
    assert (
        json.loads((folder / "metrics/ratio.json").read_text())["features.feature_width"] == 32
    )  # 4 times teacher.width
    with h5py.File(folder / "artifacts/pool.h5") as pool:
        spread, kept = pool["teacher_spread"][...], pool["in_filter"][...]
    assert spread.dtype == np.float32 and (spread >= 0).all() and spread.max() <= np.log(2) + 1e-6
    assert kept.sum() == 60 and spread[kept].mean() < spread.mean()
    result = json.loads((folder / "metrics/evaluate.json").read_text())
    assert set(result["arms"]) == {"real", "real_kd", "filter", "filter_kd"}
    assert set(result["more_steps"]) == {"1", "2"}
    for arm in result["arms"]:  # every arm and seed again, for twice the steps
        short, long = (folder / "artifacts/students" / f"student-{arm}-0{end}.safetensors" for end in ("", "-x2"))
        assert short.read_bytes() != long.read_bytes()
        assert result["more_steps"]["1"]["arms"][arm]["values"] == result["arms"][arm]["values"]
    assert "up to date" in run(folder, "dvc", "repro")
    said = run(folder, "dvc", "repro", "-f", "-s", "teacher")
    assert "2 of 2 members were trained before under equal settings: kept" in said
    assert "up to date" in run(folder, "dvc", "repro")
