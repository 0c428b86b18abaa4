"""One thing that the doctor looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing looked at: "ok", "warning", or "problem", which blocks a run; the last two come with a cure."""

    name: str
    level: Literal["ok", "warning", "problem"]
    text: str
    cure: str = ""
