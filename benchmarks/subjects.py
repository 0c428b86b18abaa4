"""The networks, data and settings that are timed: those of the papers, or tiny ones for a quick run. Weights are random."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from cgankd.config import CganConfig, RatioConfig, VicinityConfig, to_dict
from cgankd.data.pixels import to_signed, to_unit
from cgankd.labels.task import ClassTask, ScalarTask
from cgankd.nets.features import Extractor
from cgankd.nets.gans.zoo import make_generator
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import Predictor, make_predictor
from cgankd.rng import generator, seed_all
from cgankd.types import DatasetInfo, Split
from pipelines.networks.ratio import build_extractor

NUM_CLASSES = 10
VICINITY = VicinityConfig(
    kind="soft", label_sigma=None, kappa=None, kappa_multiplier=5.0, gap_quantile=1.0, weight_floor=1e-3,
    draw="proportional",
)  # fmt: skip


def class_info(size: int) -> DatasetInfo:
    """Of random colour images with class labels."""
    return DatasetInfo("class", "random", "", 3, size, (0.5,) * 3, (0.25,) * 3, tuple(map(str, range(NUM_CLASSES))))


def class_data(size: int, num: int) -> tuple[Split, ClassTask]:
    """Random colour images with class labels."""
    return Split(pixels(num, size), torch.arange(num) % NUM_CLASSES), ClassTask(class_info(size))


def scalar_data(size: int, num: int) -> tuple[Split, ScalarTask]:
    """Random colour images with labels spread over 0 to 80."""
    info = DatasetInfo("scalar", "random", "degrees", 3, size, (0.5,) * 3, (0.25,) * 3, label_min=0.0, label_max=80.0)
    labels = 80 * torch.rand(num, generator=generator("scalar labels"))
    return Split(pixels(num, size), labels), ScalarTask(info, VICINITY, 10.0, 20)


def pixels(num: int, size: int) -> Tensor:
    """Random uint8 images [B, 3, H, W]."""
    return torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8, generator=generator("pixels", num, size))


def gan_config(arch: str, *, quick: bool, **changes: object) -> CganConfig:
    """ch 64 and batch 64 as in the papers; ch 8 and batch 4 for a quick run."""
    values: dict[str, object] = {
        "arch": arch, "width": 8 if quick else 64, "z_dim": 16 if quick else 128, "embed_dim": 16 if quick else 128,
        "num_steps": 1, "d_steps": 1, "batch_size": 4 if quick else 64, "lr_g": 2e-4, "lr_d": 2e-4, "beta1": 0.0,
        "beta2": 0.999, "ema": 0.9999, "ema_start": 0, "diffaugment": "color,translation,cutout", "cutout_share": 0.5,
        "diversity_weight": 0.0, "precision": "auto", "vicinity": None, "label_input": None,
    }  # fmt: skip
    return CganConfig(**(values | changes))  # type: ignore[arg-type]


def generator_net(cfg: CganConfig, size: int) -> nn.Module:
    """A generator with batch-norm statistics of its own output, as a trained one has."""
    seed_all("benchmark generator")
    net = make_generator(cfg, 3, size).train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(16, cfg.z_dim), torch.randn(16, cfg.embed_dim))
    return net.eval().requires_grad_(False)


def predictor(name: str, size: int, num_outputs: int, *, quick: bool) -> Predictor:
    """A network of the zoo with batch-norm statistics of its own, without which the outputs of a deep one are astronomic;
    its smallest stand-in, an 8-channel convnet, for a quick run.
    """
    seed_all("benchmark predictor", name)
    kind, width = ("convnet", 8) if quick else (name, None)
    net = make_predictor(kind, NetShape(num_outputs, 3, size), width=width, mean=(0.5,) * 3, std=(0.25,) * 3)
    update_bn([to_unit(pixels(64, size))], net)
    return net


def extractor(*, quick: bool) -> Extractor:
    """The extractor that the ratio stage builds for the paper's class presets, with batch-norm statistics of its own.

    Its scale is left at one: features of random weights on random pixels hardly vary.
    """
    seed_all("benchmark extractor")
    info = class_info(32)
    net = build_extractor(to_dict(ratio_config(quick=quick)), info, ClassTask(info))
    update_bn([to_signed(pixels(64, 32))], net)
    return net.eval().requires_grad_(False)


def ratio_config(*, quick: bool, **changes: object) -> RatioConfig:
    """The published extractor, MLP-5 and batch; a pool of 4096 fakes drawn anew every 200 steps."""
    values: dict[str, object] = {
        "extractor": "compact" if quick else "resnet34", "feature_width": 64 if quick else None,
        "feature_channels": 8 if quick else 64, "feature_steps": 1, "feature_batch_size": 64,
        "feature_learning_rate": 1e-3, "feature_augment": "none", "reconstruct_weight": 0.0, "l1_weight": 0.0,
        "label_weight": 1.0, "hidden": (32, 16) if quick else (2048, 1024, 512, 256, 128), "dropout": 0.5,
        "num_steps": 1, "batch_size": 16 if quick else 256, "learning_rate": 1e-4, "beta1": 0.5, "beta2": 0.999,
        "weight_decay": 1e-4, "ratio_penalty": 0.01, "penalty_per_label": False, "vicinity_drop": None,
        "max_redraws": 10, "pool_size": 64 if quick else 4096, "pool_refresh_steps": 10 if quick else 200,
        "eval_every_steps": 10**6, "precision": "auto",
    }  # fmt: skip
    return RatioConfig(**(values | changes))  # type: ignore[arg-type]
