"""Learning-rate schedules as functions of the step: multiply the peak rate by what these return."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def make_schedule(name: str, num_steps: int, milestones: Sequence[float] = ()) -> Callable[[int], float]:
    """The factor for step 0..num_steps-1.

    onecycle (linear up over 25 %, cosine down), cosine, constant, or multistep: a tenth from each milestone on, which
    is a share of the steps.
    """

    def cosine(done: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def onecycle(step: int) -> float:
        warm = max(1, num_steps // 4)
        if step < warm:
            return (step + 1) / warm
        return cosine((step - warm) / max(1, num_steps - warm))

    def multistep(step: int) -> float:
        return math.prod(0.1 for share in milestones if step >= round(share * num_steps))

    return {
        "onecycle": onecycle,
        "cosine": lambda step: cosine(step / num_steps),
        "constant": lambda step: 1.0,
        "multistep": multistep,
    }[name]
