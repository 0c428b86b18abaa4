"""What the machine can do at most, what a row asks of it, and what SPEED.md's targets come to here.

Targets are ratios to fp32 in the plain way, set on a machine with matrix units, where bf16 multiplies matrices 2175 / 250 times
as fast as fp32. Where a row is bound by the matrix product, no more of the ratio than this machine's own gain can be had:

    target here = target * (peak of the fast side's precision here / fp32 peak here) / (2175 / 250)

A row counts as bound where its fast side reaches half of the peak or more; the other targets stay as they are.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cgankd.fit.device import is_bf16

PEAK_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrix product that stands for the machine's peak: large enough to fill it."""
GAIN_THERE = 2175 / 250
"""bf16 over fp32 in GFLOP/s on the machine of SPEED.md."""
BOUND_FROM = 0.5
"""Share of the peak from which a row is bound by the matrix product."""


def synchronise() -> None:
    """Wait for a CUDA device to finish, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gflops(precision: str, device: str = "cpu") -> float:
    """GFLOP/s of a matrix product of PEAK_SIZE into memory that is there, the best of five, on the device of the row."""
    kind = torch.bfloat16 if is_bf16(precision, device) else torch.float32
    size = PEAK_SIZE[device]
    a, b = torch.randn(2, size, size, device=device).to(kind)
    out = torch.empty_like(a)
    best = float("inf")
    for number in range(7):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        synchronise()
        best = best if number < 2 else min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def inner_taps(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How often a convolution's kernel meets a pixel, and not the padding, along one axis."""
    starts = range(-padding, size + padding - dilation * (kernel - 1), stride)
    return sum(0 <= start + tap * dilation < size for start in starts for tap in range(kernel))


def convolution_flop(x: Any, w: Any, bias: Any, *how: Any, out_shape: Any) -> int:
    """Operations of a convolution without those on its padding, which a kernel can leave out.

    At 4x4 pixels they are three in ten of a 3x3 convolution; counted as work, a fast row would pass the peak.
    """
    stride, padding, dilation, transposed = how[:4]
    assert not transposed, "no network here has one"
    count = 2 * x[0] * w[0] * w[1]
    for axis, size in enumerate(x[2:]):
        at = (values[axis % len(values)] for values in (stride, padding, dilation))
        count *= inner_taps(size, w[2 + axis], *at)
    return int(count)


@torch.no_grad()
def work_flop(net: nn.Module, *example: Any) -> int:
    """Floating-point operations of one forward pass in evaluation mode, less those on padding; the net is unchanged."""
    was_training = net.training
    net.eval()
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution: convolution_flop}) as counter:
        net(*example)
    net.train(was_training)
    return int(counter.get_total_flops())


def peak_name(precision: str, device: str = "cpu") -> str:
    """Under which name a peak is kept: fp32, bf16, cuda fp32, cuda bf16."""
    kind = "bf16" if is_bf16(precision, device) else "fp32"
    return kind if device == "cpu" else f"{device} {kind}"


def finish(rows: list[dict[str, Any]], peaks: dict[str, float]) -> dict[str, float]:
    """Set share of the peak and target here in each row, by the largest peaks of the whole run, which are returned.

    A row keeps the peaks measured before and after it; `peaks` are those of the run's beginning. One measurement on cores
    that others use too may be low, and a share of it beyond one.
    """
    peaks = dict(peaks)
    sides = [row[side] for row in rows if "failed" not in row for side in ("plain", "fast")]
    for found in sides:
        for value in found.get("peaks", ()):
            peaks[found["peak_of"]] = max(value, peaks.get(found["peak_of"], 0.0))
    for found in sides:
        if found.get("flop"):
            found["share_of_peak"] = found["flop"] / found["median_s"] / 1e9 / peaks[found["peak_of"]]
    for row in rows:
        if "failed" not in row:
            row["target_here"] = target_here(row["target"], row["fast"], peaks)
    return peaks


def target_here(target: float | None, fast: dict[str, Any], peaks: dict[str, float]) -> float | None:
    """The target scaled by this machine's gain where the row is bound by the matrix product."""
    if target is None or not fast.get("flop") or fast["share_of_peak"] < BOUND_FROM:
        return target
    return target * peaks[fast["peak_of"]] / peaks["fp32"] / GAIN_THERE
