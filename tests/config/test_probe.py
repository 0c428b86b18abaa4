"""Settings of rounds of hard fakes: what is refused, with the cure, and that defaults are not written."""

from __future__ import annotations

from typing import Any

import pytest

from cgankd.config import BANK_UNSAID, ArmConfig, ConfigError, config_from_dict, to_dict
from pipelines.files.params import flatten

PROBE = {"net": "convnet", "width": 4, "num_steps": 50}
ROUNDS = {"rounds": 2, "probe": PROBE}


def arm(**own: Any) -> dict[str, Any]:
    return {"arms": {"real": {}, "x": own}, "best_with_kd": False}


HARD = arm(bank=True, hard=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": arm(hard=True)}, ["student.arms.x.hard", "false where bank is false"]),
        ({"student": HARD}, ["bank.rounds must be at least 2", "student.arms.x.hard", "is 1"]),
        ({"student": HARD, "bank": {"rounds": 2}}, ["bank.probe must be set", "bank.rounds", "num_steps"]),
        ({"bank": {"rounds": 0}}, ["bank.rounds", "at least 1"]),
        ({"bank": {"near": 0.0}}, ["bank.near", "above 0"]),
        ({"bank": {"near": 1.5}}, ["bank.near", "at most 1"]),
        ({"bank": {"probe": {"width": 4, "num_steps": 5}}}, ["bank.probe.net is missing"]),
        ({"bank": {"probe": PROBE | {"nett": 1}}}, ["bank.probe.nett", "bank.probe.net"]),
        ({"bank": {"probe": PROBE | {"net": "convnett"}}}, ["bank.probe.net", "did you mean 'convnet'"]),
        ({"bank": {"probe": PROBE | {"mix": "mixup"}}}, ["bank.probe.mix must be none", "clean"]),
        ({"bank": {"probe": PROBE | {"real_share": 1.0}}}, ["bank.probe.real_share", "fakes"]),
        ({"bank": {"probe": PROBE | {"real_share": 0.1, "batch_size": 4}}}, ["bank.probe.real_share", "real images"]),
        ({"bank": {"probe": PROBE | {"soft_weight": 1.5}}}, ["bank.probe.soft_weight", "[0, 1]"]),
        ({"bank": {"probe": PROBE | {"temperature": 0.0}}}, ["bank.probe.temperature", "positive"]),
        ({"bank": {"probe": PROBE | {"augment": "spin"}}}, ["bank.probe.augment"]),
        (
            {"student": HARD, "bank": ROUNDS, "cgan": {"file": "fakes.h5"}},
            ["cgan.file must be null", "student.arms.x.hard", "latents"],
        ),
    ],
)
def test_mistakes_are_named(digits: dict[str, Any], changes: dict[str, dict[str, Any]], words: list[str]) -> None:
    for section, values in changes.items():
        digits[section] |= values
    with pytest.raises(ConfigError) as caught:
        config_from_dict(digits)
    for word in words:
        assert word in str(caught.value)


def test_a_probe_has_defaults_and_is_written_as_it_was_given(digits: dict[str, Any]) -> None:
    digits["bank"] |= ROUNDS
    digits["student"] |= HARD
    cfg = config_from_dict(digits)
    assert cfg.bank.probe is not None and cfg.bank.near == 0.5 and cfg.student.arms["x"].hard
    assert (cfg.bank.probe.learning_rate, cfg.bank.probe.real_share, cfg.bank.probe.mix) == (0.003, 0.5, "none")
    written = to_dict(cfg.bank)["probe"]
    assert {name: written[name] for name in PROBE} == PROBE and "weights" not in written
    whole = to_dict(cfg)
    assert config_from_dict(whole) == cfg and flatten(whole)["bank.probe.net"] == "convnet"


def test_defaults_are_not_written(digits: dict[str, Any]) -> None:
    assert not {"rounds", "near", "probe"} & set(to_dict(config_from_dict(digits).bank))
    assert {"rounds", "near", "probe"} <= set(BANK_UNSAID)
    assert "hard" not in to_dict(ArmConfig(bank=True)) and to_dict(ArmConfig(bank=True, hard=True))["hard"] is True
