"""Every preset is a whole params file whose nets can be built, and those of the paper hold the paper's numbers."""

from __future__ import annotations

import pytest
import torch

from cgankd.config import Config, config_from_dict, to_dict
from cgankd.nets.features import ResNetFeatures
from cgankd.nets.gan_zoo import make_discriminator, make_generator
from cgankd.nets.zoo import make_body
from cgankd.task import ClassTask
from cgankd.types import DatasetInfo
from pipelines.networks import build_extractor
from pipelines.search_space import check_space
from tests.conftest import ROOT, preset

PRESETS = sorted(p.stem for p in (ROOT / "pipelines/presets").glob("*.yaml"))
PAPER = {
    # name: px, M^g, rho, burn-in a label (where published), GAN, student epochs over reals and fakes
    "cifar10-50k": (32, 100_000, 0.9, None, "biggan", 350),
    "cifar10-20k": (32, 100_000, 0.6, None, "biggan", 350),
    "cifar10-10k": (32, 100_000, 0.7, None, "biggan", 350),
    "cifar100": (32, 100_000, 0.9, 5000, "biggan", 240),
    "tiny-imagenet": (64, 100_000, 0.5, None, "biggan", 350),
    "imagenet100": (128, 100_000, 0.9, 1000, "biggan", 240),
    "rc49-25": (64, 50_000, 0.5, None, "sngan", 350),
    "rc49-15": (64, 50_000, 0.8, None, "sngan", 350),
    "rc49-5": (64, 50_000, 0.9, None, "sngan", 350),
    "utkface": (64, 60_000, 0.7, 100, "sagan", 350),
    "utkface-v1": (64, 80_000, 0.7, 100, "sagan", 350),
    "steering-angle": (64, 50_000, 0.7, 500, "sagan", 350),
}
"""Section 6 of the method's facts: arXiv 2104.03164, first and published version."""
REALS = {
    "cifar10-50k": 49_000,
    "cifar10-20k": 20_000,
    "cifar10-10k": 10_000,
    "rc49-25": 11_250,
    "rc49-5": 2250,
    "utkface-v1": 14_000,
}


def load(name: str) -> Config:
    return config_from_dict(preset(name))


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
        assert isinstance(extractor, ResNetFeatures) == (cfg.ratio.extractor == "resnet34")
        assert extractor.feature_width == (cfg.ratio.feature_width or channels * size**2)
        for fit in (cfg.teacher, cfg.student):
            make_body(fit.net, width=fit.width, num_outputs=10, channels=channels, image_size=size)


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_numbers_of_the_paper(name: str) -> None:
    cfg, (size, fakes, rho, burn_in, arch, epochs) = load(name), PAPER[name]
    assert (cfg.data.image_size, cfg.bank.num_fakes, cfg.bank.rho, cfg.cgan.arch) == (size, fakes, rho, arch)
    assert burn_in is None or cfg.bank.burn_in == burn_in
    assert cfg.ratio.hidden == (2048, 1024, 512, 256, 128) and cfg.ratio.ratio_penalty == 0.01
    assert cfg.ratio.extractor == ("compact" if cfg.scalar_labels else "resnet34")
    assert (cfg.ratio.reconstruct_weight > 0) == cfg.scalar_labels, "the sparse auto-encoder is for scalars"
    assert cfg.ratio.batch_size == 256 and cfg.ratio.learning_rate == 1e-4
    assert cfg.search.space["bank.num_fakes"].high == fakes
    if cfg.student.protocol == "finetune":  # the student it starts from saw the real images alone
        base = {"cifar100": 49_000, "imagenet100": 125_000}[name]
        assert cfg.student.base_steps == pytest.approx(epochs * base / cfg.student.batch_size, rel=1e-4)
    if name in REALS:
        samples = REALS[name] + fakes
        assert cfg.student.num_steps == pytest.approx(epochs * samples / cfg.student.batch_size, rel=1e-4)
    if arch == "biggan":
        assert (cfg.cgan.width, cfg.cgan.d_steps, cfg.cgan.lr_g, cfg.cgan.ema_start) == (64, 4, 2e-4, 1000)
    else:
        assert cfg.cgan.vicinity is not None and cfg.cgan.batch_size == 512 and cfg.cgan.vicinity.kind == "soft"
    if name.startswith("utkface"):
        assert cfg.cgan.num_steps == 20_000 and cfg.cgan.vicinity.kappa_multiplier == 2
    if name == "steering-angle":
        assert cfg.cgan.num_steps == 20_000 and cfg.cgan.vicinity.kappa_multiplier == 5
