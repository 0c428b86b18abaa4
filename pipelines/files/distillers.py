"""KD losses as params.yaml names them: checked when it is read."""

from __future__ import annotations

from cgankd.config import ArmConfig, Config, ConfigError, StudentConfig
from cgankd.config.distill import KD


def check_distillers(cfg: Config) -> None:
    """Raise ConfigError where a KD loss or an option of one is unknown, or a method cannot distil these labels.

    The section's own loss is looked at first, then those that arms name for themselves.
    """
    check_section(cfg, cfg.student, "student")
    for name, arm in cfg.student.arms.items():
        if arm.own_loss:
            check_section(cfg, cfg.student.for_arm(arm), own_field(name, arm))
        if arm.kd or (arm.bank and cfg.student.best_with_kd):
            check_shown(cfg, cfg.student.for_arm(arm), name, own_field(name, arm))


def check_shown(cfg: Config, student: StudentConfig, arm: str, where: str) -> None:
    """Raise ConfigError where the KD loss of an arm cannot take the mixtures or stored views that it would be shown."""
    if not (student.mixes or student.num_views) or only_kd(student):
        return
    from cgankd.distill.methods import distiller_of
    from cgankd.distill.mixed import Shown

    shown = Shown(0 if cfg.scalar_labels else 2, student.mixes, bool(student.num_views))
    try:
        shown.check(distiller_of(student.kd_parts, where))
    except ValueError as error:
        off = "mix to none" if student.mixes else "views to 0"
        raise ConfigError(f"{where}.distiller: {error}; or set student.arms.{arm}.{off}") from error


def own_field(name: str, arm: ArmConfig) -> str:
    """Where the KD loss of an arm is written: its own place, or the section."""
    return f"student.arms.{name}" if arm.own_loss else "student"


def only_kd(student: StudentConfig) -> bool:
    """Whether the KD loss is `kd` with the options of the section, which is known to go with everything."""
    return not student.distillers and student.distiller == KD and not student.distiller_options


def check_section(cfg: Config, student: StudentConfig, where: str) -> None:
    """`check_distillers` for the loss of one section or arm; `where` is its dotted place."""
    if only_kd(student):
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
    if student.spread_weight > 0 and not distiller.weighs_rows:
        rule = f"0 for {distiller.name}, which does not weigh fakes by it, as kd does"
        raise ConfigError(f"student.spread_weight must be {rule}, but is {student.spread_weight:g}")
    if student.teacher_view == "clean" and distiller.needs.views != frozenset({"plain"}):
        user = distiller.name if where == "student" else f"{distiller.name} of {where}"
        raise ConfigError(
            f"student.teacher_view must be augmented for {user}, which compares other views than the plain one, but is"
            " 'clean'"
        )
