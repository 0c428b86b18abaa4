"""One training by ranks that Ray Train places: the losses of one process, one writer, one sentence where a rank fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.engines.ray_train import ended
from tests.conftest import ROOT
from tests.pipelines.locks.test_ranks import cgankd, copied, near
from tests.tiny import tiny, write_params

pytest.importorskip("ray", reason="Ray is not installed (pip install 'cgankd[ray]')")


def on_ray(folder: Path, *words: str) -> tuple[int, str]:
    gone = ("RANK", "WORLD_SIZE", "DVC_STAGE", "RAY_ADDRESS")
    environment = {name: value for name, value in os.environ.items() if name not in gone}
    environment |= {"PYTHONPATH": str(ROOT), "CGANKD_THREADS": "1", "CGANKD_DEVICE": "cpu", "COLUMNS": "300"}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.engines.ray_train", *words],
        cwd=folder, env=environment | {"CGANKD_COMPILE": "off"}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_two_ranks_train_as_one_process_and_an_error_is_one_sentence(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    values = tiny("digits")
    values["tracking"]["mlflow"] = False
    values["teacher"] |= {"num_steps": 50, "width": 4, "precision": "fp32", "learning_rate": 1e-4}
    write_params(work, values)
    code, said = on_ray(work, "2", "teacher")
    assert code == 2 and "artifacts/dataset.h5 is missing" in said and "Traceback" not in said, said[-3000:]
    errors = [line for line in said.splitlines() if "error" in line]
    assert len(errors) == 1 and errors[0].startswith("error: rank "), errors
    cgankd(work, "-m", "cgankd", "prepare")
    alone = copied(work, tmp_path / "alone")
    cgankd(alone, "-m", "cgankd", "teacher")
    code, said = on_ray(work, "2", "teacher")
    assert code == 0, said[-3000:]
    assert said.count("2 ranks train together") == 1 and said.count("teacher done in") == 1
    near(work, alone, "teacher", "teacher", "loss")
    assert (work / "artifacts/teacher.safetensors").exists() and not (work / "artifacts/resume/ranks/1").exists()


def test_how_a_rank_ended_in_words() -> None:
    assert ended(2, "error (rank 1): x.yaml is missing") == "ended with 2: x.yaml is missing"
    assert ended(2, "error: y") == "ended with 2: y"
    assert ended(-9, "teacher 3/9").startswith("was ended by signal 9; progress is kept")
