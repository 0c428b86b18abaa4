"""The ratio stage on the published extractor, and what it saves read back by the bank's loader."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from cgankd.data.store.datasets import read_info, read_split
from cgankd.fit.device import PLAIN
from cgankd.labels.task import make_task
from cgankd.nets.features import Extractor, ResNetFeatures
from pipelines.files.params import load_config
from pipelines.networks.ratio import build_extractor, load_ratio
from pipelines.runtime.opening import open_context
from tests.bank.toys import class_task, info
from tests.tiny import tiny, write_params


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny digits project up to the ratio on ResNet-34 features."""
    folder = tmp_path_factory.mktemp("resnet34")
    values = tiny("digits")
    values["ratio"] |= {"extractor": "resnet34", "feature_channels": 64, "feature_steps": 3, "feature_batch_size": 8}
    write_params(folder, values)
    for stage in ("prepare", "cgan", "ratio"):
        with open_context(stage, ["tracking.mlflow=false"], folder, console=Console(quiet=True)) as ctx:
            importlib.import_module(f"pipelines.stages.{stage}").run(ctx)
    return folder


def test_the_stage_trains_and_keeps_the_named_extractor(folder: Path) -> None:
    config = json.loads((folder / "artifacts/ratio.config.json").read_text())
    assert config["ratio"]["extractor"] == "resnet34"
    metrics = json.loads((folder / "metrics/ratio.json").read_text())
    assert metrics["features.feature_width"] == 32 and metrics["features.best_step"] >= 1
    weights = load_file(folder / "artifacts/ratio.safetensors")
    net = ResNetFeatures(1, 16, 32, 10)
    net.load_state_dict({name[9:]: value for name, value in weights.items() if name.startswith("features.")})
    assert not torch.equal(net.scale.std, torch.ones(32)), "its scale is fitted"
    untrained = ResNetFeatures(1, 16, 32, 10).trunk.state_dict()["bn1.running_mean"]
    assert not torch.equal(net.trunk.state_dict()["bn1.running_mean"], untrained), "its trunk is trained"


def test_the_bank_reads_it_back(folder: Path) -> None:
    cfg, path = load_config(folder / "params.yaml"), folder / "artifacts/dataset.h5"
    task, val = make_task(read_info(path), cfg), read_split(path, "val")
    ratio = load_ratio(folder / "artifacts/ratio.safetensors", read_info(path), task, PLAIN)
    r_B = ratio(val.images, val.labels)
    assert r_B.shape == val.labels.shape and bool((r_B >= 0).all()) and float(r_B.std()) > 0


def test_artifacts_from_before_the_setting_hold_the_compact_extractor() -> None:
    ratio = {"feature_width": 32, "feature_channels": 8, "reconstruct_weight": 0.0}
    old, named = (
        build_extractor(one, info("class"), class_task(2)) for one in (ratio, ratio | {"extractor": "compact"})
    )
    assert isinstance(old, Extractor) and list(old.state_dict()) == list(named.state_dict())
    assert not isinstance(old, ResNetFeatures)
