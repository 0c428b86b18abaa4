"""Weights to start from, input size and what is tuned: each mistake with its dotted name."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cgankd.config import ConfigError, config_from_dict, to_dict
from cgankd.config.weights import PACKAGED

LITE = {"net": "timm:tf_efficientnet_lite0", "width": None, "weights": "package:efficientnet-lite0"}
NEW = ("weights", "weights_digest", "input_size", "tune", "head_rate", "head_views", "mean", "std")


@pytest.mark.parametrize("section", ["teacher", "student"])
def test_what_is_not_set_is_not_written(digits: dict[str, Any], section: str) -> None:
    plain = to_dict(getattr(config_from_dict(digits), section))
    assert not set(NEW) & set(plain)
    digits[section] |= LITE | {"input_size": 96, "tune": "norms", "head_rate": 10}
    cfg = getattr(config_from_dict(digits), section)
    assert to_dict(cfg) == plain | LITE | {"input_size": 96, "tune": "norms", "head_rate": 10.0}
    assert cfg.packaged is PACKAGED["efficientnet-lite0"] and cfg.weights_file is None


def test_pretrained_is_the_older_spelling_of_library(digits: dict[str, Any]) -> None:
    digits["teacher"] |= {"net": "torchvision:resnet18", "width": None, "pretrained": True}
    assert config_from_dict(digits).teacher.starts_from == "library"
    digits["teacher"] |= {"pretrained": False, "weights": "library"}
    assert config_from_dict(digits).teacher.starts_from == "library"
    digits["teacher"] |= {"weights": "nets/own.pt", "weights_digest": "0123abcd"}
    cfg = config_from_dict(digits).teacher
    assert cfg.weights_file == "nets/own.pt" and cfg.packaged is None


@pytest.mark.parametrize("section", ["teacher", "student"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": ""}, "weights must be null, library, package:NAME or the path of a file, but is ''"),
        ({"weights": "library"}, "weights must be null, package:NAME or a file unless SECTION.net is torchvision:NAME"),
        ({"weights": "package:efficientnet-lite0"}, "net must be timm:tf_efficientnet_lite0 where SECTION.weights is"),
        (LITE | {"net": "timm:efficientnet_lite0"}, "net must be timm:tf_efficientnet_lite0 where SECTION.weights is"),
        ({"weights": "package:efficientnet-lite9"}, "weights package:NAME must be one of efficientnet-lite0, "),
        ({"weights_digest": "0123abcd"}, "weights_digest must be null unless SECTION.weights is a file"),
        (LITE | {"weights_digest": "0123abcd"}, "weights_digest must be null unless SECTION.weights is a file"),
        ({"weights": "a.pt", "weights_digest": "0123ABCD"}, "weights_digest must be null or 8 to 64 digits"),
        ({"input_size": 7}, "input_size must be null or from 8 to 1024, but is 7"),
        ({"tune": "head"}, "tune must be all where SECTION.weights is null"),
        ({"tune": "body"}, "tune must be one of all, head, norms"),
        ({"head_rate": 0}, "head_rate must be positive, but is 0"),
        ({"head_views": 0}, "head_views must be at least 1, but is 0"),
        ({"std": [0.5]}, "std must be set where SECTION.mean is set"),
        ({"mean": [0.5, 0.5], "std": [1, 1]}, "mean must be 1 or 3 numbers"),
    ],
)
def test_mistakes(digits: dict[str, Any], section: str, settings: dict[str, Any], words: str) -> None:
    digits[section] |= settings
    with pytest.raises(ConfigError, match=re.escape(f"{section}.{words.replace('SECTION', section)}")):
        config_from_dict(digits)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"file": "t.pt", "weights": "a.pt"}, "teacher.weights must be null where teacher.file is set"),
        (
            {"net": "timm:resnet18", "width": None, "pretrained": True, "weights": "a.pt"},
            "teacher.pretrained must be false where teacher.weights names other weights",
        ),
    ],
)
def test_mistakes_of_teachers(digits: dict[str, Any], settings: dict[str, Any], words: str) -> None:
    digits["teacher"] |= settings
    with pytest.raises(ConfigError, match=re.escape(words)):
        config_from_dict(digits)


def test_a_net_of_the_paper_fits_the_size_that_it_sees(digits: dict[str, Any]) -> None:
    digits["student"] |= {"net": "cifar100:resnet20", "width": None, "input_size": 32}
    assert digits["data"]["image_size"] == 16 and config_from_dict(digits).student.input_size == 32
    digits["student"]["input_size"] = 64
    with pytest.raises(ConfigError, match="is for images of 32 px, but student.input_size is 64"):
        config_from_dict(digits)
