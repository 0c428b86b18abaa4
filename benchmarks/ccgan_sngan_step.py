"""Training of CcGAN's SNGAN at 64 px (ch 64): two steps of the discriminator and one of the generator, batch 64."""

from __future__ import annotations

from benchmarks import gan_training
from benchmarks.timing import Agreement, Case, Side, Work, main


def build(side: Side, quick: bool) -> Work:
    return gan_training.build(side, quick, "sngan", 16 if quick else 64, 2, scalar=True)


def agree(quick: bool) -> list[Agreement]:
    return gan_training.agree(quick, "sngan", 16 if quick else 64, scalar=True)


CASE = Case(
    "ccgan_sngan_step",
    "CcGAN SNGAN 64 px, ch 64, training, 2 D + 1 G steps, batch 64",
    4.0,
    build,
    agree,
    warmup={"plain": 0, "fast": 2},
    repeats={"plain": 3, "fast": 3},
    rounds=1,
)

if __name__ == "__main__":
    main(CASE)
