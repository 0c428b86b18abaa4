"""Weights that a training starts from: of packages, libraries and files, and what becomes of those that do not fit."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cgankd.config import ConfigError, TeacherConfig, config_from_dict
from cgankd.config.weights import PACKAGED, Packaged
from cgankd.nets.predictors.external import left_fresh, library_pixels
from cgankd.types import DatasetInfo
from pipelines.files.artifacts import file_digest
from pipelines.networks import weights as module
from pipelines.networks.predictor import build_predictor
from pipelines.networks.weights import find_weights, installed, start
from tests.conftest import preset

SMALL = "timm:test_efficientnet"
COLOUR = DatasetInfo("class", "toy", "", 3, 32, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2), ("ant", "bee"))
GREY = dataclasses.replace(COLOUR, channels=1, pixel_mean=(0.4,), pixel_std=(0.2,))


def settings(**teacher: Any) -> TeacherConfig:
    values = preset("digits")
    values["teacher"] |= {"net": SMALL, "width": None, "precision": "fp32"} | teacher
    return config_from_dict(values).teacher


def begun(cfg: TeacherConfig, folder: Path, info: DatasetInfo = COLOUR) -> tuple[nn.Module, dict[str, Any], str]:
    """Net, config and the line for the log."""
    said: list[str] = []
    torch.manual_seed(5)
    net, config = start("teacher", cfg, info, 2, find_weights("teacher", cfg, folder), said.append)
    return net.eval(), config, "\n".join(said)


def source(num_outputs: int = 7, name: str = SMALL, channels: int = 3) -> nn.Module:
    torch.manual_seed(1)
    net: nn.Module = timm.create_model(name.partition(":")[2], num_classes=num_outputs, in_chans=channels)
    net(torch.rand(8, channels, 32, 32))  # running statistics of their own
    return net.eval()


def source_state() -> dict[str, Tensor]:
    return dict(source().state_dict())


POINTWISE = "blocks.1.0.conv_pwl.weight"


@pytest.fixture()
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with the weights of a small net under other names, known as package:small; its file."""
    folder = tmp_path / "site" / "small_net_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('it is never imported')\n")
    path = folder / "models" / "small.pth"
    torch.save({f"_{number}.tensor": value for number, value in enumerate(source().state_dict().values())}, path)
    monkeypatch.syspath_prepend(tmp_path / "site")
    small = Packaged(SMALL, "small-net-model", "2.0", "models/small.pth", file_digest(path), 0.5, 0.25, "MIT")
    monkeypatch.setitem(PACKAGED, "small", small)
    return path


def equal_below_the_head(net: nn.Module, wanted: nn.Module) -> None:
    state = wanted.state_dict()
    for key, value in net.get_submodule("body.net").state_dict().items():
        if not key.startswith("classifier."):
            torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def test_weights_of_a_package_are_mapped_by_their_order(package: Path, tmp_path: Path) -> None:
    assert "package:small" in installed()
    net, config, said = begun(settings(weights="package:small"), tmp_path)
    equal_below_the_head(net, source())
    assert config["weights"] == "package:small" and config["weights_digest"] == file_digest(package)
    assert config["mean"] == [0.5] * 3 and config["std"] == [0.25] * 3
    num = len(source().state_dict())
    assert said == (
        f"teacher.weights package:small: {num - 2} of {num} tensors loaded, fresh: classifier.weight, classifier.bias, in the"
        " file and not used: none; pixels are normalised by mean 0.5, 0.5, 0.5 and sd 0.25, 0.25, 0.25"
    )


def test_a_packages_file_by_its_path_is_the_same(package: Path, tmp_path: Path) -> None:
    package.rename(tmp_path / "moved.pth")
    net, config, said = begun(settings(weights="moved.pth"), tmp_path)
    equal_below_the_head(net, source())
    assert config["std"] == [0.25] * 3 and said.startswith("teacher.weights moved.pth: ")


def test_a_package_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        PACKAGED, "none", dataclasses.replace(PACKAGED["efficientnet-lite0"], net=SMALL, package="no-such")
    )
    words = r"teacher\.weights package:none needs the packages no-such and timm; run pip install 'cgankd\[pretrained\]'"
    with pytest.raises(ConfigError, match=words):
        find_weights("teacher", settings(weights="package:none"), tmp_path)
    assert "package:none" not in installed()


def test_a_package_with_another_file_is_refused(package: Path, tmp_path: Path) -> None:
    package.write_bytes(package.read_bytes() + b"\0")
    with pytest.raises(ConfigError) as error:
        find_weights("teacher", settings(weights="package:small"), tmp_path)
    assert f"its SHA-256 begins with {file_digest(package)[:16]} and not with" in str(error.value)
    assert "run pip install --force-reinstall small-net-model==2.0" in str(error.value)


@pytest.mark.parametrize("name", [name for name in PACKAGED if name != "small"])
@torch.no_grad()
def test_a_packaged_net_answers_as_its_authors_net(name: str, tmp_path: Path) -> None:
    """Largest difference 0.0: the same operations on the same numbers."""
    packaged = PACKAGED[name]
    pytest.importorskip(packaged.module)
    authors = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    found = find_weights("teacher", settings(net=packaged.net, weights=f"package:{name}"), tmp_path)
    assert found is not None
    info = dataclasses.replace(COLOUR, class_names=tuple(map(str, range(1000))))
    cfg = settings(net=packaged.net, weights=f"package:{name}")
    ours, _ = start("teacher", cfg, info, 1000, found)
    for size in (224, 96):
        theirs = authors.from_name(name, image_size=size).eval()  # its padding is for one size
        theirs.load_state_dict(torch.load(found.path, weights_only=True))
        unit = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(size))
        assert float((ours.eval()(unit) - theirs((unit - 0.5) / 0.5)).abs().max()) == 0.0


def files(given: dict[str, Tensor]) -> dict[str, tuple[str, Callable[[Path], None]]]:
    def named(prefix: str) -> dict[str, Tensor]:
        return {f"{prefix}{key}": value for key, value in given.items()}

    return {
        "bare": ("w.pt", lambda p: torch.save(given, p)),
        "safetensors": ("w.safetensors", lambda p: save_file(given, p)),
        "parallel": ("w.pth", lambda p: torch.save(named("module."), p)),
        "compiled inside": ("w.pt", lambda p: torch.save({"epoch": 3, "state_dict": named("model._orig_mod.")}, p)),
        "averaged": ("w.pt", lambda p: torch.save({"epoch": 3, "model_ema": named("module.")}, p)),
        "averaged by timm": ("w.pt", lambda p: torch.save({"epoch": 3, "state_dict_ema": given}, p)),
        "beside an average": (
            "w.pt",
            lambda p: torch.save({"model": given, "model_ema": {k: v * 0 for k, v in given.items()}}, p),
        ),
        "twice inside": ("w.pt", lambda p: torch.save({"model": {"state_dict": given}, "args": {"lr": 0.1}}, p)),
        "beside an epoch": ("w.pt", lambda p: torch.save(given | {"epoch": 3, "version": "1.2"}, p)),
        "of a larger net": ("w.pt", lambda p: torch.save(named("backbone.") | {"neck.weight": torch.zeros(3)}, p)),
    }


@pytest.mark.parametrize("form", list(files({})))
def test_a_file_is_loaded_whatever_its_names_begin_with(form: str, tmp_path: Path) -> None:
    wanted = source()
    name, save = files(dict(wanted.state_dict()))[form]
    save(tmp_path / name)
    net, config, said = begun(settings(weights=name), tmp_path)
    equal_below_the_head(net, wanted)
    assert "fresh: classifier.weight, classifier.bias" in said
    assert ("not used: neck.weight;" in said) == (form == "of a larger net")
    mean, std = library_pixels(SMALL) or ((), ())
    assert config["mean"] == list(mean) and config["std"] == list(std)
    assert config["weights_digest"] == file_digest(tmp_path / name)


def test_a_last_layer_of_equal_size_is_taken_too(tmp_path: Path) -> None:
    wanted = source(2)
    torch.save(wanted.state_dict(), tmp_path / "w.pt")
    net, _, said = begun(settings(weights="w.pt"), tmp_path)
    assert torch.equal(net.get_parameter("body.net.classifier.weight"), wanted.get_parameter("classifier.weight"))
    assert "fresh: none" in said


@pytest.mark.parametrize(("given", "info"), [(3, GREY), (1, COLOUR)])
@torch.no_grad()
def test_a_grey_image_is_seen_alike_in_colour(given: int, info: DatasetInfo, tmp_path: Path) -> None:
    wanted = source(2, channels=given)
    torch.save(wanted.state_dict(), tmp_path / "w.pt")
    net, config, _ = begun(
        settings(weights="w.pt", mean=[0.5] * info.channels, std=[0.5] * info.channels), tmp_path, info
    )
    grey = torch.rand(2, 1, 32, 32)
    theirs = wanted(((grey - 0.5) / 0.5).expand(-1, given, -1, -1))
    torch.testing.assert_close(net(grey.expand(-1, info.channels, -1, -1)), theirs, rtol=1e-4, atol=1e-5)


def test_colour_statistics_are_averaged_for_grey_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "library_pixels", lambda name: ((0.3, 0.4, 0.5), (0.1, 0.2, 0.3)))
    torch.save(source().state_dict(), tmp_path / "w.pt")
    _, config, said = begun(settings(weights="w.pt"), tmp_path, GREY)
    assert config["mean"] == pytest.approx([0.4]) and config["std"] == pytest.approx([0.2])
    assert said.endswith("pixels are normalised by mean 0.4 and sd 0.2")


def test_a_net_saved_here_brings_its_pixels_and_goes_on_under_another_head(tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = {"net": "resnet8", "width": None, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    saved = build_predictor(config, COLOUR, 5)
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    net, config, said = begun(settings(net="resnet8", weights="w.safetensors"), tmp_path)
    assert config["mean"] == pytest.approx([0.1, 0.2, 0.3]) and config["std"] == pytest.approx([0.4, 0.5, 0.6])
    assert "fresh: head.weight, head.bias" in said
    state = saved.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items() if "head" not in key)


def test_pixels_that_are_set_count_before_those_of_the_weights(tmp_path: Path) -> None:
    torch.save(source().state_dict(), tmp_path / "w.pt")
    _, config, _ = begun(settings(weights="w.pt", mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 1.0]), tmp_path)
    assert config["mean"] == [0.1, 0.2, 0.3] and config["std"] == [1.0] * 3


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (lambda p: None, "there is no such file; correct the path, or write null, library or package:NAME"),
        (lambda p: p.write_bytes(b"nothing"), "cannot be read as weights"),
        (lambda p: torch.save({"a": 1}, p), "holds no state dict, but a; give a .safetensors file or a state dict"),
        (lambda p: torch.save([1], p), "holds no state dict; give a .safetensors file or a state dict"),
        (lambda p: torch.save({"epoch": 1, "optimizer": {"lr": 0.1}}, p), "no state dict, but epoch, optimizer; give"),
        (
            lambda p: torch.save({f"members.{k}.net.weight": torch.ones(2) for k in range(2)}, p),
            r"w\.pt is a teacher of 2 members, and a training starts from one net; give the file of one of them",
        ),
        (
            lambda p: torch.save(timm.create_model("test_resnet").state_dict(), p),
            r"of the \d+ tensors of teacher.net timm:test_efficientnet below its last layer .*name the net and the width",
        ),
        (
            lambda p: torch.save({k: v * float("nan") if v.ndim else v for k, v in source().state_dict().items()}, p),
            "holds numbers that are not finite, first in",
        ),
        (
            lambda p: torch.save(
                {f"{who}.{k}": v for who in ("teacher", "student") for k, v in source_state().items()}, p
            ),
            r"holds two nets, as teacher\.conv_stem\.weight and student\.conv_stem\.weight are both net\.conv_stem",
        ),
        (
            lambda p: torch.save({k: (v * 127).to(torch.int8) for k, v in source_state().items()}, p),
            r"has numbers of type int8 in conv_stem\.weight; give weights that are not quantised",
        ),
        (
            lambda p: torch.save(
                {k: v.to(torch.complex64) if v.ndim == 4 else v for k, v in source_state().items()}, p
            ),
            r"has numbers of type complex64 in conv_stem\.weight",
        ),
        (
            lambda p: torch.save(
                {k: v.repeat(2, 1, 1, 1) if k == POINTWISE else v for k, v in source_state().items()}, p
            ),
            r"in blocks\S+ where teacher.net timm:test_efficientnet has .*, so it is of another net; name the net",
        ),
    ],
)
def test_files_that_are_no_good(save: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    save(tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=words) as error:
        begun(settings(weights="w.pt"), tmp_path)
    assert "teacher.weights" in str(error.value) and "\n" not in str(error.value)


def test_whole_numbers_of_a_net_may_be_fractions_in_the_file(tmp_path: Path) -> None:
    """A running mean over all entries makes fractions of counters and indices, which cutting would make one smaller."""
    state = source_state()
    whole = {key: value for key, value in state.items() if not value.is_floating_point()}
    torch.save(state | {key: value.float() * 0.9999 for key, value in whole.items()}, tmp_path / "w.pt")
    net, _, _ = begun(settings(weights="w.pt"), tmp_path)
    assert whole and all(torch.equal(net.state_dict()[f"body.net.{key}"], value) for key, value in whole.items())
    for wrong, words in ((float("nan"), "not finite, first in bn1.num"), (1j, "numbers of type complex64 in bn1.num")):
        torch.save(state | {"bn1.num_batches_tracked": torch.tensor(wrong)}, tmp_path / "w.pt")
        with pytest.raises(ConfigError, match=words):
            begun(settings(weights="w.pt"), tmp_path)


def test_a_mapping_that_holds_itself_is_refused(tmp_path: Path) -> None:
    found: dict[str, Any] = {"epoch": 1}
    found["model"] = found
    torch.save(found, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="holds no state dict"):
        begun(settings(weights="w.pt"), tmp_path)


VGG = {"net": "plain-vgg", "width": 8}


def saved_vgg(folder: Path, num_outputs: int = 2) -> None:
    torch.manual_seed(4)
    net = build_predictor(VGG | {"mean": [0.5] * 3, "std": [0.5] * 3}, COLOUR, num_outputs)
    torch.save(net.state_dict(), folder / "w.pt")


@pytest.mark.parametrize("tune", ["head", "norms"])
def test_fresh_layers_are_not_frozen(tune: str, tmp_path: Path) -> None:
    saved_vgg(tmp_path)
    whole = torch.load(tmp_path / "w.pt", weights_only=True)
    torch.save({k: v for k, v in whole.items() if ".19." not in k}, tmp_path / "w.pt")
    with pytest.raises(ConfigError) as error:
        begun(settings(**VGG, weights="w.pt", tune=tune), tmp_path)
    said = str(error.value)
    assert said.startswith("teacher.weights w.pt leaves body.19.") and "\n" not in said
    assert f"fresh, which teacher.tune {tune} would not train; set teacher.tune to all, or teacher.net, width" in said
    assert "fresh: body.19." in begun(settings(**VGG, weights="w.pt"), tmp_path)[2]


def test_a_net_that_grows_with_its_input_size_is_another_one(tmp_path: Path) -> None:
    """At 48 pixels a plain-vgg has one block more, and its later layers other shapes under the same names."""
    saved_vgg(tmp_path)
    with pytest.raises(
        ConfigError, match=r"in body\S+ where teacher.net plain-vgg has .*; name the net, width and input_size"
    ):
        begun(settings(**VGG, weights="w.pt", input_size=48), tmp_path)


@pytest.mark.parametrize("tune", ["head", "norms"])
@pytest.mark.parametrize("num_outputs", [2, 5])
def test_weights_that_fill_all_below_the_last_layer_may_be_frozen(tune: str, num_outputs: int, tmp_path: Path) -> None:
    saved_vgg(tmp_path, num_outputs)
    _, _, said = begun(settings(**VGG, weights="w.pt", tune=tune), tmp_path)
    assert f"fresh: {'none' if num_outputs == 2 else 'body.22.weight, body.22.bias'}, in" in said


def test_fresh_norm_layers_are_what_norms_trains(tmp_path: Path) -> None:
    """Under head their scale and statistics would stay those of no images."""
    layer = next(name for name, module in source().named_modules() if "norm" in type(module).__name__.lower())
    torch.save({k: v for k, v in source().state_dict().items() if k.rpartition(".")[0] != layer}, tmp_path / "w.pt")
    assert f"fresh: {layer}.weight" in begun(settings(weights="w.pt", tune="norms"), tmp_path)[2]
    with pytest.raises(ConfigError, match=f"leaves {layer}.weight, {layer}.bias, .*teacher.tune head would not train"):
        begun(settings(weights="w.pt", tune="head"), tmp_path)


@pytest.mark.parametrize("num_outputs", [2, 1000])
def test_both_classifiers_of_a_distilled_net_may_be_of_another_size(num_outputs: int, tmp_path: Path) -> None:
    """1,000 outputs are those of timm's own weights, which leave no layer fresh."""
    wanted = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7, img_size=32)
    torch.save(wanted.state_dict(), tmp_path / "w.pt")
    cfg, said = settings(net="timm:deit_tiny_distilled_patch16_224", weights="w.pt"), list[str]()
    info = dataclasses.replace(COLOUR, class_names=tuple(map(str, range(num_outputs))))
    net, _ = start("teacher", cfg, info, num_outputs, find_weights("teacher", cfg, tmp_path), said.append)
    assert "fresh: head.weight, head.bias, head_dist.weight and 1 more, in the file" in said[0]
    state = net.get_submodule("body.net").state_dict()
    assert all(torch.equal(state[key], value) for key, value in wanted.state_dict().items() if "head" not in key)


def test_another_file_than_that_of_the_digest_is_refused(tmp_path: Path) -> None:
    torch.save(source().state_dict(), tmp_path / "w.pt")
    digest = file_digest(tmp_path / "w.pt")
    assert begun(settings(weights="w.pt", weights_digest=digest[:12]), tmp_path)[2]
    with pytest.raises(
        ConfigError, match=f"not the file of teacher.weights_digest: its SHA-256 begins with {digest[:16]}"
    ):
        begun(settings(weights="w.pt", weights_digest="0123abcd"), tmp_path)


def test_weights_of_a_library_bring_its_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    wanted = torchvision.models.shufflenet_v2_x0_5(num_classes=1000).state_dict()
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *args, **kwargs: wanted)
    for older in ({"weights": "library"}, {"pretrained": True}):
        net, config, said = begun(settings(net="torchvision:shufflenet_v2_x0_5", **older), tmp_path)
        assert torch.equal(net.get_buffer("body.net.conv5.1.running_var"), wanted["conv5.1.running_var"])
        assert config["mean"] == pytest.approx([0.485, 0.456, 0.406]) and config["std"] == pytest.approx(
            [0.229, 0.224, 0.225]
        )
        num = len(wanted)
        loaded = f"{num - 2} of {num} tensors loaded, fresh: fc.weight, fc.bias; pixels"
        assert config["weights"] == "library" and said.startswith(f"teacher.weights library: {loaded}")
        assert float(net.get_parameter("body.net.fc.weight").detach().std()) < 0.02
    many, said = dataclasses.replace(COLOUR, class_names=tuple(map(str, range(1000)))), list[str]()
    net, _ = start(
        "teacher", settings(net="torchvision:shufflenet_v2_x0_5", weights="library"), many, 1000, None, said.append
    )
    assert loaded in said[0], "torchvision's last layer is left out at equal size too"
    assert not torch.equal(net.get_parameter("body.net.fc.weight"), wanted["fc.weight"])


def test_layers_that_timm_leaves_fresh() -> None:
    """Its own classifiers where their size is another, of which a distilled net has two."""
    assert left_fresh(SMALL, 1000, "net.classifier") == () and left_fresh(SMALL, 2, "net.classifier") == (
        "net.classifier",
    )
    distilled = left_fresh("timm:deit_tiny_distilled_patch16_224", 2, "net.head_dist")
    assert set(distilled) == {"net.head", "net.head_dist"}


def test_fresh_weights_leave_the_config_as_it_was(tmp_path: Path) -> None:
    _, config, said = begun(settings(), tmp_path)
    assert json.dumps(config) == '{"net": "timm:test_efficientnet", "width": null, "precision": "fp32"}' and said == ""


def test_a_digest_of_the_table_names_its_file() -> None:
    """The authors put the beginning of the digest into the name of the file."""
    for name, packaged in PACKAGED.items():
        if name != "small":
            assert packaged.sha256[:8] in packaged.file and len(packaged.sha256) == 64
            assert importlib.util.find_spec(packaged.module) is None or importlib.import_module(packaged.module)
