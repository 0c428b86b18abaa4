"""What is said of the machine is that of the device a run computes on."""

from __future__ import annotations

import pytest
import torch

from cgankd.fit import device
from cgankd.fit.device import Plan
from pipelines.runtime.machine import make_plan, plan_facts, plan_line


@pytest.fixture()
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A GPU with bf16 beside a processor without."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(device, "has_bf16_units", lambda: False)
    return monkeypatch


def test_a_gpu_that_is_not_used_is_not_named(with_gpu: pytest.MonkeyPatch) -> None:
    with_gpu.setenv("CGANKD_DEVICE", "cpu")
    plan = make_plan()
    facts = plan_facts(plan)
    assert facts["compute.device"] == "cpu (processor with no bf16 units)" and facts["compute.auto_precision"] == "fp32"
    assert "precision auto is fp32" in plan_line(plan) and "GPU" not in plan_line(plan)


def test_a_gpu_that_is_used_is_named_with_its_precision(with_gpu: pytest.MonkeyPatch) -> None:
    with_gpu.setenv("CGANKD_DEVICE", "auto")
    facts = plan_facts(make_plan())
    assert facts["compute.device"] == "cuda (a GPU)" and facts["compute.auto_precision"] == "bf16"


def test_a_processor_with_units_says_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "has_bf16_units", lambda: True)
    assert plan_facts(Plan())["compute.auto_precision"] == "bf16"
