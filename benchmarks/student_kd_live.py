"""Training of ResNet-20 at 32 px with Hinton's loss from ResNet-32x4, run on each augmented batch."""

from __future__ import annotations

from benchmarks import student_training
from benchmarks.timing import Agreement, Case, Side, Work, main


def build(side: Side, quick: bool) -> Work:
    return student_training.build(side, quick, "resnet32x4")


def agree(quick: bool) -> list[Agreement]:
    return student_training.agree(quick, "resnet32x4", student_training.BATCH)


CASE = Case(
    "student_kd_live",
    "Student ResNet-20 from ResNet-32x4, KD, teacher_view augmented",
    None,
    build,
    agree,
    repeats={"plain": 3, "fast": 20},
)

if __name__ == "__main__":
    main(CASE)
