"""The fakes that trials share are those of one kind of processor: workers of a search may run on several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cgankd.fit.device import PLAIN
from pipelines.search.pool import pool_name
from pipelines.stages.bank import Inputs


def test_the_name_follows_the_kind_of_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "any").write_bytes(b"net")
    inputs, there = Inputs(*[tmp_path / "any"] * 4), torch.cpu._is_amx_tile_supported()
    name = pool_name(inputs, PLAIN, 1)
    assert pool_name(inputs, PLAIN, 1) == name
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: not there)
    assert pool_name(inputs, PLAIN, 1) != name
