"""Every file beside the float student on the same real images: what it loses, what it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgankd.export import ShippedModel, median_ms, worst_difference
from cgankd.labels.answers import Answer
from cgankd.measure.groups import balanced, group_means
from cgankd.measure.predictive import mean_interval, paired_gain
from cgankd.types import DatasetInfo, Split, Task
from pipelines.device.forms import Form
from pipelines.device.making import MICRO_IMAGES
from pipelines.device.running import as_json, micro_of, run_apart

MICRO_SHARE = 0.02
"""Of labels, or of the range of scalars: by more a file may not answer otherwise on a board than under LiteRT."""
FLOAT = "student"
"""The row of the student itself."""


@dataclass(frozen=True)
class Bench:
    """Where files are measured: on which splits, by which task and settings. `model` is the float student.

    Validation decides what holds; the test split is only reported.
    """

    model: ShippedModel
    info: DatasetInfo
    task: Task
    val: Split
    test: Split
    confidence: float
    tolerance: float
    repeats: int

    @property
    def images(self) -> Tensor:
        """Validation images, then test images, uint8 [N, C, H, W]."""
        return torch.cat([self.val.images[:], self.test.images[:]])

    @property
    def answer(self) -> Answer:
        """How answers are scored."""
        return self.model.answer


@dataclass(frozen=True)
class Twin:
    """The float student on the bench: answers [N, A], scores [N], and its row."""

    answers: Tensor
    row: dict[str, Any]


def float_twin(bench: Bench, size: int) -> Twin:
    """The student itself, run by torch in this process; `size` is the bytes of its weights."""
    answers = bench.model.run(bench.images)
    latency = median_ms(bench.model.run, bench.val.images[:1], repeats=bench.repeats)
    row: dict[str, Any] = {"form": FLOAT, "file": None, "bytes": size, "latency_ms": latency}
    row |= {"peak_bytes": None, "added_bytes": None}
    return Twin(answers, row | _scores(bench, answers) | {"holds": True})


def measured(bench: Bench, twin: Twin, form: str, path: Path, decode: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The row of one file, run by its own runtime in a process apart; `decode` makes answers [N, A] of its outputs.

    Raises ConfigError where it does not run.
    """
    ran = run_apart(path, bench.images, repeats=bench.repeats)
    answers = decode(ran.outputs)
    row: dict[str, Any] = {"form": form, "file": path.name, "bytes": path.stat().st_size, "latency_ms": ran.latency_ms}
    row |= {"peak_bytes": ran.peak_bytes, "added_bytes": ran.added_bytes}
    row |= {"difference": worst_difference(answers, twin.answers, bench.info.label_period)}
    if bench.info.class_names:
        row["agreement"] = 100 * float((answers.argmax(dim=1) == twin.answers.argmax(dim=1)).double().mean())
    row |= _scores(bench, answers)
    row |= _loss(bench, answers, twin.answers)
    allowed = twin.row["validation"] * (1 + bench.tolerance)
    return row | {"tolerance": bench.tolerance, "holds": bool(row["validation"] <= allowed)}  # NaN fails


def on_board(bench: Bench, form: Form, decode: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """A LiteRT file under the interpreter for microcontrollers, its answers compared with LiteRT's own on validation images.

    `agrees` is false where more than MICRO_SHARE of the labels, or of the scale of scalars, lies between the two.
    """
    images = bench.val.images[:MICRO_IMAGES]
    micro = micro_of(form.path, images)
    found = as_json(micro)
    if micro.outputs is not None:
        own, other = decode(micro.outputs), decode(run_apart(form.path, images, repeats=1).outputs)
        found["difference"] = worst_difference(own, other, bench.info.label_period)
        found["images"] = len(images)
        share = found["difference"] / bench.answer.scale
        if bench.info.class_names:
            alike = int((own.argmax(1) == other.argmax(1)).sum())
            found["agreement"], share = 100 * alike / len(images), 1 - alike / len(images)
        found["agrees"] = bool(share <= MICRO_SHARE + 1e-9 and own.isfinite().all())
    return found


def _split(bench: Bench, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of validation and of test images, float64."""
    val, test = answers[: len(bench.val)], answers[len(bench.val) :]
    scores = (bench.answer.score(val, bench.val.labels), bench.answer.score(test, bench.test.labels))
    return scores[0].double(), scores[1].double()


def _scores(bench: Bench, answers: Tensor) -> dict[str, Any]:
    """Validation headline; test headline with its interval over the images, and of each class or range."""
    val_N, test_N = _split(bench, answers)
    mean, low, high = mean_interval(test_N.tolist(), bench.confidence)
    groups = group_means(test_N, bench.task.filter_groups(bench.test.labels), len(bench.task.group_names))
    return {
        "validation": float(val_N.mean()),
        "test": mean,
        "test_low": low,
        "test_high": high,
        "balanced": balanced(groups),
        "groups": [None if math.isnan(value) else value for value in groups],
    }


def _loss(bench: Bench, answers: Tensor, twin: Tensor) -> dict[str, float]:
    """How much worse a file is than the student on test, image by image, with its interval."""
    own, student = _split(bench, answers)[1].tolist(), _split(bench, twin)[1].tolist()
    gain = paired_gain(own, student, higher_is_better=False, confidence=bench.confidence)
    return {"loss": gain.gain, "loss_low": gain.low, "loss_high": gain.high}
