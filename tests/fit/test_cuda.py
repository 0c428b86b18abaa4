"""Every training on a CUDA device ends near where it ends on the processor, and leaves its nets there. Needs a device."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cgankd.bank import build as bank
from cgankd.config import AUGMENTS, LabelInputConfig
from cgankd.data.augment import augment
from cgankd.fit.device import PLAIN, Plan
from cgankd.fit.loop import Loop
from cgankd.fit.predictor import make_predict
from cgankd.gan.embed import fit_label_embed
from cgankd.gan.sample import make_draw
from cgankd.gan.train import train_cgan
from cgankd.nets.features import FeatureNet
from cgankd.nets.gans.zoo import make_generator
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.density_ratio import RatioNets, make_ratio, train_ratio
from cgankd.ratio.features import FrozenExtractor, Reals, train_features
from cgankd.ratio.partners import FakeSource
from cgankd.rng import generator, seed_all
from pipelines.students.run_arm import train_job
from tests.bank.toys import ratio_config
from tests.distill.arms import job, settings, workplace
from tests.gan.toys import class_toy, gan_config, scalar_toy
from tests.pipelines.students.test_distil_arm import KINDS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
CUDA = Plan("cuda")
NEAR = {"rtol": 0.02, "atol": 0.02}


@pytest.fixture(autouse=True)
def exact_convolutions() -> Any:
    """cuDNN rounds float32 convolutions to TF32 by default."""
    kept, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = kept


def on_cpu(*nets: nn.Module) -> bool:
    return all(part.device.type == "cpu" for net in nets for part in net.state_dict().values())


@pytest.mark.parametrize(
    ("scalar", "changes"),
    [
        (False, {"diversity_weight": 0.0}),
        (False, {"diffaugment": "color,translation,cutout", "accumulate": 2}),
        (True, {"arch": "biggan", "augment": "zoom+hue+colour"}),
        (True, {"arch": "sagan"}),
    ],
)
def test_a_gan_on_the_device_ends_near_the_one_on_the_processor(scalar: bool, changes: dict[str, Any]) -> None:
    train, task = scalar_toy() if scalar else class_toy()
    cfg = gan_config(num_steps=3, d_steps=2, batch_size=8, **changes)
    found = []
    for plan in (PLAIN, CUDA):
        seed_all("embed")
        embed = task.label_embed(cfg.embed_dim)
        net, own, values = train_cgan(train, task, task.vicinity(train.labels), embed, cfg, Loop(0, plan))
        assert on_cpu(net, own)
        found.append(values)
    assert found[1] == pytest.approx(found[0], rel=0.02, abs=0.02)


def test_a_label_embedding_on_the_device() -> None:
    train, task = scalar_toy()
    cfg = LabelInputConfig(width=4, image_steps=5, label_steps=5, batch_size=8, learning_rate=1e-3, noise=0.05)
    found = []
    for plan in (PLAIN, CUDA):
        seed_all("embed")
        embed = task.label_embed(16)
        found.append(fit_label_embed(embed, task, train, cfg, Loop(0, plan)))
        assert on_cpu(embed)
    assert found[1] == pytest.approx(found[0], rel=0.02, abs=0.02)


@pytest.mark.parametrize("per_label", [False, True])
def test_a_bank_on_the_device_has_the_scores_of_the_processor(per_label: bool) -> None:
    train, task = class_toy(32)
    cfg, changes = gan_config(num_steps=1), {"penalty_per_label": per_label, "reconstruct_weight": 1.0}
    fit = ratio_config(num_steps=6, feature_steps=3, batch_size=8, pool_size=32, **changes)
    results = []
    for plan in (PLAIN, CUDA):
        seed_all("bank")
        net, embed = make_generator(cfg, 1, 16), task.label_embed(cfg.embed_dim)
        features, mlp = FeatureNet(1, 16, 4, 16, 2, decode=True), RatioMLP(cfg.embed_dim, 16, (16,), 0.0)
        draw = make_draw(net, embed, z_dim=cfg.z_dim, precision="fp32", plan=plan)
        report = train_features(features, Reals(train, train), task, fit, lambda unit, gen: unit, Loop(0, plan))
        run = FrozenExtractor(features.requires_grad_(False), "fp32", plan)
        judge, vicinity = partial(run.judge, task=task), task.vicinity(train.labels)
        source, nets = FakeSource(draw, run, judge, vicinity, math.inf, fit.max_redraws), RatioNets(mlp, embed)
        report |= train_ratio(nets, source, Reals(train, train), task, fit, Loop(0, plan))
        assert on_cpu(features, mlp, embed)
        guide = make_predictor("convnet", NetShape(2, 1, 16), width=8, mean=(0.5,), std=(0.25,))
        teacher = make_predict(guide.eval(), "fp32", plan=plan)
        ratio = make_ratio(RatioNets(mlp.to(plan.device), embed.to(plan.device)), run)
        s = bank.Scorer(draw, ratio, teacher, task)(torch.arange(16) % 2, generator("block"), 0)
        assert s.images.device.type == s.ratio.device.type == "cpu"
        results.append((report, s))
    (report, s), (found, t) = results
    assert found == pytest.approx(report, rel=0.02, abs=0.02)
    torch.testing.assert_close(t.ratio, s.ratio, **NEAR)
    torch.testing.assert_close(t.teacher_error, s.teacher_error, **NEAR)
    assert float((t.images.float() - s.images.float()).abs().mean()) < 1.0


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A work place of each kind of label."""
    return {scalar: workplace(tmp_path_factory.mktemp(f"place{scalar}"), scalar) for scalar in (False, True)}


@pytest.mark.parametrize(("name", "scalar"), KINDS)
def test_every_loss_trains_a_student_on_the_device(places: dict[bool, Path], name: str, scalar: bool) -> None:
    curves = []
    for device in ("cpu", "cuda"):
        run = replace(job(places[scalar], settings(scalar, distiller=name), f"{name}-{device}"), device=device)
        train_job(run)
        curves.append(json.loads(run.record.read_text())["curves"])
    for curve, points in curves[0].items():
        assert curves[1][curve][0][1] == pytest.approx(points[0][1], rel=0.05, abs=0.02), curve


@pytest.mark.parametrize("spec", AUGMENTS)
def test_augmentation_on_the_device_is_that_of_the_processor(spec: str) -> None:
    unit_BCHW = torch.rand(16, 3, 16, 16, generator=generator("unit"))
    found: list[Tensor] = [augment(unit_BCHW.to(device), spec, generator("draw")).cpu() for device in ("cpu", "cuda")]
    # A nearest pixel may be another one where a coordinate is rounded otherwise.
    assert float(((found[0] - found[1]).abs() > 1e-3).float().mean()) < 0.01


@pytest.mark.parametrize(
    "changes", [{"diversity_weight": 1.0}, {"arch": "biggan", "diversity_weight": 0.0, "accumulate": 2}]
)
def test_a_compiled_gan_on_the_device_ends_near_the_eager_one(changes: dict[str, Any]) -> None:
    train, task = class_toy()
    cfg, found = gan_config(num_steps=12, d_steps=2, batch_size=8, **changes), []
    for plan in (CUDA, Plan("cuda", "on")):
        seed_all("embed")
        embed = task.label_embed(cfg.embed_dim)
        found.append(train_cgan(train, task, task.vicinity(train.labels), embed, cfg, Loop(0, plan))[2])
    assert found[1] == pytest.approx(found[0], rel=0.05, abs=0.05)


@pytest.mark.parametrize("name", ["kd", "nkd"])
def test_a_compiled_student_on_the_device_ends_near_the_eager_one(places: dict[bool, Path], name: str) -> None:
    curves = []
    for mode in ("off", "on"):
        run = job(places[False], settings(False, distiller=name, num_steps=12), f"{name}-compile-{mode}")
        train_job(replace(run, device="cuda", compile=mode))
        curves.append(json.loads(run.record.read_text())["curves"])
    for curve, points in curves[0].items():
        for (_, one), (_, other) in zip(points, curves[1][curve], strict=True):
            assert other == pytest.approx(one, rel=0.1, abs=0.1), curve


def test_a_compiled_net_on_the_device() -> None:
    train, task = class_toy(32)
    net = make_predictor("convnet", NetShape(2, 1, 16), width=8, mean=(0.5,), std=(0.25,))
    expected = make_predict(net.eval(), "fp32")(train.images)
    predict: Callable[[Tensor], Tensor] = make_predict(net, "fp32", 8, plan=Plan("cuda", "on"), expected=100)
    torch.testing.assert_close(predict(train.images), expected, **NEAR)
