"""The final metric of the fast way against the plain one: test error of the same small students, seed by seed.

Arithmetic: plain is fp32, eager; fast is bf16 and channels-last, the students compiled (GAN and M1 are too short to be worth a
compilation and stay eager, as they would in a stage; biggan_step and ccgan_step compare the compiled step). Its subjects: a
student on real images; a student on the fakes of one GAN, the same weights on both sides, that went through M1; and the whole
path GAN, M1, student, run anew for each seed. Method, both sides in fp32: the ratio network by the published step against
a pool whose fakes are seen 12.5 times; and KD whose teacher sees the student's view against the clean image, which is a
choice of the user's, so that its difference is shown and nothing is asked of it.

Differences are paired by seed; two trainings that differ in the last bits drift apart as two seeds do, so that the interval,
not the single difference, says whether the result is moved: it must lie within TOLERANCE of zero.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.digit_fakes import LONG_POOL, PUBLISHED_POOL, Gan, Way, digits, subsampled_fakes
from benchmarks.sides import child
from benchmarks.timing import Side, fast_plan
from cgankd.config import TeacherConfig
from cgankd.data.augment import augment
from cgankd.data.batches import Mixture
from cgankd.data.dataset import Dataset
from cgankd.distill.base import DataSpec
from cgankd.distill.engine import Distillation, Teacher
from cgankd.distill.losses.kd import KD
from cgankd.distill.spec import model_spec
from cgankd.fit.device import PLAIN
from cgankd.fit.loop import Loop
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, Objective, fit_predictor, make_predict, mean_score
from cgankd.labels.task import ClassTask
from cgankd.measure.predictive import mean_sd, paired_gain
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import Predictor, make_predictor
from cgankd.rng import seed_all
from cgankd.types import Split
from pipelines.runtime.machine import set_threads

TITLE = "Test error in % of small students on the digits, the plain way against the fast one"
SEEDS = tuple(range(8))
TOLERANCE = 1.5
"""Points: the whole interval of the difference must lie within this of zero, so that few or wild seeds prove nothing."""
VIEW = "KD, teacher_view augmented (plain) and clean (fast), fp32"
ANOTHER_METHOD = (VIEW,)
"""Subjects that may differ."""


def net(data: Dataset, width: int) -> Predictor:
    """A fresh convnet for the digits."""
    info = data.info
    shape = NetShape(len(info.class_names), 1, 16)
    return make_predictor("convnet", shape, width=width, mean=info.pixel_mean, std=info.pixel_std)


def config(width: int, way: Way) -> TeacherConfig:
    """How each of them is trained."""
    return TeacherConfig(
        net="convnet", width=width, num_steps=20 if way.quick else 300, batch_size=64, optimizer="adamw", learning_rate=0.003,
        weight_decay=0.01, schedule="onecycle", augment="shift", precision=way.precision,
    )  # fmt: skip


def student_error(
    data: Dataset, task: ClassTask, fakes: Split | None, seed: int, way: Way, objective: Objective | None = None
) -> float:
    """Test error in % of a student on real images, or half of them fakes."""
    seed_all(seed, "student")
    student, cfg = net(data, 8), config(8, way)
    mixture = Mixture(data.train, fakes, real_share=None if fakes is None else 0.5, batch_size=64, seed=seed)
    fit_predictor(student, objective or Plain(task), Feed(mixture.batch, shifted), cfg, Loop(seed, way.plan))
    return mean_score(task, make_predict(student, cfg.precision), data.test)


def shifted(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """Augmented images [B, C, H, W]."""
    return augment(unit_BCHW, "shift", gen)


def trained_teacher(data: Dataset, task: ClassTask, quick: bool) -> nn.Module:
    """A wider net on the same images, in fp32: equal bits on both sides."""
    seed_all("teacher")
    teacher, mixture = net(data, 24), Mixture(data.train, None, real_share=None, batch_size=64, seed=0)
    fit_predictor(teacher, Plain(task), Feed(mixture.batch, shifted), config(24, Way("fp32", quick)), Loop(0))
    return teacher.eval().requires_grad_(False)


def taught(data: Dataset, task: ClassTask, teacher: nn.Module, seed: int, *, clean: bool, quick: bool) -> Objective:
    """Hinton's loss, the teacher looking at the student's view, or at the clean image by a table."""
    distiller, shape, num = KD(temperature=4.0, soft_weight=0.7), (1, 16, 16), len(data.train)
    distiller.build(model_spec(net(data, 8), shape), model_spec(teacher, shape), DataSpec(num, task.num_classes, shape))
    table = make_predict(teacher, "fp32")(data.train.images)
    guide = Teacher(teacher, "fp32", table.__getitem__ if clean else None, clean)
    return Distillation(task, distiller, guide, {}, seed=seed, num_rows=num, num_steps=20 if quick else 300)


def errors(side: Side, quick: bool) -> dict[str, list[float]]:
    """Test errors of each subject, one a seed."""
    data, task = digits()
    seeds = SEEDS[:2] if quick else SEEDS
    # bf16 even where the machine has no units for it: the question is what it does to the result.
    kind = "fp32" if side == "plain" else "bf16"
    way, exact_way = Way(kind, quick, PLAIN if side == "plain" else fast_plan(quick)), Way("fp32", quick)
    student = partial(student_error, data, task, way=way)
    exact = partial(student_error, data, task, way=exact_way)
    one_gan = Gan(data, task, 0, exact_way)
    of_one = partial(subsampled_fakes, one_gan, data, task)
    pool = PUBLISHED_POOL if side == "plain" else LONG_POOL
    teacher = trained_teacher(data, task, quick)
    view = partial(taught, data, task, teacher, clean=side == "fast", quick=quick)
    shared = of_one(0, way)
    return {
        "student on real images": [student(None, seed) for seed in seeds],
        "student on the fakes of one GAN after M1": [student(shared, seed) for seed in seeds],
        "GAN, M1 and student, anew for each seed": [
            student(subsampled_fakes(Gan(data, task, seed, way), data, task, seed, way), seed) for seed in seeds
        ],
        "M1 by the published step (plain) and from a pool, each fake seen 12.5 times (fast), and student; one GAN, fp32": [
            exact(of_one(seed, exact_way, pool), seed) for seed in seeds
        ],
        VIEW: [exact(None, seed, objective=view(seed)) for seed in seeds],
    }


def compare(quick: bool) -> dict[str, Any]:
    """Both sides and their paired differences with 95 % intervals."""
    if quick:
        plain, fast = errors("plain", True), errors("fast", True)
    else:
        plain, fast = (
            child("final_metric", ["--part", side], large_blocks=side == "fast") for side in ("plain", "fast")
        )
    rows = [row(name, plain[name], fast[name]) for name in plain]
    holds = quick or all(found["holds"] for found in rows if found["name"] not in ANOTHER_METHOD)
    return {"name": "final_metric", "title": TITLE, "quick": quick, "rows": rows, "holds": holds}


def row(name: str, plain: list[float], fast: list[float]) -> dict[str, Any]:
    """Means, spreads, fast minus plain with its Student t interval over the seeds, and whether the metric is unchanged."""
    difference = paired_gain(plain, fast, higher_is_better=True, confidence=0.95)
    low, high = difference.low, difference.high
    return {
        "name": name, "plain": plain, "fast": fast, "difference": difference.gain, "low": low, "high": high,
        "holds": low >= -TOLERANCE and high <= TOLERANCE,
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        f"| subject | plain, mean (sd) | fast, mean (sd) | fast - plain | 95 % interval | within {TOLERANCE} points |",
        "|---|---|---|---|---|---|",
    ]
    for one in found["rows"]:
        means = ["{:.2f} ({:.2f})".format(*mean_sd(one[side])) for side in ("plain", "fast")]
        span = f"{one['low']:+.2f} to {one['high']:+.2f}"
        wrong = "no, another method" if one["name"] in ANOTHER_METHOD else "NO"
        verdict = "yes" if one["holds"] else wrong
        lines.append(f"| {one['name']} | {' | '.join(means)} | {one['difference']:+.2f} | {span} | {verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--part", choices=("plain", "fast"), help="one side alone, as JSON")
    options = parser.parse_args()
    set_threads()
    print(json.dumps(errors(options.part, options.quick)) if options.part else table(compare(options.quick)))
