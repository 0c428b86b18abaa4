"""Errors by class and label range against scikit-learn and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, recall_score

from cgankd.config import Config
from cgankd.labels.task import make_task
from cgankd.measure.groups import balanced, group_counts, group_means, group_scores
from cgankd.rng import generator
from cgankd.types import DatasetInfo, Split

CLASSES = DatasetInfo("class", "digits", "", 1, 16, (0.5,), (0.2,), class_names=tuple("abcdefghij"))
YAW = DatasetInfo("scalar", "chairs", "degrees", 3, 32, (0.5,) * 3, (0.2,) * 3, label_min=10.0, label_max=100.0)


def split(labels: torch.Tensor, channels: int = 1) -> Split:
    return Split(torch.zeros(len(labels), channels, 16, 16, dtype=torch.uint8), labels)


def test_class_errors_are_those_of_scikit_learn(digits_config: Config) -> None:
    """Also with a class that has no image, which counts neither here nor there."""
    gen = generator("groups")
    label_N = torch.randint(0, 9, (300,), generator=gen) ** 2 % 9  # uneven, and no image of the last class
    out_NO = torch.randn(300, 10, generator=gen) + 2 * torch.nn.functional.one_hot(label_N, 10)
    task, guess = make_task(CLASSES, digits_config), out_NO.argmax(1)
    scores = group_scores(task, lambda images: out_NO, split(label_N))
    assert scores.mean == pytest.approx(100 * float((guess != label_N).double().mean()))
    present = sorted(set(label_N.tolist()))
    if set(guess.tolist()) <= set(present):
        assert scores.balanced == pytest.approx(100 * (1 - balanced_accuracy_score(label_N, guess)))
    recall = recall_score(label_N, guess, labels=present, average=None)
    assert [scores.groups[k] for k in present] == pytest.approx((100 * (1 - recall)).tolist())
    assert scores.balanced == pytest.approx(100 * (1 - recall.mean()))
    assert all(math.isnan(scores.groups[k]) for k in range(10) if k not in present)
    assert group_counts(task, label_N) == np.bincount(label_N, minlength=10).tolist()
    assert scores.by("mean") == scores.mean and scores.by("balanced") == scores.balanced


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6))
def test_in_even_groups_both_scores_are_one_and_else_small_groups_count_alike(sizes: list[int]) -> None:
    """Group k is wrong by k throughout: the mean is that of the sizes, the balanced one is (K - 1) / 2."""
    group_N = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    means = group_means(group_N.double(), group_N, len(sizes) + 1)
    assert means[:-1] == list(range(len(sizes))) and math.isnan(means[-1])
    assert balanced(means) == (len(sizes) - 1) / 2


def test_label_ranges_are_the_bins_of_the_bank(chairs_config: Config) -> None:
    """Three bins of 30 degrees: 90 labels off by 1 in the first, 10 off by 11 in the second, none in the third."""
    task = make_task(YAW, Config(**(vars(chairs_config) | {"bank": with_bin(chairs_config, 30.0)})))
    label_N = torch.cat([torch.full((90,), 20.0), torch.full((10,), 60.0)])
    off_N = torch.cat([torch.full((90,), 1.0), torch.full((10,), 11.0)])
    scores = group_scores(task, lambda images: ((label_N + off_N - 10) / 90)[:, None], split(label_N, 3))
    assert task.group_names == ("10 to 40", "40 to 70", "70 to 100")
    assert scores.mean == pytest.approx(2.0, abs=1e-4) and scores.balanced == pytest.approx(6.0, abs=1e-4)
    assert scores.groups[:2] == pytest.approx((1.0, 11.0), abs=1e-4) and math.isnan(scores.groups[2])


def with_bin(cfg: Config, width: float) -> object:
    return type(cfg.bank)(**(vars(cfg.bank) | {"label_bin": width}))
