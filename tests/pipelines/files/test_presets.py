"""Every preset is a whole params file whose nets can be built, and those of the paper hold the paper's numbers."""

from __future__ import annotations

from dataclasses import dataclass
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

PRESETS = sorted(p.stem for p in (ROOT / "pipelines/presets").glob("*.yaml"))


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What an experiment of the paper is set to; epochs of a student count reals and fakes, those of a base reals."""

    size: int = 64
    reals: int
    fakes: int
    rho: float
    burn_in: int | None = None
    """A label; None where it is not published."""
    arch: str
    gan_steps: int | None = None
    """None: 2,000 epochs of the reals, or our choice with `gan_epochs` None too."""
    gan_epochs: int | None = None
    gan_batch: int | None = 512
    d_steps: int
    init: str = "ortho"
    ratio: tuple[int, int, float] = (200, 256, 0.01)
    """Epochs, batch and penalty."""
    teacher: str
    student: str
    epochs: int = 350
    drops: tuple[int, ...] = (150, 250)
    rate: float
    decay: float
    base: tuple[int, tuple[int, ...], float] | None = None
    """Epochs, drops and rate of the real-only student where the protocol is finetune."""


FIRST_CLASSES, FIRST_SCALARS = (350, 512, 0.001), (350, 256, 0.001)
FINE = {"epochs": 240, "drops": (150, 180, 210), "rate": 0.01, "decay": 5e-4}
BASE = (240, (150, 180, 210), 0.05)
CIFAR = {"size": 32, "arch": "biggan", "gan_epochs": 2000, "d_steps": 4, "init": "n02", "fakes": 100_000}
CIFAR10 = CIFAR | {
    "teacher": "densenet121",
    "student": "cifar10:vgg11",
    "rate": 0.1,
    "decay": 1e-4,
    "ratio": FIRST_CLASSES,
}
RC49 = {"fakes": 50_000, "arch": "sngan", "gan_steps": 30_000, "gan_batch": 256, "d_steps": 1}
RC49 |= {"teacher": "rc49:vgg16", "student": "rc49:shufflenetv2", "rate": 0.01, "decay": 1e-4, "ratio": FIRST_SCALARS}
FACES = {"reals": 14_000, "rho": 0.7, "burn_in": 100, "arch": "sagan", "d_steps": 4, "rate": 0.01}
PAPER = {
    "cifar10-50k": Paper(reals=49_000, rho=0.9, **CIFAR10),
    "cifar10-20k": Paper(reals=20_000, rho=0.6, **CIFAR10),
    "cifar10-10k": Paper(reals=10_000, rho=0.7, **CIFAR10),
    "cifar100": Paper(
        reals=49_000, rho=0.9, burn_in=5000, teacher="resnet32x4", student="resnet8x4", base=BASE, **CIFAR, **FINE
    ),
    "tiny-imagenet": Paper(
        reals=98_000,
        fakes=100_000,
        rho=0.5,
        arch="biggan",
        gan_batch=None,
        d_steps=4,
        ratio=FIRST_CLASSES,
        teacher="tiny-imagenet:densenet121",
        student="tiny-imagenet:vgg11",
        rate=0.1,
        decay=1e-4,
    ),
    "imagenet100": Paper(
        size=128,
        reals=125_000,
        fakes=100_000,
        rho=0.9,
        burn_in=1000,
        arch="biggan",
        gan_batch=None,
        d_steps=4,
        teacher="imagenet100:densenet161",
        student="imagenet100:resnet8x4",
        base=BASE,
        **FINE,
    ),
    "rc49-25": Paper(reals=25 * 450, rho=0.5, **RC49),
    "rc49-15": Paper(reals=15 * 450, rho=0.8, **RC49),
    "rc49-5": Paper(reals=5 * 450, rho=0.9, **RC49),
    "utkface": Paper(
        fakes=60_000,
        gan_steps=20_000,
        teacher="utkface:vgg11",
        student="utkface:shufflenetv1",
        epochs=240,
        drops=(150, 180, 210),
        decay=5e-4,
        base=(350, (150, 250), 0.01),
        **FACES,
    ),
    "utkface-v1": Paper(
        fakes=80_000,
        gan_steps=40_000,
        teacher="utkface-v1:vgg16",
        student="utkface-v1:shufflenetv2",
        decay=1e-4,
        ratio=FIRST_SCALARS,
        **FACES,
    ),
    "steering-angle": Paper(
        reals=9000,
        fakes=50_000,
        rho=0.7,
        burn_in=500,
        arch="sagan",
        gan_steps=20_000,
        d_steps=2,
        teacher="steering-angle:vgg19",
        student="steering-angle:shufflenetv1",
        rate=0.01,
        decay=5e-4,
        base=(350, (150, 250), 0.01),
    ),
}
"""arXiv 2104.03164, its first and its published version, and where those are silent the authors' scripts of that version."""
CLASSES = {"cifar10": (50_000, 10), "cifar100": (50_000, 100), "tiny-imagenet": (100_000, 200)}
"""Training images and classes of a source."""
KAPPA = {"utkface": 2, "utkface-v1": 2, "steering-angle": 5, "rc49-25": 2, "rc49-15": 2, "rc49-5": 2}


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


def steps_of(epochs: int, images: int, batch: int) -> Any:
    return pytest.approx(epochs * images / batch, rel=5e-4)


def shares(drops: tuple[int, ...], epochs: int) -> Any:
    return pytest.approx([drop / epochs for drop in drops], abs=1e-4)


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_bank_and_the_ratio_of_the_paper(name: str) -> None:
    cfg, paper = load(name), PAPER[name]
    assert (cfg.data.image_size, cfg.bank.num_fakes, cfg.bank.rho) == (paper.size, paper.fakes, paper.rho)
    assert paper.burn_in is None or cfg.bank.burn_in == paper.burn_in
    assert cfg.bank.subsample and cfg.bank.filter and cfg.bank.replace == cfg.scalar_labels
    assert cfg.search.space["bank.num_fakes"].high == paper.fakes
    assert cfg.ratio.extractor == ("compact" if cfg.scalar_labels else "resnet34")
    assert (cfg.ratio.reconstruct_weight > 0) == cfg.scalar_labels, "the sparse auto-encoder is for scalars"
    epochs, batch, penalty = paper.ratio
    assert cfg.ratio.hidden == (2048, 1024, 512, 256, 128) and cfg.ratio.learning_rate == 1e-4
    assert (cfg.ratio.batch_size, cfg.ratio.ratio_penalty) == (batch, penalty)
    assert cfg.ratio.num_steps == steps_of(epochs, paper.reals, batch)
    drops = (80, 150) if epochs == 200 else (100, 200) if cfg.scalar_labels else (150, 250)
    assert cfg.ratio.schedule == "multistep" and cfg.ratio.milestones == shares(drops, epochs)
    assert cfg.ratio.flip == (epochs == 200 and name != "steering-angle"), "mirrored roads turn the other way"
    assert cfg.ratio.targets == ("distinct" if name in ("utkface", "steering-angle") else "marginal")
    assert cfg.ratio.extractor == ("compact" if cfg.scalar_labels else "resnet34")
    assert (cfg.ratio.reconstruct_weight > 0) == cfg.scalar_labels, "the sparse auto-encoder is for scalars"
    if cfg.data.source in CLASSES:
        images, classes = CLASSES[cfg.data.source]
        assert cfg.data.val_per_label is not None
        assert paper.reals == (cfg.data.num_train or images - classes * cfg.data.val_per_label)
    if cfg.data.source == "rc49":
        assert cfg.data.train_per_label == paper.reals / 450


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_gan_of_the_paper(name: str) -> None:
    cfg, paper = load(name), PAPER[name]
    gan = cfg.cgan
    assert (gan.arch, gan.d_steps, gan.width, gan.init) == (paper.arch, paper.d_steps, 64, paper.init)
    assert paper.gan_batch is None or gan.batch_size == paper.gan_batch
    if paper.gan_epochs is not None:
        assert gan.num_steps == steps_of(paper.gan_epochs, paper.reals, gan.batch_size * gan.d_steps)
    assert paper.gan_steps is None or gan.num_steps == paper.gan_steps
    if paper.arch == "biggan":
        assert (gan.lr_g, gan.lr_d, gan.ema, gan.ema_start, gan.beta1) == (2e-4, 2e-4, 0.9999, 1000, 0.0)
        assert gan.diffaugment == "color,translation,cutout"
    else:
        assert gan.vicinity is not None and (gan.targets, gan.vicinity.ends) == ("distinct", "cut")
        assert (gan.lr_g, gan.lr_d) == (1e-4, 1e-4)
        assert (gan.vicinity.kind, gan.vicinity.draw) == ("soft", "uniform")
        assert gan.vicinity.kappa_multiplier == KAPPA[name]
        assert gan.diffaugment == ("" if paper.arch == "sngan" else "color,translation,cutout")


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_students_of_the_paper(name: str) -> None:
    cfg, paper = load(name), PAPER[name]
    student = cfg.student
    losses = {cfg.teacher.scalar_loss, student.scalar_loss, cfg.ratio.scalar_loss}
    assert losses == {"squared" if cfg.scalar_labels else "absolute"}
    assert (cfg.teacher.net, student.net) == (paper.teacher, paper.student)
    assert (student.optimizer, student.batch_size) == ("sgd", 128)
    assert (student.learning_rate, student.weight_decay) == (paper.rate, paper.decay)
    assert student.num_steps == steps_of(paper.epochs, paper.reals + paper.fakes, 128)
    assert student.milestones == shares(paper.drops, paper.epochs)
    assert student.protocol == ("finetune" if paper.base else "scratch") and student.real_share is None
    if paper.base:
        epochs, drops, rate = paper.base
        assert student.base.num_steps == steps_of(epochs, paper.reals, 128)
        assert student.base.learning_rate == rate and student.base.milestones == shares(drops, epochs)
    epochs, drops = paper.base[:2] if paper.base else (350, (150, 250))
    assert cfg.teacher.num_steps == steps_of(epochs, paper.reals, cfg.teacher.batch_size)
    assert cfg.teacher.milestones == shares(drops, epochs)
