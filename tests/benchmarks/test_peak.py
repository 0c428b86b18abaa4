"""Shares of the peak, the targets of this machine, and what counts as work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import peak
from cgankd.fit.device import forward_flop


def side(rate: float, precision: str, *peaks: float) -> dict[str, Any]:
    """A side that did so many GFLOP/s, and the peaks measured around it."""
    return {"flop": rate * 2e9, "median_s": 2.0, "precision": precision, "peak_of": precision, "peaks": list(peaks)}


def row(name: str, fast: dict[str, Any], target: float | None) -> dict[str, Any]:
    return {"name": name, "plain": side(100.0, "fp32", 200.0), "fast": fast, "target": target}


def test_a_share_is_of_the_largest_peak_of_the_run_and_never_beyond_one() -> None:
    rows = [
        row("measured in a slow moment", side(950.0, "bf16", 800.0, 860.0), 15.0),
        row("later", side(300.0, "bf16", 1000.0, 900.0), 3.0),
        {"name": "broken", "failed": "why"},
    ]
    found = peak.finish(rows, {"fp32": 250.0, "bf16": 864.0})
    assert found == {"fp32": 250.0, "bf16": 1000.0}
    assert rows[0]["fast"]["share_of_peak"] == pytest.approx(0.95) and rows[1]["fast"]["share_of_peak"] == 0.3
    assert rows[0]["plain"]["share_of_peak"] == 0.4
    assert all(one[part]["share_of_peak"] <= 1 for one in rows[:2] for part in ("plain", "fast"))


def test_a_target_shrinks_with_the_gain_where_the_matrix_product_binds() -> None:
    rows = [
        row("bound", side(800.0, "bf16"), 15.0),
        row("not bound", side(300.0, "bf16"), 3.0),
        row("no target", side(800.0, "bf16"), None),
        row("no units", side(200.0, "fp32"), 15.0),
    ]
    peak.finish(rows, {"fp32": 200.0, "bf16": 1000.0})
    assert rows[0]["target_here"] == pytest.approx(15 * (1000 / 200) / (2175 / 250))
    assert rows[1]["target_here"] == 3.0 and rows[2]["target_here"] is None
    assert rows[3]["target_here"] == pytest.approx(15 / 8.7)
    same = [row("there", side(2000.0, "bf16"), 15.0)]
    peak.finish(same, {"fp32": 250.0, "bf16": 2175.0})
    assert same[0]["target_here"] == pytest.approx(15.0)


def test_rows_of_an_older_file_keep_their_shares() -> None:
    fast = {"median_s": 1.0, "precision": "bf16", "share_of_peak": 0.9}
    rows = [{"name": "old", "plain": dict(fast), "fast": fast, "target": 15.0}]
    assert peak.finish(rows, {"fp32": 1.0, "bf16": 5.0}) == {"fp32": 1.0, "bf16": 5.0}
    assert fast["share_of_peak"] == 0.9 and rows[0]["target_here"] == 15.0


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "groups"),
    [(4, 3, 1, 1, 1), (8, 3, 2, 1, 2), (7, 1, 1, 0, 1), (9, 5, 2, 2, 1), (6, 3, 1, 0, 1)],
)
def test_operations_on_padding_are_not_counted(size: int, kernel: int, stride: int, padding: int, groups: int) -> None:
    net = nn.Conv2d(4, 6, kernel, stride, padding, groups=groups)
    taps = F.conv2d(torch.ones(1, 1, size, size), torch.ones(1, 1, kernel, kernel), stride=stride, padding=padding)
    expected = 2 * 3 * 6 * (4 // groups) * int(taps.sum())
    assert peak.work_flop(net, torch.zeros(3, 4, size, size)) == expected
    assert (forward_flop(net, torch.zeros(3, 4, size, size)) == expected) == (padding == 0)


def test_all_else_counts_as_the_library_counts_it() -> None:
    net = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)).train()
    assert peak.work_flop(net, torch.zeros(2, 5)) == forward_flop(net, torch.zeros(2, 5)) == 2 * 2 * 5 * 7
    assert net.training


def test_the_peak_is_measured_where_the_row_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "PEAK_SIZE", {"cpu": 16, "cuda": 16})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked: list[str] = []
    real = torch.randn

    def randn(*shape: int, device: str = "cpu") -> torch.Tensor:
        asked.append(device)
        return real(*shape)

    monkeypatch.setattr(torch, "randn", randn)
    assert peak.peak_gflops("fp32") > 0 and peak.peak_gflops("fp32", "cuda") > 0
    assert asked == ["cpu", "cuda"]
    assert peak.peak_name("fp32") == "fp32" and peak.peak_name("bf16", "cuda") == "cuda bf16"
