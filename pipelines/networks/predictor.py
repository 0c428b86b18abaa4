"""Teachers and students, fresh or rebuilt from the config.json beside their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgankd.config import ConfigError, FitConfig
from cgankd.fit.need import step_bytes, worker_bytes
from cgankd.labels.ensemble import make_mean
from cgankd.nets.predictors.ensemble import Ensemble
from cgankd.nets.predictors.program import Program
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import Predictor, make_predictor
from cgankd.types import DatasetInfo, Task
from pipelines.files.artifacts import load_weights
from pipelines.networks.origin import check_origin, understood


def config_of(cfg: FitConfig) -> dict[str, Any]:
    """What config.json says of a fresh net: all that `build_predictor` needs to make it again."""
    config: dict[str, Any] = {"net": cfg.net, "width": cfg.width, "precision": cfg.precision}
    if cfg.input_size is not None:
        config["input_size"] = cfg.input_size
    if cfg.mean is not None and cfg.std is not None:
        config |= {"mean": list(cfg.mean), "std": list(cfg.std)}
    return config


def check_channels(section: str, cfg: FitConfig, info: DatasetInfo) -> None:
    """Raise ConfigError unless the mean of a section has a number a channel."""
    if cfg.mean is not None and len(cfg.mean) != info.channels:
        raise ConfigError(f"{section}.mean must have {info.channels} numbers, one a channel, but is {list(cfg.mean)}")


def build_predictor(
    config: dict[str, Any], info: DatasetInfo, num_outputs: int, *, pretrained: bool = False
) -> Predictor:
    """A fresh teacher or student of this data set's shape; with `pretrained` from the weights of a library, downloaded."""
    return make_predictor(
        config["net"],
        NetShape(num_outputs, info.channels, info.image_size),
        width=config["width"],
        mean=config.get("mean", info.pixel_mean),
        std=config.get("std", info.pixel_std),
        input_size=config.get("input_size"),
        pretrained=pretrained,
    )


def training_bytes(cfg: FitConfig, info: DatasetInfo, num_outputs: int, at_rest: float, device: str) -> float:
    """Main memory that a process needs to train the net of a section with so many bytes of images at rest, about; no draw of
    the caller's moves."""
    with torch.random.fork_rng(devices=[]):
        net = build_predictor(config_of(cfg), info, num_outputs)
        unit_BCHW = torch.zeros(2, info.channels, info.image_size, info.image_size)
        return worker_bytes(step_bytes(net, unit_BCHW, cfg.batch_size), at_rest, device)


def plain_pixels(config: dict[str, Any], info: DatasetInfo) -> tuple[list[float], list[float]]:
    """Mean and sd a channel that a program's input is normalised by; without settings it gets pixels in [0, 1]."""
    return config.get("mean", [0.0] * info.channels), config.get("std", [1.0] * info.channels)


def answer_period(info: DatasetInfo) -> float | None:
    """Length of the circle in normalised units where nets answer with points of it; None where they do not."""
    if info.label_period is None or info.label_answer != "circle":
        return None
    return info.label_period / (info.label_max - info.label_min)


def restore_predictor(
    weights: dict[str, Tensor], config: dict[str, Any], info: DatasetInfo, num_outputs: int
) -> nn.Module:
    """A teacher or plain student as it was saved, in eval mode and frozen.

    A teacher may be a program in the weights, or have members. Raises ValueError or RuntimeError where weights and config do
    not go together.
    """
    if "members" in config:
        members = [
            restore_predictor(member_weights(weights, number), own, info, num_outputs)
            for number, own in enumerate(config["members"])
        ]
        net: nn.Module = ensemble_of(members, config["members"], info)
    elif "program" in config:
        if "body.program" not in weights:
            raise ValueError("the config tells of a program that the weights do not hold")
        unit = float(weights["body.shift"]), float(weights["body.scale"])
        body = Program(weights["body.program"], *unit, answer_period(info))
        net = Predictor(body, *plain_pixels(config, info), config.get("input_size"))
    else:
        assert config.get("distilled") is None, "networks.distilled restores such a student"
        net = build_predictor(config, info, num_outputs)
        net.load_state_dict(weights)
    return net.eval().requires_grad_(False)


def ensemble_of(members: Sequence[nn.Module], configs: Sequence[dict[str, Any]], info: DatasetInfo) -> Ensemble:
    """Nets as one, by the `weight` and the `precision` in the config of each."""
    full = [number for number, own in enumerate(configs) if own["precision"] == "fp32"]
    return Ensemble(members, [own["weight"] for own in configs], make_mean(info), full)


def member_weights(weights: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """The weights of one member of an ensemble."""
    prefix = f"members.{number}."
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def load_predictor(path: Path, info: DatasetInfo, task: Task) -> tuple[nn.Module, dict[str, Any]]:
    """A teacher or plain student with its weights, in eval mode and frozen, and its config."""
    weights, config = load_weights(path, ("info", "precision"))
    check_origin(config, info, path)
    with understood(path):
        return restore_predictor(weights, config, info, task.num_outputs), config
