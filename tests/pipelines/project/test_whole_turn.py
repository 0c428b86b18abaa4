"""Which labels `init` asks about because they fill a whole turn, and which it leaves alone."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from cgankd.config import ConfigError
from pipelines.project.fitted import fitted
from pipelines.project.init import Wish, make_plan, summary
from pipelines.project.own_data import look_at_csv
from pipelines.project.whole_turn import class_question, named_turn, question, whole_turn
from tests.pipelines.project.test_init import folders, listed

RNG = np.random.default_rng(0)
ROUND = {
    "0 to 360": (RNG.uniform(0, 360, 100), 360),
    "0 to 359": (np.arange(360), 360),
    "0 to 350 by ten": (np.arange(0, 360, 10), 360),
    "0 to 360 by ten": (np.arange(0, 361, 10), 360),
    "forty angles": (RNG.uniform(0, 360, 40), 360),
    "-180 to 180": (np.arange(-180, 181), 360),
    "0 to 9.9": (np.arange(0, 100) / 10, 10),
    "hours": (RNG.uniform(0, 24, 100), 24),
    "whole hours": (np.arange(24), 24),
    "half days": (np.arange(0, 12.1, 0.5), 12),
    "radians": (RNG.uniform(0, 2 * math.pi, 200), 2 * math.pi),
    "radians about 0": (RNG.uniform(-math.pi, math.pi, 200), 2 * math.pi),
    "hues of eight bits": (np.arange(180), 180),
    "days": (np.arange(1, 366), 365),
}
STRAIGHT = {
    "percent": np.arange(101),
    "shares": RNG.uniform(0, 1, 200),
    "ages": np.arange(1, 61),
    "more ages": np.arange(100),
    "marks": np.arange(0, 10.1, 0.5),
    "marks by tenths": np.arange(0, 101) / 10,
    "measured to 10": RNG.uniform(0, 10, 300),
    "votes": np.arange(10, 100) / 10,
    "yaw": np.arange(1, 900) / 10,
    "steering": np.arange(-80, 81),
    "half a circle": np.arange(181),
    "levels": np.arange(256),
    "seconds": np.arange(60),
    "bell": RNG.normal(size=300),
    "a part": np.arange(15, 300),
    "few": np.arange(0, 360, 45),
}


@pytest.mark.parametrize("name", ROUND)
def test_labels_that_fill_a_turn_are_asked_about(name: str) -> None:
    labels, period = ROUND[name]
    turn = whole_turn(labels.tolist())
    assert turn is not None and turn.period == period
    (line,) = question(labels.tolist())
    assert f"add --label-period {period:.9g};" in line and f"{labels.min():g} to {labels.max():g}" in line
    # The switch as it is printed is the turn to all digits that labels have.
    assert float(line.split("--label-period ")[1].split(";")[0]) == pytest.approx(period, rel=1e-8)


@pytest.mark.parametrize("name", STRAIGHT)
def test_other_labels_are_left_alone(name: str) -> None:
    assert whole_turn(STRAIGHT[name].tolist()) is None and question(STRAIGHT[name].tolist()) == []


def test_init_asks_in_its_summary_and_takes_the_period(tmp_path: Path) -> None:
    source = listed(tmp_path / "in", [f"{value / 10:g}" for value in range(100)])
    asked = summary(make_plan(tmp_path / "p", None, source))
    assert sum(line.startswith("QUESTION: ") for line in asked) == 1
    plan = make_plan(tmp_path / "p", None, source, Wish(label_period=10.0))
    said = summary(plan)
    assert not any(line.startswith("QUESTION") for line in said)
    assert "labels go round in 10: a turn is taken from 0 to 10" in said
    values = fitted(plan.data, 16)
    assert (values["data.label_min"], values["data.label_max"], values["data.label_period"]) == (0.0, 10.0, 10.0)
    assert 10 / values["bank.label_bin"] == pytest.approx(round(10 / values["bank.label_bin"]), rel=0.05)
    assert "data.label_period" not in fitted(look_at_csv(source, None), 16)


def test_labels_of_other_turns_are_counted_and_whole_numbers_are_measured(tmp_path: Path) -> None:
    source = listed(tmp_path / "in", [str(30 * (value % 12) + 360 * (value % 12 == 0)) for value in range(72)])
    assert not look_at_csv(source, None).scalar
    plan = make_plan(tmp_path / "p", None, source, Wish(label_period=360.0))
    assert plan.data.scalar and plan.data.why == "--label-period 360"
    assert (
        "labels go round in 360: a turn is taken from 0 to 360; 6 labels of other turns are brought to it"
        in summary(plan)
    )


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(label_period=-1.0), "must be a positive number"),
        (Wish(label_period=math.nan), "must be a positive number"),
        (Wish(label_period=360.0, task="class"), "is for measured labels"),
    ],
)
def test_periods_that_make_no_sense_are_refused(tmp_path: Path, wish: Wish, words: str) -> None:
    source = listed(tmp_path / "in", [str(value) for value in range(60)])
    with pytest.raises(ConfigError, match=words):
        make_plan(tmp_path / "p", None, source, wish)
    assert not (tmp_path / "p").exists()


def test_folders_are_classes_and_do_not_go_round(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="comes? from --csv FILE"):
        make_plan(tmp_path / "p", tmp_path, None, Wish(label_period=360.0))


NAMED = {
    "months": (range(1, 13), 12),
    "half days": (range(12), 12),
    "hours": (range(24), 24),
    "hours by six": (range(0, 24, 6), 24),
    "rotations": (range(0, 360, 90), 360),
    "rotations to both ends": (range(0, 361, 45), 360),
    "headings": (range(-135, 181, 45), 360),
    "headings to both ends": (range(-180, 181, 45), 360),
    "degrees": (range(360), 360),
    "hours but one": ([hour for hour in range(24) if hour != 3], 24),
}
NAMES = {
    "digits": range(10),
    "eleven": range(11),
    "thirteen": range(13),
    "from two": range(2, 14),
    "half turns": range(0, 360, 180),
    "ages": range(1, 61),
    "years": range(2000, 2012),
    "levels": range(0, 101, 25),
}


@pytest.mark.parametrize("name", NAMED)
def test_classes_called_as_the_steps_of_a_turn_are_asked_about(name: str) -> None:
    numbers, period = NAMED[name]
    names = sorted(f"{value:02d}" for value in numbers)
    turn = named_turn(names)
    assert turn is not None and turn.period == period
    for in_list, cure in (
        (True, "; if .* lies beside .*, add --label-period"),
        (False, "use --csv with --label-period"),
    ):
        (line,) = class_question(names, listed=in_list)
        assert re.search(f"{cure} {period};", line) and f"The {len(names)} classes from {min(numbers)} to " in line


@pytest.mark.parametrize("name", NAMES)
def test_other_classes_called_by_numbers_are_left_alone(name: str) -> None:
    names = list(map(str, NAMES[name]))
    assert named_turn(names) is None and class_question(names, listed=True) == []


def test_a_class_with_a_word_fills_no_turn() -> None:
    assert named_turn([*map(str, range(12)), "none"]) is None
    assert named_turn([*map(str, range(12)), "1.5"]) is None


def test_init_asks_about_months_as_classes_unless_told(tmp_path: Path) -> None:
    months = [str(1 + row % 12) for row in range(72)]
    source = listed(tmp_path / "in", months)
    plan = make_plan(tmp_path / "p", None, source)
    assert not plan.data.scalar
    (line,) = [line for line in summary(plan) if line.startswith("QUESTION")]
    assert "add --label-period 12;" in line
    assert not any("QUESTION" in line for line in summary(make_plan(tmp_path / "p", None, source, Wish(task="class"))))
    assert make_plan(tmp_path / "p", None, source, Wish(label_period=12.0)).data.scalar
    of_folders = summary(
        make_plan(tmp_path / "p", folders(tmp_path / "hours", {f"{hour}": 5 for hour in range(24)}), None)
    )
    assert sum("use --csv with --label-period 24;" in line for line in of_folders) == 1
