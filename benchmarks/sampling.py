"""Sampling from BigGAN at 32 px (ch 64), batch 256."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks import plain
from benchmarks.peak import work_flop
from benchmarks.subjects import class_data, gan_config, generator_net
from benchmarks.timing import Agreement, Case, Side, Work, fast_plan, main, relative_error, repeated
from cgankd.gan.sample import make_draw
from cgankd.rng import generator, seed_all
from cgankd.types import Draw


def make(side: Side, quick: bool) -> tuple[Draw, float]:
    """The draw of a side, and the operations of one image."""
    cfg = gan_config("biggan", quick=quick)
    net = generator_net(cfg, 32)
    seed_all("embed")
    embed = class_data(32, 16)[1].label_embed(cfg.embed_dim).requires_grad_(False)
    flop = work_flop(net, torch.zeros(2, cfg.z_dim), torch.zeros(2, cfg.embed_dim)) / 2
    if side == "plain":
        return plain.sampler(net, embed, cfg.z_dim), flop
    return make_draw(net, embed, z_dim=cfg.z_dim, precision="auto", plan=fast_plan(quick), expected=10**6), flop


def build(side: Side, quick: bool) -> Work:
    draw, flop = make(side, quick)
    num = 16 if quick else 256
    label_B, gen = torch.arange(num) % 10, generator("sampling")
    precision = "fp32" if side == "plain" else "auto"
    return Work(repeated(partial(draw, label_B, gen)), num, precision, flop * num)


def agree(quick: bool) -> list[Agreement]:
    label_B = torch.arange(16 if quick else 256) % 10
    images = [make(side, quick)[0](label_B, generator("agree")).float() - 127.5 for side in ("plain", "fast")]  # type: ignore[arg-type]
    return [Agreement("pixels, relative error", relative_error(images[1], images[0]), 0.05)]


CASE = Case(
    "sampling",
    "BigGAN 32 px, ch 64, sampling, batch 256",
    15.0,
    build,
    agree,
    {"plain": 0, "fast": 3},
    {"plain": 3, "fast": 10},
)

if __name__ == "__main__":
    main(CASE)
