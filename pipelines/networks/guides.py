"""The trained nets that a GAN is guided by: the fixed features of a packaged net, and the teacher's loss on fakes."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from cgankd.config import CganConfig, ConfigError
from cgankd.fit.device import Plan, autocast, channels_last
from cgankd.gan.guides import TeacherLoss
from cgankd.nets.gans.features import FixedFeatures
from cgankd.nets.predictors.external import timm_net
from cgankd.nets.predictors.shape import NetShape
from cgankd.types import DatasetInfo, Task
from pipelines.networks.predictor import load_predictor
from pipelines.networks.state_dicts import check_finite, read_state
from pipelines.networks.weights import Weights, in_order, packaged_weights


def find_features(cfg: CganConfig) -> Weights | None:
    """The file of cgan.features; None where it is null. Raises ConfigError where it is missing or is another one."""
    packaged = cfg.feature_weights
    return None if packaged is None else packaged_weights(f"cgan.features {cfg.features}", packaged)


def load_features(cfg: CganConfig, found: Weights, gen: torch.Generator, plan: Plan) -> FixedFeatures:
    """The frozen net of a file that `find_features` found, with mixing weights that `gen` draws, on the plan's device."""
    packaged = cfg.feature_weights
    assert packaged is not None, "a file was found for it"
    name, state = f"cgan.features {cfg.features}", read_state(f"cgan.features {cfg.features}", found.path)
    num_outputs = len(next(reversed(state.values())))
    net = timm_net(packaged.net.partition(":")[2], NetShape(num_outputs, 3, cfg.feature_size), False)
    state = in_order(name, state, net)
    for key, value in state.items():
        check_finite(name, key, value)
    net.load_state_dict(state)
    stages = stages_of(net, cfg.feature_size)
    return channels_last(FixedFeatures(stages, packaged.mean, packaged.std, cfg.feature_size, gen)).to(plan.device)  # type: ignore[return-value]


@torch.no_grad()
def stages_of(net: nn.Module, size: int) -> list[nn.Module]:
    """An EfficientNet of timm in stages of one resolution each, from a quarter of the image on, without its last layers."""
    net.eval()
    x_BCHW, sides, parts = torch.zeros(1, 3, size, size), list[int](), list[nn.Module]()
    for part in (nn.Sequential(net.conv_stem, net.bn1), *net.blocks):  # type: ignore[arg-type, misc]
        x_BCHW = part(x_BCHW)
        sides.append(min(x_BCHW.shape[-1], size // 4))
        parts.append(part)
    groups = itertools.groupby(zip(sides, parts, strict=True), key=lambda pair: pair[0])
    return [nn.Sequential(*(part for _, part in group)) for _, group in groups]


def load_teacher_loss(path: Path, info: DatasetInfo, task: Task, plan: Plan) -> TeacherLoss:
    """The teacher's own loss, that of `task`, on images in [0, 1] against labels in raw units.

    Raises ConfigError where no gradient passes through the teacher.
    """
    net, config = load_predictor(path, info, task)
    net = channels_last(net).to(plan.device)

    def loss(unit_BCHW: Tensor, label_B: Tensor) -> Tensor:
        with autocast(config["precision"], plan.device):
            out_BO = net(unit_BCHW.contiguous(memory_format=torch.channels_last))
        return task.loss(out_BO.float(), label_B)

    example = torch.full((2, info.channels, info.image_size, info.image_size), 0.5, device=plan.device)
    label_B = torch.full((2,), int(info.label_min), dtype=task.label_dtype, device=plan.device)
    refused = "cgan.teacher_weight needs a teacher that a gradient passes through, and this one lets none through"
    try:
        probe = loss(example.requires_grad_(True), label_B)
        passes = probe.requires_grad and torch.autograd.grad(probe, example)[0].isfinite().all()
    except RuntimeError as error:
        raise ConfigError(f"{refused} ({str(error).splitlines()[0]}); set cgan.teacher_weight to 0") from error
    if not passes:
        raise ConfigError(f"{refused}; set cgan.teacher_weight to 0, or train the teacher here")
    return loss
