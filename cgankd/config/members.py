"""Settings of a teacher of several members: how many there are, and what is different in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cgankd.config.settings import MOST_MEMBERS, ConfigError, from_dict, require, to_dict

T = TypeVar("T")

AUTO = "auto"
WHOLE = ("members", "file", "file_digest", "output_unit")
"""Settings that all members share; of `precision` a member may only say fp32."""
Override = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class MembersConfig:
    """A teacher that is the weighted mean of several trainings; the default is one training."""

    members: Any = field(default=None, metadata={"left_out": True})
    """An ensemble in place of one training: a number K (K trainings that differ in their seed), a list of mappings (a training
    each, with these settings in place of the section's), or auto (one training as the section says, two that start from
    packaged weights; the best or their mean is kept, by validation); null = one training."""

    def check_members(self) -> None:
        """Range checks; called by the sub-class. Raises ConfigError."""
        given = self.members
        if given is None or given == AUTO:
            return
        if isinstance(given, list | tuple):
            require(len(given) >= 2, "teacher.members", "a list of at least 2 mappings", list(given))
            for number, override in enumerate(given):
                check_override(override, f"teacher.members[{number}]")
            return
        whole = isinstance(given, int) and not isinstance(given, bool) and 2 <= given <= MOST_MEMBERS
        rule = f"null, a whole number from 2 to {MOST_MEMBERS}, a list of mappings or auto"
        require(whole, "teacher.members", rule, given)


def check_override(override: object, name: str) -> None:
    """Raise ConfigError unless it is a mapping that leaves alone what all members share."""
    if not isinstance(override, Mapping):
        raise ConfigError(f"{name} must be a mapping of settings of the section teacher, but is {override!r}")
    for key in override:
        if key in WHOLE:
            raise ConfigError(f"{name}.{key} cannot differ between members; set teacher.{key} for all of them")
    precision = override.get("precision", "fp32")
    rule = "fp32, or left out, which means teacher.precision"
    require(precision == "fp32", f"{name}.precision", rule, precision)


def check_members(members: Any, filter_by: str, spread_weight: float) -> None:
    """Raise ConfigError where a setting looks at how far members disagree, and there are none."""
    if members is None:
        rule = "where teacher.members is null, as nothing can disagree there"
        require(filter_by == "error", "bank.filter_by", f"error {rule}", filter_by)
        require(spread_weight == 0, "student.spread_weight", f"0 {rule}", spread_weight)


def overrides(members: Any) -> list[Override]:
    """One mapping a member of a number or a list; none of auto, whose members depend on what is installed."""
    if members == AUTO:
        return []
    return [{} for _ in range(members)] if isinstance(members, int) else [dict(override) for override in members]


def member_name(members: Any, number: int) -> str:
    """What leads to the settings of a member in params.yaml: its mapping in a list, else the section."""
    return f"teacher.members[{number}]" if isinstance(members, list | tuple) else "teacher"


def sections_of(section: T, given: list[Override]) -> list[T]:
    """The section `teacher` of each member: the whole one with the settings of its mapping in place. Raises ConfigError."""
    shared = {name: value for name, value in to_dict(section).items() if name != "members"}
    found = []
    for number, override in enumerate(given):
        try:
            found.append(from_dict(type(section), shared | override, "teacher."))
        except ConfigError as error:
            raise ConfigError(f"teacher.members[{number}]: {error}") from error
    return found
