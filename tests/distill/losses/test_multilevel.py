"""mlkd, both modes, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from cgankd.distill.losses.multilevel import MultiLevel
from tests.distill.logit_toys import batch, kl, labels, log_p, logits, terms, total

# Rows 0 to 3 are the weak view, 4 to 7 the strong one of the same four images.
S, T, Y = logits(name="student"), logits(name="teacher"), labels(4)
WEAK, STRONG = slice(0, 4), slice(4, 8)
TEMPERATURES = (4.0, 2.0, 3.0, 5.0, 6.0)


def instance(view: slice, t: float) -> float:
    return float(t**2 * kl(log_p(T[view], t), log_p(S[view], t)).mean())


def products(view: slice, t: float) -> tuple[float, float]:
    s, p = np.exp(log_p(S[view], t)), np.exp(log_p(T[view], t))
    return ((p @ p.T - s @ s.T) ** 2).sum() / 4, ((p.T @ p - s.T @ s) ** 2).sum() / 5


def test_paper_mode_sums_three_levels_on_both_views() -> None:
    found = terms(MultiLevel(mode="paper"), S, T, batch(Y))
    views = [(view, t) for view in (WEAK, STRONG) for t in TEMPERATURES]
    assert found["instance"] == pytest.approx(0.9 * sum(instance(*v) for v in views), rel=1e-9)
    assert found["images"] == pytest.approx(0.9 * sum(products(*v)[0] for v in views), rel=1e-9)
    assert found["classes"] == pytest.approx(0.9 * sum(products(*v)[1] for v in views), rel=1e-9)


def test_official_mode_weighs_by_shares_and_looks_at_the_weak_view_at_2_and_6() -> None:
    p = np.exp(log_p(T[WEAK]))
    row_share = np.mean(p.max(axis=1) <= np.percentile(p.max(axis=1), 50))
    class_share = np.mean(p.sum(axis=0) <= np.percentile(p.sum(axis=0), 50))
    assert (row_share, class_share) == (0.5, 0.6)
    strong = sum(instance(WEAK if t in (2, 6) else STRONG, t) for t in TEMPERATURES)
    found = terms(MultiLevel(), S, T, batch(Y))
    weak = row_share * sum(instance(WEAK, t) for t in TEMPERATURES)
    assert found["instance"] == pytest.approx(0.9 * (weak + strong), rel=1e-9)
    assert found["images"] == pytest.approx(0.9 * row_share * sum(products(WEAK, t)[0] for t in TEMPERATURES), rel=1e-9)
    assert found["classes"] == pytest.approx(
        0.9 * class_share * sum(products(WEAK, t)[1] for t in TEMPERATURES), rel=1e-9
    )


@pytest.mark.parametrize("fake", [None, [True, False, False, True]])
def test_labels_count_on_the_strong_view_as_they_do_on_the_weak_one(fake: list[bool] | None) -> None:
    found = terms(MultiLevel(standardize=True, fake_weight=0.25), S, T, batch(Y, fake))
    rows = -log_p(S[STRONG])[np.arange(4), Y.numpy()]
    want = np.average(rows, weights=np.where(fake, 0.25, 1.0) if fake else None)
    assert found["strong_labels"] == pytest.approx(0.1 * want, rel=1e-9)
    assert terms(MultiLevel(strong_label_weight=0.0), S, T, batch(Y))["strong_labels"] == 0


@pytest.mark.parametrize("mode", ["official", "paper"])
def test_it_is_zero_between_equals_but_for_the_labels(mode: str) -> None:
    method = MultiLevel(mode=mode, strong_label_weight=0.0)  # type: ignore[arg-type]
    assert total(method, T, T, batch(Y)) == pytest.approx(0, abs=1e-12)


def test_real_and_fake_can_be_kept_apart_and_fakes_left_out_of_the_first_level() -> None:
    fake = [True, False, False, False]
    method = MultiLevel(mode="paper", temperatures=(4.0,), relational_scope="within_source", fake_weight=0.0)
    found = terms(method, S, T, batch(Y, fake))
    assert found["instance"] == pytest.approx(0.9 * (instance(slice(1, 4), 4) + instance(slice(5, 8), 4)), rel=1e-9)
    apart = [products(slice(a, b), 4)[0] for a, b in ((0, 1), (1, 4), (4, 5), (5, 8))]
    assert found["images"] == pytest.approx(0.9 * sum(apart), rel=1e-9)


def test_standardized_logits_have_no_scale() -> None:
    method = MultiLevel(standardize=True, strong_label_weight=0.0)
    assert total(method, 5 * T + 1, T, batch(Y)) == pytest.approx(0, abs=1e-9)


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="mlkd.temperatures must name one temperature at least"):
        MultiLevel(temperatures=())
    with pytest.raises(ValueError, match="mlkd.temperatures must be above 0, but is -1.0"):
        MultiLevel(temperatures=(2.0, -1.0))
