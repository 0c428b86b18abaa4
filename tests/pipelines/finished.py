"""A work folder as `evaluate` leaves it, made without training: random nets on random images, real file formats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cgankd.config import to_dict
from cgankd.data.dataset import Dataset, make_dataset
from cgankd.data.store.banks import BankWriter, PoolRows
from cgankd.data.store.datasets import write_dataset
from cgankd.rng import generator
from cgankd.types import Split
from pipelines.files.artifacts import file_digest, save_weights, write_json
from tests.conftest import ROOT
from tests.data.builders import data_config

COUNTS = {"train": 20, "val": 40, "test": 10}
POOL, SELECTED = 30, 12
REAL = {"bank": False, "subsample": False, "filter": False, "replace": False, "strong": False, "kd": False}
FILTER = REAL | {"bank": True, "subsample": True, "filter": True}


def made_data(scalar: bool) -> Dataset:
    def images(name: str, num: int) -> torch.Tensor:
        return torch.randint(256, (num, 1, 16, 16), dtype=torch.uint8, generator=generator("finished", name))

    if scalar:
        splits = {name: Split(images(name, n), torch.linspace(0.5, 9.5, n)) for name, n in COUNTS.items()}
        cfg = data_config(task="scalar", source="csv", val_per_label=None, num_val=9, label_min=0.0, label_max=10.0)
        return make_dataset(cfg, splits, label_unit="years")
    splits = {name: Split(images(name, n), torch.arange(n) % 3) for name, n in COUNTS.items()}
    return make_dataset(data_config(), splits, label_unit="", class_names=("ant", "bee", "cat"))


def save_net(path: Path, data: Dataset, init: int, width: int, **config: Any) -> None:
    from cgankd.nets.predictors.zoo import make_predictor

    info = data.info
    torch.manual_seed(init)
    outputs = len(info.class_names) or 1
    net = make_predictor(
        "convnet",
        width=width,
        num_outputs=outputs,
        channels=1,
        image_size=16,
        mean=info.pixel_mean,
        std=info.pixel_std,
    )
    if outputs == 1:
        nn.init.constant_([m for m in net.modules() if isinstance(m, nn.Linear)][-1].bias, 0.5)  # not clipped
    save_weights(path, net, {"net": "convnet", "width": width, "precision": "fp32", "info": to_dict(info)} | config)


def finished(
    folder: Path, *, scalar: bool = False, arm: str = "filter", student_seed: int = 7, val: float = 60.0
) -> Path:
    """params.yaml, artifacts/ and metrics/ of a run that chose `arm`; another `student_seed` is another student."""
    artifacts = folder / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "pipelines/presets" / ("chairs.yaml" if scalar else "digits.yaml"), folder / "params.yaml")
    data = made_data(scalar)
    write_dataset(artifacts / "dataset.h5", data)
    save_net(artifacts / "teacher.safetensors", data, 1, 16)
    seeds, values = [0, 1, 2], [50.0, 52.0, 57.0]
    settings = {"seeds": seeds, "num_steps": 30, "batch_size": 8, "distiller": "kd"}
    save_net(
        artifacts / "student.safetensors",
        data,
        student_seed,
        4,
        arm=arm,
        seed=1,
        val=val,
        test=values[1],
        settings=settings,
    )
    pool = BankWriter(artifacts / "pool.h5", (1, 16, 16), len(data.info.class_names) or 1, data.train.labels.dtype)
    labels = data.train.labels[torch.arange(POOL) % COUNTS["train"]]
    with pool:
        zeros = torch.zeros(POOL)
        images = torch.zeros(POOL, 1, 16, 16, dtype=torch.uint8)
        outputs = torch.zeros(POOL, len(data.info.class_names) or 1).half()
        pool.append(PoolRows(images, labels, labels, zeros, zeros, outputs, zeros, zeros.int()))
        pool.set_columns({"in_filter": torch.arange(POOL) < SELECTED, "in_raw": torch.ones(POOL, dtype=torch.bool)})
        digests = {name: file_digest(artifacts / file) for name, file in FILES.items()}
        pool.close(digests | {"cgan": "c" * 64, "config": json.dumps({"rho": 0.8})})
    runs = {"arms": {"real": {"switches": REAL}, "filter": {"switches": FILTER}}}
    write_json(artifacts / "students" / "runs.json", runs)
    shared = {"mean": 53.0, "sd": 3.6, "values": values, "val_mean": 61.0, "val_sd": 1.0}
    gain = {"gain": 2.0, "gain_low": 0.5, "gain_high": 3.5}
    result = {
        "headline": {
            "name": "test MAE" if scalar else "test error",
            "unit": "years" if scalar else "%",
            "higher_is_better": False,
        },
        "confidence": 0.95,
        "num_seeds": 3,
        "teacher": 40.0,
        "teacher_val": 41.0,
        "arms": {"real": shared | {"uses_bank": False}, "filter": shared | {"uses_bank": True} | gain},
        "chosen_arm": arm,
        "best_real_arm": "real",
        "verdict": f"ship {arm}.",
    }
    write_json(folder / "metrics" / "evaluate.json", result, sort_keys=False)
    write_json(folder / "metrics" / "prepare.json", {"num_test": float(COUNTS["test"])})
    return folder


FILES = {"dataset": "dataset.h5", "teacher": "teacher.safetensors"}
