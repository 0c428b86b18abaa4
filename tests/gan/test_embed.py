"""The improved label input: the embedding gives the label back through a frozen head, and resumes bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cgankd.fit.loop import Loop
from cgankd.gan.embed import fit_label_embed, label_loss, make_optimizer, noisy_units, spread_units
from cgankd.gan.label_nets import make_label_net
from cgankd.rng import generator, seed_all
from tests.gan.toys import Killed, Memory, class_toy, label_input, scalar_toy


def fresh_embed() -> torch.nn.Module:
    seed_all("embed")
    return scalar_toy()[1].label_embed(32)


def test_a_class_table_is_left_alone() -> None:
    train, task = class_toy()
    embed = task.label_embed(8)
    before = embed.table.weight.clone()
    assert fit_label_embed(embed, task, train, None, Loop(0)) == {}
    assert torch.equal(embed.table.weight, before) and embed.table.weight.requires_grad


def test_round_trip_of_the_label() -> None:
    train, task = scalar_toy()
    embed = fresh_embed()
    logged: dict[str, list[float]] = {}

    def log(step: int, values: dict[str, float], total: int) -> None:
        for name, value in values.items():
            logged.setdefault(name, []).append(value)

    metrics = fit_label_embed(embed, task, train, label_input(), Loop(0, log=log))
    assert metrics["label_error_max"] < 0.05 and metrics["label_error_mean"] < 0.02
    assert metrics["image_loss"] < 0.01
    assert not any(p.requires_grad for p in embed.parameters())
    assert set(logged) == {"image_loss", "label_loss"} and len(logged["label_loss"]) > 10
    sd = embed(torch.linspace(0, 50, 201)).std(0)
    assert float(sd[sd > 1e-3 * sd.max()].mean()) == pytest.approx(1, abs=1e-3)
    # The labels lie on a curve: near labels have nearer embeddings than far ones.
    h = embed(torch.tensor([10.0, 12.0, 45.0]))
    assert float((h[0] - h[1]).norm()) < 0.5 * float((h[0] - h[2]).norm())


def test_spreading_scales_h_and_nothing_else() -> None:
    embed = fresh_embed()
    labels = torch.linspace(0, 50, 201)
    before = embed(labels).detach()
    spread_units(embed)
    after = embed(labels).detach()
    sd = after.std(0)
    assert float(sd[sd > 1e-3 * sd.max()].mean()) == pytest.approx(1, abs=1e-4)
    ratio = (after / before)[before > 1e-3]
    assert float(ratio.std()) < 1e-3 * float(ratio.mean())


@pytest.mark.parametrize("image_steps", [80, 20])
def test_resume_is_bitwise(image_steps: int) -> None:
    """The run is killed at step 50, while net 1 or while the embedding is being fitted."""
    train, task = scalar_toy()
    cfg = label_input(image_steps=image_steps, label_steps=100 - image_steps, batch_size=8, width=4)
    whole, broken = fresh_embed(), fresh_embed()
    expected = fit_label_embed(whole, task, train, cfg, Loop(3))
    memory = Memory(kill=True)
    with pytest.raises(Killed):
        fit_label_embed(broken, task, train, cfg, Loop(3, checkpoint=memory))
    broken = fresh_embed()
    assert fit_label_embed(broken, task, train, cfg, Loop(3, checkpoint=memory)) == expected
    for a, b in zip(whole.parameters(), broken.parameters(), strict=True):
        assert torch.equal(a, b)
    again = fresh_embed()
    assert fit_label_embed(again, task, train, cfg, Loop(3, checkpoint=memory)) == expected


def test_noisy_units_stay_in_range_and_spread() -> None:
    units = noisy_units(torch.tensor([0.5]), 20_000, 0.1, generator("noise")).numpy()
    assert units.min() >= 0 and units.max() <= 1
    assert np.mean(units) == pytest.approx(0.5, abs=0.005) and np.std(units) == pytest.approx(0.1, abs=0.005)


def test_a_diverging_fit_names_its_setting() -> None:
    train, task = scalar_toy()
    with pytest.raises(ValueError, match=r"cgan\.label_input\.learning_rate"):
        fit_label_embed(fresh_embed(), task, train, label_input(learning_rate=1e30), Loop(0))


PUBLISHED = {
    "net": "resnet18",
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "weight_decay": 1e-4,
    "schedule": "multistep",
    "image_milestones": (0.3, 0.6),
    "label_milestones": (0.3, 0.5, 0.7),
    "scalar_loss": "squared",
    "augment": "flip",
    "spread": False,
}


def test_the_published_way_fits_and_resumes_bit_for_bit() -> None:
    train, task = scalar_toy()
    cfg = label_input(**(PUBLISHED | {"image_steps": 60, "label_steps": 40, "batch_size": 8, "label_batch_size": 16}))
    whole, broken = fresh_embed(), fresh_embed()
    expected = fit_label_embed(whole, task, train, cfg, Loop(3))
    with pytest.raises(Killed):
        fit_label_embed(broken, task, train, cfg, Loop(3, checkpoint=(memory := Memory(kill=True))))
    broken = fresh_embed()
    assert fit_label_embed(broken, task, train, cfg, Loop(3, checkpoint=memory)) == expected
    for a, b in zip(whole.parameters(), broken.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not any(p.requires_grad for p in whole.parameters())


@pytest.mark.parametrize(
    ("net", "size"), [("resnet18", 11_502_785), ("resnet34", 21_610_945), ("resnet50", 24_616_513)]
)
def test_published_label_nets_have_their_size_and_halve_every_stage(net: str, size: int) -> None:
    """torchvision's nets without their head, a 3x3 stem, a shortcut more in stage 1 (not for bottlenecks), two layers."""
    trunk = {"resnet18": 11_176_512, "resnet34": 21_284_672, "resnet50": 23_508_032}[net]
    trunk += 9 * 3 * 64 - 49 * 3 * 64
    trunk += 64 * 64 + 2 * 64 if net != "resnet50" else 0
    inputs = 2048 if net == "resnet50" else 512
    head = inputs * 512 + 512 + 1024 + 512 * 128 + 128 + 256 + 129
    built = make_label_net(label_input(net=net), 3, 128)
    assert sum(p.numel() for p in built.parameters()) == trunk + head == size
    with torch.no_grad():
        assert built.eval().trunk(torch.zeros(1, 3, 64, 64)).shape[2:] == (4, 4)


def test_squared_loss_and_sgd_are_the_formulas() -> None:
    out, unit = torch.tensor([[0.2], [0.9], [0.5]]), torch.tensor([0.1, 0.4, 0.5])
    squared = label_loss(out, unit, label_input(scalar_loss="squared"), None)
    assert float(squared) == pytest.approx((0.01 + 0.25) / 3)
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 2.0)
    opt = make_optimizer(layer, label_input(optimizer="sgd", weight_decay=0.1, learning_rate=0.5))
    weight, speed = 2.0, 0.0
    for _ in range(3):
        opt.zero_grad()
        layer(torch.ones(1, 1)).sum().backward()
        opt.step()
        speed = 0.9 * speed + 1.0 + 0.1 * weight
        weight -= 0.5 * speed
    assert float(layer.weight.detach()) == pytest.approx(weight, rel=1e-5)


def test_net_two_is_fitted_on_distinct_labels_where_the_targets_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise its labels are the training labels: 63 images in 64 of one label, or every label equally often."""
    train, task = scalar_toy()
    labels = torch.cat([torch.full((63,), 10.0), torch.tensor([40.0])])
    seen: list[torch.Tensor] = []

    def spy(unit_N: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(noisy_units(unit_N, *rest))
        return seen[-1]

    monkeypatch.setattr("cgankd.gan.embed.noisy_units", spy)
    cfg = label_input(image_steps=1, label_steps=30, noise=0.0)
    for targets, share in (("marginal", 1 / 64), ("distinct", 0.5)):
        seen.clear()
        fit_label_embed(fresh_embed(), task, replace(train, labels=labels), cfg, Loop(0), targets)
        rare = (torch.cat(seen) > 0.5).double().mean()
        assert float(rare) == pytest.approx(share, abs=0.05)
