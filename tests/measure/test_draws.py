"""Gains over draws against scipy, and against a table that was recorded before there was a command for it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cgankd.measure.draws import BANK, BOTH, UNLABELLED, Draw, best_shared, draws_verdict, over_draws
from cgankd.measure.verdict import Choice, choose
from cgankd.types import Headline

ERROR = Headline(name="test error", unit="%", higher_is_better=False)
REAL = [14.17, 11.49, 10.90, 11.86, 11.29]
GAINS = {  # docs/experiments/2026-11-26-digits-five-draws.md
    "real_strong": [0.52, 0.25, 2.07, 2.07, 1.65],
    "raw": [1.63, 1.23, 2.56, 1.41, 1.58],
}
RECORDED = {"real_strong": "+1.31 [+0.23, +2.39]", "raw": "+1.68 [+1.04, +2.32]"}


def draw(seed: int, test: dict[str, float], best_real: str, best_bank: str | None, chosen: str) -> Draw:
    uses = {name: name.startswith("raw") for name in test}
    val = {name: value + 1 for name, value in test.items()}
    return Draw(seed, 9.0 + seed, test, val, uses, {}, Choice(chosen, best_bank, best_real))


def recorded() -> list[Draw]:
    rows = [{"real": real} | {name: real - GAINS[name][i] for name in GAINS} for i, real in enumerate(REAL)]
    best = ["real_strong", "real", "real_strong", "real_strong", "real"]
    ships = ["raw", "raw", "real_strong", "raw", "real"]
    return [draw(i, row, best[i], "raw", ships[i]) for i, row in enumerate(rows)]


def shown(row: dict[str, float], key: str) -> str:
    return f"{row[key]:+.2f} [{row[f'{key}_low']:+.2f}, {row[f'{key}_high']:+.2f}]"


def test_gains_and_intervals_are_those_of_the_recorded_five_draws() -> None:
    found = over_draws(recorded(), ERROR, 0.95)
    assert {name: shown(found["arms"][name], "gain") for name in RECORDED} == RECORDED
    assert found["seeds"] == [0, 1, 2, 3, 4] and found["ships_bank"] == 3


def test_the_interval_over_the_rival_of_each_draw_is_that_of_a_paired_t_test() -> None:
    draws = recorded()
    found = over_draws(draws, ERROR, 0.9)["arms"]["raw"]
    rival = np.array([d.test[d.choice.best_real] for d in draws])
    bank = np.array([d.test["raw"] for d in draws])
    interval = stats.ttest_rel(rival, bank).confidence_interval(0.9)
    assert found["rival_gain"] == pytest.approx((rival - bank).mean())
    assert (found["rival_gain_low"], found["rival_gain_high"]) == pytest.approx((interval.low, interval.high))
    assert found["rival_gain_values"] == pytest.approx(list(rival - bank))
    assert found["mean"] == pytest.approx(bank.mean()) and found["sd"] == pytest.approx(bank.std(ddof=1))


def test_the_chosen_rows_take_the_arm_of_each_draw() -> None:
    draws = recorded()
    chosen = over_draws(draws, ERROR, 0.95)["chosen"]
    assert chosen["ships"]["values"] == [d.test[d.choice.chosen] for d in draws]
    assert chosen["best_real"]["arms"] == [d.choice.best_real for d in draws]
    assert "rival_gain" not in chosen["best_real"]


def test_scores_that_are_better_when_higher_gain_by_rising() -> None:
    up = Headline(name="accuracy", unit="%", higher_is_better=True)
    found = over_draws(recorded(), up, 0.95)["arms"]["raw"]
    assert found["gain"] == pytest.approx(-np.mean(GAINS["raw"]))


def test_an_arm_that_a_draw_lacks_has_no_row() -> None:
    first, second = recorded()[:2]
    scores = {"test": dict(first.test) | {"raw_kd": 1.0}, "val": dict(first.val) | {"raw_kd": 1.0}}
    more = Draw(**(vars(first) | scores | {"uses_bank": dict(first.uses_bank) | {"raw_kd": True}}))
    assert set(over_draws([more, second], ERROR, 0.95)["arms"]) == {"real", "real_strong", "raw"}


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ([2.0, 2.1, 1.9, 2.2], "The bank helps over draws"),
        ([-2.0, -2.1, -1.9, -2.2], "The bank hurts over draws"),
        ([2.0, -2.1, 1.9, -2.2], "is not shown to help"),
        ([2.0, 2.1], "too few"),
    ],
)
def test_the_verdict_goes_by_the_interval(gains: list[float], words: str) -> None:
    draws = [draw(i, {"real": 10.0 + i, "raw": 10.0 + i - g}, "real", "raw", "raw") for i, g in enumerate(gains)]
    found = over_draws(draws, ERROR, 0.95)
    assert words in draws_verdict(found, ERROR, 0.95)
    assert best_shared(found, ERROR, BANK) == "raw"


def test_it_is_said_where_the_plain_student_alone_is_beaten() -> None:
    rows = [{"real": 12.0 + i, "real_kd": 10.0 + i, "raw": 10.0 + i - e} for i, e in enumerate((0.5, -0.5, 0.4, -0.4))]
    draws = [draw(i, row, "real_kd", "raw", "raw") for i, row in enumerate(rows)]
    assert "helps against the plain student" in draws_verdict(over_draws(draws, ERROR, 0.95), ERROR, 0.95)


def test_without_arms_with_fakes_the_verdict_says_so() -> None:
    draws = [draw(i, {"real": 1.0 + i, "real_kd": 1.5 + i}, "real", None, "real") for i in range(3)]
    found = over_draws(draws, ERROR, 0.95)
    assert "best_bank" not in found["chosen"] and "No arm" in draws_verdict(found, ERROR, 0.95)


def test_an_arm_of_equal_scores_gains_nothing_and_is_said() -> None:
    """As with a few dozen test images; only an arm itself has no gain over itself."""
    draws = [draw(seed, {"real": 10.0 + seed, "raw": 10.0 + seed}, "real", "raw", "raw") for seed in range(3)]
    found = over_draws(draws, ERROR, 0.95)
    for row in (found["arms"]["raw"], found["chosen"]["best_bank"]):
        assert shown(row, "gain") == shown(row, "rival_gain") == "+0.00 [+0.00, +0.00]"
    assert not {"gain", "rival_gain"} & (found["arms"]["real"].keys() | found["chosen"]["best_real"].keys())
    assert draws_verdict(found, ERROR, 0.95).startswith("Over draws the bank is not shown to help: ")


FOUR = {"real": (False, False), "raw": (True, False), "unlabelled": (False, True), "both": (True, True)}


def families(rows: list[dict[str, float]]) -> list[Draw]:
    """Draws with arms of `FOUR`, whose validation scores are those of test and choose as `choose` does."""
    bank, unlabelled = ({name: uses[place] for name, uses in FOUR.items()} for place in (0, 1))
    return [
        Draw(i, 9.0, row, row, bank, unlabelled, choose({k: [v] for k, v in row.items()}, bank, ERROR, unlabelled))
        for i, row in enumerate(rows)
    ]


def test_what_unlabelled_images_gain_is_not_credited_to_fakes() -> None:
    rows = [{"real": 20.0 + i, "raw": 20.3 + i, "unlabelled": 15.05 + i, "both": 15.0 + i} for i in range(3)]
    found = over_draws(families(rows), ERROR, 0.95)
    assert list(found["chosen"]) == ["best_real", "best_unlabelled", "best_bank", "best_both", "ships"]
    assert found["chosen"]["best_bank"]["arms"] == ["raw"] * 3
    both = found["chosen"]["best_both"]
    assert both["unlabelled_gain"] == found["arms"]["both"]["unlabelled_gain"] == pytest.approx(0.05)
    assert both["rival_gain"] == pytest.approx(5.0), "against real images alone, which says nothing of the fakes"
    assert "unlabelled_gain" not in found["arms"]["unlabelled"]
    assert {name for name, arm in found["arms"].items() if arm.get("uses_unlabelled")} == {"unlabelled", "both"}
    assert [found[f"ships_{family}"] for family in ("bank", "unlabelled", "both")] == [0, 0, 3]
    assert draws_verdict(found, ERROR, 0.95) == (
        "Unlabelled images help over draws; the bank hurts over draws; fakes add to unlabelled images over draws: the best"
        " arm with unlabelled images gains +4.95 points [+4.95, +4.95] over real and +4.95 points [+4.95, +4.95] over the"
        " best real-only arm of each draw; the best arm with fakes gains -0.30 points [-0.30, -0.30] over real and -0.30"
        " points [-0.30, -0.30] over the best real-only arm of each draw; the best arm with both gains +0.05 points [+0.05,"
        " +0.05] over the best one with unlabelled images alone of each draw (95 % intervals over 3 draws, arms chosen on"
        " validation); unlabelled images ship in 0, the bank in 0, both in 3 of 3. Of the arms that all draws have,"
        " unlabelled gains +4.95 points [+4.95, +4.95] over the best real-only arm; raw gains -0.30 points [-0.30, -0.30]"
        " over the best real-only arm; both gains +0.05 points [+0.05, +0.05] over the best one with unlabelled images alone."
    )
    assert [best_shared(found, ERROR, family) for family in (UNLABELLED, BANK, BOTH)] == ["unlabelled", "raw", "both"]


def test_the_gain_over_unlabelled_images_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(5)
    rows = [{name: 20 + rng.normal() for name in FOUR} for _ in range(5)]
    row = over_draws(families(rows), ERROR, 0.9)["chosen"]["best_both"]
    alone, both = (np.array([one[name] for one in rows]) for name in ("unlabelled", "both"))
    interval = stats.ttest_rel(alone, both).confidence_interval(0.9)
    assert row["unlabelled_gain_values"] == pytest.approx(list(alone - both))
    assert (row["unlabelled_gain_low"], row["unlabelled_gain_high"]) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(
    ("arms", "gains", "head"),
    [
        (("unlabelled",), (2.0, 2.1, 1.9), "Unlabelled images help over draws: "),
        (("unlabelled",), (-2.0, -2.1, -1.9), "Unlabelled images hurt over draws: "),
        (("unlabelled",), (2.0, -2.1, 0.3), "Over draws unlabelled images are not shown to help: "),
        (("unlabelled",), (2.0, 2.1), "2 draws are too few to say whether unlabelled images help: "),
        (("unlabelled", "both"), (2.0, 2.1, 1.9), "; fakes add to unlabelled images over draws: "),
        (("unlabelled", "both"), (-2.0, -2.1, -1.9), "; fakes take away from unlabelled images over draws: "),
        (("unlabelled", "both"), (2.0, -2.1, 0.3), "; fakes are not shown to add to them: "),
        (("unlabelled", "both"), (2.0, 2.1), "; nor whether fakes add to unlabelled images: "),
        (
            ("both",),
            (2.0, 2.1, 1.9),
            "What fakes and what unlabelled images bring is not told apart, as no arm has those",
        ),
    ],
)
def test_the_verdict_on_unlabelled_images(arms: tuple[str, ...], gains: tuple[float, ...], head: str) -> None:
    rows = []
    for gain in gains:
        row = {"real": 20.0}
        for name in arms:  # each over the one before
            row[name] = row[list(row)[-1]] - gain
        rows.append(row)
    found = over_draws(families(rows), ERROR, 0.95)
    assert head in (said := draws_verdict(found, ERROR, 0.95))
    assert (
        "the bank" not in said
        and "ships_bank" in found
        and ("unlabelled_gain" in found["arms"]["real"]) == ("unlabelled" in arms)
    )
