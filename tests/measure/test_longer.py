"""The gain of fakes at several numbers of steps, against scipy's paired t interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cgankd.measure.longer import Judge, in_words
from cgankd.types import Headline

ERROR = Headline("test error", "%", higher_is_better=False)
VAL = {"real": [30.0, 30.0, 30.0], "kd": [20.0, 20.0, 20.0], "raw": [19.0, 19.0, 19.0]}


def judge(**uses_bank: bool) -> Judge:
    return Judge({"real": False, "kd": False, **uses_bank}, ERROR, 0.95)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return float(values.mean()), float(low), float(high)


def test_gains_and_their_change_are_paired_by_seed() -> None:
    rng = np.random.default_rng(2)
    test = {f: {name: (20 + rng.normal(size=3)).tolist() for name in VAL} for f in (1, 4, 16)}
    val = {1: VAL, 4: VAL, 16: VAL | {"real": [1.0, 1.0, 1.0]}}
    rows = judge(raw=True).rows({f: (val[f], test[f]) for f in (16, 1, 4)})
    assert list(rows) == ["1", "4", "16"] and "change" not in rows["1"]
    gain = {}
    for factor, rival in ((1, "kd"), (4, "kd"), (16, "real")):
        row, found = rows[str(factor)], test[factor]
        assert (row["best_real_arm"], row["best_bank_arm"]) == (rival, "raw"), "chosen on validation at each length"
        gain[factor] = np.array(found[rival]) - np.array(found["raw"])
        assert [row["gain"], row["gain_low"], row["gain_high"]] == pytest.approx(interval(gain[factor]))
        assert row["arms"]["kd"]["sd"] == pytest.approx(np.std(found["kd"], ddof=1))
        if factor > 1:
            expected = interval(gain[factor] - gain[1])
            assert [row["change"], row["change_low"], row["change_high"]] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("later", "head"),
    [
        ([20.0, 20.1, 19.9], "From 4 times the steps on, longer training brings part of what fakes bring"),
        ([10.0, 10.1, 9.9], "Fakes bring more at 4 times the steps"),
        ([14.0, 22.0, 18.1], "More training is not shown to change what fakes bring"),
    ],
)
def test_the_sentence(later: list[float], head: str) -> None:
    first = {"real": [30.0] * 3, "kd": [20.0, 20.0, 20.0], "raw": [18.0, 18.1, 17.9]}
    rows = judge(raw=True).rows({1: (VAL, first), 4: (VAL, first | {"raw": later})})
    said = in_words(rows, "%")
    assert said.startswith(f"{head}: +2.00 points [") and "at 4 times the steps" in said and "raw over kd" in said


def test_without_fakes_there_is_no_gain_and_no_sentence() -> None:
    val = {name: VAL[name] for name in ("real", "kd")}
    rows = judge().rows({1: (val, val), 4: (val, val)})
    assert "gain" not in rows["1"] and "change" not in rows["4"] and in_words(rows, "%") == ""


MIXED = {"real": [30.0] * 3, "unlabelled": [20.0] * 3, "both": [19.0] * 3}
NO_FAKES_ALONE = {"real": False, "unlabelled": False, "both": True}
WITH_UNLABELLED = {"real": False, "unlabelled": True, "both": True}


def test_beside_unlabelled_images_fakes_are_compared_with_those_alone() -> None:
    rng = np.random.default_rng(3)
    test = {f: {name: (values + rng.normal(size=3)).tolist() for name, values in MIXED.items()} for f in (1, 4)}
    judge_ = Judge(NO_FAKES_ALONE, ERROR, 0.95, WITH_UNLABELLED)
    rows = judge_.rows({factor: (MIXED, test[factor]) for factor in (1, 4)})
    gain = {f: np.array(test[f]["unlabelled"]) - np.array(test[f]["both"]) for f in (1, 4)}
    for factor, row in ((1, rows["1"]), (4, rows["4"])):
        assert row["best_bank_arm"] is None and "gain" not in row and "change" not in row
        assert (row["best_unlabelled_arm"], row["best_both_arm"]) == ("unlabelled", "both")
        assert [row["both_gain"], row["both_gain_low"], row["both_gain_high"]] == pytest.approx(interval(gain[factor]))
    change = [rows["4"][f"both_change{end}"] for end in ("", "_low", "_high")]
    assert change == pytest.approx(interval(gain[4] - gain[1]))
    said = in_words(rows, "%")
    assert " what fakes bring beside unlabelled images: " in said
    assert "(both over unlabelled; change " in said and said.count("at the set number of steps") == 1


def test_each_family_of_fakes_has_its_own_sentence() -> None:
    both, val = Judge(NO_FAKES_ALONE | {"raw": True}, ERROR, 0.95, WITH_UNLABELLED), MIXED | {"raw": [29.0] * 3}
    later = val | {"real": [29.0] * 3, "both": [15.0] * 3}
    said = in_words(both.rows({1: (val, val), 4: (later, later)}), "%")
    assert said == (
        "From 4 times the steps on, longer training brings part of what fakes bring: +1.00 points [+1.00, +1.00] at the set"
        " number of steps, at 4 times the steps +0.00 points [+0.00, +0.00] (raw over real; change -1.00 points [-1.00,"
        " -1.00]). Fakes bring more beside unlabelled images at 4 times the steps: +1.00 points [+1.00, +1.00] at the set"
        " number of steps, at 4 times the steps +5.00 points [+5.00, +5.00] (both over unlabelled; change +4.00 points"
        " [+4.00, +4.00])."
    )


def test_without_unlabelled_images_alone_what_both_bring_is_not_told_apart() -> None:
    val = {name: MIXED[name] for name in ("real", "both")}
    rows = Judge(NO_FAKES_ALONE, ERROR, 0.95, WITH_UNLABELLED).rows({1: (val, val), 4: (val, val)})
    assert not {"gain", "both_gain"} & rows["1"].keys() and "is not told apart" in in_words(rows, "%")
