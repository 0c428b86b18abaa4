"""Loops with compiled networks: they end where the eager ones do, and compile in their first step only.

torch.compile runs with the backend `aot_eager`: graphs, guards and backward passes are the real ones, and only the writing of
C++ code is left out, which takes seconds a net and which `make bench` covers at full size.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from cgankd.bank import build as bank
from cgankd.data.batches import Mixture
from cgankd.distill.base import DataSpec
from cgankd.distill.engine import Distillation, Teacher
from cgankd.distill.losses.kd import KD
from cgankd.distill.spec import model_spec
from cgankd.fit.device import PLAIN, Plan
from cgankd.fit.loop import Loop
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, Objective, fit_predictor, make_predict
from cgankd.gan.sample import make_draw
from cgankd.gan.train import train_cgan
from cgankd.labels.task import ClassTask
from cgankd.nets.features import FeatureNet
from cgankd.nets.gans.zoo import make_generator
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.density_ratio import RatioNets, make_ratio, train_ratio
from cgankd.ratio.features import FrozenExtractor, Reals, train_features
from cgankd.ratio.partners import FakeSource
from cgankd.rng import generator, seed_all
from cgankd.types import Split
from tests.bank.toys import ratio_config
from tests.fit.test_predictor import fit_config
from tests.gan.toys import class_toy, gan_config, scalar_toy

COMPILED = Plan(compile="on")
TOLERANCE = {"rtol": 2e-3, "atol": 2e-4}
"""Of losses and outputs in float32 after a few steps: other kernels round otherwise, and Adam's first steps magnify it."""


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fresh compiler without code generation."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    # Its structured trace has thousands of records, which pytest would keep.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "propagate", False)
    yield
    torch._dynamo.reset()


def graphs() -> int:
    """How many graphs were compiled since the last reset."""
    return int(counters["stats"]["unique_graphs"])


def train_gan(plan: Plan, *, scalar: bool, steps: int, seen: list[int], **changes: Any) -> list[dict[str, float]]:
    """The values of every step; `seen` gets the number of graphs after each."""
    train, task = scalar_toy() if scalar else class_toy()
    cfg = gan_config(num_steps=steps, d_steps=2, diversity_weight=0.0, batch_size=8, **changes)
    seed_all("embed")
    embed, values = task.label_embed(cfg.embed_dim), []

    def log(step: int, found: Any, total: int) -> None:
        values.append(dict(found))
        seen.append(graphs())

    train_cgan(train, task, task.vicinity(train.labels), embed, cfg, Loop(0, plan, log))
    return values


@pytest.mark.parametrize(
    ("scalar", "changes"),
    [(False, {}), (True, {"arch": "biggan"})],
    ids=["learned embedding", "fixed embedding, BigGAN"],
)
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # by the compiler, of a tensor it traces
def test_a_compiled_gan_ends_where_the_eager_one_does(scalar: bool, changes: dict[str, Any]) -> None:
    seen: list[int] = []
    expected = train_gan(PLAIN, scalar=scalar, steps=3, seen=[], **changes)
    assert graphs() == 0
    found = train_gan(COMPILED, scalar=scalar, steps=3, seen=seen, **changes)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=TOLERANCE["rtol"], abs=1e-3)
    # G without and with gradients, D with moving and with frozen weights.
    assert 0 < seen[0] <= 4 and seen == [seen[0]] * 3, seen


def predictor(width: int) -> nn.Module:
    seed_all("predictor", width)
    return make_predictor("convnet", NetShape(2, 1, 16), width=width, mean=(0.5,), std=(0.25,))


def plain_objective(student: nn.Module, task: ClassTask, num: int, plan: Plan) -> Objective:
    return Plain(task)


def kd_objective(student: nn.Module, task: ClassTask, num: int, plan: Plan) -> Objective:
    teacher = predictor(8).eval().requires_grad_(False)
    distiller = KD()
    specs = [model_spec(net, (1, 16, 16)) for net in (student, teacher)]
    distiller.build(*specs, DataSpec(num, task.num_classes, (1, 16, 16)))
    live = Teacher(teacher, "fp32", None, False, plan, 100)
    return Distillation(task, distiller, live, {}, seed=0, num_rows=num, num_steps=10)


@pytest.mark.parametrize("make", [plain_objective, kd_objective])
def test_a_compiled_student_with_validation_between_ends_where_the_eager_one_does(
    make: Callable[[nn.Module, ClassTask, int, Plan], Objective],
) -> None:
    train, task = class_toy()
    results, seen = [], []
    for plan in (PLAIN, COMPILED):
        net = predictor(4)
        predict = make_predict(net, "fp32")

        def validate(module: nn.Module, predict: Callable[[Tensor], Tensor] = predict) -> float:
            return float(predict(train.images).mean())

        seen.clear()
        data = Mixture(train, None, real_share=None, batch_size=8, seed=0)
        fit_predictor(
            net,
            make(net, task, len(train), plan),
            Feed(data.batch, lambda unit, gen: unit),
            fit_config(num_steps=10, batch_size=8, precision="fp32"),
            Loop(0, plan, lambda step, values, total: seen.append(graphs())),
            validate=validate,
        )
        results.append(predict(train.images))
    torch.testing.assert_close(results[1], results[0], **TOLERANCE)
    assert 0 < seen[0] <= 2 and seen == [seen[0]] * 10, seen


def test_a_predictor_compiles_twice_at_most_whatever_the_last_batch() -> None:
    train, _ = class_toy(32)
    net = predictor(4)
    predict, eager = make_predict(net, "fp32", 8, plan=COMPILED, expected=100), make_predict(net, "fp32", 8)
    for num in (32, 29, 27, 32, 13):
        torch.testing.assert_close(predict(train.images[:num]), eager(train.images[:num]), **TOLERANCE)
    assert 0 < graphs() <= 3  # a fixed size, then one for any size, and one for a single image


def bank_of(plan: Plan, train: Split, task: ClassTask) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Scores of a bank made by GAN, features, ratio and teacher under a plan, and the report of the ratio."""
    cfg, settings = gan_config(num_steps=1), ratio_config(num_steps=6, feature_steps=3, batch_size=8, pool_size=32)
    seed_all("bank")
    net, embed = make_generator(cfg, 1, 16), task.label_embed(cfg.embed_dim)
    features, mlp = FeatureNet(1, 16, 4, 16, 2, decode=False), RatioMLP(cfg.embed_dim, 16, (16,), 0.0)
    draw = make_draw(net, embed, z_dim=cfg.z_dim, precision="fp32", plan=plan, expected=100)
    train_features(features, Reals(train, train), task, settings, lambda unit, gen: unit, Loop(0, plan))
    run = FrozenExtractor(features.requires_grad_(False), "fp32", plan, 100)
    judge, vicinity = partial(run.judge, task=task), task.vicinity(train.labels)
    source, nets = FakeSource(draw, run, judge, vicinity, math.inf, settings.max_redraws), RatioNets(mlp, embed)
    report = train_ratio(nets, source, Reals(train, train), task, settings, Loop(0))
    teacher = make_predict(predictor(8).eval(), "fp32", plan=plan, expected=100)
    labels = torch.arange(16) % 2
    score = bank.Scorer(draw, make_ratio(nets, run), teacher, task)
    blocks = [score(labels, generator("block", i), i) for i in range(3)]
    return torch.cat([s.ratio for s in blocks]), torch.cat([s.teacher_error for s in blocks]), report


def test_a_compiled_bank_has_the_scores_of_the_eager_one() -> None:
    train, task = class_toy(32)
    expected = bank_of(PLAIN, train, task)
    assert graphs() == 0
    found = bank_of(COMPILED, train, task)
    torch.testing.assert_close(found[0], expected[0], rtol=0.02, atol=0.02)
    torch.testing.assert_close(found[1], expected[1], rtol=0.02, atol=0.02)
    assert found[2]["val_loss"] == pytest.approx(expected[2]["val_loss"], abs=0.01)
    before = graphs()
    assert before <= 10
