"""Stages under torchrun, two gloo ranks on one machine: one process's losses, one writer, progress for any number of ranks."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.files.params import load_config
from pipelines.locks.ranks import among_ranks, launched
from tests.conftest import ROOT
from tests.tiny import tiny, write_params

DIE = """
import os, signal, sys
from cgankd.fit import predictor
from pipelines.commands.app import app
real, steps, rank, last = predictor.sum_gradients, [0], sys.argv.pop(1), int(sys.argv.pop(1))
def counted(optimizer):
    real(optimizer)
    steps[0] += 1
    if os.environ.get("RANK", "0") == rank and steps[0] == last:
        os.kill(os.getpid(), signal.SIGKILL)
predictor.sum_gradients = counted
app(prog_name="cgankd")
"""
"""`cgankd`, of which one rank is killed after so many steps."""


def cgankd(folder: Path, *words: str, size: int = 1, code: int | None = 0) -> str:
    """A command line alone or under torchrun, all on one thread; `-m cgankd`, or a script and its words."""
    start = [sys.executable]
    if size > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(size)]
    gone = ("RANK", "WORLD_SIZE", "DVC_STAGE")
    environment = {name: value for name, value in os.environ.items() if name not in gone}
    environment |= {"PYTHONPATH": str(ROOT), "CGANKD_THREADS": "1", "OMP_NUM_THREADS": "1", "CGANKD_DEVICE": "cpu"}
    environment |= {"CGANKD_COMPILE": "off", "COLUMNS": "300"}
    done = subprocess.run(
        [*start, *words], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert code is None or done.returncode == code, done.stdout[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose data are prepared."""
    folder = tmp_path_factory.mktemp("ranked")
    values = tiny("digits")
    values["tracking"]["mlflow"] = False
    values["teacher"] |= {"num_steps": 260, "width": 4, "precision": "fp32", "learning_rate": 3e-4}
    values["cgan"] |= {"precision": "fp32", "lr_g": 1e-4, "lr_d": 1e-4, "num_steps": 50}
    values["ratio"] |= {"precision": "fp32", "num_steps": 50, "feature_steps": 50, "feature_learning_rate": 1e-4}
    values["ratio"] |= {
        "hidden": [64, 64],
        "learning_rate": 1e-4,
    }  # a norm over two units alone is chaos within fifty steps
    values["bank"] |= {"num_fakes": 40}
    arms = {"real": {}, "raw_kd": {"bank": True, "kd": True}}
    values["student"] |= {"arms": arms, "num_steps": 50, "precision": "fp32", "best_with_kd": False, "seeds": [0, 1]}
    write_params(folder, values)
    cgankd(folder, "-m", "cgankd", "prepare")
    return folder


@pytest.fixture(scope="module")
def alone(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after the teacher of one process."""
    folder = tmp_path_factory.mktemp("alone") / "work"
    shutil.copytree(work, folder)
    cgankd(folder, "-m", "cgankd", "teacher")
    return folder


@pytest.fixture(scope="module")
def further(alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after the next stages of one process."""
    folder = tmp_path_factory.mktemp("further") / "work"
    shutil.copytree(alone, folder)
    for stage in ("cgan", "ratio", "bank", "student"):
        cgankd(folder, "-m", "cgankd", stage)
    return folder


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder / "work")
    return folder / "work"


def column(folder: Path, stage: str, curve: str, name: str) -> list[float]:
    with (folder / f"plots/{stage}/{curve}.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def near(ours: Path, theirs: Path, stage: str, curve: str, name: str, within: float = 1e-4) -> None:
    """Fifty steps lie within that, and what chaos makes of the last bits afterwards is no other training."""
    mine, other, step = (
        *(column(folder, stage, curve, name) for folder in (ours, theirs)),
        column(theirs, stage, curve, "step"),
    )
    assert len(mine) == len(other) > 4
    gap = [abs(a - b) / max(1.0, abs(b)) for a, b in zip(mine, other, strict=True)]
    assert max(g for g, s in zip(gap, step, strict=False) if s <= 50) < within, (curve, name)
    assert max(gap) < 0.1, (curve, name)


@pytest.mark.parametrize(
    ("stage", "curves"),
    [
        ("cgan", [("gan", "loss_d"), ("gan", "loss_g")]),
        ("ratio", [("features", "loss"), ("ratio", "loss"), ("ratio", "val_loss")]),
        ("student", [("learning_curves", "real"), ("learning_curves", "raw_kd")]),
    ],
)
def test_a_stage_of_two_ranks_is_that_of_one(
    further: Path, tmp_path: Path, stage: str, curves: list[tuple[str, str]]
) -> None:
    folder = copied(further, tmp_path)
    shutil.rmtree(folder / "artifacts/resume")
    shutil.rmtree(folder / f"plots/{stage}")
    said = cgankd(folder, "-m", "cgankd", stage, size=2)
    assert said.count("2 ranks train together") == 1, "the first rank alone talks"
    assert said.count(f"{stage} done in") == 1
    for curve, name in curves:
        # Scores on a few images jump by one image where an output is at the edge.
        near(folder, further, stage, curve, name, 0.05 if stage == "student" else 1e-4)
    assert not (folder / "artifacts/resume/ranks/1").exists(), "nothing is left of the other rank"
    runs = (folder / f"artifacts/logs/{stage}.jsonl").read_text().count('"level": "stage"')
    assert runs == 2, "one tracked run more, of the first rank"


def test_a_rank_that_dies_ends_all_and_any_number_of_ranks_goes_on(alone: Path, work: Path, tmp_path: Path) -> None:
    folder = copied(work, tmp_path)
    (tmp_path / "die.py").write_text(DIE)
    said = cgankd(folder, str(tmp_path / "die.py"), "1", "230", "teacher", size=2, code=1)
    # torchrun may end the first rank before that sees the other's end; then its own report is all that is said.
    assert "Signal 9 (SIGKILL)" in said, said[-2000:]
    if "error:" in said:
        assert "another rank of this training ended" in said and "Traceback" not in said.split("error:")[1][:300]
    assert (folder / "artifacts/resume/teacher/teacher.pt").exists() and not (
        folder / "artifacts/teacher.safetensors"
    ).exists()
    here = copied(folder, tmp_path / "one")
    said = cgankd(here, "-m", "cgankd", "teacher")
    assert "resuming at step 200" in said
    near(here, alone, "teacher", "teacher", "loss")
    # From one process to two.
    third = copied(work, tmp_path / "three")
    cgankd(third, str(tmp_path / "die.py"), "0", "230", "teacher", code=-9)
    assert "resuming at step 200" in cgankd(third, "-m", "cgankd", "teacher", size=2)
    near(third, alone, "teacher", "teacher", "loss")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bank",), "`cgankd bank` does not run under torchrun, which is for teacher, cgan, ratio, student; give it"),
        (("search", "--trials", "1"), "`cgankd search` does not run under torchrun, which is for teacher, cgan,"),
        (("teachr",), "there is no command 'teachr'; did you mean 'teacher'? (under torchrun: teacher, cgan, ratio,"),
        (("teacher", "--set", "teacher.num_step=1"), "teacher.num_step is not a known setting"),
        (("teacher", "--sett", "teacher.num_steps=1"), "No such option"),
    ],
)
def test_what_every_rank_refuses_is_said_once(work: Path, words: tuple[str, ...], said: str) -> None:
    found = cgankd(work, "-m", "cgankd", *words, size=2, code=1)
    assert found.count(said) == 1 and "error (rank" not in found and "stopped" not in found, found
    assert not (work / "artifacts/search.db").exists()
    assert words != ("bank",) or "--shards" in found


def test_only_torchrun_makes_ranks() -> None:
    full = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    assert launched(full) and not launched(full | {"WORLD_SIZE": "1"}) and not launched({"WORLD_SIZE": "4"})
    assert not launched({})


def test_settings_are_read_from_the_links(work: Path) -> None:
    from pipelines.locks.ranks import _linked

    folder = _linked(work, 3)
    assert load_config(folder / "params.yaml") == load_config(work / "params.yaml")
    assert (folder / "artifacts/dataset.h5").is_symlink() and not (folder / "artifacts/resume/ranks").exists()
    shutil.rmtree(folder)
    assert (work / "artifacts/dataset.h5").exists() and among_ranks is not None
