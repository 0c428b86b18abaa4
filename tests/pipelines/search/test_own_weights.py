"""Weights of the user's own in a trial whose teacher is another: its stage runs in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cgankd.config import config_from_dict
from cgankd.types import DatasetInfo
from pipelines.networks.predictor import build_predictor
from pipelines.search import pool
from pipelines.search.students import quiet_context
from pipelines.stages import teacher
from tests.pipelines.finished import made_data
from tests.pipelines.teachers.test_members import in_this_process, project

NET = {"net": "convnet", "width": 4}


def saved(path: Path, seed: int, info: DatasetInfo) -> None:
    torch.manual_seed(seed)
    net = build_predictor(NET | {"mean": [0.5], "std": [0.5]}, info, len(info.class_names))
    torch.save(net.state_dict(), path)


def test_the_stage_of_a_trial_finds_a_members_file_and_knows_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "run_jobs", in_this_process)
    values = project(tmp_path, [{"num_steps": 4}, NET | {"weights": "w.pt", "num_steps": 4}])
    cfg = config_from_dict({name: section for name, section in values.items() if name != "search"})
    made = []
    for seed in (1, 1, 2):
        saved(tmp_path / "w.pt", seed, made_data(False).info)
        needs = {"dataset": tmp_path / "artifacts" / "dataset.h5"}
        made.append(pool.run_kept(quiet_context(cfg, tmp_path), "teacher", needs))
    assert made[0] == made[1] != made[2] and all(path.exists() for path in made)
