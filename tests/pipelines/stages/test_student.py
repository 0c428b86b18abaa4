from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cgankd.config import ArmConfig, config_from_dict
from cgankd.fit.device import PLAIN
from pipelines.runtime import machine
from pipelines.stages import student
from tests.pipelines.slow_job import SlowJob, wait_for_release

WORKERS = 2


def began(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("began-*")}


def test_ctrl_c_begins_no_further_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs under way are ended, and those that wait in the queue of the workers never begin."""
    monkeypatch.setattr(student, "train_job", wait_for_release)
    said: list[str] = []
    ctx = SimpleNamespace(
        say=said.append,
        progress=lambda title: lambda step, values, total: None,
        cfg=SimpleNamespace(student=SimpleNamespace(workers=WORKERS)),
        plan=PLAIN,
    )
    jobs: Any = [SlowJob(tmp_path, number) for number in range(8)]

    def interrupt() -> None:
        while len(began(tmp_path)) < WORKERS:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    runner: Any = SimpleNamespace(ctx=ctx)
    # A shell that starts the tests in the background has them ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            student.Runner.run(runner, jobs, "students")
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    # Workers that were left alive would now end their runs and take the next ones.
    (tmp_path / "release").touch()
    for child in multiprocessing.active_children():
        child.join()
    assert len(began(tmp_path)) == WORKERS and list(tmp_path.glob("ended-*")) == []
    assert len(said) == 1 and said[0].startswith("stopping: finished runs are kept")


@pytest.mark.parametrize(("device", "cores", "expected"), [("cpu", 16, 16), ("cuda", 16, 4), ("cuda", 2, 2)])
def test_a_few_students_share_a_device(monkeypatch: pytest.MonkeyPatch, device: str, cores: int, expected: int) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: cores)
    assert machine.side_by_side(device) == expected


def test_students_side_by_side_are_of_different_arms() -> None:
    """Two workers that train one arm would wait for each other's stored views and teacher's outputs."""
    asked: list[tuple[str, int]] = []

    class Instant(SimpleNamespace):
        def mark_used(self) -> None: ...

        def read(self) -> dict[str, Any]:
            return {}

        def result(self) -> str:
            return f"{self.name} {self.seed}"

    def job(name: str, arm: ArmConfig, seed: int, factor: int) -> Instant:
        return Instant(name=name, seed=seed, out=Path(f"{name}-{seed}"))

    runner: Any = SimpleNamespace(
        ctx=SimpleNamespace(cfg=SimpleNamespace(student=SimpleNamespace(seeds=(5, 3, 4), protocol="scratch"))),
        job=job,
        run=lambda jobs, title: asked.extend((one.name, one.seed) for one in jobs),
        used=set(),
        setbacks={},
    )
    found = student.Runner.train(runner, {"real": ArmConfig(), "raw": ArmConfig(bank=True)})
    assert asked == [("real", 5), ("raw", 5), ("real", 3), ("raw", 3), ("real", 4), ("raw", 4)]
    assert found == {"real": ["real 5", "real 3", "real 4"], "raw": ["raw 5", "raw 3", "raw 4"]}


@pytest.mark.parametrize(("arm", "weighs"), [({}, False), ({"unlabelled": True}, True), ({"bank": True}, True)])
def test_a_run_is_kept_only_where_the_weight_of_disagreement_is_the_same(
    digits: dict[str, Any], arm: dict[str, Any], weighs: bool
) -> None:
    """Unlabelled images weigh by it as fakes do; real labelled ones do not."""
    digits["teacher"]["members"] = 2
    names = set()
    for strength in (0.0, 3.0):
        digits["student"]["spread_weight"] = strength
        runner: Any = SimpleNamespace(
            ctx=SimpleNamespace(cfg=config_from_dict(digits), plan=PLAIN),
            digests={"dataset": "d", "teacher": "t", "code": "c"},
            bank_digests={"raw": "r", "unlabelled raw": "u"},
            weights=None,
            memory=SimpleNamespace(left=1),
            **{name: Path(name) for name in ("dataset", "teacher", "pool", "cache")},
        )
        names.add(student.Runner.job(runner, "arm", ArmConfig(kd=True, **arm), 0).out)
    assert len(names) == (2 if weighs else 1)
