from __future__ import annotations

import pytest

from cgankd.measure.health import (
    Check,
    check_bound,
    check_diversity,
    check_kappa,
    check_ratio_informative,
    check_ratio_mean,
    check_ratio_overfit,
    check_ratio_zeros,
)

OK, WARN, FATAL = (True, False), (False, False), (False, True)


@pytest.mark.parametrize(
    ("check", "expected", "words"),
    [
        (check_diversity(0.15, 0.15), OK, "1.00"),
        (check_diversity(0.05, 0.10), OK, "0.50"),
        (check_diversity(0.049, 0.10), FATAL, "cgan.diversity_weight"),
        (check_ratio_zeros(0.5), OK, "50.0 %"),
        (check_ratio_zeros(0.51), WARN, "ratio.ratio_penalty"),
        (check_ratio_zeros(0.9), WARN, "90.0 %"),
        (check_ratio_zeros(0.98), FATAL, "at most 90 %"),
        (check_ratio_mean(1.0), OK, "1 in theory"),
        (check_ratio_mean(2.0), OK, "2"),
        (check_ratio_mean(0.49), WARN, "ratio.ratio_penalty"),
        (check_ratio_mean(9.9), WARN, "factor of 2"),
        (check_ratio_mean(10.1), FATAL, "factor of 10"),
        (check_ratio_mean(0.0), FATAL, "ratio on fakes is 0"),
        (check_ratio_mean(float("nan")), FATAL, "nan"),
        (check_ratio_overfit(1.5, 1.0), OK, "1.50 times"),
        (check_ratio_overfit(1.62, 0.93), WARN, "ratio.num_steps"),
        (check_ratio_overfit(6.0, 1.0), FATAL, "at most 5"),
        (check_ratio_overfit(1.0, 0.0), FATAL, "inf"),
        (check_ratio_informative(-1.4, -1.313), OK, "0.0870 better than"),
        (check_ratio_informative(-1.3, -1.313), WARN, "without subsample"),
        (check_kappa(1.0, 1.0, 0.2, 90.0), OK, "5.0 median label gaps"),
        (check_kappa(6.8, 3.4, 0.4, 90.0), WARN, "cgan.vicinity.kappa"),
        (check_kappa(12.0, 6.0, 3.0, 90.0), FATAL, "covers 27 % of the label range"),
        (check_bound(0, 10), OK, "0 of 10"),
        (check_bound(1, 10), FATAL, "without subsample"),
    ],
)
def test_thresholds_and_sentences(check: Check, expected: tuple[bool, bool], words: str) -> None:
    assert (check.ok, check.fatal) == expected
    assert words in check.sentence
    # The sentence states the threshold, and a failed check a cure.
    assert f"{check.threshold:g}" in check.sentence or f"{100 * check.threshold:g} %" in check.sentence
    assert ("; " in check.sentence.replace("; the largest", "")) != check.ok


def test_identical_real_images_are_an_error_in_words() -> None:
    with pytest.raises(ValueError, match="identical"):
        check_diversity(0.1, 0.0)
