"""KD losses on nets of fixed channels and teachers that are programs, and students that ship with modules of their own."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cgankd.config import Config, ConfigError, to_dict
from cgankd.data.store.datasets import read_info, read_split
from cgankd.distill import make_distiller
from cgankd.distill.methods import METHODS
from cgankd.fit.predictor import make_predict, mean_score
from cgankd.labels.task import make_task
from cgankd.nets.predictors.program import Program
from cgankd.nets.predictors.zoo import Predictor
from pipelines.files.artifacts import load_weights, save_weights
from pipelines.files.distillers import check_distillers
from pipelines.files.params import load_config
from pipelines.networks.distilled import load_student
from pipelines.networks.predictor import build_predictor
from pipelines.ship.card import lineage, model_card
from pipelines.ship.export import export
from pipelines.ship.exported import Exported
from pipelines.ship.predict import open_predictor
from pipelines.ship.saved import load_finished, load_package
from pipelines.students.run_arm import train_job
from tests.distill.arms import job, settings, workplace
from tests.distill.toys import pair
from tests.pipelines.finished import finished, made_data


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work place whose teacher is a resnet20."""
    folder = workplace(tmp_path_factory.mktemp("fixed"), False)
    data = made_data(False)
    torch.manual_seed(1)
    config: dict[str, Any] = {"net": "resnet20", "width": None, "precision": "fp32"}
    net = build_predictor(config, data.info, 3)
    save_weights(folder / "teacher.safetensors", net, config | {"info": to_dict(data.info)})
    return folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work place whose teacher is a TorchScript program."""
    folder, data = workplace(tmp_path_factory.mktemp("imported"), False), made_data(False)
    torch.manual_seed(2)
    net, file = nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).eval(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that TorchScript is going away
        torch.jit.save(torch.jit.trace(net, torch.rand(2, 1, 16, 16)), file)  # type: ignore[no-untyped-call]
    program = Program(torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8))
    config = {"net": "convnet", "width": 8, "precision": "fp32", "program": "torchscript", "info": to_dict(data.info)}
    save_weights(folder / "teacher.safetensors", Predictor(program, [0.0], [1.0]), config)
    return folder


def resnet(**student: Any) -> Config:
    return settings(False, **({"net": "resnet8", "width": None} | student))


@pytest.mark.parametrize(
    ("name", "option", "whose"), [("takd", "assistant_net", "teacher"), ("ifm", "auxiliary_net", "student")]
)
def test_nets_of_fixed_channels_ask_for_a_name(fixed: Path, name: str, option: str, whose: str) -> None:
    words = rf"student.distiller_options.{option} must name a net, as {whose}.net has fixed channels"
    with pytest.raises(ConfigError, match=words):
        train_job(job(fixed, resnet(distiller=name), f"no-{name}"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("takd", {"assistant_net": "resnet14"}),
        ("takd", {"assistant_net": "convnet", "assistant_channels": 4}),
        ("ifm", {"auxiliary_net": "resnet8x4"}),
    ],
)
def test_a_named_net_stands_in_between(fixed: Path, name: str, options: dict[str, Any]) -> None:
    cfg = resnet(distiller=name, distiller_options=options)
    check_distillers(cfg)
    run = job(fixed, cfg, f"{name}-named")
    train_job(run)
    assert load_package(run.out).config["net"] == "resnet8"


def test_the_named_net_is_the_one_that_is_made() -> None:
    both, asked = pair(False), []

    def named(net: str, width: int | None) -> nn.Module:
        asked.append((net, width))
        return nn.Linear(2, 3)

    distiller = make_distiller("takd", assistant_net="convnet", assistant_channels=6)
    distiller.build(both.student, replace(both.teacher, named=named), both.data)
    assert asked == [("convnet", 6)] and isinstance(distiller.assistant, nn.Linear)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("takd", {"assistant_net": "resnet21"}, r"assistant_net must be one of .* but is 'resnet21'; did you mean"),
        ("takd", {"assistant_net": "convnet"}, "assistant_channels must be at least 1 for convnet, but is None"),
        ("takd", {"assistant_net": "resnet8", "assistant_channels": 4}, "assistant_channels must be null for resnet8"),
        ("ifm", {"auxiliary_channels": 4}, "auxiliary_channels must be null where auxiliary_net is null, but is 4"),
    ],
)
def test_names_of_nets_are_checked_when_settings_are_read(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        check_distillers(settings(False, distiller=name, distiller_options=options))
    assert str(caught.value).startswith("student.distiller_options.")


def test_an_auxiliary_net_has_the_students_stages(fixed: Path) -> None:
    cfg = resnet(distiller="ifm", distiller_options={"auxiliary_net": "vgg8"})
    with pytest.raises(
        ConfigError, match="auxiliary_net must be a net with as many stages as student.net, which has 3"
    ):
        train_job(job(fixed, cfg, "vgg"))


def on_outputs(name: str) -> bool:
    """True where the method looks at the teacher's outputs alone."""
    return name not in FEATURES


FEATURES = (
    *("ab", "at", "cat_kd", "cc", "crd", "fitnet", "fsp", "ft", "ifm", "kdsvd", "nst", "ofd", "pkt", "reviewkd", "rkd"),
    *("sdd", "simkd", "soap_kd", "sp", "sskd", "vid"),
)
OTHERS = ("teacher_adaptation", "takd", "reg_kd")
"""A program has no batch norms to adapt and no width; reg_kd is for scalars."""


@pytest.mark.parametrize("name", [n for n in METHODS if n not in OTHERS])
def test_a_program_teaches_by_its_outputs_alone(imported: Path, name: str) -> None:
    run = job(imported, settings(False, distiller=name), f"program-{name}")
    if on_outputs(name):
        train_job(run)
        assert load_package(run.out).num_parameters > 0
        return
    with pytest.raises(ConfigError, match=rf"student.distiller: {name} compares features, but the teacher shows none"):
        train_job(run)


def test_a_program_has_an_assistant_by_name(imported: Path) -> None:
    with pytest.raises(ConfigError, match="assistant_net must name a net"):
        train_job(job(imported, settings(False, distiller="takd"), "none"))
    options = {"assistant_net": "resnet8"}
    train_job(job(imported, settings(False, distiller="takd", distiller_options=options), "named"))


def test_parts_of_a_sum_see_the_program_as_they_would_alone(imported: Path) -> None:
    entries = [{"name": "ofa_kd"}, {"name": "takd", "options": {"assistant_net": "resnet8"}}]
    train_job(job(imported, settings(False, distillers=entries), "sum"))
    with pytest.raises(ConfigError, match="student.distiller: rkd compares features"):
        train_job(job(imported, settings(False, distillers=[{"name": "kd"}, {"name": "rkd"}]), "refused"))


def test_choices_of_fakes_are_curves_of_the_run(tmp_path: Path) -> None:
    options = {"level": "image", "refresh_epochs": 0.5, "pool_share": 0.5, "top_k": 2}
    cfg = settings(False, distiller="skd_speculative", distiller_options=options, num_steps=6)
    run = job(workplace(tmp_path, False), cfg)
    train_job(run)
    curves = run.read()["curves"]
    found = {name: curves[f"speculative_{name}"] for name in ("chosen", "acceptance", "correction", "coverage")}
    # 20 real images and 12 fakes in batches of 6: half an epoch is three steps.
    assert all([step for step, _ in points] == [0, 3] for points in found.values())
    assert all(0 <= value <= 1 for points in found.values() for _, value in points)
    assert all(
        a + c == pytest.approx(2 * n)
        for (_, a), (_, c), (_, n) in zip(found["acceptance"], found["correction"], found["chosen"], strict=True)
    )


def test_a_teacher_that_accepts_no_fake_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    options = {"level": "image", "accept": "top_k", "tolerance": 1e-9}
    run = job(workplace(tmp_path, True), settings(True, distiller="skd_speculative", distiller_options=options))
    with pytest.raises(ConfigError, match="accepts none of the 12 fakes .* raise the option tolerance"):
        train_job(run)


@pytest.mark.parametrize(("name", "scalar"), [("simkd", True), ("vam", False), ("kdexplainer", False)])
def test_students_with_modules_of_their_own_ship(tmp_path: Path, name: str, scalar: bool) -> None:
    folder = finished(tmp_path, scalar=scalar)
    artifacts = folder / "artifacts"
    run = job(artifacts, settings(scalar, distiller=name), "trained", bank=False)
    train_job(run)
    # As `evaluate` does for the chosen arm.
    weights, config = load_weights(run.out)
    _, before = load_weights(artifacts / "student.safetensors")
    config |= {key: before[key] for key in ("arm", "seed", "val", "test", "settings")}
    save_weights(artifacts / "student.safetensors", weights, config)

    info, val = read_info(artifacts / "dataset.h5"), read_split(artifacts / "dataset.h5", "val")
    task = make_task(info, settings(scalar))
    net, _ = load_student(artifacts / "student.safetensors", info, task)
    student = load_package(artifacts / "student.safetensors")
    by_task = mean_score(task, make_predict(net, "fp32"), val)
    answers = student.model.run(val.images[:])
    assert float(student.answer.score(answers, val.labels).double().mean()) == pytest.approx(by_task, rel=1e-5)

    values = export(folder, folder / "export", level=0.9, int8_tolerance=1.0, repeats=1)
    assert values["parity"]["onnx"] <= values["parity"]["allowed"]
    for file in (None, folder / "export/student.onnx", folder / "export/student.pt2"):
        torch.testing.assert_close(open_predictor(folder, file, 0.9).run(val.images[:]), answers, rtol=1e-3, atol=1e-3)

    cfg = load_config(folder / "params.yaml")
    origin = lineage(folder, student, None, root=cfg.data.root, seed=cfg.seed)
    card = model_card("x", load_finished(folder, 0.9), origin, Exported(server=values))
    assert f"{student.num_parameters:,} parameters (convnet, width 4 with modules of {name})" in card
