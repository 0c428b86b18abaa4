"""What the two GAN benchmarks share: a plain step and the project's own loop, on the same networks and batch."""

from __future__ import annotations

import torch

from benchmarks import plain
from benchmarks.subjects import class_data, gan_config, scalar_data
from benchmarks.timing import Agreement, Side, Work, fast_plan, of_loop, relative_error, repeated
from cgankd.config import CganConfig
from cgankd.fit.device import autocast, channels_last, forward_flop
from cgankd.gan.train import train_cgan
from cgankd.nets.gan_zoo import make_discriminator, make_generator
from cgankd.rng import seed_all


def step_flop(cfg: CganConfig, size: int) -> float:
    """Operations of one step of both nets, a backward pass counted as two forward ones."""
    h_BE = torch.zeros(2, cfg.embed_dim)
    net_g, net_d = make_generator(cfg, 3, size), make_discriminator(cfg, 3, size)
    flop_g = forward_flop(net_g, torch.zeros(2, cfg.z_dim), h_BE) / 2
    flop_d = forward_flop(net_d, torch.zeros(2, 3, size, size), h_BE) / 2
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
        train_cgan(train, task, vicinity, embed, settings, seed=0, log=log, plan=fast_plan(quick))  # type: ignore[arg-type]

    return Work(of_loop(loop), cfg.batch_size, "auto", flop)


def agree(quick: bool, arch: str, size: int) -> list[Agreement]:
    """Scores and gradients of the discriminator for the same weights and images."""
    cfg = gan_config(arch, quick=quick)
    seed_all("agree")
    net = make_discriminator(cfg, 3, size).eval()
    x_BCHW, h_BE = torch.rand(8, 3, size, size) * 2 - 1, torch.randn(8, cfg.embed_dim)
    results = []
    for precision in ("fp32", "auto"):
        if precision == "auto":
            channels_last(net)
        net.zero_grad()
        with autocast(precision):
            score_B = net(x_BCHW, h_BE)
        score_B.square().mean().backward()  # type: ignore[no-untyped-call]
        grads = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        results.append((score_B.detach(), grads))
    (score, grad), (fast_score, fast_grad) = results
    return [
        Agreement("scores, relative error", relative_error(fast_score, score), 0.05),
        Agreement("gradients, relative error", relative_error(fast_grad, grad), 0.1),
    ]
