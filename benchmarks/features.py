"""The feature extractor of M1 (a ResNet-34 to C*H*W features) on uint8 images of 32 px, batch 256."""

from __future__ import annotations

from functools import partial

from benchmarks.ratio_step import NUM_FEATURES, parts
from benchmarks.subjects import class_data, predictor
from benchmarks.timing import Agreement, Case, Side, Work, main, relative_error, repeated
from cgankd.data.pixels import to_unit
from cgankd.fit.device import forward_flop


def build(side: Side, quick: bool) -> Work:
    images = class_data(32, 16 if quick else 256)[0].images
    net = predictor("resnet34", 32, 64 if quick else NUM_FEATURES, quick=quick)
    flop = forward_flop(net, to_unit(images[:2])) / 2 * len(images)
    precision = "fp32" if side == "plain" else "auto"
    return Work(repeated(partial(parts(side, quick)[1], images)), len(images), precision, flop)


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
    {"plain": 2, "fast": 10},
)

if __name__ == "__main__":
    main(CASE)
