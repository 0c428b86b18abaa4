"""Micro-batches: the discriminator's step is that of the whole batch; what moves and what is held within a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import cgankd.gan.train as train_module
from cgankd.config import ConfigError
from cgankd.fit.loop import Loop
from cgankd.gan.micro import micro_batches
from cgankd.gan.train import train_cgan
from cgankd.nets.gans.spectral import SNLinear, hold_spectral
from cgankd.rng import generator, seed_all
from tests.gan.test_train import class_run
from tests.gan.toys import Killed, Memory, class_toy, gan_config


def after(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, list[nn.Parameter]]:
    """Weights of the two nets after training under these settings."""
    nets: dict[str, nn.Module] = {}
    for name in ("make_generator", "make_discriminator"):
        build = getattr(train_module, name)

        def keep(*args: Any, name: str = name, build: Any = build) -> nn.Module:
            nets[name] = build(*args)
            return nets[name]

        monkeypatch.setattr(train_module, name, keep)
    train, task = class_toy()
    seed_all("embed")
    embed = task.label_embed(8)
    train_cgan(train, task, task.vicinity(train.labels), embed, gan_config(width=4, **changes), Loop(0))
    monkeypatch.undo()
    return {name: list(net.parameters()) for name, net in nets.items()}


@pytest.mark.parametrize("arch", ["compact", "biggan"])
@pytest.mark.parametrize("count", [2, 4])
def test_the_discriminators_step_is_that_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch, arch: str, count: int
) -> None:
    """Adam's first steps are the gradient's sign times the rate, so SGD in its place shows the gradients themselves."""
    monkeypatch.setattr(torch.optim, "Adam", lambda weights, rate, betas, fused: torch.optim.SGD(weights, rate))
    with pytest.MonkeyPatch.context() as inner:
        # The generator stands still, as its batch norms see micro-batches.
        whole = after(inner, arch=arch, num_steps=2, d_steps=4, lr_g=1e-30, lr_d=0.05)
        parts = after(inner, arch=arch, num_steps=2, d_steps=4, lr_g=1e-30, lr_d=0.05, accumulate=count)
    for one, other in zip(whole["make_discriminator"], parts["make_discriminator"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_generators_step_is_near_that_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm takes its statistics a micro-batch, so the steps agree in direction, not to the bit."""
    steps = {}
    monkeypatch.setattr(torch.optim, "Adam", lambda weights, rate, betas, fused: torch.optim.SGD(weights, rate))
    settings: dict[str, Any] = {
        "num_steps": 1,
        "diffaugment": "",
        "batch_size": 128,
        "lr_d": 1e-30,
        "diversity_weight": 0.0,
    }
    with pytest.MonkeyPatch.context() as inner:
        for name, changes in {
            "none": {"lr_g": 1e-30},
            "whole": {"lr_g": 0.1},
            "parts": {"lr_g": 0.1, "accumulate": 2},
        }.items():
            nets = after(inner, **(settings | changes))
            steps[name] = torch.cat([weight.detach().flatten() for weight in nets["make_generator"]])
    whole, parts = steps["whole"] - steps["none"], steps["parts"] - steps["none"]
    assert float(whole.norm()) > 1e-3
    assert float(torch.cosine_similarity(whole, parts, dim=0)) > 0.95
    assert float(parts.norm() / whole.norm()) == pytest.approx(1, abs=0.1)


def test_micro_batches_cover_the_batch_and_keep_pairs_together() -> None:
    assert [rows.tolist() for rows in micro_batches(8, 1)] == [list(range(8))]
    assert [rows.tolist() for rows in micro_batches(8, 2)] == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_a_held_layer_keeps_its_sigma_and_its_vector() -> None:
    seed_all("hold")
    layer, x = SNLinear(6, 4), torch.randn(3, 6)
    nn.init.normal_(layer.weight)
    first = layer(x)
    u = layer.u.clone()
    hold_spectral(layer, True)
    assert torch.equal(layer(x), first) and torch.equal(layer.u, u)
    hold_spectral(layer, False)
    layer(x)
    assert not torch.equal(layer.u, u)


def test_after_a_step_nothing_is_held() -> None:
    layer = SNLinear(6, 4)
    held = [layer.held for _ in micro_batches(4, 2, layer)]
    assert held == [False, True] and not layer.held


@pytest.mark.parametrize("count", [3, 8, 0])
def test_a_count_that_does_not_divide_the_batch_is_named(count: int) -> None:
    with pytest.raises(ConfigError, match=r"cgan\.accumulate"):
        gan_config(batch_size=8, accumulate=count)


@pytest.mark.parametrize("arch", ["biggan", "sagan"])
def test_resume_is_bitwise_for_the_other_nets(arch: str) -> None:
    cfg = gan_config(arch=arch, num_steps=52, width=1, batch_size=4, ema_start=20, accumulate=2)
    net, embed, metrics = class_run(5, cfg=cfg)
    memory = Memory(kill=True)
    with pytest.raises(Killed):
        class_run(5, cfg=cfg, checkpoint=memory)
    net2, embed2, metrics2 = class_run(5, cfg=cfg, checkpoint=memory)
    assert metrics2 == metrics and memory.loads == 1
    for whole, broken in ((net, net2), (embed, embed2)):
        for name, value in whole.state_dict().items():
            assert torch.equal(value, broken.state_dict()[name]), name
    image = net(torch.randn(2, 8, generator=generator("z")), embed(torch.tensor([0, 1])))
    assert bool(image.isfinite().all())
