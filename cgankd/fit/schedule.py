"""Learning-rate schedules as functions of the step: multiply the peak rate by what these return."""

from __future__ import annotations

import math
from collections.abc import Callable


def make_schedule(name: str, num_steps: int) -> Callable[[int], float]:
    """The factor for step 0..num_steps-1: onecycle (linear up over 25 %, cosine down), cosine, or constant."""

    def cosine(done: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def onecycle(step: int) -> float:
        warm = max(1, num_steps // 4)
        if step < warm:
            return (step + 1) / warm
        return cosine((step - warm) / max(1, num_steps - warm))

    return {"onecycle": onecycle, "cosine": lambda s: cosine(s / num_steps), "constant": lambda s: 1.0}[name]
