"""Names of nets, their widths, and the settings of a teacher of the user's own: each mistake with its dotted name."""

from __future__ import annotations

from typing import Any

import pytest

from cgankd.config import ConfigError, config_from_dict
from cgankd.config.nets import FIXED_NETS, ZOOS, check_fits, check_net, from_library


@pytest.mark.parametrize("net", [*FIXED_NETS, "torchvision:resnet50", "timm:resnet18.a1_in1k"])
def test_fixed_nets_have_no_width(digits: dict[str, Any], net: str) -> None:
    digits["student"] |= {"net": net, "width": None}
    assert config_from_dict(digits).student.net == net
    del digits["student"]["width"]
    assert config_from_dict(digits).student.width is None
    digits["student"]["width"] = 8
    with pytest.raises(ConfigError, match=rf"student.width must be null for {net}, whose channels are fixed, but is 8"):
        config_from_dict(digits)


@pytest.mark.parametrize("width", [None, 0])
def test_scaled_nets_need_a_width(digits: dict[str, Any], width: int | None) -> None:
    digits["teacher"]["width"] = width
    with pytest.raises(ConfigError, match=f"teacher.width must be at least 1 for plain-vgg, but is {width}"):
        config_from_dict(digits)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ("resnet21", "teacher.net must be one of"),
        ("wrn16-3", "did you mean 'wrn16-"),
        ("torchvison:resnet18", "did you mean 'torchvision'?"),
        ("torchvision:", "torchvision:NAME or timm:NAME"),
        ("utkfaces:resnet20", "EXPERIMENT:NAME of the paper, but is 'utkfaces:resnet20'; did you mean 'utkface"),
        ("utkface:resnet21", "teacher.net utkface:NAME must be one of resnet8, "),
        ("utkface:", "teacher.net utkface:NAME must be one of"),
        ("rc49:wrn16-1", "teacher.net rc49:NAME must be one of resnet18, "),
    ],
)
def test_unknown_names(digits: dict[str, Any], net: str, words: str) -> None:
    digits["teacher"] |= {"net": net, "width": None}
    with pytest.raises(ConfigError, match=r"teacher\.net") as error:
        config_from_dict(digits)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("net", "size", "words"),
    [
        (
            "utkface:resnet20",
            16,
            "student.net utkface:resnet20 is for images of 64 px, but data.image_size is 16; take resnet20, which has any"
            " size and both kinds of labels, or one of torchvision:NAME",
        ),
        (
            "utkface:resnet20",
            64,
            "student.net utkface:resnet20 is for labels that are numbers, but data.task is class; take resnet20",
        ),
    ],
)
def test_nets_of_an_experiment_need_its_kind_of_data(digits: dict[str, Any], net: str, size: int, words: str) -> None:
    digits["student"] |= {"net": net, "width": None}
    digits["data"]["image_size"] = size
    with pytest.raises(ConfigError) as error:
        config_from_dict(digits)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize("zoo", sorted(ZOOS))
def test_nets_of_an_experiment(zoo: str) -> None:
    for net in ZOOS[zoo].nets:
        check_net(f"{zoo}:{net}", None, "student")
        check_fits(f"{zoo}:{net}", ZOOS[zoo].image_size, ZOOS[zoo].task, "student")
    with pytest.raises(ConfigError, match="student.width must be null"):
        check_net(f"{zoo}:vgg11", 8, "student")
    with pytest.raises(ConfigError, match="labels that are"):
        other = "scalar" if ZOOS[zoo].task == "class" else "class"
        check_fits(f"{zoo}:vgg11", ZOOS[zoo].image_size, other, "student")


def test_the_defaults_train_a_teacher(digits: dict[str, Any]) -> None:
    teacher = config_from_dict(digits).teacher
    assert (teacher.file, teacher.file_digest, teacher.mean, teacher.std) == (None, None, None, None)
    assert teacher.output_unit == "normalised" and not teacher.pretrained
    assert not from_library(teacher.net) and from_library("timm:resnet18")


FILE: dict[str, Any] = {"file": "teacher.pt"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"file_digest": "0123abcd"}, "teacher.file_digest must be null where teacher.file is null"),
        ({"output_unit": "raw"}, "teacher.output_unit must be normalised where teacher.file is null, but is 'raw'"),
        ({"output_unit": "degrees"}, "teacher.output_unit must be one of"),
        ({"file": ""}, "teacher.file must be null or the path of a file"),
        (FILE | {"file_digest": "0123"}, "teacher.file_digest must be null or 8 to 64 digits"),
        (FILE | {"file_digest": "0123ABCD"}, "in lower case"),
        (FILE | {"pretrained": True}, "teacher.pretrained must be false"),
        ({"pretrained": True}, "teacher.pretrained must be false unless teacher.net is torchvision:NAME or timm:NAME"),
        ({"mean": [0.5]}, "teacher.std must be set where teacher.mean is set"),
        ({"std": [0.5]}, "teacher.std must be set where teacher.mean is set, and null otherwise"),
        ({"mean": [0.5, 0.5], "std": [1, 1]}, "teacher.mean must be 1 or 3 numbers"),
        ({"mean": [0.5], "std": [1, 1, 1]}, "teacher.std must be as long as teacher.mean"),
        ({"mean": [0.5], "std": [0.0]}, "teacher.std must be positive"),
    ],
)
def test_mistakes_in_a_teacher_of_ones_own(digits: dict[str, Any], settings: dict[str, Any], words: str) -> None:
    digits["teacher"] |= settings
    with pytest.raises(ConfigError) as error:
        config_from_dict(digits)
    assert words in str(error.value)


def test_a_teacher_of_ones_own(digits: dict[str, Any]) -> None:
    digits["teacher"] |= FILE | {"file_digest": "0123abcd", "mean": [0.5], "std": [0.25]}
    teacher = config_from_dict(digits).teacher
    assert teacher.file == "teacher.pt" and teacher.mean == (0.5,) and teacher.std == (0.25,)
