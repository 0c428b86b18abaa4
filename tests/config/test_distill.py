"""Arms with a KD loss of their own: what they train with, what they are called, and which mistakes are named."""

from __future__ import annotations

from typing import Any

import pytest

from cgankd.config import ArmConfig, Config, ConfigError, config_from_dict, to_dict
from cgankd.config.distill import DistillerConfig, arm_label


def with_arm(values: dict[str, Any], arm: dict[str, Any], **student: Any) -> Config:
    values["student"] |= student
    values["student"]["arms"] = {"real": {}, "own": arm}
    return config_from_dict(values)


@pytest.mark.parametrize(
    ("arm", "student", "parts"),
    [
        ({"kd": True}, {}, [("kd", {"temperature": 4.0, "soft_weight": 0.7})]),
        ({"kd": True, "distiller": "dkd"}, {"distiller_options": {"soft_weight": 0.1}}, [("dkd", {})]),
        ({"kd": True, "distiller": "dkd", "distiller_options": {"beta": 2.0}}, {}, [("dkd", {"beta": 2.0})]),
        ({"kd": True, "distiller": "dkd"}, {"distillers": [{"name": "kd"}, {"name": "crd"}]}, [("dkd", {})]),
        ({"kd": True, "distiller": "kd"}, {"distiller": "crd"}, [("kd", {"temperature": 4.0, "soft_weight": 0.7})]),
        (
            {"kd": True, "distiller_options": {"temperature": 2.0}},
            {"distiller_options": {"soft_weight": 0.1}},
            [("kd", {"temperature": 2.0, "soft_weight": 0.1})],
        ),
    ],
)
def test_an_arm_trains_with_its_own_loss(
    digits: dict[str, Any], arm: dict[str, Any], student: dict[str, Any], parts: list[tuple[str, dict[str, Any]]]
) -> None:
    cfg = with_arm(digits, arm, **student).student
    expected = tuple(DistillerConfig(name=name, options=options) for name, options in parts)
    assert cfg.for_arm(cfg.arms["own"]).kd_parts == expected
    assert cfg.for_arm(ArmConfig(kd=True)) is cfg, "other arms keep the section's"


@pytest.mark.parametrize(
    ("arm", "student", "words"),
    [
        ({"distiller": "dkd"}, {}, r"student\.arms\.own\.distiller must be null where kd is false, but is 'dkd'"),
        ({"distiller_options": {"a": 1}}, {}, r"student\.arms\.own\.distiller_options must be empty where kd is false"),
        (
            {"kd": True, "distiller_options": {"temperature": 1}},
            {"distillers": [{"name": "kd"}, {"name": "crd"}]},
            r"student\.arms\.own\.distiller_options need student\.arms\.own\.distiller",
        ),
        ({"kd": True, "distiler": "dkd"}, {}, r"the nearest valid one is student\.arms\.own\.distiller"),
        ({"kd": True, "distiller": 3}, {}, r"student\.arms\.own\.distiller must be text"),
    ],
)
def test_an_own_loss_without_effect_is_refused(
    digits: dict[str, Any], arm: dict[str, Any], student: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        with_arm(digits, arm, **student)


def test_an_arm_is_called_by_its_loss_and_own_options() -> None:
    section = {"distiller": "crd", "distillers": []}
    for arm, label in (
        (ArmConfig(), None),
        (ArmConfig(kd=True), "crd"),
        (ArmConfig(kd=True, distiller="dkd"), "dkd"),
        (
            ArmConfig(kd=True, distiller="kd", distiller_options={"standardize": True, "t": 2}),
            "kd (standardize=true, t=2)",
        ),
    ):
        assert arm_label(section, to_dict(arm)) == label
    assert arm_label(section, {"kd": True}) == "crd", "switches of a run from before arms had losses"
