"""Shared set-up: one torch thread (so that tests can run side by side) and a fresh copy of each preset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from ruamel.yaml import YAML

from cgankd.config import Config, config_from_dict

# The gate tries the same examples each time; HYPOTHESIS_PROFILE=explore draws new ones. No test judges a wall-clock time.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))

torch.set_num_threads(1)
if (
    torch.cuda.is_available()
):  # stages are tested to the bit, which a device does not promise; tests/fit/test_cuda.py is about it
    os.environ.setdefault("CGANKD_DEVICE", "cpu")
ROOT = Path(__file__).parent.parent


def preset(name: str) -> dict[str, Any]:
    """A preset as a plain nested dict that a test may change."""
    values: dict[str, Any] = YAML(typ="safe").load((ROOT / "pipelines/presets" / f"{name}.yaml").read_text())
    return values


@pytest.fixture()
def digits() -> dict[str, Any]:
    return preset("digits")


@pytest.fixture()
def chairs() -> dict[str, Any]:
    return preset("chairs")


@pytest.fixture()
def digits_config(digits: dict[str, Any]) -> Config:
    return config_from_dict(digits)


@pytest.fixture()
def chairs_config(chairs: dict[str, Any]) -> Config:
    return config_from_dict(chairs)
