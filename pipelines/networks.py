"""Rebuild nets from the config.json beside their weights: what one stage saves, the next loads here."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from torch import nn

from cgankd.bank.m1_features import make_features
from cgankd.bank.m1_ratio import make_ratio
from cgankd.config import ConfigError, to_dict
from cgankd.gan.sample import make_draw
from cgankd.nets.features import FeatureNet
from cgankd.nets.generator import Generator
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.nets.zoo import Predictor, make_predictor
from cgankd.types import DatasetInfo, Draw, RatioFn, Task
from pipelines.artifacts import load_weights
from pipelines.distillers import inference_net


def check_origin(config: dict[str, Any], info: DatasetInfo, path: Path) -> None:
    """Raise ConfigError when the weights were made from another data set."""
    if config["info"] != json.loads(json.dumps(to_dict(info))):
        stage = path.name.split(".")[0].split("-")[0]
        raise ConfigError(
            f"{path.name} was made from another data set than artifacts/dataset.h5; run `cgankd {stage}` again"
        )


def build_predictor(config: dict[str, Any], info: DatasetInfo, task: Task) -> Predictor:
    """A fresh teacher or student of this data set's shape."""
    return make_predictor(
        config["net"],
        width=config["width"],
        num_outputs=task.num_outputs,
        channels=info.channels,
        image_size=info.image_size,
        mean=info.pixel_mean,
        std=info.pixel_std,
    )


def load_predictor(path: Path, info: DatasetInfo, task: Task) -> tuple[nn.Module, dict[str, Any]]:
    """A teacher or student with its weights, in eval mode and frozen, and its config.

    A student whose KD loss predicts through modules of its own comes as that module.
    """
    weights, config = load_weights(path)
    check_origin(config, info, path)
    net = inference_net(config, lambda own: build_predictor(dict(own), info, task))
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False), config


def load_generator(path: Path, info: DatasetInfo, task: Task) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """The averaged generator and its label embedding, frozen, and the cgan section they were trained under."""
    weights, config = load_weights(path)
    check_origin(config, info, path)
    cgan = config["cgan"]
    generator = Generator(cgan["z_dim"], cgan["embed_dim"], cgan["width"], info.channels, info.image_size)
    nets = nn.ModuleDict({"generator": generator, "embed": task.label_embed(cgan["embed_dim"])})
    nets.load_state_dict(weights)
    nets.eval().requires_grad_(False)
    return nets["generator"], nets["embed"], cgan


def load_draw(path: Path, info: DatasetInfo, task: Task) -> Draw:
    """The generator as a function from labels to uint8 images."""
    generator, embed, cgan = load_generator(path, info, task)
    return make_draw(generator, embed, z_dim=cgan["z_dim"], precision=cgan["precision"])


def build_ratio_nets(
    ratio: dict[str, Any], embed: nn.Module, embed_dim: int, info: DatasetInfo, task: Task
) -> nn.ModuleDict:
    """Fresh feature extractor and ratio network; the label embedding starts from the GAN's."""
    width = ratio["feature_width"] or info.channels * info.image_size**2
    features = FeatureNet(
        info.channels,
        info.image_size,
        ratio["feature_channels"],
        width,
        task.num_outputs,
        decode=ratio["reconstruct_weight"] > 0,
    )
    mlp = RatioMLP(embed_dim, width, ratio["hidden"], ratio["dropout"])
    return nn.ModuleDict({"features": features, "mlp": mlp, "embed": copy.deepcopy(embed)})


def load_ratio(path: Path, info: DatasetInfo, task: Task) -> RatioFn:
    """The fitted density ratio as a function of uint8 images and the labels asked for."""
    weights, config = load_weights(path)
    check_origin(config, info, path)
    ratio = config["ratio"]
    embed = task.label_embed(config["embed_dim"])
    nets = build_ratio_nets(ratio, embed, config["embed_dim"], info, task)
    nets.load_state_dict(weights)
    nets.eval().requires_grad_(False)
    mlp, features = nets["mlp"], nets["features"]
    assert isinstance(mlp, RatioMLP) and isinstance(features, FeatureNet)
    return make_ratio(mlp, nets["embed"], make_features(features, ratio["precision"]))
