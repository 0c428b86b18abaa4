"""The real-only student that fine-tuning starts from has steps, rate and milestones of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from cgankd.config import ArmConfig
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
