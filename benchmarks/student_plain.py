"""Training of ResNet-20 at 32 px, batch 64, without a teacher."""

from __future__ import annotations

from benchmarks import student_training
from benchmarks.timing import Agreement, Case, Side, Work, main


def build(side: Side, quick: bool) -> Work:
    return student_training.build(side, quick, None)


def agree(quick: bool) -> list[Agreement]:
    return student_training.agree(quick, "resnet20", student_training.BATCH)


CASE = Case("student_plain", "Student ResNet-20, batch 64, plain", 3.0, build, agree, repeats={"plain": 3, "fast": 20})

if __name__ == "__main__":
    main(CASE)
