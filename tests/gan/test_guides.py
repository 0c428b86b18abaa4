"""Guided trainings on toys: each guide does what it says, all resume bit for bit, and without them nothing is changed."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cgankd.fit.loop import Loop
from cgankd.gan.guides import NOTHING, Given, Guides
from cgankd.gan.losses import label_miss
from cgankd.gan.sample import make_draw
from cgankd.gan.train import train_cgan
from cgankd.labels.task import ScalarTask
from cgankd.nets.gans.projection import add_answer, apart
from cgankd.nets.gans.zoo import make_discriminator
from cgankd.rng import generator, seed_all
from tests.gan.guided import FEATURES, toy_features
from tests.gan.toys import SCALARS, VICINITY, Killed, Memory, class_toy, gan_config, label_input, scalar_toy

SMALL: dict[str, Any] = {"num_steps": 60, "width": 4, "batch_size": 8, "d_steps": 2}
SCALAR: dict[str, Any] = {"embed_dim": 16, "vicinity": VICINITY, "label_input": label_input()}


def brightness(unit_BCHW: Tensor, label_B: Tensor) -> Tensor:
    """A teacher's loss that wants dark fakes of label 0 and bright ones of higher labels."""
    wanted_B = 0.2 + 0.6 * (label_B.float() > 0).float()
    return (unit_BCHW.mean((1, 2, 3)) - wanted_B).square().mean()


def trained(
    scalar: bool = False,
    given: Given = NOTHING,
    period: float | None = None,
    memory: Memory | None = None,
    **changes: Any,
) -> tuple[nn.Module, nn.Module, dict[str, float]]:
    train, task = scalar_toy() if scalar else class_toy()
    cfg = gan_config(**(SMALL | (SCALAR if scalar else {}) | changes))
    if scalar:
        task = ScalarTask(replace(SCALARS, label_period=period), cfg.vicinity, 10.0, 20)
    seed_all("embed")
    embed = task.label_embed(cfg.embed_dim)
    return train_cgan(train, task, task.vicinity(train.labels), embed, cfg, Loop(5, checkpoint=memory), given)


ALL: list[tuple[bool, float | None, dict[str, Any]]] = [
    (False, None, FEATURES | {"augment_target": 0.1, "augment_speed": 300, "teacher_weight": 1.0}),
    (True, None, FEATURES | {"augment_target": 0.1, "augment_speed": 300, "teacher_weight": 1.0, "aux_weight": 1.0}),
    (True, 60.0, {"aux_weight": 1.0, "accumulate": 2, "vicinity": replace(VICINITY, least=5)}),
]


def given_for(changes: dict[str, Any]) -> Given:
    return Given(
        toy_features() if "features" in changes else None, brightness if changes.get("teacher_weight") else None
    )


@pytest.mark.parametrize(("scalar", "period", "changes"), ALL)
def test_a_killed_training_ends_on_the_same_weights(
    scalar: bool, period: float | None, changes: dict[str, Any]
) -> None:
    net, embed, values = trained(scalar, given_for(changes), period, **changes)
    memory = Memory(kill=True)
    with pytest.raises(Killed):
        trained(scalar, given_for(changes), period, memory, **changes)
    for _ in range(2):
        net2, embed2, values2 = trained(scalar, given_for(changes), period, memory, **changes)
        assert values2 == values and memory.loads > 0
        for whole, broken in ((net, net2), (embed, embed2)):
            for name, value in whole.state_dict().items():
                assert torch.equal(value, broken.state_dict()[name]), name
    assert all(np.isfinite(value) for value in values.values())


def test_what_is_logged_and_kept() -> None:
    memory = Memory()
    scalar, period, changes = ALL[1]
    values = trained(scalar, given_for(changes), period, memory, **changes)[2]
    features = {"loss_d_features", "loss_g_features", "floor_features", "diversity_ratio_features"}
    assert features | {"aux_real", "aux_fake", "augment_p", "augment_r", "loss_teacher"} <= set(values)
    assert 0 < values["augment_p"] <= 1 and -1 <= values["augment_r"] <= 1
    state = torch.load(io.BytesIO(memory.blob or b""), weights_only=True)
    assert {"heads", "embed_heads", "opt_heads", "strength"} <= set(state) and "answer.weight" in state["net_d"]


def test_without_guides_nothing_is_kept_drawn_or_added() -> None:
    memory = Memory()
    values = trained(memory=memory)[2]
    state = torch.load(io.BytesIO(memory.blob or b""), weights_only=True)
    nets = ["net_g", "net_d", "embed_g", "embed_d", "ema_g", "ema_embed", "opt_g", "opt_d"]
    assert list(state) == ["step", "values", *nets, "collapse"] and not [
        name for name in state["net_d"] if "answer" in name
    ]
    assert set(values) == {"loss_d", "loss_g", "right_real", "right_fake", "floor", "diversity_ratio", "real_diversity"}
    guides, loss = Guides(NOTHING, gan_config(), class_toy()[1]), torch.tensor(1.0)
    image = torch.zeros(2, 1, 16, 16)
    assert guides.judged(loss, loss[None], loss[None], None, torch.zeros(1)) is loss
    assert guides.pulled(loss, image, image, torch.zeros(2), None, 3) is loss
    assert guides.parts() == {} and guides.values() == {} and guides.probability is None and guides.heads == ()


@pytest.mark.parametrize("changes", [{"augment_target": 0.1, "augment_speed": 300}, FEATURES, {"teacher_weight": 1.0}])
def test_each_guide_changes_the_training(changes: dict[str, Any]) -> None:
    plain, guided = trained()[0], trained(given=given_for(changes), **changes)[0]
    assert not torch.equal(plain.start.weight, guided.start.weight)
    assert [*plain.state_dict()] == [*guided.state_dict()], "the generator itself is as ever"


def test_the_teacher_pulls_fakes_to_the_labels_asked() -> None:
    def means(weight: float) -> list[float]:
        given = Given(teacher=brightness) if weight else NOTHING
        net, embed, _ = trained(given=given, teacher_weight=weight, teacher_start=0.0, num_steps=60, lr_g=3e-3)
        draw = make_draw(net, embed, z_dim=8, precision="fp32")
        fakes = draw(torch.arange(2).repeat(50), generator("fakes")).float() / 255
        return [float(fakes[k::2].mean()) for k in (0, 1)]

    plain, pulled = means(0.0), means(200.0)
    assert abs(plain[0] - plain[1]) < 0.1
    assert pulled == pytest.approx([0.2, 0.8], abs=0.12)


def test_the_teacher_is_asked_after_its_share_of_the_steps_with_unaugmented_fakes() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def record(unit_BCHW: Tensor, label_B: Tensor) -> Tensor:
        seen.append((unit_BCHW.detach(), label_B))
        return 0.0 * unit_BCHW.mean()

    shared = {"num_steps": 8, "teacher_weight": 1.0, "diffaugment": "color", "batch_size": 16}
    pulled = trained(given=Given(teacher=record), teacher_start=0.5, **shared)[0]
    assert len(seen) == 4
    for unit_BCHW, label_B in seen:
        assert float(unit_BCHW.min()) >= 0 and float(unit_BCHW.max()) <= 1
        assert len(label_B) == 16 and torch.equal(label_B[:8], label_B[8:])
    plain = trained(num_steps=8, diffaugment="color", batch_size=16)[0]
    assert torch.equal(pulled.start.weight, plain.start.weight), "a loss without a gradient changes nothing"


def test_the_second_head_learns_the_labels_and_the_generator_follows() -> None:
    train, task = scalar_toy()
    cfg = gan_config(**(SMALL | SCALAR | {"aux_weight": 20.0, "num_steps": 200, "width": 8, "d_steps": 1}))
    seed_all("embed")
    rows: list[Mapping[str, float]] = []
    loop = Loop(5, log=lambda step, values, total: rows.append(values))
    train_cgan(train, task, task.vicinity(train.labels), task.label_embed(16), cfg, loop)
    spread = float(torch.linspace(0, 1, 64).var())  # the miss of the middle of the range
    early, late = (
        {k: np.mean([r[k] for r in part]) for k in ("aux_real", "aux_fake")} for part in (rows[:5], rows[-30:])
    )
    assert early["aux_real"] > 0.7 * spread and early["aux_fake"] > 0.7 * spread
    assert late["aux_real"] < 0.3 * spread and late["aux_fake"] < 0.5 * spread


@pytest.mark.parametrize("period", [None, 1.0, 1.5])
def test_the_miss_of_labels_by_hand(period: float | None) -> None:
    gen = generator("answers")
    label = torch.rand(6, generator=gen, dtype=torch.float64)
    answer = torch.randn(6, 1 if period is None else 2, generator=gen, dtype=torch.float64)
    if period is None:
        wanted = np.mean((answer[:, 0].numpy() - label.numpy()) ** 2)
    else:
        angle = 2 * np.pi * label.numpy() / period
        point = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        wanted = np.mean(((answer.numpy() - point) ** 2).sum(1)) * (period / (2 * np.pi)) ** 2
    assert float(label_miss(answer, label, period)) == pytest.approx(wanted, rel=1e-5)
    answer = answer.float().requires_grad_(True)
    label_miss(answer, label, period).backward()
    scale = 2 / 6 if period is None else 2 / 6 * (period / (2 * np.pi)) ** 2
    gap = answer.detach().double() - (label[:, None] if period is None else torch.from_numpy(point))
    torch.testing.assert_close(answer.grad, (scale * gap).float(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("arch", ["compact", "sngan", "biggan-deep"])
@pytest.mark.parametrize("period", [None, 0.5])
def test_a_discriminator_with_a_second_head_scores_as_without(arch: str, period: float | None) -> None:
    plain = make_discriminator(gan_config(arch=arch), 1, 16).eval()
    both = copy.deepcopy(plain)
    add_answer(both, period)
    x_BCHW, h_BE = torch.randn(4, 1, 16, 16), torch.randn(4, 8)
    (score_B, nothing), (same_B, answer_BO) = apart(plain(x_BCHW, h_BE)), apart(both(x_BCHW, h_BE))
    assert nothing is None and torch.equal(score_B, same_B) and answer_BO is not None
    middle = torch.full((4, 1), 0.5) if period is None else torch.zeros(4, 2)
    assert torch.equal(answer_BO, middle)
    assert set(both.state_dict()) - set(plain.state_dict()) == {"answer.weight", "answer.bias"}


def test_real_images_are_read_against_their_own_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not against the targets, whose partners they are."""
    train, task = scalar_toy()
    cfg = gan_config(**(SMALL | SCALAR | {"aux_weight": 1.0, "num_steps": 1, "d_steps": 1}))
    seen: list[Tensor] = []
    judged = Guides.judged

    def record(
        self: Guides, loss: Tensor, real_B: Tensor, weight_B: Tensor, answer_BO: Tensor, label_B: Tensor
    ) -> Tensor:
        assert len(answer_BO) == len(real_B) == len(label_B) == 8
        seen.append(label_B)
        return judged(self, loss, real_B, weight_B, answer_BO, label_B)

    monkeypatch.setattr(Guides, "judged", record)
    seed_all("embed")
    train_cgan(train, task, task.vicinity(train.labels), task.label_embed(16), cfg, Loop(5))
    assert set(seen[0].tolist()) <= set(train.labels.tolist())
