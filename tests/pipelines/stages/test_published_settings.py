"""Every setting of the authors' code for GAN, label input, features, ratio and bound, from prepare to bank on tiny images."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from cgankd.data.store.banks import read_attributes, read_pool_scores
from pipelines.files.params import load_config
from pipelines.report.fakes import read_fakes
from pipelines.runtime.opening import open_context
from tests.tiny import tiny, write_params

STAGES = ("prepare", "teacher", "cgan", "ratio", "bank")
LABEL_INPUT: dict[str, Any] = {
    "net": "resnet18",
    "optimizer": "sgd",
    "weight_decay": 1e-4,
    "schedule": "multistep",
    "image_milestones": [0.3, 0.6],
    "label_milestones": [0.3, 0.5, 0.7],
    "scalar_loss": "squared",
    "augment": "flip",
    "label_batch_size": 8,
    "spread": False,
}
SCALAR_GAN: dict[str, Any] = {
    "arch": "sagan",
    "width": 2,
    "d_style": "flat",
    "spectral_gains": False,
    "init": "xavier",
    "loss": "vanilla",
    "ema_ramp": False,
    "augment": "flip",
    "targets": "distinct",
    "diversity_weight": 0.0,
}
SCALAR_RATIO: dict[str, Any] = {
    "extractor": "autoencoder",
    "feature_optimizer": "sgd",
    "feature_learning_rate": 0.01,
    "feature_weight_decay": 1e-4,
    "feature_schedule": "multistep",
    "feature_milestones": [0.25, 0.5, 0.75],
    "feature_augment": "flip",
    "scalar_loss": "squared",
    "targets": "distinct",
    "schedule": "multistep",
    "milestones": [0.4, 0.75],
    "flip": True,
    "reconstruct_weight": 1.0,
    "l1_weight": 1e-3,
    "redraw": "latent",
}
SCALAR_BANK: dict[str, Any] = {
    "bound_scope": "label",
    "bound": "running",
    "bound_quantile": 1.0,
    "filter_scope": "global",
    "filter_strict": True,
    "refill": False,
    "num_fakes": 400,
    "burn_in": 20,
}


def run(folder: Path, values: dict[str, Any]) -> None:
    write_params(folder, values)
    for stage in STAGES:
        with open_context(stage, ["tracking.mlflow=false"], folder, console=Console(quiet=True)) as ctx:
            importlib.import_module(f"pipelines.stages.{stage}").run(ctx)


def test_scalars_by_the_authors_settings_from_prepare_to_bank(tmp_path: Path) -> None:
    values = tiny("chairs")
    values["teacher"] |= {"num_steps": 10}
    values["cgan"] |= SCALAR_GAN
    values["cgan"] |= {"num_steps": 3}
    values["cgan"]["label_input"] |= LABEL_INPUT | {"image_steps": 3, "label_steps": 4, "batch_size": 8}
    values["ratio"] |= SCALAR_RATIO | {"feature_steps": 8}
    values["bank"] |= SCALAR_BANK
    run(tmp_path, values)
    saved = json.loads((tmp_path / "artifacts/cgan.config.json").read_text())["cgan"]
    assert {name: saved[name] for name in SCALAR_GAN} == SCALAR_GAN
    assert {name: saved["label_input"][name] for name in LABEL_INPUT} == LABEL_INPUT
    ratio = json.loads((tmp_path / "artifacts/ratio.config.json").read_text())["ratio"]
    assert {name: ratio[name] for name in SCALAR_RATIO} == SCALAR_RATIO
    weights = load_file(tmp_path / "artifacts/ratio.safetensors")
    assert weights["features.to_features.weight"].shape[0] == 32 and "features.head.9.weight" in weights
    bank = json.loads(str(read_attributes(tmp_path / "artifacts/bank.h5")["config"]))
    assert bank["bound_scope"] == "label" and bank["filter_strict"] is True
    # One bound for each of the 20 labels: in draw order nothing passes under a bound that its own ratio raised.
    scores = read_pool_scores(tmp_path / "artifacts/pool.h5")
    assert len(scores["asked"].unique()) == 20 and len(scores["asked"]) == 400
    assert json.loads((tmp_path / "metrics/bank.json").read_text())["burn_in_draws"] == 20 * 20
    fakes = read_fakes(tmp_path, load_config(tmp_path / "params.yaml"))
    assert fakes is not None and bool(fakes.fate["kept"].any())


@pytest.mark.parametrize(
    ("gan", "ratio"),
    [
        (
            {"arch": "biggan-deep", "width": 4, "attention": 8},
            {"extractor": "resnet18", "extractor_style": "published", "feature_optimizer": "sgd"},
        ),
        # DenseNet-121 takes a minute here: tests/nets/test_features.py runs it alone.
        (
            {"arch": "sngan", "width": 4, "d_style": "flat", "init": "xavier"},
            {"feature_optimizer": "sgd", "feature_schedule": "cosine"},
        ),
    ],
)
def test_classes_by_the_authors_settings_from_prepare_to_bank(
    tmp_path: Path, gan: dict[str, Any], ratio: dict[str, Any]
) -> None:
    values = tiny("digits")
    values["teacher"] |= {"num_steps": 10}
    values["cgan"] |= gan | {"ema_ramp": False, "num_steps": 3}
    channels = 64 if "extractor" in ratio else 8
    values["ratio"] |= ratio | {"feature_channels": channels, "feature_steps": 3, "feature_batch_size": 8}
    values["bank"] |= {"filter_strict": True, "refill": False, "num_fakes": 400}
    run(tmp_path, values)
    assert (tmp_path / "artifacts/bank.h5").exists()
    saved = json.loads((tmp_path / "artifacts/cgan.config.json").read_text())["cgan"]
    assert saved["arch"] == gan["arch"] and saved["ema_ramp"] is False


def test_the_settings_stay_out_of_files_at_their_defaults(tmp_path: Path) -> None:
    """So that a file made before they came has the same bytes as one made now."""
    later = {*SCALAR_GAN, "net", "optimizer", *LABEL_INPUT} - {"arch", "width", "init", "augment", "diversity_weight"}
    values = tiny("chairs")
    values["cgan"] |= {"num_steps": 2}
    values["cgan"]["label_input"] |= {"image_steps": 2, "label_steps": 2, "batch_size": 8}
    write_params(tmp_path, values)
    for stage in STAGES[:3:2]:
        with open_context(stage, ["tracking.mlflow=false"], tmp_path, console=Console(quiet=True)) as ctx:
            importlib.import_module(f"pipelines.stages.{stage}").run(ctx)
    saved = json.loads((tmp_path / "artifacts/cgan.config.json").read_text())["cgan"]
    assert not later & {*saved, *saved["label_input"]} and "noise" in saved["label_input"]
    assert torch.is_tensor(load_file(tmp_path / "artifacts/cgan.safetensors")["generator.to_pixels.weight"])
