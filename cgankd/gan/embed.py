"""The improved label input of CcGAN (ILI, arXiv 2011.07466): a label embedding fitted before the GAN, then frozen.

Net 1 learns image -> h -> label; net 2, the embedding, learns label -> h so that net 1's frozen head gives the label
back. Labels here are normalised to [0, 1]; those on a circle are its points (cos, sin).
A class table needs none of this: the GAN's own optimiser moves it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cgankd.config import LabelInputConfig
from cgankd.fit.device import channels_last
from cgankd.fit.loop import Loop
from cgankd.fit.ranks import backward, spread, sum_gradients
from cgankd.fit.schedule import make_schedule
from cgankd.fit.watch import Watch, check_outputs, with_setback
from cgankd.gan.augment import real_images
from cgankd.gan.label_nets import make_label_net
from cgankd.labels.circle import is_whole, label_of, miss, onto_range, wrapped
from cgankd.labels.targets import base_labels
from cgankd.nets.gans.label_embed import ScalarEmbed
from cgankd.rng import generator, seed_all
from cgankd.types import Split, Task


def noisy_units(unit_N: Tensor, num: int, noise: float, gen: torch.Generator, period: float | None = None) -> Tensor:
    """Training labels plus N(0, noise^2), clamped to [0, 1], [num]; round a whole circle they go on to its other end."""
    base_B = unit_N[torch.randint(len(unit_N), (num,), generator=gen)]
    return onto_range(base_B + noise * torch.randn(num, generator=gen), 0.0, 1.0, period)


@torch.no_grad()
def label_error(embed: ScalarEmbed, head: nn.Module, num: int = 201) -> dict[str, float]:
    """Mean and largest |head(embed(u)) - u| on an even grid of normalised labels u, the short way round a circle."""
    unit_B = torch.linspace(0, 1, num)
    error_B = wrapped(label_of(head(embed.from_unit(unit_B)), embed.period) - unit_B, embed.period).abs()
    return {"label_error_mean": float(error_B.mean()), "label_error_max": float(error_B.max())}


@torch.no_grad()
def spread_units(embed: ScalarEmbed, num: int = 201) -> None:
    """Scale the last layer so that the live units of h have a standard deviation of one over the labels, on average.

    Net 1's head fixes the scale of h by chance, and a spectrally normed net cannot make up for a small one: beside a
    latent of sd one the label would hardly be heard. The ReLU lets the scale through: h(y) becomes c h(y).
    """
    last = embed.body[-2]
    assert isinstance(last, nn.Linear) and isinstance(embed.body[-1], nn.ReLU)
    whole = is_whole(0.0, 1.0, embed.period)  # whose two ends are one label
    sd_E = embed.from_unit(torch.linspace(0, 1, num + 1)[:-1] if whole else torch.linspace(0, 1, num)).std(dim=0)
    live = sd_E > 1e-3 * sd_E.max()
    if bool(live.any()):
        scale = 1.0 / sd_E[live].mean()
        last.weight.mul_(scale)
        last.bias.mul_(scale)


def make_optimizer(net: nn.Module, cfg: LabelInputConfig) -> torch.optim.Optimizer:
    """Adam, or SGD with a momentum of 0.9."""
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), cfg.learning_rate, momentum=0.9, weight_decay=cfg.weight_decay)
    return torch.optim.Adam(net.parameters(), cfg.learning_rate, weight_decay=cfg.weight_decay)


def label_loss(out_BO: Tensor, unit_B: Tensor, cfg: LabelInputConfig, period: float | None) -> Tensor:
    """Mean absolute or squared error of answers [B, O] to normalised labels [B]; of points of the circle, that of the chord."""
    gap_B = miss(out_BO.float(), unit_B, period)
    return (gap_B.square() if cfg.scalar_loss == "squared" else gap_B).mean()


def fit_label_embed(
    embed: nn.Module, task: Task, train: Split, cfg: LabelInputConfig | None, loop: Loop, targets: str = "marginal"
) -> dict[str, float]:
    """Fit a label embedding in place, scale it (`spread`) and freeze it; one that the GAN trains is left alone and returns {}.

    Net 1 sees the images as often as they come, net 2 the labels by the law of `cgan.targets`.

    Returns image_loss (last batches of net 1, normalised units), label_error_mean and label_error_max
    (normalised units). Numbers that are not finite are dealt with as `with_setback` says. Raises Diverged.
    """
    if embed.trained_with_gan:
        return {}
    rate, loop = "cgan.label_input.learning_rate", replace(loop, who="label input")
    return with_setback(loop, rate, [embed], lambda: _fit(embed, task, train, cfg, loop, targets))


def _fit(
    embed: nn.Module, task: Task, train: Split, cfg: LabelInputConfig | None, loop: Loop, targets: str
) -> dict[str, float]:
    assert isinstance(embed, ScalarEmbed) and cfg is not None, "Config asks for cgan.label_input with scalar labels"
    unit_N = ((train.labels - embed.label_min) / (embed.label_max - embed.label_min)).clamp(0, 1)
    target_N = base_labels(unit_N, targets, task.period)
    embed_dim = embed.from_unit(unit_N[:1]).shape[1]
    period, num_outputs = embed.period, embed.seen(unit_N[:1]).shape[1]
    seed, device = loop.seed, loop.plan.device
    seed_all(seed, "label_input", "init")
    net = make_label_net(cfg, train.images.shape[1], embed_dim, num_outputs)
    channels_last(net).to(device)
    embed.to(device)
    opt_net, opt_embed = make_optimizer(net, cfg), make_optimizer(embed, cfg)
    parts: dict[str, nn.Module | torch.optim.Optimizer] = {
        "net": net,
        "embed": embed,
        "opt_net": opt_net,
        "opt_embed": opt_embed,
    }
    total = cfg.image_steps + cfg.label_steps
    num_labels = cfg.label_batch_size or cfg.batch_size
    start, image_loss = 0, torch.zeros((), dtype=torch.float64)
    state = loop.state()
    if state is not None:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        start, image_loss = (
            int(state["step"]),
            torch.tensor(float(state["image_loss"]), dtype=torch.float64, device=device),
        )

    watch = Watch(loop, lambda: {name: part.state_dict() for name, part in parts.items()})
    run = spread(net)
    for step in range(start, total):
        gen = generator(seed, "label_input", step)
        on_images = step < cfg.image_steps
        optimizer = opt_net if on_images else opt_embed
        if on_images:
            schedule = make_schedule(cfg.schedule, cfg.image_steps, cfg.image_milestones)(step)
            index_B = torch.randint(len(train), (cfg.batch_size,), generator=gen)
            image_BCHW = real_images(train.images[index_B].to(device), cfg.augment, gen)
            unit_B = unit_N[index_B].to(device)
            loss = label_loss(run(image_BCHW), unit_B, cfg, period)
        else:
            schedule = make_schedule(cfg.schedule, cfg.label_steps, cfg.label_milestones)(step - cfg.image_steps)
            unit_B = noisy_units(target_N, num_labels, cfg.noise, gen, period).to(device)
            loss = label_loss(net.head(embed.from_unit(unit_B)), unit_B, cfg, period)
        watch.see(loss, step + 1)
        optimizer.param_groups[0]["lr"] = cfg.learning_rate * schedule * loop.rate
        optimizer.zero_grad()
        backward(loss)
        sum_gradients(optimizer)
        optimizer.step()

        value = loss.detach().double()
        if on_images:
            # A running mean: one batch of a small set says little.
            image_loss = value if step == 0 else 0.95 * image_loss + 0.05 * value
        if step % max(1, total // 100) == 0 or step == total - 1:
            watch.check()
            loop.log(step + 1, {"image_loss" if on_images else "label_loss": float(value)}, total)
        if step == total - 1:
            with torch.no_grad():
                check_outputs(embed.from_unit(unit_N[:256].to(device)))
        if loop.saves(step + 1, total):
            watch.save(step + 1, {"step": step + 1, "image_loss": float(image_loss), **watch.state()})

    watch.check_state()
    embed.to("cpu")
    metrics = {"image_loss": float(image_loss), **label_error(embed, net.head.to("cpu"))}
    if cfg.spread:
        spread_units(embed)
    embed.requires_grad_(False)
    return metrics
