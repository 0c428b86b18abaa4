"""The feature extractor and density ratio of M1, fresh or back from their artifact."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

from torch import nn

from cgankd.config import RatioConfig
from cgankd.fit.device import PLAIN, Plan
from cgankd.labels.vicinity import ScalarVicinity
from cgankd.nets.autoencoders import AutoEncoder, FirstAutoEncoder
from cgankd.nets.features import DenseNetFeatures, Extractor, FeatureNet, ResNetFeatures
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.density_ratio import RatioNets, make_ratio
from cgankd.ratio.features import FrozenExtractor
from cgankd.types import DatasetInfo, RatioFn, Task, Vicinity
from pipelines.files.artifacts import load_weights
from pipelines.networks.origin import check_origin


def build_extractor(ratio: dict[str, Any], info: DatasetInfo, task: Task) -> Extractor:
    """A fresh feature extractor of M1, by `ratio.extractor`; settings of older artifacts do not name it."""
    width = ratio["feature_width"] or info.channels * info.image_size**2
    name = ratio.get("extractor", "compact")
    sizes = (info.channels, info.image_size, width, task.num_outputs)
    if name.startswith("resnet"):
        return ResNetFeatures(*sizes, name, ratio.get("extractor_style") == "published")
    if name.startswith("densenet"):
        return DenseNetFeatures(*sizes, name)
    if name != "compact":
        kind = FirstAutoEncoder if name == "autoencoder-v1" else AutoEncoder
        return kind(info.channels, info.image_size, ratio["feature_channels"], width, task.num_outputs)
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


def drop_radius(cfg: RatioConfig, vicinity: Vicinity) -> float:
    """zeta in raw units: the setting, else 6 * largest label gap; infinite where labels match exactly."""
    if not isinstance(vicinity, ScalarVicinity):
        return math.inf
    return 6 * vicinity.kernel.largest_gap if cfg.vicinity_drop is None else cfg.vicinity_drop


def load_ratio_nets(path: Path, info: DatasetInfo, task: Task) -> tuple[nn.ModuleDict, dict[str, Any]]:
    """Feature extractor, ratio network and label embedding, frozen, and the config that rebuilds them."""
    weights, config = load_weights(path, ("info", "ratio", "embed_dim"))
    check_origin(config, info, path)
    embed = task.label_embed(config["embed_dim"])
    nets = build_ratio_nets(config["ratio"], embed, config["embed_dim"], info, task)
    nets.load_state_dict(weights)
    nets.eval().requires_grad_(False)
    return nets, config


def load_ratio(path: Path, info: DatasetInfo, task: Task, plan: Plan = PLAIN, expected: int = 0) -> RatioFn:
    """The fitted density ratio as a function of uint8 images and the labels asked for."""
    nets, config = load_ratio_nets(path, info, task)
    ratio = config["ratio"]
    mlp, features = nets["mlp"], nets["features"]
    assert isinstance(mlp, RatioMLP) and isinstance(features, Extractor)
    mlp.to(plan.device)
    nets["embed"].to(plan.device)
    return make_ratio(RatioNets(mlp, nets["embed"]), FrozenExtractor(features, ratio["precision"], plan, expected))
