"""A GAN's collapse: each kind is seen, a sound or short training says nothing, and looking moves no number."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cgankd.gan.train as train_module
from cgankd.fit.device import Plan
from cgankd.fit.loop import Loop
from cgankd.fit.watch import NotFinite
from cgankd.gan.collapse import KINDS, PATIENCE, Collapse, Collapsed, chance_miss, make_probe
from cgankd.gan.train import train_cgan
from cgankd.measure.health import check_collapse, check_setback
from cgankd.rng import seed_all
from cgankd.types import Diverged
from tests.gan.toys import Killed, Memory, class_toy, gan_config, scalar_toy

SOUND = {"right_real": 0.7, "right_fake": 0.8, "diversity_ratio": 1.0}
LOOK = {"diversity": 1.0, "label_diversity": 0.6, "effect": 0.5}
STEPS = 100


class Shown(nn.Module):
    """A generator of (z, h) whose images are one shade: by the first of z, and by the first of h."""

    def __init__(self, by_z: float, by_h: float) -> None:
        super().__init__()
        self.by_z, self.by_h = by_z, by_h
        self.norm = nn.BatchNorm1d(1)

    def forward(self, z_BZ: Tensor, h_BE: Tensor) -> Tensor:
        """[B, 1, 16, 16]."""
        shade_B1 = self.by_z * z_BZ[:, :1] + self.by_h * h_BE[:, :1]
        return (self.norm(shade_B1) if self.training else shade_B1)[:, :, None, None].expand(-1, 1, 16, 16)


def collapse(chance: float | None = None) -> Collapse:
    train, task = class_toy()
    return Collapse(make_probe(train, task.vicinity(train.labels), 8, 0), gan_config(num_steps=STEPS), chance)


BAD: dict[str, tuple[dict[str, float], dict[str, float], float | None]] = {
    "diversity": (SOUND | {"diversity_ratio": 0.49}, LOOK, None),
    "diversity of the average": ({"right_real": 0.7, "right_fake": 0.8}, LOOK | {"diversity": 0.49}, None),
    "label_diversity": (SOUND, LOOK | {"label_diversity": 0.05}, None),
    "label": (SOUND, LOOK | {"effect": 0.01}, None),
    "label by the second head": (SOUND | {"aux_real": 0.01, "aux_fake": 0.08}, LOOK, 0.09),
    "discriminator": (SOUND | {"right_real": 1.0, "right_fake": 0.98}, LOOK, None),
}


@pytest.mark.parametrize("name", BAD)
def test_each_kind_is_seen_after_ten_looks_and_not_in_the_first_quarter(name: str) -> None:
    logged, seen, chance = BAD[name]
    found, kind = collapse(chance), name.split()[0]
    assert kind in KINDS
    told = {done: found.see(done, logged, seen) for done in range(1, 41)}
    assert {done for done, new in told.items() if new} == {25 + PATIENCE} and told[35] == [kind]
    assert found.values() == {f"collapse.{kind}": 35.0}
    assert found.see(41, SOUND, LOOK) == [] and found.values() == {
        f"collapse.{kind}": 35.0,
        f"collapse.{kind}.passed": 41.0,
    }
    again = [found.see(done, logged, seen) for done in range(42, 42 + PATIENCE)]
    assert again[-1] == [kind] and not any(again[:-1]), "a relapse is said again"
    assert found.values() == {f"collapse.{kind}": 35.0}


def test_a_look_in_between_that_is_sound_begins_the_count_anew() -> None:
    found, (logged, seen, _) = collapse(), BAD["discriminator"]
    for done in range(26, STEPS + 1):
        assert found.see(done, SOUND if done % PATIENCE == 0 else logged, seen) == []
    assert found.values() == {}


def test_values_of_sound_trainings_are_no_collapse() -> None:
    """The poorest that 28 trainings of the presets and of public sets showed, with room."""
    found = collapse(0.08)
    worst = {"diversity_ratio": 0.8, "right_real": 0.9, "right_fake": 0.95, "aux_real": 0.05, "aux_fake": 0.05}
    for done in range(1, STEPS + 1):
        assert found.see(done, worst, {"diversity": 0.7, "label_diversity": 0.2, "effect": 0.04}) == []


def test_a_killed_training_goes_on_counting() -> None:
    one, other, (logged, seen, _) = collapse(), collapse(), BAD["label"]
    for done in range(26, 31):
        one.see(done, logged, seen)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert [other.see(done, logged, seen) for done in range(31, 36)][-1] == ["label"]
    assert one.values() == {}


@pytest.mark.parametrize(
    ("by_z", "by_h", "signs"),
    [(0.0, 1.0, {"diversity"}), (1.0, 0.0, {"label"}), (1.0, 1.0, set()), (0.0, 0.0, {"diversity", "label"})],
)
def test_the_probe_tells_a_generator_that_ignores_its_noise_or_the_label(
    by_z: float, by_h: float, signs: set[str]
) -> None:
    found = collapse()
    seed_all("embed")
    net, embed = Shown(by_z, by_h), class_toy()[1].label_embed(8)
    before = copy.deepcopy(net.state_dict())
    look = found.probe.look(net, embed, "fp32")
    assert net.training and net.norm.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    logged = {"right_real": 0.7, "right_fake": 0.8}
    assert {kind for kind, bad in found.signs(logged, look).items() if bad} == signs


def test_one_label_alone_whose_fakes_are_alike() -> None:
    class Half(Shown):
        def forward(self, z_BZ: Tensor, h_BE: Tensor) -> Tensor:
            live_B1 = (h_BE[:, :1] == h_BE[0, 0]).float()
            return (3 * z_BZ[:, :1] * live_B1 + h_BE[:, :1])[:, :, None, None].expand(-1, 1, 16, 16)

    found = collapse()
    seed_all("embed")
    look = found.probe.look(Half(1, 1), class_toy()[1].label_embed(8), "fp32")
    assert look["label_diversity"] < 1e-6 and look["diversity"] > 0.5


def test_fakes_that_are_no_numbers_are_not_finite() -> None:
    seed_all("embed")
    with pytest.raises(NotFinite, match="fakes of the averaged generator"):
        collapse().probe.look(Shown(float("inf"), 1.0), class_toy()[1].label_embed(8), "fp32")


def test_labels_without_two_images_have_no_measure() -> None:
    train, task = scalar_toy(4)
    probe = make_probe(train, task.vicinity(train.labels), 8, 0)
    assert bool(probe.real_L.isnan().any())
    alone = dataclasses.replace(probe, real_L=torch.full_like(probe.real_L, float("nan")))
    assert alone.look(Shown(1, 1), task.label_embed(8), "fp32") == {}


def test_chance_is_the_variance_of_the_label() -> None:
    train, task = scalar_toy()
    unit_N = train.labels / 50
    assert chance_miss(task, train.labels) == pytest.approx(float(((unit_N - unit_N.mean()) ** 2).mean()), rel=1e-5)


def collapsing(
    patch: pytest.MonkeyPatch, said: list[str], memory: Memory | None = None, **changes: Any
) -> dict[str, float]:
    """A training whose discriminator is always right, as far as is logged."""
    patch.setattr(Collapse, "signs", lambda self, logged, seen: dict.fromkeys(KINDS, False) | {"discriminator": True})
    train, task = class_toy()
    cfg = gan_config(num_steps=60, width=4, batch_size=8, **changes)
    seed_all("embed")
    embed = task.label_embed(8)
    loop = Loop(0, Plan(say=said.append), checkpoint=memory, save_every=20)
    return train_cgan(train, task, task.vicinity(train.labels), embed, cfg, loop)[2]


def test_it_is_said_while_training_and_ends_it_only_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert collapsing(monkeypatch, said)["collapse.discriminator"] == 25.0
    assert len(said) == 1 and said[0].startswith("the GAN seems to have collapsed, seen at step 25 of 60: the discrim")
    memory = Memory(kill=True)
    with pytest.raises(Killed):
        collapsing(monkeypatch, said, memory, stop_collapsed=True)
    for _ in range(2):  # from step 20 on, and again
        with pytest.raises(
            Collapsed, match=r"cgan\.stop_collapsed: .* step 25 of 60, and nothing of it is saved"
        ) as found:
            collapsing(monkeypatch, said, memory, stop_collapsed=True)
        assert isinstance(found.value, Diverged)


def test_looking_moves_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> Mapping[str, Tensor]:
        train, task = class_toy()
        seed_all("embed")
        embed = task.label_embed(8)
        cfg = gan_config(num_steps=12, width=4, batch_size=8)
        net, learned, _ = train_cgan(train, task, task.vicinity(train.labels), embed, cfg, Loop(0))
        return nn.ModuleDict({"net": net, "embed": learned}).state_dict()

    looked = run()
    monkeypatch.setattr(train_module.Collapse, "look", lambda *args: None)
    assert all(torch.equal(value, looked[name]) for name, value in run().items())


def test_the_checks_say_what_to_do() -> None:
    check = check_collapse("label", KINDS["label"], 40.0, None)
    assert not check.ok and not check.fatal and check.name == "collapse.label" and check.value == 40.0
    assert check.sentence == f"the GAN seems to have collapsed since step 40: {KINDS['label']}"
    passed = check_collapse("label", KINDS["label"], 40.0, 60.0)
    assert passed.ok and "recovered by step 60 (the fakes do not follow the label)" in passed.sentence
    back = check_setback("label input", 7, 4, "loss nan", "cgan.label_input.learning_rate")
    assert (back.name, back.value, back.ok, back.fatal) == ("setback.label_input", 7.0, False, False)
    assert back.sentence.endswith(
        "it went on from step 4 at half the learning rate: lower cgan.label_input.learning_rate"
    )
