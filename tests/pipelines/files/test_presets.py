"""Every preset is a whole params file whose nets can be built, and those of the paper hold the paper's numbers."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest
import torch

from cgankd.config import to_dict
from cgankd.labels.task import ClassTask
from cgankd.nets.features import ResNetFeatures
from cgankd.nets.gans.zoo import make_discriminator, make_generator
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_body
from cgankd.types import DatasetInfo
from pipelines.networks.ratio import build_extractor
from pipelines.search.config import SearchedConfig, searched_config
from pipelines.search.space import check_space
from tests.conftest import ROOT, preset
from tests.pipelines.files.published import DROPS, EPOCHS, FIGURES

PRESETS = sorted(p.stem for p in (ROOT / "pipelines/presets").glob("*.yaml"))


CLASSES = {"cifar10": (50_000, 10), "cifar100": (50_000, 100), "tiny-imagenet": (100_000, 200)}
"""Training images and classes of a source."""


def load(name: str) -> SearchedConfig:
    return searched_config(preset(name))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_whole(name: str) -> None:
    cfg = load(name)
    assert cfg.tracking.preset == name
    assert check_space(cfg) == []
    assert cfg.student.base_steps >= 1 and {"real", "real_kd", "raw", "filter"} <= set(cfg.student.arms)


@pytest.mark.parametrize("name", PRESETS)
def test_its_nets_can_be_built(name: str) -> None:
    cfg = load(name)
    size, channels = cfg.data.image_size, cfg.data.channels
    info = DatasetInfo("class", "any", "", channels, size, (0.5,), (0.5,), class_names=("a", "b"))
    with torch.device("meta"):
        make_generator(cfg.cgan, channels, size)
        make_discriminator(cfg.cgan, channels, size)
        extractor = build_extractor(to_dict(cfg.ratio), info, ClassTask(info))
        assert isinstance(extractor, ResNetFeatures) == cfg.ratio.extractor.startswith("resnet")
        assert extractor.feature_width == (cfg.ratio.feature_width or channels * size**2)
        for fit in (cfg.teacher, cfg.student):
            make_body(fit.net, NetShape(10, channels, size), width=fit.width)


def at(cfg: SearchedConfig, key: str) -> Any:
    return reduce(getattr, key.split("."), cfg)


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_the_settings_of_the_paper(name: str) -> None:
    cfg = load(name)
    assert {key: at(cfg, key) for key in FIGURES[name]} == FIGURES[name]
    assert cfg.student.real_share is None and cfg.search.space["bank.num_fakes"].high == cfg.bank.num_fakes
    if cfg.data.source in CLASSES:
        images, labels = CLASSES[cfg.data.source]
        assert cfg.data.val_per_label is not None
        reals = cfg.data.num_train or images - labels * cfg.data.val_per_label
        assert reals == EPOCHS[name]["teacher.num_steps"][1]


@pytest.mark.parametrize("name", sorted(EPOCHS))
def test_the_steps_of_the_paper(name: str) -> None:
    cfg = load(name)
    steps = {key: epochs * images / batch for key, (epochs, images, batch) in EPOCHS[name].items()}
    assert {key: at(cfg, key) for key in steps} == pytest.approx(steps, rel=5e-4)


@pytest.mark.parametrize("name", sorted(DROPS))
def test_the_rates_of_the_paper_fall_when_they_should(name: str) -> None:
    cfg = load(name)
    for key, shares in DROPS[name].items():
        assert at(cfg, key) == pytest.approx(shares, abs=1e-4), key


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_an_experiment_that_relabels_has_its_arm(name: str) -> None:
    arms = load(name).student.arms
    assert ("replace" in arms) == FIGURES[name]["bank.replace"]
