"""Time and peak memory of a bank of 1e3, 1e4 and 1e5 fakes of 32 px with a small generator: linear, and flat.

The generator is the light one with 4 channels at full resolution, run as the bank stage runs it; ratio and filter are read
off the pixels, so that what the bank itself costs shows.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.sides import child
from benchmarks.subjects import class_data, gan_config, generator_net
from benchmarks.timing import fast_plan
from cgankd.bank import build as bank
from cgankd.config import BankConfig
from cgankd.data.store.banks import BankWriter
from cgankd.gan.sample import make_draw
from cgankd.rng import seed_all
from cgankd.types import Draw, Images
from pipelines.runtime.machine import set_threads

SIZES, QUICK_SIZES = (1_000, 10_000, 100_000), (200, 400)
SIDE = 32
MOST_TIMES, MOST_MORE_MB = 1.5, 256.0
"""Largest growth of the time a kept fake, as a factor, and of the peak memory, from the smallest bank to the largest."""
TITLE = "Bank of M fakes of 32 px with a small generator: linear time, flat memory"


def make_source(quick: bool) -> Draw:
    """The small generator as the bank stage runs it."""
    cfg = gan_config("sngan", quick=True, width=4)
    seed_all("embed")
    embed = class_data(SIDE, 16)[1].label_embed(cfg.embed_dim).requires_grad_(False)
    plan = fast_plan(quick)
    return make_draw(generator_net(cfg, SIDE), embed, z_dim=cfg.z_dim, precision="auto", plan=plan, expected=10**9)


def ratio(images_BCHW: Images, label_B: Tensor) -> Tensor:
    """A ratio from 0.75 to 1.25, of which rejection keeps about four fifths."""
    return 0.75 + (images_BCHW[slice(None)].flatten(1).long().sum(dim=1) % 101) / 202


def teacher(images_BCHW: Images) -> Tensor:
    """Outputs [B, 10] read off the pixels."""
    return images_BCHW[slice(None)][:, 0, ::4, ::4].flatten(1)[:, :10].float() / 64


def build_pool(num_fakes: int, quick: bool) -> dict[str, float]:
    """Draw, score and write a pool as the stage does; seconds without compilation, MB of peak memory, MB on disk."""
    _, task = class_data(SIDE, 16)
    cfg = BankConfig(
        num_fakes=num_fakes, subsample=True, filter=True, replace=False, rho=0.9, filter_scope="label", label_bin=None,
        num_conditions=None, bound_quantile=1.0, burn_in=100, max_draws_factor=50.0, batch_size=100,
        refuse_worthless=False, block_size=100,
    )  # fmt: skip
    scorer = bank.Scorer(make_source(quick), ratio, teacher, task)
    source = bank.Source(scorer, bank.arrange(task, torch.arange(10), cfg, seed=0), cfg, 0)
    limits = bank.burn_in(source)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.h5"
        with BankWriter(path, (3, SIDE, SIDE), 10, task.label_dtype) as writer:
            for s in bank.grow_pool(source, limits, ["filter"]):
                writer.append(s.rows())
            draws = len(writer)
            writer.close({})
        seconds, size = time.perf_counter() - start, path.stat().st_size / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"fakes": num_fakes, "draws": draws, "seconds": seconds, "peak_rss_mb": peak, "file_mb": size}


def compare(quick: bool) -> dict[str, Any]:
    """Every size, each in a process of its own so that its peak is its own."""
    if quick:
        rows = [build_pool(size, True) for size in QUICK_SIZES]
    else:
        rows = [child("bank_scale", ["--size", str(size)], large_blocks=True) for size in SIZES]
    return {"name": "bank_scale", "title": TITLE, "quick": quick, "rows": rows, "holds": quick or is_flat(rows)}


def is_flat(rows: list[dict[str, float]]) -> bool:
    """Time a fake and peak memory do not grow from the smallest bank to the largest, within the limits above."""
    first, last = rows[0], rows[-1]
    times = last["seconds"] / last["fakes"] <= MOST_TIMES * first["seconds"] / first["fakes"]
    return times and last["peak_rss_mb"] <= first["peak_rss_mb"] + MOST_MORE_MB


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| fakes kept | draws | seconds | ms a kept fake | draws a second | peak memory | file |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        lines.append(
            f"| {row['fakes']:.0f} | {row['draws']:.0f} | {row['seconds']:.2f} |"
            f" {1000 * row['seconds'] / row['fakes']:.3f} | {row['draws'] / row['seconds']:.0f} |"
            f" {row['peak_rss_mb']:.0f} MB | {row['file_mb']:.0f} MB |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--size", type=int, help="one size alone, as JSON")
    options = parser.parse_args()
    set_threads()
    print(json.dumps(build_pool(options.size, False)) if options.size else table(compare(options.quick)))
