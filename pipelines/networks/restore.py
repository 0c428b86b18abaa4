"""Rebuild nets from the config.json beside their weights: what one stage saves, the next loads here."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cgankd.bank.m1_features import FrozenExtractor
from cgankd.bank.m1_ratio import RatioNets, make_ratio
from cgankd.config import CganConfig, ConfigError, to_dict
from cgankd.config.settings import from_dict
from cgankd.fit.device import PLAIN, Plan
from cgankd.gan.sample import make_draw
from cgankd.nets.features import Extractor, FeatureNet, ResNetFeatures
from cgankd.nets.gans.zoo import make_generator
from cgankd.nets.predictors.program import Program
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import Predictor, make_predictor
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.types import DatasetInfo, Draw, RatioFn, Task
from pipelines.files.artifacts import load_weights
from pipelines.files.distillers import inference_net
from pipelines.networks import own_generator


def check_origin(config: dict[str, Any], info: DatasetInfo, path: Path) -> None:
    """Raise ConfigError when the weights were made from another data set."""
    if config["info"] != json.loads(json.dumps(to_dict(info))):
        stage = path.name.split(".")[0].split("-")[0]
        raise ConfigError(
            f"{path.name} was made from another data set than artifacts/dataset.h5; run `cgankd {stage}` again"
        )


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
        pretrained=pretrained,
    )


def plain_pixels(config: dict[str, Any], info: DatasetInfo) -> tuple[list[float], list[float]]:
    """Mean and sd a channel that a program's input is normalised by; without settings it gets pixels in [0, 1]."""
    return config.get("mean", [0.0] * info.channels), config.get("std", [1.0] * info.channels)


def restore_predictor(
    weights: dict[str, Tensor], config: dict[str, Any], info: DatasetInfo, num_outputs: int
) -> nn.Module:
    """A teacher or student as it was saved, in eval mode and frozen; a teacher may be a program in the weights.

    Raises ValueError or RuntimeError where weights and config do not go together.
    """
    if "program" in config:
        if "body.program" not in weights:
            raise ValueError("the config tells of a program that the weights do not hold")
        body = Program(weights["body.program"], float(weights["body.shift"]), float(weights["body.scale"]))
        net: nn.Module = Predictor(body, *plain_pixels(config, info))
    else:
        net = inference_net(config, lambda own: build_predictor(dict(own), info, num_outputs))
        net.load_state_dict(weights)
    return net.eval().requires_grad_(False)


def load_predictor(path: Path, info: DatasetInfo, task: Task) -> tuple[nn.Module, dict[str, Any]]:
    """A teacher or student with its weights, in eval mode and frozen, and its config.

    A student whose KD loss predicts through modules of its own comes as that module.
    """
    weights, config = load_weights(path, ("info", "precision"))
    check_origin(config, info, path)
    return restore_predictor(weights, config, info, task.num_outputs), config


def load_source(
    path: Path, info: DatasetInfo, task: Task, *, reuse: bool, plan: Plan = PLAIN, expected: int = 0
) -> tuple[Draw, nn.Module, int]:
    """Whatever draws fakes, the label embedding that belongs to it (frozen), and that one's length E.

    `reuse` is for a finite set of images (cgankd.gan.own_images): whether its images may come again and again.
    """
    weights, config = load_weights(path, ("info", "cgan"))
    check_origin(config, info, path)
    cgan = from_dict(CganConfig, config["cgan"], "cgan.")
    embed = task.label_embed(cgan.embed_dim)
    if config.get("own") is not None:
        draw = own_generator.make_draw(weights, own_generator.Own(**config["own"]), cgan, info, task, reuse=reuse)
        embed.load_state_dict({name[6:]: value for name, value in weights.items() if name.startswith("embed.")})
    else:
        generator = make_generator(cgan, info.channels, info.image_size)
        nn.ModuleDict({"generator": generator, "embed": embed}).load_state_dict(weights)
        draw = make_draw(generator, embed, z_dim=cgan.z_dim, precision=cgan.precision, plan=plan, expected=expected)
    return draw, embed.eval().requires_grad_(False), cgan.embed_dim


def load_draw(path: Path, info: DatasetInfo, task: Task, plan: Plan = PLAIN, expected: int = 0) -> Draw:
    """The generator as a function from labels to uint8 images, `expected` of which are to come.

    A finite set of images is dealt, none comes twice.
    """
    return load_source(path, info, task, reuse=False, plan=plan, expected=expected)[0]


def build_extractor(ratio: dict[str, Any], info: DatasetInfo, task: Task) -> Extractor:
    """A fresh feature extractor of M1, by `ratio.extractor`; settings of older artifacts do not name it."""
    width = ratio["feature_width"] or info.channels * info.image_size**2
    if ratio.get("extractor", "compact") == "resnet34":
        return ResNetFeatures(info.channels, info.image_size, width, task.num_outputs)
    return FeatureNet(
        info.channels,
        info.image_size,
        ratio["feature_channels"],
        width,
        task.num_outputs,
        decode=ratio["reconstruct_weight"] > 0,
    )


def build_ratio_nets(
    ratio: dict[str, Any], embed: nn.Module, embed_dim: int, info: DatasetInfo, task: Task
) -> nn.ModuleDict:
    """Fresh feature extractor and ratio network; the label embedding starts from the GAN's."""
    features = build_extractor(ratio, info, task)
    mlp = RatioMLP(embed_dim, features.feature_width, ratio["hidden"], ratio["dropout"])
    return nn.ModuleDict({"features": features, "mlp": mlp, "embed": copy.deepcopy(embed)})


def load_ratio(path: Path, info: DatasetInfo, task: Task, plan: Plan = PLAIN, expected: int = 0) -> RatioFn:
    """The fitted density ratio as a function of uint8 images and the labels asked for."""
    weights, config = load_weights(path, ("info", "ratio", "embed_dim"))
    check_origin(config, info, path)
    ratio = config["ratio"]
    embed = task.label_embed(config["embed_dim"])
    nets = build_ratio_nets(ratio, embed, config["embed_dim"], info, task)
    nets.load_state_dict(weights)
    nets.eval().requires_grad_(False)
    mlp, features = nets["mlp"], nets["features"]
    assert isinstance(mlp, RatioMLP) and isinstance(features, Extractor)
    mlp.to(plan.device)
    nets["embed"].to(plan.device)
    return make_ratio(RatioNets(mlp, nets["embed"]), FrozenExtractor(features, ratio["precision"], plan, expected))
