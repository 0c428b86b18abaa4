"""Everything one student run reads, tiny: a data set, a random teacher and a pool of fakes; for tests of M3's engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cgankd.config import ArmConfig, Config, config_from_dict, to_dict
from cgankd.data.store.banks import BankWriter, PoolRows
from cgankd.data.store.datasets import write_dataset
from cgankd.distill.methods import METHODS
from cgankd.labels.task import make_task
from cgankd.rng import generator
from pipelines.files.artifacts import save_weights
from pipelines.networks.predictor import build_predictor
from pipelines.students.run_arm import Job
from tests.conftest import preset
from tests.pipelines.finished import made_data

STEPS = 3


def settings(scalar: bool, **student: Any) -> Config:
    """The digits or chairs preset with a student of a few steps."""
    values = preset("chairs" if scalar else "digits")
    values["student"] |= {
        "num_steps": STEPS,
        "width": 4,
        "batch_size": 6,
        "net": "convnet",
        "precision": "fp32",
    }
    arms = values["student"]["arms"]  # without those of mixtures, which not every method and view go with
    values["student"]["arms"] = {name: arm for name, arm in arms.items() if "mix" not in arm}
    method = METHODS.get(student.get("distiller", ""))
    if method is not None and method.needs.views != {"plain"}:
        values["student"]["teacher_view"] = (
            "augmented"  # What the program says to set, as the teacher sees these views.
        )
    values["student"] |= student
    return config_from_dict(values)


def workplace(folder: Path, scalar: bool, *, members: bool = False) -> Path:
    """dataset.h5, teacher.safetensors and pool.h5 in a folder; every fake is selected by every switch.

    With `members` the teacher is the mean of two nets of different kinds.
    """
    data = made_data(scalar)
    write_dataset(folder / "dataset.h5", data)
    task = make_task(data.info, settings(scalar))
    torch.manual_seed(1)
    config = {"net": "convnet", "width": 8, "precision": "fp32"}
    teacher = build_predictor(config, data.info, task.num_outputs)
    if members:
        other = {"net": "resnet8", "width": None, "precision": "fp32"}
        nets = [build_predictor(other, data.info, task.num_outputs), teacher]
        listed = [other | {"weight": 0.3}, config | {"weight": 0.7}]
        weights = {f"members.{k}.{name}": w for k, net in enumerate(nets) for name, w in net.state_dict().items()}
        whole = config | {"info": to_dict(data.info), "members": listed}
        save_weights(folder / "teacher.safetensors", weights, whole)
    else:
        save_weights(folder / "teacher.safetensors", teacher, config | {"info": to_dict(data.info)})
    num, gen = 12, generator("fakes")
    labels = data.train.labels[torch.randint(len(data.train), (num,), generator=gen)]
    images = torch.randint(256, (num, 1, 16, 16), dtype=torch.uint8, generator=gen)
    with BankWriter(folder / "pool.h5", (1, 16, 16), task.num_outputs, labels.dtype, spread=members) as writer:
        ones, shard = torch.ones(num), torch.zeros(num, dtype=torch.int32)
        outputs = torch.zeros(num, task.num_outputs)
        spread = torch.arange(1.0, num + 1) if members else None
        writer.append(PoolRows(images, labels, labels, ones, ones, outputs, ones, shard, spread))
        writer.set_columns({f"in_{name}": torch.ones(num, dtype=torch.bool) for name in ("raw", "filter")})
        writer.close({"cgan": "toy"})
    return folder


def job(folder: Path, cfg: Config, name: str = "run", *, bank: bool = True, kd: bool = True) -> Job:
    """A run in that folder."""
    return Job(
        name=name,
        arm=ArmConfig(bank=bank, kd=kd),
        seed=0,
        stage="arm",
        config=cfg,
        dataset=folder / "dataset.h5",
        teacher=folder / "teacher.safetensors",
        pool=folder / "pool.h5",
        out=folder / f"{name}.safetensors",
        init=None,
        memory_bytes=1e9,
        teacher_key=dict.fromkeys(("teacher", "data", "bank", "code"), folder.name),
    )


def with_student(cfg: Config, **changes: Any) -> Config:
    """The settings with changes of the student section."""
    return replace(cfg, student=replace(cfg.student, **changes))
