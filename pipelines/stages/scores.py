"""Scores of nets on one split, over all images and by class or label range, as they stand in metrics/evaluate.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from cgankd.data.store.stream import MemoryBudget
from cgankd.fit.device import Plan
from cgankd.fit.predictor import make_predict
from cgankd.measure.groups import Scores, group_scores
from cgankd.measure.predictive import mean_sd, paired_gain
from cgankd.measure.verdict import Choice
from cgankd.types import Headline, Split, Task

NO_IMAGES = MemoryBudget(0)
"""For splits of which the labels alone are read."""


class Scorer:
    """Scores nets on one split, each in its own arithmetic."""

    def __init__(self, task: Task, split: Split, plan: Plan) -> None:
        self.task, self.split, self.plan = task, split, plan

    def __call__(self, net: nn.Module, config: Mapping[str, Any]) -> Scores:
        predict = make_predict(net, config["precision"], plan=self.plan, expected=len(self.split))
        return group_scores(self.task, predict, self.split)


def mean_groups(runs: Sequence[Scores]) -> list[float]:
    """Mean score of each group over the seeds; NaN where it has no image."""
    return [math.fsum(values) / len(values) for values in zip(*(run.groups for run in runs), strict=True)]


def summary(test: Sequence[float], val: Sequence[float]) -> dict[str, Any]:
    """Test and validation scores of an arm over its seeds."""
    mean, sd = mean_sd(test)
    val_mean, val_sd = mean_sd(val)
    return {"mean": mean, "sd": sd, "values": list(test), "val_mean": val_mean, "val_sd": val_sd}


def gains(
    name: str, test: Mapping[str, Sequence[float]], choice: Choice, headline: Headline, confidence: float
) -> dict[str, float]:
    """Paired gains of an arm over plain training on real images, over the best arm of real images alone, and where there are
    arms with unlabelled images and no fakes over the best of those."""
    entry: dict[str, float] = {}
    rivals = {"gain": "real", "rival_gain": choice.best_real, "unlabelled_gain": choice.best_unlabelled}
    for key, rival in rivals.items():
        if rival is not None and name not in (rival, "real"):
            gain = paired_gain(
                test[rival], test[name], higher_is_better=headline.higher_is_better, confidence=confidence
            )
            entry |= {key: gain.gain, f"{key}_low": gain.low, f"{key}_high": gain.high}
    return entry


def by_headline(result: dict[str, Any]) -> dict[str, Any]:
    """An evaluate.json with the scores that it was chosen by in the places of the mean ones, for tables and charts."""
    if result.get("chosen_by", "mean") == "mean":
        return result
    arms = {name: arm | arm["balanced"] for name, arm in result["arms"].items()}
    headline = result["headline"] | {"name": f"balanced {result['headline']['name']}"}
    teacher = {key: result[f"{key}_balanced"] for key in ("teacher", "teacher_val")}
    return result | {"arms": arms, "headline": headline} | teacher
