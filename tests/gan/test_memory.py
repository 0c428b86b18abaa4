"""A GAN whose discriminator finds no memory goes on in pieces; its generator's step is refused with a sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import cgankd.gan.train as train_module
from cgankd.fit.device import Plan
from cgankd.fit.loop import Loop
from cgankd.fit.room import NoRoom
from cgankd.gan.sample import make_draw
from cgankd.gan.train import train_cgan
from cgankd.rng import generator, seed_all
from tests.gan.toys import Killed, Memory, class_toy, gan_config

OUT = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 3 GiB"
Net = dict[str, torch.Tensor]


def run(
    monkeypatch: pytest.MonkeyPatch, fails: Any, checkpoint: Memory | None = None, **changes: Any
) -> tuple[Net, list[str]]:
    """The generator after training where `fails(name, rows, calls)` says when a net has no memory, and what was said."""
    said, calls = list[str](), {"make_generator": 0, "make_discriminator": 0}
    for name in calls:
        build = getattr(train_module, name)

        def make(*args: Any, name: str = name, build: Any = build) -> nn.Module:
            net: nn.Module = build(*args)

            def look(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
                calls[name] += 1
                if fails(name, len(inputs[0]), calls[name]):
                    raise RuntimeError(OUT)

            net.register_forward_pre_hook(look)
            return net

        monkeypatch.setattr(train_module, name, make)
    train, task = class_toy()
    seed_all("embed")
    embed = task.label_embed(8)
    loop = Loop(0, Plan(say=said.append), checkpoint=checkpoint, save_every=4)
    cfg = gan_config(**({"width": 4, "num_steps": 6, "batch_size": 16} | changes))
    net, _, _ = train_cgan(train, task, task.vicinity(train.labels), embed, cfg, loop)
    monkeypatch.undo()
    return net.state_dict(), said


def test_the_discriminators_steps_go_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = run(monkeypatch, lambda *of: False, num_steps=1)
    parts, said = run(monkeypatch, lambda name, rows, calls: rows > 16, num_steps=1)  # reals and fakes are 32
    assert len(said) == 1 and said[0].startswith(
        "the GAN finds no memory: another 2.1 GB were needed; the discriminator's steps are made of 2 pieces from here on"
    )
    assert whole.keys() == parts.keys()


def test_a_lack_in_mid_training_goes_on_from_what_was_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit as a training that was killed at that save and goes on in as many pieces."""
    counted = [0]

    def fails(name: str, rows: int, calls: int) -> bool:
        counted[0] = max(counted[0], calls if name == "make_discriminator" else 0)
        return rows > 16 and calls > 8

    found, said = run(monkeypatch, fails, Memory())
    # Four steps of two calls, the one that failed, two steps of three: none is lost, none done twice.
    assert len(said) == 1 and counted == [4 * 2 + 1 + 2 * 3]
    killed = Memory(kill=True)
    with pytest.raises(Killed):
        run(monkeypatch, lambda *of: False, killed)
    expected, _ = run(monkeypatch, lambda name, rows, calls: rows > 16, killed)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_generators_step_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        NoRoom, match=r"another 2.1 GB were needed; the generator's step in pieces .* cgan.batch_size \(now 16\)"
    ):
        run(monkeypatch, lambda name, rows, calls: name == "make_generator" and calls == 2)


def test_a_batch_that_cannot_be_halved_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoRoom, match="cgan.batch_size 16 cannot be cut into 16 pieces of pairs"):
        run(monkeypatch, lambda name, rows, calls: name == "make_discriminator" and calls > 2)


def test_other_errors_are_raised_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "embed_labels", lambda *of: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, lambda *of: False)


def test_images_are_drawn_in_halves_where_memory_is_short() -> None:
    train, task = class_toy()
    seed_all("draw")
    net = train_module.make_generator(gan_config(width=4), 1, 16)
    embed, said = task.label_embed(8), list[str]()
    label_B = train.labels
    whole = make_draw(net, embed, z_dim=8, precision="fp32")(label_B, generator(1))

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > 8:
            raise torch.OutOfMemoryError(OUT)

    net.register_forward_pre_hook(look)
    parts = make_draw(net, embed, z_dim=8, precision="fp32", plan=Plan(say=said.append))(label_B, generator(1))
    assert int((whole.int() - parts.int()).abs().max()) <= 1 and len(said) == 2
