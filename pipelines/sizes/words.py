"""What the sizes answer, in sentences: which student is needed, and which one fits a limit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cgankd.measure.front import Candidate, best, within
from cgankd.measure.places import places
from cgankd.measure.verdict import LEAST_SEEDS
from pipelines.sizes.costs import ON_DEVICE
from pipelines.sizes.plan import Size

OPTIONS = {"bytes": "--max-bytes", "ram": "--max-ram", "ms": "--max-ms"}


def score_text(result: Mapping[str, Any], value: float) -> str:
    """A validation score with its unit."""
    dec = places([row["val"] for row in result["sizes"]])
    return f"{value:.{dec}f} {result['headline']['unit']}"


def cost_text(axis: str, value: float) -> str:
    """A cost with its unit, bytes in thousands."""
    if axis in ("bytes", "ram"):
        return f"{value / 1000:,.1f} kB"
    if axis == "multiplications":
        return f"{value / 1e6:,.2f} million"
    return f"{value:.3f} ms"


def sized(result: Mapping[str, Any], name: str) -> str:
    """A size with its bytes and score: "ds-cnn 16 (8.1 kB, 12.30 % by filter_kd)"."""
    row, key = row_named(result, name), result["costs"]["bytes"]
    cost = cost_text("bytes", row["costs"][key]) if key in row["costs"] else "no int8 file"
    int8 = f", {score_text(result, row['int8_val'])} in int8" if "int8_val" in row else ""
    return f"{name} ({cost}, {score_text(result, row['val'])} by {row['best_arm']}{int8})"


def row_named(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The row of a size."""
    return next(row for row in result["sizes"] if row["name"] == name)


def candidates_of(rows: Sequence[Mapping[str, Any]], *, int8: bool = False) -> list[Candidate]:
    """Sizes as they are compared: by the values of their better arm, in int8 with what the int8 file loses added to each.

    A cost that is not known of a size is infinite, so that no limit lets it in.
    """
    unknown = {key: math.inf for row in rows for key in row["costs"]}
    found = []
    for row in rows:
        loss = row["int8"]["loss"] if int8 and "int8" in row else 0.0
        values = tuple(value + loss for value in row["arms"][row["best_arm"]]["val_values"])
        found.append(Candidate(row["name"], values, unknown | row["costs"]))
    return found


def answer(result: Mapping[str, Any]) -> str:
    """Which student is needed, and at how many sizes the first arm is better than the other."""
    seeds, top, least = len(result["seeds"]), result["best"], result["enough"]
    teacher = score_text(result, result["teacher"]["val"])
    kind = result["costs_are"][result["costs"]["bytes"]]
    if least == top:
        said = f"The best student on validation is {sized(result, top)}, and every smaller one is shown to be worse"
    else:
        said = (
            f"You need {sized(result, least)}: of {len(result['sizes'])} sizes it is the smallest that the best,"
            f" {sized(result, top)}, is not shown to beat"
        )
    few = "" if seeds >= LEAST_SEEDS else f", which is little with {seeds} seeds"
    how = f"({100 * result['confidence']:.0f} % paired intervals over {seeds} seeds on validation{few}; bytes: {kind})"
    return f"{said} {how}; the teacher has {teacher}.{_arms(result)}"


def _arms(result: Mapping[str, Any]) -> str:
    """How often the first arm beats the other, as a sentence."""
    rows = [row for row in result["sizes"] if "gain" in row]
    if not rows:
        return ""
    first, rival = result["arms"]
    up, down = sum(row["gain_low"] > 0 for row in rows), sum(row["gain_high"] < 0 for row in rows)
    worse = f", shown to be worse at {down}" if down else ""
    return f" {first} is shown to be better than {rival} at {up} of {len(rows)} sizes{worse}."


def fitting(result: Mapping[str, Any], limits: Mapping[str, float]) -> tuple[str | None, str]:
    """The best size on validation within limits by axis, None where none fits, and the sentence that says so.

    Where a limit is on the int8 file, sizes are compared by its error.
    """
    keys = {axis: result["costs"][axis] for axis in limits}
    int8 = bool(ON_DEVICE & set(keys.values()))
    candidates = candidates_of(result["sizes"], int8=int8)
    kept = within(candidates, {keys[axis]: most for axis, most in limits.items()})
    size, higher = result["costs"]["bytes"], bool(result["headline"]["higher_is_better"])
    asked = " and ".join(
        f"{OPTIONS[axis]} {most:,.12g} ({result['costs_are'][keys[axis]]})" for axis, most in limits.items()
    )
    if not kept:
        smallest = {axis: min(candidates, key=lambda c: c.costs[keys[axis]]) for axis in limits}
        least = "; ".join(
            f"the least by {OPTIONS[axis]} is {one.name} with {cost_text(axis, one.costs[keys[axis]])}"
            for axis, one in smallest.items()
        )
        said = f"None of {len(candidates)} sizes fits {asked}: {least}; add smaller widths to sizes.nets."
        return None, said
    chosen = best(kept, size, higher_is_better=higher)
    row = row_named(result, chosen.name)
    options = Size(row["net"], row["width"]).settings()
    said = (
        f"Of {len(candidates)} sizes {len(kept)} fit {asked}: {sized(result, chosen.name)} is the best of them on"
        f" validation{' in int8' if int8 else ''}; ship it by `cgankd run --from student {options}`."
    )
    return chosen.name, said
