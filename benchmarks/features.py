"""The feature extractor of M1 as the ratio stage builds and runs it (ResNet-34 to C*H*W features), 32 px, batch 256."""

from __future__ import annotations

from functools import partial

from benchmarks.ratio_step import flop, parts
from benchmarks.subjects import class_data
from benchmarks.timing import Agreement, Case, Side, Work, main, relative_error, repeated


def build(side: Side, quick: bool) -> Work:
    images = class_data(32, 16 if quick else 256)[0].images
    cost, precision = flop(quick).features * len(images), "fp32" if side == "plain" else "auto"
    work = partial(parts(side, quick)[1], images)
    return Work(repeated(work), len(images), precision, cost)


def agree(quick: bool) -> list[Agreement]:
    images = class_data(32, 16 if quick else 256)[0].images
    found, expected = (parts(side, quick)[1](images) for side in ("fast", "plain"))  # type: ignore[arg-type]
    return [Agreement("features, relative error", relative_error(found, expected), 0.05)]


CASE = Case(
    "features",
    "Feature extractor ResNet-34, 32 px, batch 256",
    None,
    build,
    agree,
    {"plain": 0, "fast": 3},
    {"plain": 3, "fast": 10},
)

if __name__ == "__main__":
    main(CASE)
