"""The same step at the pool of the paper's presets: 5120 fakes, drawn anew every 20 steps, so that each is seen once."""

from __future__ import annotations

from pathlib import Path

from benchmarks import ratio_step
from benchmarks.timing import Case, Side, Work, main
from pipelines.files.params import load_config

PRESETS = Path(__file__).parent.parent / "pipelines" / "presets"
PRESET = "cifar10-50k"


def build(side: Side, quick: bool) -> Work:
    if quick:
        return ratio_step.build(side, quick, pool_size=32, pool_refresh_steps=2)
    cfg = load_config(PRESETS / f"{PRESET}.yaml").ratio
    return ratio_step.build(side, quick, pool_size=cfg.pool_size, pool_refresh_steps=cfg.pool_refresh_steps)


CASE = Case(
    "ratio_step_preset",
    f"Ratio network, one step, batch 256, pool of {PRESET}",
    40.0,
    build,
    ratio_step.agree,
    warmup={"plain": 0, "fast": 1},
    repeats={"plain": 3, "fast": 3},
    rounds=1,
)

if __name__ == "__main__":
    main(CASE)
