"""The best point of a training is the first of the best scores, with the weights of that moment."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cgankd.fit.best import Best


def walk(best: Best, net: nn.Linear, scores: list[float], start: int = 0) -> None:
    for step in range(start, len(scores)):
        with torch.no_grad():
            net.weight.fill_(float(step))
        best.see(step + 1, scores[step])


@pytest.mark.parametrize("higher", [False, True])
@pytest.mark.parametrize("scores", [[3.0, 1.0, 2.0, 1.0, 3.0, 3.0], [5.0], [2.0, 2.0, 2.0]])
def test_the_first_of_the_best(scores: list[float], higher: bool) -> None:
    net = nn.Linear(1, 1)
    best = Best(net, higher_is_better=higher)
    walk(best, net, scores)
    first = int(np.argmax(scores) if higher else np.argmin(scores))
    assert (best.step, best.score) == (first + 1, scores[first])
    assert best.weights["weight"].item() == first, "a copy, not the live weights"


def test_it_goes_on_after_a_kill() -> None:
    scores = [3.0, 1.0, 2.0, 1.0]
    for killed in range(len(scores)):
        net = nn.Linear(1, 1)
        first = Best(net, higher_is_better=False)
        walk(first, net, scores[:killed])
        second = Best(net, higher_is_better=False)
        second.load(first.state())
        walk(second, net, scores, start=killed)
        assert (second.step, second.score, second.weights["weight"].item()) == (2, 1.0, 1.0)


def test_a_score_that_is_no_number_does_not_stay() -> None:
    net = nn.Linear(1, 1)
    best = Best(net, higher_is_better=False)
    best.see(1, float("nan"))
    best.see(2, 4.0)
    assert (best.step, best.score) == (2, 4.0)
