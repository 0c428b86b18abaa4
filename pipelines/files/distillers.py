"""KD losses as params.yaml names them: checked when it is read, built on a run's nets, and rebuilt from a student's config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from cgankd.config import ArmConfig, Config, ConfigError, StudentConfig
from cgankd.config.distill import KD, DistillerConfig
from cgankd.config.settings import from_dict

if TYPE_CHECKING:
    from cgankd.distill.base import ModelSpec

MakeNet = Callable[[Mapping[str, Any]], nn.Module]
"""A fresh predictor from {"net", "width"}."""


def check_distillers(cfg: Config) -> None:
    """Raise ConfigError where a KD loss or an option of one is unknown, or a method cannot distil these labels.

    The section's own loss is looked at first, then those that arms name for themselves.
    """
    check_section(cfg, cfg.student, "student")
    for name, arm in cfg.student.arms.items():
        if arm.own_loss:
            check_section(cfg, cfg.student.for_arm(arm), own_field(name, arm))


def own_field(name: str, arm: ArmConfig) -> str:
    """Where the KD loss of an arm is written: its own place, or the section."""
    return f"student.arms.{name}" if arm.own_loss else "student"


def check_section(cfg: Config, student: StudentConfig, where: str) -> None:
    """`check_distillers` for the loss of one section or arm; `where` is its dotted place."""
    if not student.distillers and student.distiller == KD and not student.distiller_options:
        return  # The common case, decided without importing torch.
    from cgankd.distill.methods import METHODS, distiller_of, make_distiller

    distiller = distiller_of(student.kd_parts, where)
    num_classes = 0 if cfg.scalar_labels else 2
    for part in student.kd_parts:
        if not make_distiller(part.name, **part.options).accepts(num_classes):
            able = ", ".join(name for name in METHODS if make_distiller(name).accepts(num_classes))
            field = f"{where}.distillers" if student.distillers else f"{where}.distiller"
            why = (
                "compares class logits, so it cannot distil scalar labels"
                if cfg.scalar_labels
                else "compares scalars, so it cannot distil classes"
            )
            raise ConfigError(f"{field} {part.name} {why} (data.task is {cfg.data.task}); those that can: {able}")
    if student.teacher_view == "clean" and distiller.needs.views != frozenset({"plain"}):
        user = distiller.name if where == "student" else f"{distiller.name} of {where}"
        raise ConfigError(
            f"student.teacher_view must be augmented for {user}, which compares other views than the plain one, but is"
            " 'clean'"
        )


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
    """The fresh net of a saved student: a plain predictor, or where the KD loss predicts through modules of its own, those.

    `config` is the student's config.json; its "distilled" part says how the KD loss was built.
    """
    net = make_net(config)
    record = config.get("distilled")
    if record is None:
        return net
    from cgankd.distill.base import DataSpec
    from cgankd.distill.methods import distiller_of

    parts = [from_dict(DistillerConfig, part, "distilled.parts.") for part in record["parts"]]
    distiller = distiller_of(parts)
    data = DataSpec(**(record["data"] | {"image_shape": tuple(record["data"]["image_shape"])}))
    taught_by = make_net(record["teacher"])
    student = spec_of(net, config, make_net, data.image_shape)
    distiller.build(student, spec_of(taught_by, record["teacher"], make_net, data.image_shape), data)
    return distiller.student_for_inference()
