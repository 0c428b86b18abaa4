"""Training of ResNet-20 at 32 px with Hinton's loss from WRN-40-2, whose outputs are cached."""

from __future__ import annotations

from benchmarks.student_training import case
from benchmarks.timing import main

CASE = case("student_kd_wrn", "resnet20", "wrn40-2", cached=True)

if __name__ == "__main__":
    main(CASE)
