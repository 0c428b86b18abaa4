"""One training by ranks that Ray Train places: the losses of one process, one writer, one sentence where a rank fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pipelines.engines.ray_train import _stop_by, ended
from tests.chaos.state import processes
from tests.conftest import ROOT
from tests.pipelines.locks.test_ranks import cgankd, copied, near
from tests.pipelines.runtime.test_bonds import until
from tests.tiny import tiny, write_params

pytest.importorskip("ray", reason="Ray is not installed (pip install 'cgankd[ray]')")


def begun(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The command; Ctrl-C reaches it also where the tests themselves are deaf to it."""
    gone = ("RANK", "WORLD_SIZE", "DVC_STAGE", "RAY_ADDRESS")
    environment = {name: value for name, value in os.environ.items() if name not in gone}
    environment |= {"PYTHONPATH": str(ROOT), "CGANKD_THREADS": "1", "CGANKD_DEVICE": "cpu", "COLUMNS": "300"}
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "pipelines.engines.ray_train", *words],
        cwd=folder, env=environment | {"CGANKD_COMPILE": "off"}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def on_ray(folder: Path, *words: str) -> tuple[int, str]:
    process = begun(folder, *words)
    said, _ = process.communicate()
    return process.returncode, said


def test_two_ranks_train_as_one_process_and_errors_and_ends_are_sentences(tmp_path: Path) -> None:
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
    process = begun(work, "2", "teacher", "--set", "teacher.num_steps=4000")
    assert process.stdout is not None
    before = list[str]()
    while not (before and before[-1].startswith("teacher ")):
        before.append(process.stdout.readline())
        assert before[-1], "".join(before)
    process.send_signal(signal.SIGTERM)
    after, _ = process.communicate()
    assert process.returncode == 130 and "Traceback" not in after
    assert after.splitlines()[-1] == "stopped; progress is kept, the same command goes on"
    assert until(lambda: not processes(work))


def test_ctrl_c_and_sigterm_end_the_ranks_as_ray_does() -> None:
    """Ray registers a handler for Ctrl-C alone."""
    heard, stopped = list[object](), list[int]()
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        _stop_by(
            lambda controller: signal.signal(signal.SIGINT, lambda number, _: heard.append(controller)), stopped, 7
        )
        for sign in before:
            signal.raise_signal(sign)
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
    assert stopped == [signal.SIGINT, signal.SIGTERM] and heard == [7, 7]


def test_how_a_rank_ended_in_words() -> None:
    assert ended(2, "error (rank 1): x.yaml is missing") == "ended with 2: x.yaml is missing"
    assert ended(2, "error: y") == "ended with 2: y"
    assert ended(-9, "teacher 3/9").startswith("was ended by signal 9; progress is kept")
