"""A teacher that starts from a package's weights, through the real stage: killed and resumed, restored without the package,
exported, and taught from by every KD loss."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cgankd.config import ConfigError, config_from_dict, to_dict
from cgankd.config.weights import PACKAGED
from cgankd.data.store.datasets import read_info, read_split
from cgankd.distill.methods import METHODS
from cgankd.export import open_onnx, program, worst_difference, write_onnx
from cgankd.labels.task import make_task
from pipelines.commands.app import app
from pipelines.files.artifacts import ResumeFile, file_digest, load_weights, save_weights
from pipelines.files.params import load_config
from pipelines.networks import weights as networks_weights
from pipelines.networks.distilled import load_student
from pipelines.networks.named_files import starting
from pipelines.networks.predictor import build_predictor, load_predictor
from pipelines.networks.weights import find_weights
from pipelines.project.doctor import look_at_weights
from pipelines.project.init import init, make_plan, summary
from pipelines.ship.saved import load_package, net_words
from pipelines.students.run_arm import train_job
from tests.distill.arms import job, settings, workplace
from tests.pipelines.finished import made_data
from tests.pipelines.networks.test_own_teacher import project, stage
from tests.pipelines.networks.test_weights import SMALL, package, source
from tests.pipelines.students.test_distil_nets import FEATURES, OTHERS

__all__ = ["package"]  # a fixture
TEACHER: dict[str, Any] = {
    "net": SMALL,
    "weights": "package:small",
    "input_size": 40,
    "num_steps": 450,
    "batch_size": 4,
    "learning_rate": 0.001,
}
SHORT = TEACHER | {"num_steps": 12}


@pytest.mark.parametrize("tune", ["all", "head"])
def test_a_pretrained_teacher_is_trained_killed_and_resumed(
    tune: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for folder in (straight, resumed):
        folder.mkdir()
        project(folder, **TEACHER, tune=tune)
    said = stage(straight, monkeypatch)
    assert "teacher.weights package:small: " in said and "tensors loaded, fresh: classifier.weight" in said
    assert ("teacher features " in said) == (tune == "head")
    assert [path.name for path in (straight / "plots" / "teacher").glob("*.csv")] == ["teacher.csv"]
    save = ResumeFile.save

    def killed(self: ResumeFile, step: int, state: dict[str, object]) -> None:
        save(self, step, state)
        raise KeyboardInterrupt

    monkeypatch.chdir(resumed)
    with monkeypatch.context() as patch:
        patch.setattr(ResumeFile, "save", killed)
        assert CliRunner().invoke(app, ["teacher"]).exit_code == 130
    assert not (resumed / "artifacts/teacher.safetensors").exists()
    assert "resuming at step 200" in stage(resumed, monkeypatch)
    for name in ("teacher.safetensors", "teacher.config.json"):
        assert (resumed / "artifacts" / name).read_bytes() == (straight / "artifacts" / name).read_bytes()


def test_a_trained_teacher_needs_its_package_no_more(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = project(tmp_path, **SHORT)
    stage(tmp_path, monkeypatch)
    shutil.rmtree(package.parent.parent)
    info = read_info(tmp_path / "artifacts/dataset.h5")
    task = make_task(info, config_from_dict(values))
    net, config = load_predictor(tmp_path / "artifacts/teacher.safetensors", info, task)
    assert config["weights"] == "package:small" and config["input_size"] == 40 and config["mean"] == [0.5]
    start = source().state_dict()["conv_stem.weight"].sum(1, keepdim=True)
    moved = (net.get_parameter("body.net.conv_stem.weight") - start).abs().max()
    assert 0 < moved < 0.05, "trained on from the package's weights, whose colours are summed for grey images"
    result = CliRunner().invoke(app, ["teacher"])
    assert result.exit_code == 2 and "pip install 'cgankd[pretrained]'" in result.stderr
    # Every form takes images of the data set's size.
    model, images = (
        load_package(tmp_path / "artifacts/teacher.safetensors").model,
        read_split(tmp_path / "artifacts/dataset.h5", "val").images[:],
    )
    assert images.shape[1:] == (1, 16, 16)
    write_onnx(program(model, images[:2]), tmp_path / "t.onnx")
    assert worst_difference(open_onnx(tmp_path / "t.onnx")(images), model.run(images)) < 1e-5


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work place whose teacher sees its images at another size than the students do."""
    folder, data = workplace(tmp_path_factory.mktemp("taught"), False), made_data(False)
    torch.manual_seed(1)
    config = {"net": SMALL, "width": None, "precision": "fp32", "input_size": 48, "mean": [0.5], "std": [0.25]}
    save_weights(
        folder / "teacher.safetensors", build_predictor(config, data.info, 3), config | {"info": to_dict(data.info)}
    )
    return folder


REFUSED = {
    "cat_kd": "needs class maps, but the last layer of teacher.net is no linear layer on its last stage map",
    "sdd": r"sdd.scales holds 4, but the teacher's last map is 2 wide; leave out scales above 2",
    "takd": "assistant_net must name a net, as teacher.net has fixed channels",
}
"""What the teacher's own make rules out, as it does without an input size."""


@pytest.mark.parametrize("name", [n for n in METHODS if n in (*FEATURES, *OTHERS) and n != "reg_kd"])
def test_kd_losses_on_features_of_another_size(taught: Path, name: str) -> None:
    run = job(taught, settings(False, distiller=name), name)
    if name in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[name]):
            train_job(run)
        return
    train_job(run)
    info = read_info(taught / "dataset.h5")
    net, config = load_student(run.out, info, make_task(info, run.config))
    assert bool(net(torch.rand(2, 1, 16, 16)).isfinite().all())
    if "distilled" in config:
        assert config["distilled"]["teacher"]["input_size"] == 48


@pytest.mark.parametrize(("kd", "tune"), [(False, "all"), (False, "head"), (True, "norms"), (True, "head")])
def test_students_start_from_weights_too(kd: bool, tune: str, package: Path, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    folder = workplace(tmp_path / "place", False)
    changes = {"net": SMALL, "width": None, "weights": "package:small", "input_size": 40, "tune": tune, "num_steps": 5}
    cfg = settings(False, **changes, head_views=2)
    run = job(folder, cfg, kd=kd)
    said = train_job(replace(run, weights=find_weights("student", cfg.student, tmp_path)))
    assert [line for line in said if line.startswith("student.weights package:small: ")]
    state, config = load_weights(run.out)
    assert config["weights"] == "package:small" and config["input_size"] == 40 and config["std"] == [0.25]
    given = source().state_dict()["conv_stem.weight"].sum(1, keepdim=True)
    assert torch.equal(state["body.net.conv_stem.weight"], given) == (tune != "all")
    info = read_info(folder / "dataset.h5")
    load_student(run.out, info, make_task(info, cfg))


def test_init_gives_colour_images_a_pretrained_member(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = networks_weights.package_file  # PACKAGED keeps its items: put back, they would have another order
    monkeypatch.setattr(networks_weights, "package_file", lambda one: found(one) if one is PACKAGED["small"] else None)
    for mode, folder in (("RGB", tmp_path / "colour"), ("L", tmp_path / "grey")):
        for number in range(24):
            path = folder / ("ant", "bee")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = torch.randint(256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
            Image.fromarray(noise.numpy()).convert(mode).save(path)

    def told(mode: str) -> tuple[list[str], Any]:
        plan = make_plan(tmp_path / f"project-{mode}", tmp_path / mode, None)
        if not plan.folder.exists():
            init(plan, lambda text: None)
        said = [line for line in summary(plan) if "pretrained" in line]
        return said, load_config(plan.folder / "params.yaml").teacher.members

    (line,), members = told("colour")
    assert "a fresh net and a pretrained one trained twice (package:small)" in line and members == "auto"
    assert told("grey") == ([], None)
    shutil.rmtree(package.parent.parent)
    plan = make_plan(tmp_path / "later", tmp_path / "colour", None)
    (line,) = [line for line in summary(plan) if "pretrained" in line]
    assert "pip install 'cgankd[pretrained]' adds a pretrained one" in line


def test_the_doctor_looks_at_weights(package: Path, tmp_path: Path) -> None:
    teacher = config_from_dict(project(tmp_path, **TEACHER)).teacher
    (found,) = look_at_weights(tmp_path, "teacher", teacher)
    assert found.level == "ok" and "package:small, SHA-256" in found.text
    made = tmp_path / "artifacts" / "teacher.config.json"
    made.parent.mkdir(exist_ok=True)
    for digest, level in ((file_digest(package), "ok"), ("0" * 64, "warning")):
        made.write_text(json.dumps({"net": SMALL, "weights_digest": digest}))
        (found,) = look_at_weights(tmp_path, "teacher", teacher)
        assert found.level == level
    assert "has changed since artifacts/teacher.safetensors was trained from it" in found.text
    cure = "run `dvc repro -s -f teacher`, then `dvc repro` (`cgankd run --from teacher` without DVC)"
    assert found.cure == cure, "without -s each stage before it would run again"
    made.unlink()
    package.write_bytes(b"other")
    (found,) = look_at_weights(tmp_path, "teacher", teacher)
    assert found.level == "problem" and "pip install --force-reinstall small-net-model" in found.text
    assert look_at_weights(tmp_path, "teacher", config_from_dict(project(tmp_path)).teacher) == []


def test_the_doctor_looks_at_the_weights_of_each_member(package: Path, tmp_path: Path) -> None:
    """The top of the config tells of the heaviest member, and of the one that was kept where there is one alone."""
    (tmp_path / "a.pt").write_bytes(b"a")
    own, other = {"weights": "a.pt", "weights_digest": file_digest(tmp_path / "a.pt")}, {"weights": "package:small"}
    other["weights_digest"] = file_digest(package)
    members = [{}, {"weights": "package:small"}]
    cfg = config_from_dict(project(tmp_path, net=SMALL, weights="a.pt", members=members))
    made = tmp_path / "artifacts" / "teacher.config.json"

    def levels(config: dict[str, Any]) -> list[str]:
        made.write_text(json.dumps(config))
        return [f.level for name, section in starting(cfg).items() for f in look_at_weights(tmp_path, name, section)]

    whole = {"net": SMALL} | other | {"members": [own, other]}
    assert levels(whole) == levels(other) == levels({"net": SMALL, "members": 2}) == ["ok", "ok"]
    old = own | {"weights_digest": "0" * 64}
    assert levels(whole | {"members": [old, other]}) == levels(old) == ["warning", "ok"]
    later = other | {"weights_digest": "0" * 64}
    assert levels(later | {"members": [own, later]}) == ["ok", "warning"]
    assert levels(own | {"weights": "b.pt", "weights_digest": "0" * 64}) == ["ok", "ok"], (
        "dvc repro does that by itself"
    )


def test_a_net_says_where_its_weights_began(package: Path) -> None:
    config = {"net": SMALL, "width": None, "input_size": 40, "weights": "package:small"}
    said = "timm:test_efficientnet, which sees images at 40 px, trained on from the weights package:small"
    assert net_words(config) == f"{said} (ImageNet, MIT)"
    assert net_words(config | {"weights": "w.pt"}).endswith("from the weights w.pt")
