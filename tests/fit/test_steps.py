"""Loops say where each of their steps begins, without which replays on a device would record anew or overwrite."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from cgankd.data.batches import Batch, Mixture
from cgankd.fit.device import Plan
from cgankd.fit.loop import Loop
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, fit_predictor, make_predict
from cgankd.gan.sample import make_draw
from cgankd.gan.train import train_cgan
from cgankd.nets.features import FeatureNet
from cgankd.nets.gans.zoo import make_generator
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import Predictor, make_predictor
from cgankd.ratio.features import FrozenExtractor, Reals, train_features
from cgankd.rng import generator
from tests.bank.toys import ratio_config
from tests.fit.test_predictor import fit_config
from tests.gan.toys import class_toy, gan_config


@dataclass(frozen=True)
class Counting(Plan):
    """A plan that counts the steps."""

    seen: list[int] = field(default_factory=list)

    def step(self) -> None:
        self.seen.append(1)


def predictor() -> Predictor:
    return make_predictor("convnet", NetShape(2, 1, 16), width=4, mean=(0.5,), std=(0.25,))


def test_a_gan_has_a_step_for_each_step_of_an_optimiser() -> None:
    train, task = class_toy()
    plan, cfg = Counting(), gan_config(num_steps=3, d_steps=2, batch_size=8, accumulate=2)
    train_cgan(train, task, task.vicinity(train.labels), task.label_embed(cfg.embed_dim), cfg, Loop(0, plan))
    assert len(plan.seen) == 3 * (2 + 1)


def test_a_student_has_one_step_a_step_and_its_validation_none() -> None:
    train, task = class_toy()
    plan, cfg = Counting(), fit_config(num_steps=5, batch_size=8, precision="fp32")
    data = Mixture(train, None, real_share=None, batch_size=8, seed=0)
    predict = make_predict(net := predictor(), "fp32")
    fit_predictor(
        net, Plain(task), Feed(data.batch, lambda unit, gen: unit), cfg, Loop(0, plan),
        validate=lambda module: float(predict(train.images).mean()),
    )  # fmt: skip
    assert len(plan.seen) == 5


def test_inference_has_a_step_for_each_batch() -> None:
    train, task = class_toy(24)
    plan, cfg = Counting(), gan_config(num_steps=1)
    make_predict(predictor(), "fp32", 10, plan=plan)(train.images)
    assert len(plan.seen) == 3
    draw = make_draw(
        make_generator(cfg, 1, 16), task.label_embed(cfg.embed_dim), z_dim=cfg.z_dim, precision="fp32", batch_size=10, plan=plan,
    )  # fmt: skip
    draw(train.labels, generator("draw"))
    assert len(plan.seen) == 6
    FrozenExtractor(FeatureNet(1, 16, 4, 16, 2, decode=False), "fp32", plan)(train.images)
    assert len(plan.seen) == 7


def test_a_feature_extractor_has_one_step_a_step() -> None:
    train, task = class_toy()
    plan, cfg = Counting(), ratio_config(feature_steps=4)
    net = FeatureNet(1, 16, 4, 16, 2, decode=False)
    train_features(net, Reals(train, train), task, cfg, lambda unit, gen: unit, Loop(0, plan))
    assert len(plan.seen) == 4


def test_a_batch_is_moved_but_for_its_row_numbers() -> None:
    rows = torch.arange(3)
    batch = Batch(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), rows, rows, rows > 1)
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    assert moved.images_BCHW.is_meta and moved.labels_B.is_meta and moved.is_fake_B.is_meta
    assert moved.index_B is batch.index_B
