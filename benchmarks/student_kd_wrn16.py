"""Training of WRN-16-2 at 32 px with Hinton's loss from WRN-40-2, whose outputs are cached."""

from __future__ import annotations

from benchmarks import student_training
from benchmarks.timing import Agreement, Case, Side, Work, main


def build(side: Side, quick: bool) -> Work:
    return student_training.build(side, quick, "wrn40-2", cached=True, net="wrn16-2")


def agree(quick: bool) -> list[Agreement]:
    return student_training.agree(quick, "wrn40-2")


CASE = Case(
    "student_kd_wrn16",
    "Student WRN-16-2 from WRN-40-2, KD, teacher_view clean (cached, another method)",
    None,
    build,
    agree,
    repeats={"plain": 3, "fast": 20},
)

if __name__ == "__main__":
    main(CASE)
