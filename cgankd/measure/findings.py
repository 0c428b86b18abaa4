"""One number of an audit with a reference for scale, what it says, and whether it is alarming.

The reference is the same number for real images that nobody doubts (training against validation images), so that a
figure in an unknown feature space can be read at all. Limits are rules of thumb, not theorems.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FAR = 2.0
"""A distance this many times its reference is alarming."""
LACK = 0.2
"""A share (precision, recall) this far under its reference is alarming."""
TELLING = 0.15
"""An AUC this far over its reference is alarming."""
COPIED = 3.0
"""This many times the share of close neighbours that real images have is alarming."""
UNVARIED, UNEVEN = 0.5, 0.8
"""Alarming shares of the pixel diversity and of the entropy of validation images; less is alarming."""
MISLABELLED = 1.5
"""A label error of the fakes this many times that of validation images is alarming."""


@dataclass(frozen=True)
class Finding:
    """A number, the same number of real images (None where there is none), its meaning, and the alarm in words or ""."""

    name: str
    value: float
    reference: float | None
    says: str
    alarm: str = ""


def over(value: float, reference: float, times: float, slack: float = 0.0) -> str:
    """Alarm where the value is over `times` its reference (a negative one counts as 0) and `slack` on top."""
    limit = times * max(0.0, reference) + slack
    return f"over {limit:.3g}" if value > limit or math.isnan(value) else ""


def under(value: float, limit: float) -> str:
    """Alarm where the value is under a limit."""
    return f"under {limit:.3g}" if value < limit or math.isnan(value) else ""


def flat(findings: list[Finding]) -> dict[str, float]:
    """Findings as one level of metrics: <name>, <name>.reference where there is one, <name>.alarm (0 or 1)."""
    values: dict[str, float] = {}
    for finding in findings:
        values[finding.name] = finding.value
        if finding.reference is not None:
            values[f"{finding.name}.reference"] = finding.reference
        values[f"{finding.name}.alarm"] = float(bool(finding.alarm))
    return values
