"""Nets of a run that is distilled: their specs for the KD loss, and the net that a saved student predicts with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from cgankd.config.distill import DistillerConfig
from cgankd.config.settings import from_dict
from cgankd.types import DatasetInfo, Task
from pipelines.files.artifacts import load_weights
from pipelines.networks.origin import check_origin, understood
from pipelines.networks.predictor import build_predictor, restore_predictor

if TYPE_CHECKING:
    from cgankd.distill.base import ModelSpec


MakeNet = Callable[[Mapping[str, Any]], nn.Module]
"""A fresh predictor from {"net", "width"}."""


def spec_of(
    net: nn.Module, config: Mapping[str, Any], make_net: MakeNet, image_shape: tuple[int, int, int]
) -> ModelSpec:
    """The spec of a run's net, with makers of nets like it at other widths and of nets by name."""
    from cgankd.distill.spec import model_spec

    def at_width(factor: float) -> nn.Module:
        return make_net({**config, "width": max(1, round(config["width"] * factor))})

    def named(name: str, width: int | None) -> nn.Module:
        return make_net({"net": name, "width": width})

    scaled = config.get("width") is not None and "program" not in config
    return model_spec(net, image_shape, at_width if scaled else None, named)


def inference_net(config: Mapping[str, Any], make_net: MakeNet) -> nn.Module:
    """The fresh modules of a saved student whose KD loss predicts through some of its own.

    `config` is the student's config.json; its "distilled" part says how the KD loss was built.
    """
    net, record = make_net(config), config["distilled"]
    from cgankd.distill.base import DataSpec
    from cgankd.distill.methods import distiller_of

    parts = [from_dict(DistillerConfig, part, "distilled.parts.") for part in record["parts"]]
    distiller = distiller_of(parts)
    data = DataSpec(**(record["data"] | {"image_shape": tuple(record["data"]["image_shape"])}))
    taught_by = make_net(record["teacher"])
    student = spec_of(net, config, make_net, data.image_shape)
    distiller.build(student, spec_of(taught_by, record["teacher"], make_net, data.image_shape), data)
    return distiller.student_for_inference()


def restore_student(
    weights: dict[str, Tensor], config: dict[str, Any], info: DatasetInfo, num_outputs: int
) -> nn.Module:
    """A student, or a teacher, as it was saved, in eval mode and frozen; one whose KD loss predicts comes as its module.

    Raises ValueError or RuntimeError where weights and config do not go together.
    """
    if config.get("distilled") is None:
        return restore_predictor(weights, config, info, num_outputs)
    net = inference_net(config, lambda own: build_predictor(dict(own), info, num_outputs))
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False)


def load_student(path: Path, info: DatasetInfo, task: Task) -> tuple[nn.Module, dict[str, Any]]:
    """`load_predictor` for students, whatever KD loss they had."""
    weights, config = load_weights(path, ("info", "precision"))
    check_origin(config, info, path)
    with understood(path):
        return restore_student(weights, config, info, task.num_outputs), config
