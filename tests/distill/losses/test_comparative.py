"""ckd_comparative against plain numpy; what a constant vector cannot change."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cgankd.distill.losses.comparative import Comparative, groups
from cgankd.types import Outputs
from tests.distill.logit_toys import batch, build, kl, labels, log_p, logits, terms, total

S, T, Y = logits(name="student"), logits(name="teacher"), labels()


def test_it_is_its_formula_on_groups_of_three() -> None:
    def differences(z: np.ndarray) -> np.ndarray:
        # Eight rows hold two groups, rows 0 2 4 and 1 3 5; the last two are left over.
        return np.stack([(z[g] + z[g + 2]) / 2 - z[g + 4] for g in (0, 1)])

    s, t, y = (differences(z) for z in (S.detach().numpy(), T.detach().numpy(), np.eye(5)[Y.numpy()]))
    found = terms(Comparative(relation_weight=0.7, label_weight=0.3), S, T, batch(Y))
    assert found["relation"] == pytest.approx(0.7 * 16 * kl(log_p(t, 4), log_p(s, 4)).mean(), rel=1e-9)
    assert found["labels"] == pytest.approx(0.3 * 16 * kl(log_p(y, 4), log_p(s, 4)).mean(), rel=1e-9)


def test_groups_take_rows_from_all_over_the_batch() -> None:
    assert groups(torch.arange(7), 3).tolist() == [[0, 2, 4], [1, 3, 5]]


def test_a_vector_added_to_all_logits_changes_nothing() -> None:
    moved = terms(Comparative(), S + torch.tensor([5.0, -2, 0, 1, 9]), T, batch(Y))
    assert moved == pytest.approx(terms(Comparative(), S, T, batch(Y)), rel=1e-9)
    assert terms(Comparative(), T, T, batch(Y))["relation"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("num", [1, 2])
def test_fewer_rows_than_a_group_give_attached_zeros(num: int) -> None:
    s = S[:num].detach().requires_grad_()
    found = Comparative().losses(Outputs(s), Outputs(T[:num]), batch(Y[:num]))
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert set(found) == {"relation", "labels"} and not s.grad.any()  # type: ignore[union-attr]


def test_a_group_weighs_the_product_of_its_rows() -> None:
    fake = [True, False, False, False, True, False, False, False]
    per_group = [terms(Comparative(), S[g : g + 5 : 2], T[g : g + 5 : 2], batch(Y[g : g + 5 : 2])) for g in (0, 1)]
    found = terms(Comparative(fake_weight=0.5), S, T, batch(Y, fake))
    for name in found:
        assert found[name] == pytest.approx((per_group[0][name] / 4 + per_group[1][name]) / (5 / 4), rel=1e-9)


def test_scalar_fakes_of_no_weight_say_nothing() -> None:
    s, t, y = torch.tensor([[0.1], [0.4], [0.9]]), torch.tensor([[0.2], [0.2], [0.2]]), torch.zeros(3)
    assert total(Comparative(fake_weight=0.0), s, t, batch(y, [False, False, True])) == pytest.approx(0.3)


def test_scalars_match_differences_of_pairs() -> None:
    s, t = (logits(6, 1, name, 0.3).detach() for name in "st")
    a, b = s.numpy()[:, 0], t.numpy()[:, 0]
    want = np.mean([abs((a[i] - a[j]) - (b[i] - b[j])) for i, j in itertools.combinations(range(6), 2)])
    assert terms(Comparative(), s, t, batch(torch.zeros(6))) == {"relation": pytest.approx(want, rel=1e-9)}
    assert total(Comparative(), t + 0.4, t, batch(torch.zeros(6))) == pytest.approx(0, abs=1e-12)
    assert total(Comparative(), t[:1] + 0.4, t[:1], batch(torch.zeros(1))) == 0


def test_differences_of_angles_go_the_short_way_round() -> None:
    s, t = torch.tensor([[0.95], [0.0]]), torch.tensor([[0.05], [0.0]])
    circle = build(Comparative(), num_classes=0, period=1.0)
    assert total(circle, s, t, batch(torch.zeros(2))) == pytest.approx(0.1, rel=1e-5)


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="ckd_comparative.num_positive must be below ckd_comparative.group_size 3"):
        Comparative(num_positive=3)
