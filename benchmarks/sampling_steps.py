"""Sampling from BigGAN at 32 px (ch 64), batch 256, one measure after the other: what each of them brings.

Every row is a process of its own: the first with the default allocator, the others with the settings a stage gives itself.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.place import place
from benchmarks.sides import child
from benchmarks.subjects import class_data, gan_config, generator_net
from benchmarks.timing import fast_plan, repeated
from cgankd.data.pixels import signed_to_u8
from cgankd.fit.device import autocast, channels_last
from cgankd.gan.sample import make_draw
from cgankd.nets.gans.spectral import fold_spectral
from cgankd.rng import generator, seed_all
from cgankd.types import Draw
from pipelines.runtime.machine import set_threads

TITLE = "Sampling from BigGAN 32 px, ch 64, batch 256: what each measure brings"
REPEATS = 3


@dataclass(frozen=True)
class Measures:
    """What is done to the plain way."""

    large_blocks: bool = True
    tf32: bool = True
    """On a CUDA device torch rounds the convolutions of float32 nets so by default."""
    fold: bool = False
    channels_last: bool = False
    precision: str = "fp32"
    compile: bool = False


STEPS = {
    "fp32, eager, default allocator": Measures(large_blocks=False),
    "large blocks kept (malloc)": Measures(),
    "+ spectral norms folded": Measures(fold=True),
    "+ channels last": Measures(fold=True, channels_last=True),
    "large blocks, bf16 alone": Measures(precision="auto"),
    "large blocks, folded, channels last, bf16": Measures(fold=True, channels_last=True, precision="auto"),
    "+ compiled (what a stage does)": Measures(fold=True, channels_last=True, precision="auto", compile=True),
}
if place() == "cuda":
    STEPS = {"fp32, eager, no TF32": Measures(tf32=False)} | STEPS


def make(measures: Measures, quick: bool) -> Draw:
    """The draw with these measures and no others."""
    torch.backends.cudnn.allow_tf32 = measures.tf32
    cfg = gan_config("biggan", quick=quick)
    net = generator_net(cfg, 32)
    seed_all("embed")
    embed = class_data(32, 16)[1].label_embed(cfg.embed_dim).requires_grad_(False)
    if measures.compile:
        return make_draw(net, embed, z_dim=cfg.z_dim, precision="auto", plan=fast_plan(quick), expected=10**6)
    net = copy.deepcopy(net).eval()
    net = (channels_last(net) if measures.channels_last else plain.nchw(net)).to(place())
    embed.to(place())
    run = fold_spectral(net) if measures.fold else net

    @torch.no_grad()
    def draw(label_B: Tensor, gen: torch.Generator) -> Tensor:
        with autocast(measures.precision, place()):
            z_BZ = torch.randn(len(label_B), cfg.z_dim, generator=gen).to(place())
            return signed_to_u8(run(z_BZ, embed(label_B.to(place())))).cpu()

    return draw


def seconds(name: str, quick: bool) -> float:
    """Median time of a batch."""
    label_B = torch.arange(16 if quick else 256) % 10
    draw = partial(make(STEPS[name], quick), label_B, generator("sampling"))
    return statistics.median(repeated(draw)(1, REPEATS))


def compare(quick: bool) -> dict[str, Any]:
    """A row for each of STEPS."""
    num = 16 if quick else 256
    rows = []
    for name, measures in STEPS.items():
        took = (
            seconds(name, True)
            if quick
            else child("sampling_steps", ["--step", name], large_blocks=measures.large_blocks)
        )
        rows.append({"name": name, "seconds": took, "images_per_s": num / took})
    return {"name": "sampling_steps", "title": TITLE, "quick": quick, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["| measures | s a batch | images a second | ratio |", "|---|---|---|---|"]
    first = found["rows"][0]["images_per_s"]
    for row in found["rows"]:
        speed = row["images_per_s"]
        lines.append(f"| {row['name']} | {row['seconds']:.3g} | {speed:.1f} | {speed / first:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--step", choices=tuple(STEPS), help="one row alone, as JSON")
    options = parser.parse_args()
    set_threads()
    print(json.dumps(seconds(options.step, False)) if options.step else table(compare(options.quick)))
