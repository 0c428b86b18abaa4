"""A teacher of the user's own through the real stage: state dict, TorchScript, torch.export; and files that are no good."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from cgankd.config import ConfigError, config_from_dict
from cgankd.data.store.datasets import read_info, read_split, write_dataset
from cgankd.fit.predictor import make_predict
from cgankd.labels.task import make_task
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import Predictor, make_predictor
from pipelines.commands.app import app
from pipelines.files.artifacts import file_digest, load_weights
from pipelines.networks.predictor import load_predictor
from pipelines.project.doctor import look_at_teacher
from pipelines.report.records import net_text
from pipelines.ship.export import export as write_export
from pipelines.ship.export import remarks
from pipelines.ship.saved import load_package, net_words
from tests.pipelines.finished import finished, made_data
from tests.tiny import tiny, unsealed, write_params


def project(folder: Path, *, scalar: bool = False, **teacher: Any) -> dict[str, Any]:
    """params.yaml and artifacts/dataset.h5 of random images, with these teacher settings."""
    values = tiny("chairs" if scalar else "digits")
    values["tracking"]["mlflow"] = False
    values["teacher"] |= {"net": "resnet8", "width": None, "precision": "fp32"} | teacher
    info = made_data(scalar).info
    values["data"] |= {"source": info.source, "channels": info.channels}
    write_params(folder, values)
    if not (folder / "artifacts" / "dataset.h5").exists():
        (folder / "artifacts").mkdir()
        write_dataset(folder / "artifacts" / "dataset.h5", made_data(scalar))
    return values


def net(scalar: bool = False, name: str = "resnet8", width: int | None = None) -> Predictor:
    info = made_data(scalar).info
    torch.manual_seed(3)
    made = make_predictor(
        name, NetShape(1 if scalar else 3, 1, 16), width=width, mean=info.pixel_mean, std=info.pixel_std
    )
    made(torch.rand(16, 1, 16, 16))  # running statistics of their own
    return made.eval()


def script(module: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, torch.rand(2, 1, 16, 16))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path)  # type: ignore[no-untyped-call]


def export(module: nn.Module, path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(module, (torch.rand(2, 1, 16, 16),), dynamic_shapes=shapes), path)


def stage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, ["teacher"])
    assert result.exit_code == 0, result.output + result.stderr
    return result.stdout


def outputs(folder: Path, values: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Outputs on the validation images of the teacher in artifacts/, and those images in [0, 1]."""
    dataset = folder / "artifacts" / "dataset.h5"
    info = read_info(dataset)
    task = make_task(info, config_from_dict(values))
    taken, config = load_predictor(folder / "artifacts" / "teacher.safetensors", info, task)
    images = read_split(dataset, "val").images
    return make_predict(taken, config["precision"])(images), images.float() / 255


def states(given: Predictor) -> dict[str, tuple[str, Callable[[Path], None]]]:
    bare = given.body.state_dict()
    return {
        "bare": ("t.pt", lambda p: torch.save(bare, p)),
        "prefixed": ("t.pth", lambda p: torch.save({f"module.{k}": v for k, v in bare.items()}, p)),
        "inside": ("t.pt", lambda p: torch.save({"epoch": 7, "model": bare, "best_acc": 0.5}, p)),
        "safetensors": ("t.safetensors", lambda p: save_file(bare, p)),
        "saved here": ("t.safetensors", lambda p: save_file(given.state_dict(), p)),
        "averaged": ("t.pt", lambda p: torch.save({k: v.float() for k, v in bare.items()}, p)),
        "other head": ("t.pt", lambda p: torch.save({k.replace("head", "fc"): v for k, v in bare.items()}, p)),
    }


@pytest.mark.parametrize("form", ["bare", "prefixed", "inside", "safetensors", "saved here", "averaged", "other head"])
def test_a_state_dict_is_the_teacher(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = net()
    name, save = states(given)[form]
    save(tmp_path / name)
    values = project(tmp_path, file=name)
    said = stage(tmp_path, monkeypatch)
    assert f"set teacher.file_digest to {file_digest(tmp_path / name)[:16]}" in said
    out, unit = outputs(tmp_path, values)
    torch.testing.assert_close(out, given(unit), rtol=0, atol=1e-6)
    weights, config = load_weights(tmp_path / "artifacts" / "teacher.safetensors")
    assert config["file"] == name and config["file_digest"] == file_digest(tmp_path / name)
    assert torch.equal(weights["body.head.weight"], given.state_dict()["body.head.weight"])
    metrics = json.loads((tmp_path / "metrics" / "teacher.json").read_text())
    labels = read_split(tmp_path / "artifacts" / "dataset.h5", "val").labels
    assert metrics["val"] == pytest.approx(100 * float((out.argmax(1) != labels).float().mean()))
    assert (tmp_path / "plots" / "teacher" / "teacher.csv").read_text().startswith("step,val\n1,")


@pytest.mark.parametrize("make", [script, export])
def test_a_program_is_the_teacher(
    make: Callable[[nn.Module, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = net()
    make(given, tmp_path / "t.bin")
    values = project(tmp_path, file="t.bin", file_digest=file_digest(tmp_path / "t.bin")[:12])
    assert "file_digest" not in stage(tmp_path, monkeypatch)
    (tmp_path / "t.bin").unlink()  # the artifact needs no other file
    out, unit = outputs(tmp_path, values)
    torch.testing.assert_close(out, given(unit), rtol=1e-5, atol=1e-6)
    package = load_package(tmp_path / "artifacts" / "teacher.safetensors")
    torch.testing.assert_close(package.model.run(unit * 255), given(unit).softmax(1), rtol=1e-4, atol=1e-5)
    assert package.num_parameters == sum(p.numel() for p in given.parameters())
    weights, config = load_weights(tmp_path / "artifacts" / "teacher.safetensors")
    assert weights["body.program"].dtype == torch.uint8 and config["program"] in ("torchscript", "torch.export")


@pytest.mark.parametrize("form", ["state", "script"])
def test_normalisation_of_the_teachers_own(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = net()
    if form == "state":
        torch.save(given.body.state_dict(), tmp_path / "t.pt")
    else:
        script(given.body, tmp_path / "t.pt")
    values = project(tmp_path, file="t.pt", mean=[0.3], std=[0.7])
    stage(tmp_path, monkeypatch)
    out, unit = outputs(tmp_path, values)
    torch.testing.assert_close(out, given.body((unit - 0.3) / 0.7), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["state", "script", "export"])
def test_raw_units_become_normalised(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = net(scalar=True)  # labels 0 to 10 years
    if form == "state":
        torch.save(given.body.state_dict(), tmp_path / "t.pt")
    else:
        (script if form == "script" else export)(given, tmp_path / "t.pt")
    values = project(tmp_path, scalar=True, file="t.pt", output_unit="raw")
    stage(tmp_path, monkeypatch)
    out, unit = outputs(tmp_path, values)
    torch.testing.assert_close(out, given(unit) / 10, rtol=1e-5, atol=1e-6)


class Label(nn.Module):
    """A teacher that knows the labels, which rise by the row number: its outputs come from a table."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.register_buffer("keys", images.float().mean((1, 2, 3)) / 255)
        self.register_buffer("labels", labels)

    def forward(self, x: Tensor) -> Tensor:
        distance = (x.mean((1, 2, 3))[:, None] - self.keys[None]).abs()
        return self.labels[distance.argmin(1)][:, None]


def test_the_wrong_unit_is_remarked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path, scalar=True, file="t.pt")
    val = read_split(tmp_path / "artifacts" / "dataset.h5", "val")
    script(Label(val.images, val.labels), tmp_path / "t.pt")
    assert "warning: read as normalised labels" in stage(tmp_path, monkeypatch)
    project(tmp_path, scalar=True, file="t.pt", output_unit="raw")
    assert "warning" not in stage(tmp_path, monkeypatch)
    metrics = json.loads((tmp_path / "metrics" / "teacher.json").read_text())
    assert metrics["val"] < 1e-4


class Odd(nn.Module):
    """Outputs that are not those of the task, on purpose."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.layer = nn.Linear(256, 5 if how == "classes" else 3)

    def forward(self, x: Tensor) -> Any:
        out = self.layer(x.flatten(1))
        if self.how == "nan":
            return out / 0 * 0
        if self.how == "dtype":
            return out.argmax(1)
        if self.how == "map":
            return out[:, :, None]
        return (out, out) if self.how == "two" else out


def other_net(path: Path) -> None:
    torch.save(net(name="wrn16-1").body.state_dict(), path)


def other_classes(path: Path) -> None:
    state = net().body.state_dict()
    torch.save(state | {"head.weight": torch.zeros(7, 64), "head.bias": torch.zeros(7)}, path)


def not_finite(path: Path) -> None:
    state = net().body.state_dict()
    torch.save(state | {"head.bias": torch.tensor([0.0, float("nan"), 0.0])}, path)


def fixed_batch(path: Path) -> None:
    torch.export.save(torch.export.export(net(), (torch.rand(2, 1, 16, 16),)), path)


def broken_script(path: Path) -> None:
    script(net(), path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


BAD: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "missing": ("t.pt", lambda p: None, "teacher.file is t.pt, but there is no such file"),
    "text": ("t.pt", lambda p: p.write_text("no weights") and None, "t.pt cannot be read as weights"),
    "text as safetensors": ("t.safetensors", lambda p: p.write_text("none") and None, "is not a safetensors file"),
    "half a file": ("t.pt", broken_script, "t.pt cannot be"),
    "a pickled net": ("t.pt", lambda p: torch.save(net(), p), "holds more than tensors and numbers"),
    "no state dict": ("t.pt", lambda p: torch.save({"lr": 0.1}, p), "holds no state dict"),
    "other net": ("t.pt", other_net, "does not fit teacher.net resnet8: it lacks"),
    "other classes": ("t.pt", other_classes, "head.weight is [7, 64] in the file and must be [3, 64]"),
    "NaN weights": ("t.pt", not_finite, "holds numbers that are not finite, first in head.bias"),
    "script, classes": ("t.pt", lambda p: script(Odd("classes"), p), "must give 3 class scores an image"),
    "script, NaN": ("t.pt", lambda p: script(Odd("nan"), p), "gives numbers that are not finite"),
    "script, dtype": ("t.pt", lambda p: script(Odd("dtype"), p), "but gives a tensor of torch.int64"),
    "script, shape": ("t.pt", lambda p: script(Odd("map"), p), "but gives the shape [32, 3, 1] for 32 images"),
    "script, two": ("t.pt", lambda p: script(Odd("two"), p), "but gives a tuple"),
    "fixed batch": ("t.pt2", fixed_batch, "does not take images of [1, 16, 16] with any number of images"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_file_that_is_no_good_ends_in_one_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, make, words = BAD[case]
    project(tmp_path, file=name)
    kept = tmp_path / "artifacts" / "teacher.safetensors"
    kept.write_bytes(b"of an earlier run")
    make(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["teacher"])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: teacher.file") and result.stderr.count("\n") == 1, result.stderr
    assert words in result.stderr
    assert kept.read_bytes() == b"of an earlier run"


@pytest.mark.parametrize(
    ("scalar", "settings", "words"),
    [
        (False, {"output_unit": "raw"}, "teacher.output_unit must be normalised for class labels"),
        (False, {"mean": [0.5] * 3, "std": [0.2] * 3}, "teacher.mean must have 1 numbers, one a channel"),
        (False, {"file_digest": "0" * 12}, "is not the file of teacher.file_digest: its SHA-256 begins with"),
        (True, {}, "head.weight is [3, 64] in the file and must be [1, 64]"),
    ],
)
def test_settings_that_do_not_go_with_the_data(
    scalar: bool, settings: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(net().body.state_dict(), tmp_path / "t.pt")
    project(tmp_path, scalar=scalar, file="t.pt", **settings)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["teacher"])
    assert result.exit_code == 2 and words in result.stderr, result.stderr


def test_the_doctor_notices_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(net().body.state_dict(), tmp_path / "t.pt")
    cfg = config_from_dict(project(tmp_path, file="t.pt")).teacher
    assert [f.level for f in look_at_teacher(tmp_path, cfg)] == ["ok"]
    stage(tmp_path, monkeypatch)
    assert [f.level for f in look_at_teacher(tmp_path, cfg)] == ["ok"]
    torch.save({k: v + 0 for k, v in net(name="resnet8").body.state_dict().items()} | {"x": torch.ones(1)}, "t.pt")
    (found,) = look_at_teacher(tmp_path, cfg)
    assert found.level == "warning" and file_digest(tmp_path / "t.pt")[:16] in found.cure
    (tmp_path / "t.pt").unlink()
    assert [f.level for f in look_at_teacher(tmp_path, cfg)] == ["problem"]


def test_a_trained_teacher_has_its_own_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = project(tmp_path, mean=[0.25], std=[0.5], num_steps=2)
    stage(tmp_path, monkeypatch)
    weights, config = load_weights(tmp_path / "artifacts" / "teacher.safetensors")
    assert weights["mean"].flatten().tolist() == [0.25] and config["std"] == [0.5]
    assert outputs(tmp_path, values)[0].shape == (40, 3)


def test_a_config_of_a_program_needs_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(net().body.state_dict(), tmp_path / "t.pt")
    project(tmp_path, file="t.pt")
    stage(tmp_path, monkeypatch)
    path = tmp_path / "artifacts" / "teacher.config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"program": "torchscript"}))
    unsealed(tmp_path)
    with pytest.raises(ConfigError, match=r"does not fit the config\.json beside it"):
        load_package(tmp_path / "artifacts" / "teacher.safetensors")


def test_a_student_is_exported_beside_a_teacher_that_has_no_onnx_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path)
    script(net(), tmp_path / "t.pt")
    project(tmp_path, file="t.pt")
    stage(tmp_path, monkeypatch)
    values = write_export(tmp_path, tmp_path / "out", level=0.8, int8_tolerance=0.1, repeats=1)
    assert [form["network"] for form in values["models"]] == ["student", "student"]
    assert any("TorchScript program, which has no ONNX form" in line for line in remarks(values, Path("out")))
    teacher = load_package(tmp_path / "artifacts" / "teacher.safetensors")
    assert net_words(teacher.config) == "a torchscript program"


@pytest.mark.parametrize(("width", "words"), [(None, "resnet20"), (4, "resnet20, width 4")])
def test_a_net_in_words(width: int | None, words: str) -> None:
    assert net_words({"net": "resnet20", "width": width}) == words == net_text({"net": "resnet20", "width": width})
