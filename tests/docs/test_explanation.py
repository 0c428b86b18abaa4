"""The explanations: what they quote of the code is what the code says."""

from __future__ import annotations

import re

from cgankd.measure import verdict
from cgankd.measure.predictive import Gain
from cgankd.measure.verdict import Choice
from cgankd.types import Headline
from tests.conftest import ROOT

PAGE = (ROOT / "docs/explanation/verdict.md").read_text(encoding="utf-8")
NUMBERS = {5: "five", 6: "six", 7: "seven"}


def heads_in_the_code() -> set[str]:
    """How `verdict` begins where an arm with fakes is proved better than both rivals, than one, than none, is worse, where there
    are too few seeds, and where no arm has fakes."""
    error = Headline(name="test error", unit="%", higher_is_better=False)
    scores = {
        "both": ([10.0, 10.1, 9.9], [9.0, 9.1, 8.9], [5.0, 5.2, 4.9]),
        "plain": ([10.0, 10.1, 9.9], [5.0, 5.1, 4.9], [5.1, 4.9, 5.0]),
        "none": ([10.0, 10.1, 9.9], [10.0, 10.1, 9.9], [10.1, 9.9, 10.0]),
        "worse": ([10.0, 10.1, 9.9], [9.0, 9.1, 8.9], [15.0, 15.2, 14.9]),
        "few": ([10.0, 10.1], [9.0, 9.1], [5.0, 5.2]),
    }
    found = set()
    for real, best, bank in scores.values():
        said = verdict.verdict(Choice("raw", "raw", "best"), {"real": real, "best": best, "raw": bank}, error, 0.95)
        found.add(re.sub(r"^\d+ ", "N ", said.split(": ")[0]))
    said = verdict.verdict(Choice("best", None, "best"), {"real": [1.0, 2.0], "best": [1.0, 2.0]}, error, 0.95)
    return found | {said.split(";")[0]}


def test_every_head_of_the_verdict_is_explained() -> None:
    table = re.search(r"^\| head \| when \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table is not None
    rows = [row.split(" | ")[0].removeprefix("| ") for row in table[1].splitlines()]
    assert len(rows) == len(set(rows)) and set(rows) == heads_in_the_code()
    assert f"begins with one of {NUMBERS[len(rows)]} heads" in PAGE


def test_words_on_a_gain_are_explained() -> None:
    """Each way in which a gain is described ends with words of the table."""
    cases = [((1.0,) * 3, 0.5, 1.5), ((1.0,) * 3, -0.5, 2.5), ((-1.0,) * 3, -1.5, -0.5), ((1.0,) * 2, 0.5, 1.5)]
    for values, low, high in cases:
        said = verdict.describe(Gain(values[0], low, high, values), "%").split("], ")[1]
        assert f"\n| {said} | " in PAGE
