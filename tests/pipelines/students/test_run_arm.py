"""The real-only student that fine-tuning starts from has steps, rate and milestones of its own."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from cgankd.config import ArmConfig
from pipelines.students import run_arm
from pipelines.students.run_arm import train_job
from tests.distill.arms import job, settings, workplace


def base(place: Path, name: str, **changes: Any) -> dict[str, torch.Tensor]:
    student = {"schedule": "multistep", "milestones": (0.9,), "base_steps": 8, "base_learning_rate": 0.01} | changes
    run = job(place, settings(False, **student), name)
    run = dataclasses.replace(run, arm=ArmConfig(), stage="base")
    train_job(run)
    return load_file(run.out)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def test_the_base_student_is_trained_by_its_own_settings(tmp_path: Path) -> None:
    place = workplace(tmp_path, False)
    own = base(place, "own", base_milestones=(0.25, 0.5), num_steps=20, learning_rate=0.5)
    assert equal(own, base(place, "same", milestones=(0.25, 0.5), num_steps=5, learning_rate=0.1))
    assert not equal(own, base(place, "other"))
    assert not equal(own, base(place, "longer", base_milestones=(0.25, 0.5), base_steps=9))
    small = base(place, "small", base_batch_size=8)
    assert equal(small, base(place, "small too", batch_size=8)) and not equal(small, base(place, "plain"))


def test_a_kill_after_a_student_was_kept_leaves_no_progress_behind(tmp_path: Path) -> None:
    run = job(workplace(tmp_path, False), settings(False), "kept")
    train_job(run)
    progress = run.out.with_name(f"{run.out.stem}-train.resume")
    assert run.finished() and not progress.exists()
    progress.write_bytes(b"of the run that was killed")
    run.mark_used()
    assert run.finished() and not progress.exists()


@pytest.mark.parametrize("finishes", [True, False])
def test_a_student_that_another_process_is_at_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finishes: bool
) -> None:
    """Where the other one finishes it nothing is trained; where it was killed the training goes on here."""
    run, done, trained = job(workplace(tmp_path, False), settings(False), "shared"), threading.Event(), list[str]()
    monkeypatch.setattr(run_arm, "_train", lambda job: trained.append(job.name) or ["trained"])
    monkeypatch.setattr(run_arm.Job, "finished", lambda job: finishes and done.is_set())
    other, said = FileLock(run.out.with_suffix(".lock")), list[list[str]]()
    with other:
        thread = threading.Thread(target=lambda: said.append(train_job(run)))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and not trained
        done.set()
    thread.join()
    assert said == ([[]] if finishes else [["trained"]]) and len(trained) == (0 if finishes else 1)
