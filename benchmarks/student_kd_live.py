"""Training of ResNet-20 at 32 px with Hinton's loss from ResNet-32x4, which runs at each step."""

from __future__ import annotations

from benchmarks.student_training import case
from benchmarks.timing import main

CASE = case("student_kd_live", "resnet20", "resnet32x4", cached=False)

if __name__ == "__main__":
    main(CASE)
