"""What the two GAN benchmarks share: a plain step and the project's own loop, on the same networks and batch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import plain
from benchmarks.peak import work_flop
from benchmarks.place import place
from benchmarks.subjects import class_data, gan_config, scalar_data
from benchmarks.timing import Agreement, Side, Work, fast_plan, of_loop, relative_error, repeated
from cgankd.config import CganConfig
from cgankd.data.pixels import to_signed
from cgankd.fit.device import Plan, autocast, channels_last
from cgankd.fit.loop import Loop
from cgankd.gan.train import train_cgan
from cgankd.nets.gans.label_embed import embed_labels
from cgankd.nets.gans.zoo import make_discriminator, make_generator
from cgankd.rng import seed_all
from cgankd.types import Split


def step_flop(cfg: CganConfig, size: int) -> float:
    """Operations of one step of both nets, a backward pass counted as two forward ones."""
    h_BE = torch.zeros(2, cfg.embed_dim)
    net_g, net_d = make_generator(cfg, 3, size), make_discriminator(cfg, 3, size)
    flop_g = work_flop(net_g, torch.zeros(2, cfg.z_dim), h_BE) / 2
    flop_d = work_flop(net_d, torch.zeros(2, 3, size, size), h_BE) / 2
    return cfg.batch_size * (flop_g * (cfg.d_steps + 3) + flop_d * (6 * cfg.d_steps + 2))


def build(side: Side, quick: bool, arch: str, size: int, d_steps: int, *, scalar: bool) -> Work:
    """One step of a side; scalar labels have CcGAN's soft vicinity."""
    cfg = gan_config(arch, quick=quick, d_steps=d_steps)
    train, task = scalar_data(size, 64 if quick else 2000) if scalar else class_data(size, 64 if quick else 2000)
    vicinity = task.vicinity(train.labels)
    seed_all("embed")
    embed = task.label_embed(cfg.embed_dim)
    flop = step_flop(cfg, size)
    if side == "plain":
        step = plain.gan_step(train, vicinity, embed, cfg, keep_graph=scalar)
        return Work(repeated(step), cfg.batch_size, "fp32", flop)

    def loop(steps: int, log: object) -> None:
        settings = gan_config(arch, quick=quick, d_steps=d_steps, num_steps=steps)
        train_cgan(train, task, vicinity, embed, settings, Loop(0, fast_plan(quick), log))  # type: ignore[arg-type]

    return Work(of_loop(loop), cfg.batch_size, "auto", flop)


def agree(quick: bool, arch: str, size: int, *, scalar: bool) -> list[Agreement]:
    """Scores and images, and gradients of both nets in training mode, for the same weights, images, latents and labels."""
    cfg, plan = gan_config(arch, quick=quick), fast_plan(quick)
    split, task = scalar_data(size, 2 * cfg.batch_size) if scalar else class_data(size, 2 * cfg.batch_size)
    seed_all("agree")
    embed = task.label_embed(cfg.embed_dim)
    exact = make_discriminator(cfg, 3, size).train().to(plan.device)
    embed.to(plan.device)
    fast = channels_last(copy.deepcopy(exact))
    run = plan.compiled(fast, "discriminator", sample(split, embed), images=10**9)
    found = scores_and_gradients(run, fast, split, embed, "auto")
    expected = scores_and_gradients(plain.nchw(exact), exact, split, embed, "fp32")
    return [
        Agreement("scores, relative error", relative_error(found[0], expected[0]), 0.05),
        Agreement("their gradients", relative_error(found[1], expected[1]), 0.1),
        *generator_agrees(cfg, size, plan, split, embed),
    ]


def generator_agrees(cfg: CganConfig, size: int, plan: Plan, split: Split, embed: nn.Module) -> list[Agreement]:
    """Images and gradients of the generator that push them towards fixed ones."""
    exact = make_generator(cfg, 3, size).train().to(plan.device)
    fast = channels_last(copy.deepcopy(exact))
    z_BZ = torch.randn(len(split), cfg.z_dim).to(plan.device)
    wanted_BCHW = to_signed(split.images[torch.arange(len(split))].to(plan.device))
    h_BE = embed_labels(embed, split.labels).detach()
    results = []
    for net, run, precision in (
        (fast, plan.compiled(fast, "generator", (z_BZ, h_BE), images=10**9), "auto"),
        (exact, plain.nchw(exact), "fp32"),
    ):
        with autocast(precision, plan.device):
            image_BCHW = run(z_BZ, h_BE)
        (image_BCHW.float() - wanted_BCHW).square().mean().backward()
        results.append(
            (image_BCHW.detach(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
        )
    (image, gradient), (exact_image, exact_gradient) = results
    return [
        Agreement("images", relative_error(image, exact_image), 0.05),
        Agreement("their gradients", relative_error(gradient, exact_gradient), 0.1),
    ]


def sample(split: Split, embed: nn.Module) -> tuple[Tensor, Tensor]:
    """Two images with their embedded labels."""
    return to_signed(split.images[torch.arange(2)].to(place())), embed_labels(embed, split.labels[:2])


def scores_and_gradients(
    run: Callable[..., Tensor], net: nn.Module, split: Split, embed: nn.Module, precision: str
) -> tuple[Tensor, Tensor]:
    """Scores [B], and the gradient of their mean square by all weights of the net, as one vector."""
    with autocast(precision, place()):
        score_B = run(to_signed(split.images[torch.arange(len(split))].to(place())), embed_labels(embed, split.labels))
    score_B.square().mean().backward()  # type: ignore[no-untyped-call]
    return score_B.detach(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
