"""The feature extractor and density ratio of M1, fresh or back from their artifact."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cgankd.config import ConfigError, RatioConfig
from cgankd.fit.device import PLAIN, Plan
from cgankd.labels.vicinity import ScalarVicinity
from cgankd.nets.autoencoders import make_extractor
from cgankd.nets.features import Extractor, TeacherFeatures
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.density_ratio import RatioNets, make_ratio
from cgankd.ratio.features import FrozenExtractor
from cgankd.types import DatasetInfo, RatioFn, Task, Vicinity
from pipelines.files.artifacts import load_weights
from pipelines.networks.origin import check_origin, understood
from pipelines.networks.predictor import member_weights, restore_predictor

TEACHER = "features.teacher."
"""Where the weights of a teacher as extractor lie in ratio.safetensors."""


def build_teacher(config: dict[str, Any], weights: dict[str, Tensor], info: DatasetInfo, task: Task) -> TeacherFeatures:
    """The extractor that a teacher is, from its config and weights; of a teacher with members the heaviest alone.

    Raises ConfigError where the teacher does not show what its last layer takes.
    """
    net = restore_predictor(weights, config, info, task.num_outputs)
    try:
        return TeacherFeatures(net, NetShape(task.num_outputs, info.channels, info.image_size))
    except ValueError as error:
        raise ConfigError(f"ratio.extractor must be another than teacher: {error}") from error


def heaviest(weights: dict[str, Tensor], config: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and config of a teacher without members, or of the heaviest of them (the first of several)."""
    members = config.get("members")
    if members is None:
        return weights, {key: value for key, value in config.items() if key not in ("info", "teacher")}
    number = max(range(len(members)), key=lambda k: (members[k]["weight"], -k))
    return member_weights(weights, number), members[number]


def build_extractor(ratio: dict[str, Any], info: DatasetInfo, task: Task) -> Extractor:
    """A fresh feature extractor of M1, by `ratio.extractor`; settings of older artifacts do not name it."""
    return make_extractor(ratio, info.channels, info.image_size, task.num_outputs)


def build_ratio_nets(
    ratio: dict[str, Any],
    embed: nn.Module,
    embed_dim: int,
    info: DatasetInfo,
    task: Task,
    teacher: TeacherFeatures | None = None,
) -> nn.ModuleDict:
    """Fresh feature extractor, or that which the teacher is, and ratio network; the label embedding starts from the GAN's."""
    features = build_extractor(ratio, info, task) if teacher is None else teacher
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
    with understood(path):
        embed = task.label_embed(config["embed_dim"])
        teacher = None
        if config.get("extractor") is not None:
            own = {name.removeprefix(TEACHER): w for name, w in weights.items() if name.startswith(TEACHER)}
            teacher = build_teacher(config["extractor"], own, info, task)
        nets = build_ratio_nets(config["ratio"], embed, config["embed_dim"], info, task, teacher)
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
