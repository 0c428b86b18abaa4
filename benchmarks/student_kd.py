"""Training of ResNet-20 at 32 px with Hinton's loss from ResNet-32x4, whose outputs are cached."""

from __future__ import annotations

from benchmarks.student_training import case
from benchmarks.timing import main

CASE = case("student_kd", "resnet20", "resnet32x4", cached=True, target=8.0)

if __name__ == "__main__":
    main(CASE)
