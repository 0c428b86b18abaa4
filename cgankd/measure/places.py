"""How many decimals a score is shown with, so that errors far below 1 are not shown as zero."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

FEWEST, MOST = 2, 8


def places(scores: Iterable[float]) -> int:
    """Decimals that leave the smallest of these scores three digits: 2 from 1 upward, 4 for 0.05. Zeros do not count."""
    sizes = [abs(score) for score in scores if score and math.isfinite(score)]
    if not sizes:
        return FEWEST
    return min(max(FEWEST, FEWEST - math.floor(math.log10(min(sizes)))), MOST)


def places_of(result: Mapping[str, Any]) -> int:
    """Decimals for all numbers of a table with the arm `real`, such as evaluate.json: those of the error of `real`."""
    return places([result["arms"]["real"]["mean"]] if "real" in result["arms"] else [])


def with_ends(entry: Mapping[str, Any], key: str, decimals: int, *, unit: str = "", comma: str = ", ") -> str:
    """A gain with its interval, "+1.23 points [+0.45, +2.01]", from `key`, `key_low` and `key_high`."""
    numbers = [f"{entry[name]:+z.{decimals}f}" for name in (key, f"{key}_low", f"{key}_high")]
    return f"{numbers[0]}{unit and f' {unit}'} [{numbers[1]}{comma}{numbers[2]}]"
