"""Training of BigGAN at 32 px (ch 64): one step of the discriminator and one of the generator, batch 64."""

from __future__ import annotations

from benchmarks import gan_training
from benchmarks.timing import Agreement, Case, Side, Work, main


def build(side: Side, quick: bool) -> Work:
    return gan_training.build(side, quick, "biggan", 16 if quick else 32, 1, scalar=False)


def agree(quick: bool) -> list[Agreement]:
    return gan_training.agree(quick, "biggan", 16 if quick else 32, scalar=False)


CASE = Case(
    "biggan_step",
    "BigGAN 32 px, ch 64, training, 1 D + 1 G step, batch 64",
    4.0,
    build,
    agree,
    {"plain": 0, "fast": 2},
    {"plain": 3, "fast": 5},
    rounds=1,
)

if __name__ == "__main__":
    main(CASE)
