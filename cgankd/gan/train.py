"""Training of the conditional GAN: one flat loop for classes and scalars, as exact matching is a vicinity of zero width.

Hinge or vanilla loss with the weights of the vicinity, projection discriminator, DiffAugment on every image the discriminator
sees, and a floor under the distance of fakes that share a label (losses.diversity_floor). `guides` adds what is set beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cgankd.config import CganConfig
from cgankd.fit.device import Plan, autocast, channels_last, device_of
from cgankd.fit.ema import update_ema
from cgankd.fit.loop import Loop
from cgankd.fit.pieces import give_back
from cgankd.fit.ranks import spread, sum_gradients
from cgankd.fit.watch import Watch, slow_down, with_setback
from cgankd.gan.augment import real_images
from cgankd.gan.collapse import Collapse, chance_miss, make_probe
from cgankd.gan.diversity import real_diversity
from cgankd.gan.guides import NOTHING, Given, Guides
from cgankd.gan.losses import LOSSES, diversity_floor, mean_distance
from cgankd.gan.micro import Turns, backward, micro_batches
from cgankd.nets.gans.label_embed import embed_labels, with_std
from cgankd.nets.gans.projection import apart
from cgankd.nets.gans.zoo import make_discriminator, make_generator
from cgankd.rng import generator, seed_all
from cgankd.types import Split, Task, Vicinity


def train_cgan(
    train: Split,
    task: Task,
    vicinity: Vicinity,
    embed: nn.Module,
    cfg: CganConfig,
    loop: Loop,
    given: Given = NOTHING,
) -> tuple[nn.Module, nn.Module, dict[str, float]]:
    """Train a generator and a discriminator on `train`; `embed` is copied, never changed.

    Returns the averaged generator, the label embedding that belongs to it, both on the processor, and the last losses, with
    `real_diversity` = tau and what `Collapse` saw. All is computed on the plan's device; draws are made on the processor. Numbers
    that are not finite are dealt with as `with_setback` says. Raises Diverged, and ValueError where tau cannot be measured;
    NoRoom where memory runs out and no pieces would be the same step.
    """
    loop, turns = replace(loop, who="GAN"), Turns(cfg)
    return with_setback(
        loop,
        "cgan.lr_g",
        [],
        lambda: _fitting((train, task, vicinity), embed, cfg, loop, given, turns),
        "cgan.precision",
    )


def _fitting(
    on: tuple[Split, Task, Vicinity], embed: nn.Module, cfg: CganConfig, loop: Loop, given: Given, turns: Turns
) -> tuple[nn.Module, nn.Module, dict[str, float]]:
    """The training, from what `loop` saved last in smaller pieces where memory runs out."""
    while True:
        try:
            return _train(on, embed, cfg, loop, given, turns)
        except (RuntimeError, MemoryError) as error:
            loop.plan.say(turns.halve(error))
        give_back()  # after the error and all that its trace holds is gone


def _train(
    on: tuple[Split, Task, Vicinity], embed: nn.Module, cfg: CganConfig, loop: Loop, given: Given, turns: Turns
) -> tuple[nn.Module, nn.Module, dict[str, float]]:
    """With the pieces that `turns` has now, from what `loop` saved last."""
    train, task, vicinity = on
    assert train.labels.dtype == task.label_dtype, "labels are at rest in the task's type"
    seed, plan, device = loop.seed, loop.plan, loop.plan.device
    seed_all(seed, "cgan", "init")
    channels, size = train.images.shape[1], train.images.shape[-1]
    guides = Guides(given, turns.cfg, task)
    net_g = channels_last(make_generator(cfg, channels, size)).to(device)
    net_d = channels_last(guides.with_answer(make_discriminator(cfg, channels, size))).to(device)
    # A table that learns is learned twice: what helps the generator may not help the discriminator.
    embed_g, embed_d = with_std(copy.deepcopy(embed), cfg.embed_std).to(device), copy.deepcopy(embed).to(device)
    ema_g, ema_embed = copy.deepcopy(net_g).requires_grad_(False), copy.deepcopy(embed_g).requires_grad_(False)
    betas = (cfg.beta1, cfg.beta2)
    learned = bool(embed.trained_with_gan)
    opt_g = torch.optim.Adam(
        [*net_g.parameters(), *(embed_g.parameters() if learned else ())], cfg.lr_g, betas, fused=True
    )
    opt_d = torch.optim.Adam(
        [*net_d.parameters(), *(embed_d.parameters() if learned else ())], cfg.lr_d, betas, fused=True
    )
    tau = real_diversity(train, vicinity, generator(seed, "cgan", "tau")) if cfg.diversity_weight > 0 else 0.0
    guides.begin(train, vicinity, embed, seed)
    chance = chance_miss(task, train.labels) if cfg.aux_weight > 0 else None
    collapse = Collapse(make_probe(train, vicinity, cfg.z_dim, seed), cfg, chance)
    parts: dict[str, nn.Module | torch.optim.Adam | Collapse] = {
        "net_g": net_g, "net_d": net_d, "embed_g": embed_g, "embed_d": embed_d,
        "ema_g": ema_g, "ema_embed": ema_embed, "opt_g": opt_g, "opt_d": opt_d, "collapse": collapse,
        **guides.parts(),
    }  # fmt: skip
    start, values = resume(parts, loop.state())
    slow_down(parts.values(), loop.rate)
    watch = Watch(loop, lambda: {name: part.state_dict() for name, part in parts.items()})
    num, (d_loss, g_loss) = cfg.batch_size, LOSSES[cfg.loss]
    run_g, run_d = compile_both(plan, net_g, net_d, turns.cfg, (channels, size))

    for step in range(start, cfg.num_steps):
        gen, loop.course.step = generator(seed, "cgan", step), step + 1
        guides.begin_step()
        for _ in range(cfg.d_steps):
            plan.step()
            target_B = vicinity.targets(num, gen)
            pairing = vicinity.pair(target_B, gen)
            fake_label_B, fake_weight_B = vicinity.fake_labels(target_B, gen)
            real_BCHW = real_images(train.images[pairing.index].to(device), cfg.augment, gen)
            weight_B, fake_weight_B = pairing.weight.to(device), fake_weight_B.to(device)
            z_BZ = torch.randn(num, cfg.z_dim, generator=gen).to(device)
            with torch.no_grad(), autocast(cfg.precision, device):
                fake_BCHW = run_g(z_BZ, embed_labels(embed_g, fake_label_B))
            both = guides.views(torch.cat([real_BCHW, fake_BCHW]), gen)
            scores, loss_d = list[Tensor](), 0.0
            opt_d.zero_grad()
            turns.judging = True
            for rows in micro_batches(num, turns.cfg.accumulate, net_d):
                # Reals and fakes are both judged against the target, not against their own labels.
                h_BE = embed_labels(embed_d, target_B[rows])
                with autocast(cfg.precision, device):
                    score_2B, read_2BO = apart(run_d(both[torch.cat([rows, rows + num])], torch.cat([h_BE, h_BE])))
                real_B, fake_B = score_2B.chunk(2)
                loss = d_loss(real_B, fake_B, weight_B[rows], fake_weight_B[rows])
                read_BO = None if read_2BO is None else read_2BO[: len(rows)]
                loss = guides.judged(loss, real_B, weight_B[rows], read_BO, train.labels[pairing.index[rows]])
                loss_d += backward(loss, turns.cfg.accumulate, "cgan.lr_d", step)
                scores.append(score_2B.detach().clone().reshape(2, -1))
            sum_gradients(opt_d)
            opt_d.step()
            guides.after_d(both, target_B, (weight_B, fake_weight_B), step)
            turns.judging = False

        plan.step()
        freeze(net_d, embed_d, frozen=True, learned=learned)
        label_B = vicinity.targets(num, gen)
        if tau > 0:
            label_B = label_B[: num // 2].repeat(2)
        z_BZ = torch.randn(num, cfg.z_dim, generator=gen).to(device)
        loss_g, floor, distance = 0.0, 0.0, 0.0
        opt_g.zero_grad()
        for rows in micro_batches(num, cfg.accumulate, net_g, net_d, *guides.heads):
            with autocast(cfg.precision, device):
                fake_BCHW = run_g(z_BZ[rows], embed_labels(embed_g, label_B[rows]))
            seen_BCHW = guides.views(fake_BCHW, gen, paired=tau > 0)
            with autocast(cfg.precision, device):
                score_B, read_BO = apart(run_d(seen_BCHW, embed_labels(embed_d, label_B[rows])))
                loss = g_loss(score_B)
            loss_g += float(loss.detach()) / cfg.accumulate
            if tau > 0:
                one_BCHW, other_BCHW = fake_BCHW.chunk(2)
                too_near = diversity_floor(one_BCHW, other_BCHW, tau)
                loss = loss + cfg.diversity_weight * too_near
                floor += float(too_near.detach()) / cfg.accumulate
                distance += float(mean_distance(one_BCHW, other_BCHW).detach()) / cfg.accumulate
            loss = guides.pulled(loss, fake_BCHW, seen_BCHW, label_B[rows], read_BO, step)
            backward(loss, cfg.accumulate, "cgan.lr_g", step)
        sum_gradients(opt_g)
        opt_g.step()
        freeze(net_d, embed_d, frozen=False, learned=learned)

        decay = ema_decay(step, cfg)
        update_ema(ema_g, net_g, decay)
        update_ema(ema_embed, embed_g, decay)

        last = step == cfg.num_steps - 1
        if step % max(1, cfg.num_steps // 100) == 0 or last:
            real_B, fake_B = torch.cat(scores, dim=1)
            values = {
                "loss_d": loss_d,
                "loss_g": loss_g,
                "right_real": float((real_B > 0).float().mean()),
                "right_fake": float((fake_B < 0).float().mean()),
            }
            if tau > 0:
                values |= {"floor": floor, "diversity_ratio": distance / tau}
            values |= guides.values()
            watch.check(values)
            collapse.look(step + 1, values, (ema_g, ema_embed), loop)
            loop.log(step + 1, values, cfg.num_steps)
        if loop.saves(step + 1, cfg.num_steps):
            watch.save(step + 1, {"step": step + 1, "values": values, **watch.state()})

    settle(ema_g, ema_embed, vicinity, cfg, generator(seed, "cgan", "settle"))
    watch.check_state()
    return ema_g.eval().to("cpu"), ema_embed.eval().to("cpu"), {**values, "real_diversity": tau, **collapse.values()}


def compile_both(
    plan: Plan, net_g: nn.Module, net_d: nn.Module, cfg: CganConfig, shape: tuple[int, int]
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Generator and discriminator, compiled where the plan finds that the training is worth it.

    All its steps count, done or not, so that a resumed training computes as one that was never stopped.
    """
    channels, size = shape
    h_BE, z_BZ = torch.zeros(2, cfg.embed_dim, device=plan.device), torch.zeros(2, cfg.z_dim, device=plan.device)
    # Gradients of micro-batches add up over replays, which would overwrite them.
    loop: dict[str, Any] = {"images": cfg.num_steps * cfg.batch_size, "graphs": cfg.accumulate == 1}
    # Passes for each image of a batch: the discriminator's steps take no gradient of the generator.
    passes_g, passes_d = cfg.d_steps + 3, 6 * cfg.d_steps + 2
    run_g = plan.compiled(net_g, "generator", (z_BZ, h_BE), passes=passes_g, **loop)
    x_BCHW = torch.zeros(2, channels, size, size, device=plan.device)
    return spread(run_g), spread(plan.compiled(net_d, "discriminator", (x_BCHW, h_BE), passes=passes_d, **loop))


def resume(parts: dict[str, nn.Module | torch.optim.Adam | Collapse], state: Any) -> tuple[int, dict[str, float]]:
    """Load every part from the state of an earlier run; the first step still to do and the last logged values."""
    if state is None:
        return 0, {}
    for name, part in parts.items():
        part.load_state_dict(state[name])
    step, values = state["step"], state["values"]
    assert isinstance(step, int) and isinstance(values, dict)
    return step, values


def freeze(net_d: nn.Module, embed_d: nn.Module, *, frozen: bool, learned: bool) -> None:
    """Stop or restart the gradients of the discriminator's weights, which the generator's step has no use for."""
    net_d.requires_grad_(not frozen)
    embed_d.requires_grad_(learned and not frozen)


def ema_decay(step: int, cfg: CganConfig) -> float:
    """Decay at a step: 0 (a plain copy) before ema_start; t steps after it ema, with ema_ramp at most (1 + t) / (10 + t)."""
    since = step - cfg.ema_start
    if since < 0:
        return 0.0
    return min(cfg.ema, (1 + since) / (10 + since)) if cfg.ema_ramp else cfg.ema


@torch.no_grad()
def settle(
    ema_g: nn.Module,
    ema_embed: nn.Module,
    vicinity: Vicinity,
    cfg: CganConfig,
    gen: torch.Generator,
    num_batches: int = 32,
) -> None:
    """Measure batch-norm statistics and spectral norms afresh for the averaged weights, whose own they never were."""
    norms, device = [m for m in ema_g.modules() if isinstance(m, nn.BatchNorm2d)], device_of(ema_g)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    ema_g.train()
    for _ in range(num_batches):
        label_B = vicinity.targets(cfg.batch_size, gen)
        with autocast(cfg.precision, device):
            ema_g(torch.randn(cfg.batch_size, cfg.z_dim, generator=gen).to(device), embed_labels(ema_embed, label_B))
    for norm in norms:
        norm.momentum = 0.1
