"""The verdict over families of arms: fakes are not credited with what unlabelled images brought, nor the other way round."""

from __future__ import annotations

import pytest

from cgankd.measure.verdict import Choice, choose, verdict
from cgankd.types import Headline

ERROR = Headline("test error", "%", higher_is_better=False)
WOBBLE = (0.0, 0.1, -0.1, 0.05)


def at(**means: float) -> dict[str, list[float]]:
    """Scores of four seeds around a mean, paired: differences of two arms hardly vary."""
    return {name: [mean + w * (1 + place / 50) for w in WOBBLE] for place, (name, mean) in enumerate(means.items())}


BANK = {"real": False, "real_kd": False, "filter": True, "unlabelled": False, "both": True}
MORE = {"real": False, "real_kd": False, "filter": False, "unlabelled": True, "both": True}


def test_each_family_has_its_best_arm_and_the_best_of_all_ships() -> None:
    val = at(real=30, real_kd=28, filter=29, unlabelled=25, both=24)
    assert choose(val, BANK, ERROR, MORE) == Choice("both", "filter", "real_kd", "unlabelled", "both")


@pytest.mark.parametrize(
    ("scores", "ships"),
    [
        ({"real": 30, "real_kd": 28, "filter": 28, "unlabelled": 28, "both": 28}, "real_kd"),
        ({"real": 30, "real_kd": 28, "filter": 27, "unlabelled": 27, "both": 27}, "unlabelled"),
        ({"real": 30, "real_kd": 28, "filter": 27, "unlabelled": 29, "both": 27}, "filter"),
    ],
)
def test_of_equal_arms_the_one_with_less_ships(scores: dict[str, float], ships: str) -> None:
    val = {name: [value, value] for name, value in scores.items()}
    assert choose(val, BANK, ERROR, MORE).chosen == ships


def test_without_unlabelled_images_all_is_as_it_was() -> None:
    val = at(real=30, real_kd=28, filter=26)
    choice = choose(val, BANK, ERROR)
    assert choice == Choice("filter", "filter", "real_kd") == choose(val, BANK, ERROR, MORE)
    text = verdict(choice, val, ERROR, 0.95)
    assert text.startswith("The bank helps: filter gains +4.00 points [")
    assert text.endswith("ship filter, with the bank (best on validation).") and "unlabelled" not in text
    worse = verdict(
        choose(at(real=30, real_kd=28, filter=29), BANK, ERROR), at(real=30, real_kd=28, filter=29), ERROR, 0.95
    )
    assert "ship real_kd, without the bank (best on validation)." in worse


def test_what_unlabelled_images_brought_is_not_the_fakes() -> None:
    """Both is far ahead of real images alone, but no better than unlabelled images alone."""
    test = at(real=30, real_kd=28, filter=28.0, unlabelled=24, both=24.0)
    test["both"] = [value + wobble for value, wobble in zip(test["unlabelled"], (0.1, -0.1, 0.1, -0.1), strict=True)]
    text = verdict(choose(test, BANK, ERROR, MORE), test, ERROR, 0.95)
    head, _, numbers = text.partition(": ")
    assert head == (
        "Unlabelled images help; the bank helps against the plain student, but is not shown to beat the best real-only one;"
        " fakes are not shown to add to them"
    )
    assert "unlabelled gains +6.00 points" in numbers and "over real and +4.00 points" in numbers
    assert "both gains +0.00 points" in numbers and "over unlabelled (95 %" in numbers
    assert "both gains" in numbers and "over real_kd" not in numbers[numbers.index("both gains") :]
    assert "ship unlabelled, with unlabelled images, without fakes (best on validation)" in text


def test_what_fakes_add_to_unlabelled_images_is_theirs() -> None:
    test = at(real=30, real_kd=28, filter=29, unlabelled=24, both=22)
    text = verdict(choose(test, BANK, ERROR, MORE), test, ERROR, 0.95)
    assert "fakes add to unlabelled images" in text and "both gains +2.00 points" in text
    assert "ship both, with unlabelled images and the bank" in text
    harmful = at(real=30, real_kd=28, filter=29, unlabelled=24, both=26)
    assert "fakes take away from unlabelled images" in verdict(choose(harmful, BANK, ERROR, MORE), harmful, ERROR, 0.95)


def test_only_unlabelled_images_and_only_both() -> None:
    test = at(real=30, real_kd=28, unlabelled=31)
    text = verdict(choose(test, BANK, ERROR, MORE), test, ERROR, 0.95)
    assert text.startswith("Unlabelled images hurt: ") and text.endswith(
        "ship real_kd, on real images alone (best on validation)."
    )
    mixed = at(real=30, real_kd=28, both=24)
    text = verdict(choose(mixed, BANK, ERROR, MORE), mixed, ERROR, 0.95)
    assert text.startswith(
        "What fakes and what unlabelled images bring is not told apart, as no arm has those alone: both gains"
    )


def test_two_seeds_prove_nothing() -> None:
    test = {name: values[:2] for name, values in at(real=30, real_kd=28, filter=26, unlabelled=24, both=22).items()}
    text = verdict(choose(test, BANK, ERROR, MORE), test, ERROR, 0.95)
    assert text.startswith("2 seeds are too few to say whether unlabelled images help; 2 seeds are too few")
    assert "nor whether fakes add" in text and "proved over" not in text
