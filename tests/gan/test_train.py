"""The GAN's loop on toys: it learns the labels, keeps its fakes apart, resumes bit for bit, and reports bad numbers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cgankd.gan.guides as guides_module
import cgankd.gan.train as train_module
from cgankd.data.pixels import to_signed
from cgankd.fit.ema import update_ema
from cgankd.fit.loop import Loop
from cgankd.gan.diversity import fake_diversity
from cgankd.gan.embed import fit_label_embed
from cgankd.gan.sample import make_draw
from cgankd.gan.train import ema_decay, settle, train_cgan
from cgankd.nets.gans.generator import Generator
from cgankd.rng import generator, seed_all
from cgankd.types import Pairing
from tests.gan.toys import VICINITY, Killed, Memory, class_toy, gan_config, label_input, scalar_toy


def class_run(seed: int = 0, **kwargs: object) -> tuple[nn.Module, nn.Module, dict[str, float]]:
    train, task = class_toy()
    cfg = kwargs.pop("cfg", gan_config())
    seed_all("embed")
    embed = task.label_embed(cfg.embed_dim)
    return train_cgan(train, task, task.vicinity(train.labels), embed, cfg, Loop(seed, **kwargs))


def test_fakes_look_like_their_class_and_differ_from_each_other() -> None:
    train, _ = class_toy()
    logged: list[int] = []

    def log(step: int, values: Mapping[str, float], total: int) -> None:
        logged.append(step)
        assert {"loss_d", "loss_g", "floor", "diversity_ratio", "right_real", "right_fake"} == set(values)

    net, embed, metrics = class_run(log=log)
    draw = make_draw(net, embed, z_dim=8, precision="fp32")
    asked = torch.arange(2).repeat(50)
    fakes = draw(asked, generator("fakes")).float()
    means = torch.stack([train.images[train.labels == k].float().mean(0) for k in (0, 1)])
    nearest = ((fakes[:, None] - means) ** 2).mean((2, 3, 4)).argmin(1)
    assert float((nearest == asked).float().mean()) > 0.9
    assert fake_diversity(draw, asked, generator("twice")) > 0.4 * metrics["real_diversity"]
    assert logged == list(range(1, 151)) and not net.training


def test_scalar_fakes_follow_the_label() -> None:
    train, task = scalar_toy()
    cfg = gan_config(embed_dim=32, vicinity=VICINITY, label_input=label_input(), num_steps=200)
    seed_all("embed")
    embed = task.label_embed(32)
    fit_label_embed(embed, task, train, cfg.label_input, Loop(0))
    before = copy.deepcopy(embed.state_dict())
    net, frozen, _ = train_cgan(train, task, task.vicinity(train.labels), embed, cfg, Loop(0))
    for name, value in frozen.state_dict().items():
        assert torch.equal(value, before[name])
    asked = torch.linspace(0, 50, 64)
    fakes = make_draw(net, frozen, z_dim=8, precision="fp32")(asked, generator("fakes")).float()
    place = (fakes.mean((1, 2)) * torch.arange(16.0)).sum(1) / fakes.mean((1, 2)).sum(1)
    assert float(torch.corrcoef(torch.stack([place, asked]))[0, 1]) > 0.9


def test_resume_is_bitwise_and_a_finished_run_is_not_trained_again() -> None:
    cfg = gan_config(num_steps=100, width=4, batch_size=8, d_steps=2, ema_start=30)
    net, embed, metrics = class_run(5, cfg=cfg)
    memory = Memory(kill=True)
    with pytest.raises(Killed):
        class_run(5, cfg=cfg, checkpoint=memory)
    for _ in range(2):
        net2, embed2, metrics2 = class_run(5, cfg=cfg, checkpoint=memory)
        assert metrics2 == metrics and memory.loads > 0
        for whole, broken in ((net, net2), (embed, embed2)):
            for name, value in whole.state_dict().items():
                assert torch.equal(value, broken.state_dict()[name]), name


def test_the_callers_embedding_is_not_touched_but_its_copy_learns() -> None:
    train, task = class_toy()
    embed = task.label_embed(8)
    before = embed.table.weight.detach().clone()
    _, learned, _ = train_cgan(train, task, task.vicinity(train.labels), embed, gan_config(num_steps=3), Loop(0))
    assert torch.equal(embed.table.weight, before)
    assert not torch.equal(learned.table.weight, before)


def test_seeds_differ_and_one_seed_repeats() -> None:
    cfg = gan_config(num_steps=3)
    one, same, other = (class_run(seed, cfg=cfg)[0].start.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_pairs_of_weight_zero_teach_the_discriminator_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all weights zero the discriminator must stay as initialised: the weights reach the loss."""
    train, task = class_toy()
    vicinity = task.vicinity(train.labels)

    class Weightless:
        targets = staticmethod(vicinity.targets)

        def pair(self, target_B: torch.Tensor, gen: torch.Generator) -> Pairing:
            return Pairing(vicinity.pair(target_B, gen).index, torch.zeros(len(target_B)))

        def fake_labels(self, target_B: torch.Tensor, gen: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            return target_B, torch.zeros(len(target_B))

    seen: list[nn.Module] = []
    build = train_module.make_discriminator

    def remember(*args: Any) -> nn.Module:
        seen.extend([build(*args)])
        seen.append(copy.deepcopy(seen[0]))
        return seen[0]

    monkeypatch.setattr(train_module, "make_discriminator", remember)
    cfg = gan_config(num_steps=3, diversity_weight=0.0)
    train_cgan(train, task, Weightless(), task.label_embed(8), cfg, Loop(0))  # type: ignore[arg-type]
    for a, b in zip(seen[0].parameters(), seen[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_generator_and_discriminator_are_asked_for_the_right_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator gets the fake's label, the discriminator the target, for reals and fakes alike."""
    train, task = scalar_toy()
    vicinity = task.vicinity(train.labels)
    asked: list[torch.Tensor] = []

    class Apart:
        targets = staticmethod(vicinity.targets)
        pair = staticmethod(vicinity.pair)

        def fake_labels(self, target_B: torch.Tensor, gen: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.full_like(target_B, -1.0), torch.ones(len(target_B))

    def record(embed: nn.Module, label_B: torch.Tensor) -> torch.Tensor:
        asked.append(label_B)
        return torch.zeros(len(label_B), 16)

    monkeypatch.setattr(train_module, "embed_labels", record)
    cfg = gan_config(num_steps=1, embed_dim=16, vicinity=VICINITY, label_input=label_input())
    train_cgan(train, task, Apart(), task.label_embed(16), cfg, Loop(0))  # type: ignore[arg-type]
    fake_label, d_target, g_label, d_label = asked[:4]  # what follows settles the averaged generator
    assert bool((fake_label == -1).all()) and bool((d_target >= 0).all())
    assert torch.equal(g_label, d_label)
    assert torch.equal(g_label[:8], g_label[8:]), "half of the batch repeats the labels of the other half"


def test_augmented_reals_are_what_the_generator_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The discriminator's reals are those of `data.augment`, its fakes are not; "none" leaves the pixels as they are."""
    train, _ = class_toy()
    seen: list[torch.Tensor] = []

    def record(x_BCHW: torch.Tensor, *_: Any) -> torch.Tensor:
        seen.append(x_BCHW.detach())
        return x_BCHW

    monkeypatch.setattr(guides_module, "diff_augment", record)
    class_run(cfg=gan_config(num_steps=1))
    class_run(cfg=gan_config(num_steps=1, augment="shift"))
    (plain, shifted) = (to_signed(train.images), seen[2][:16])
    assert all(bool((plain == x).flatten(1).all(1).any()) for x in seen[0][:16])
    moved = [bool((plain == x).flatten(1).all(1).any()) for x in shifted]
    assert 0 < sum(moved) < 16, "one shift in nine is none at all"
    windows = F.pad(plain, (1, 1, 1, 1), mode="replicate").unfold(2, 16, 1).unfold(3, 16, 1)
    windows = windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    assert all(bool(((windows - x).abs() < 1e-6).flatten(1).all(1).any()) for x in shifted)
    assert float(seen[3].abs().max()) <= 1.0


def test_a_loss_that_is_not_finite_names_the_setting() -> None:
    with pytest.raises(ValueError, match=r"cgan\.lr_[dg].*cgan\.precision"):
        class_run(cfg=gan_config(lr_d=1e30, lr_g=1e30, num_steps=20))


def test_bf16_trains() -> None:
    _, _, metrics = class_run(cfg=gan_config(num_steps=3, precision="bf16"))
    assert all(abs(v) < 1e3 for v in metrics.values())


def test_ema_decay_starts_late_and_warms_up() -> None:
    cfg = gan_config(ema=0.9, ema_start=10)
    assert [ema_decay(s, cfg) for s in (0, 9, 10, 18, 1000)] == pytest.approx([0, 0, 0.1, 0.5, 0.9])


def test_ema_without_a_ramp_has_its_decay_from_the_start_on() -> None:
    cfg = gan_config(ema=0.9, ema_start=10, ema_ramp=False)
    assert [ema_decay(s, cfg) for s in (0, 9, 10, 11, 1000)] == [0, 0, 0.9, 0.9, 0.9]
    # Written out: t steps after the start the weights of step 9 still count 0.9^t.
    average, share = 1.0, []
    for step in range(10, 14):
        average *= ema_decay(step, cfg)
        share.append(average)
    assert share == pytest.approx([0.9, 0.81, 0.729, 0.6561])


def test_ema_is_the_recursion() -> None:
    seed_all("ema")
    net, average = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.normal_(net.weight)
    net.running_mean.fill_(2.0)
    expected = 0.75 * average.weight.detach() + 0.25 * net.weight.detach()
    update_ema(average, net, 0.75)
    torch.testing.assert_close(average.weight.detach(), expected)
    assert torch.equal(average.running_mean, net.running_mean)


def test_what_is_returned_is_the_settled_average() -> None:
    averaged = class_run(cfg=gan_config(num_steps=3))[0]
    latest = class_run(cfg=gan_config(num_steps=3, ema_start=3))[0]
    assert not torch.equal(averaged.start.weight, latest.start.weight)
    assert int(averaged.norm.num_batches_tracked) == 32, "the statistics are of the 32 batches of settle"


def test_settling_makes_statistics_those_of_the_weights() -> None:
    """After settling, evaluation mode normalises a fresh batch to mean 0 and sd 1, which stale statistics would not."""
    train, task = class_toy()
    seed_all("settle")
    net, embed, cfg = Generator(8, 8, 8, 1, 16), task.label_embed(8), gan_config(batch_size=64)
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.fill_(50.0)
        norm.num_batches_tracked.fill_(100)
    settle(net, embed, task.vicinity(train.labels), cfg, generator("settle"))
    net.eval()
    outputs: list[torch.Tensor] = []
    handle = net.norm.register_forward_hook(lambda module, args, out: outputs.append(out))
    with torch.no_grad():
        net(torch.randn(512, 8, generator=generator("z")), embed(torch.arange(512) % 2))
    handle.remove()
    assert float(outputs[0].mean((0, 2, 3)).abs().max()) < 0.15
    assert float((outputs[0].std((0, 2, 3)) - 1).abs().max()) < 0.15
    assert net.norm.momentum == 0.1
