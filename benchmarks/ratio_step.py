"""One step of the ratio network (MLP-5 on 3,072 features of a ResNet-34), batch 256, fakes of BigGAN at 32 px.

Plain: the published step draws its fakes and takes the features of fakes and reals. Fast: a whole run of `train_ratio`,
divided by its steps: the features of the reals once, a pool of fakes that is drawn anew every so many steps, validation
and the closing report included. A fake is seen pool_refresh_steps * batch / pool_size times before it is replaced.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import plain
from benchmarks.subjects import class_data, gan_config, generator_net, predictor, ratio_config
from benchmarks.timing import Agreement, Case, Side, Work, fast_plan, main, relative_error, repeated
from cgankd.bank.m1_ratio import EVAL_FAKES, ratio_loss, train_ratio
from cgankd.data.pixels import to_unit
from cgankd.fit.device import forward_flop
from cgankd.fit.predictor import make_predict
from cgankd.gan.sample import make_draw
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.rng import generator, seed_all
from cgankd.types import Draw, Images, PredictFn

NUM_FEATURES = 3 * 32 * 32
NUM_REAL = 1024
"""With 256 images a pass this makes 4 passes; CIFAR-100 has 1.3 real images for each step of its 200 epochs, this run 2.6."""
STEPS = 400
"""Two pools of fakes."""


def plain_features(net: nn.Module) -> PredictFn:
    """Features of uint8 images in float32, NCHW."""

    @torch.no_grad()
    def features(images_BCHW: Images) -> Tensor:
        out: Tensor = net.eval()(to_unit(images_BCHW[slice(None)])).relu()
        return out

    return features


def parts(side: Side, quick: bool) -> tuple[Draw, PredictFn, nn.Module]:
    """What draws fakes, what takes features, and the label embedding."""
    cfg = gan_config("biggan", quick=quick)
    net = generator_net(cfg, 32)
    extractor = predictor("resnet34", 32, 64 if quick else NUM_FEATURES, quick=quick).requires_grad_(False)
    seed_all("embed")
    embed = class_data(32, 16)[1].label_embed(cfg.embed_dim)
    if side == "plain":
        return plain.sampler(net, embed, cfg.z_dim), plain_features(extractor), embed
    plan = fast_plan(quick)
    draw = make_draw(net, embed, z_dim=cfg.z_dim, precision="auto", plan=plan, expected=10**6)
    predict = make_predict(extractor, "auto", 256, plan=plan, expected=10**6)
    return draw, lambda images: predict(images).relu(), embed


@dataclass(frozen=True)
class Flop:
    """Floating-point operations for one image of 32 px: a fake, its features, a forward pass of the ratio network."""

    draw: float
    features: float
    mlp: float


def flop(quick: bool) -> Flop:
    """What the networks of this row cost."""
    cfg, width = gan_config("biggan", quick=quick), 64 if quick else NUM_FEATURES
    extractor = predictor("resnet34", 32, width, quick=quick)
    mlp = RatioMLP(cfg.embed_dim, width, ratio_config(quick=quick).hidden, 0.5)
    found = (
        forward_flop(generator_net(cfg, 32), torch.zeros(2, cfg.z_dim), torch.zeros(2, cfg.embed_dim)),
        forward_flop(extractor, torch.zeros(2, 3, 32, 32)),
        forward_flop(mlp, torch.zeros(2, cfg.embed_dim), torch.zeros(2, width)),
    )
    return Flop(*(value / 2 for value in found))


def build(side: Side, quick: bool) -> Work:
    num_real = 64 if quick else NUM_REAL
    train, task = class_data(32, num_real)
    draw, features, embed = parts(side, quick)
    cfg, vicinity = ratio_config(quick=quick), task.vicinity(train.labels)
    num_features = 64 if quick else NUM_FEATURES
    seed_all("mlp")
    mlp = RatioMLP(gan_config("biggan", quick=quick).embed_dim, num_features, cfg.hidden, cfg.dropout)
    gen = generator("ratio step")
    if side == "plain":
        embed.requires_grad_(False)
        optimizer = torch.optim.Adam(mlp.parameters(), cfg.learning_rate, (cfg.beta1, cfg.beta2), weight_decay=1e-4)

        def step() -> None:
            row_B = torch.randint(len(train), (cfg.batch_size,), generator=gen)
            label_B = train.labels[row_B]
            fake_BF = features(draw(label_B, gen))
            real_BF = features(train.images[row_B])
            h_BE = embed(label_B)
            loss = ratio_loss(mlp(h_BE, real_BF), mlp(h_BE, fake_BF), cfg.ratio_penalty)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        one = flop(quick)
        cost = cfg.batch_size * (one.draw + 2 * one.features + 6 * one.mlp)
        return Work(repeated(step), cfg.batch_size, "fp32", cost)

    steps = 20 if quick else STEPS
    settings = ratio_config(quick=quick, num_steps=steps, eval_every_steps=steps // 2)

    def times(warmup: int, repeats: int) -> list[float]:
        # One batch first, so that both networks are compiled: that is no work of a step.
        features(draw(train.labels[: 16 if quick else 256], gen))
        start = time.perf_counter()
        args = (features, train, train, task, vicinity, draw, lambda images: torch.zeros(len(images)))
        train_ratio(mlp, embed, *args, settings, math.inf, seed=0)
        return [(time.perf_counter() - start) / steps]

    seen = settings.pool_refresh_steps * settings.batch_size / settings.pool_size
    note = (
        f"one run of {steps} steps, all of it counted: a pool of {settings.pool_size} fakes anew every "
        f"{settings.pool_refresh_steps} steps (each fake seen {seen:.3g} times), features of {num_real} reals once"
    )
    one = flop(quick)
    fakes = math.ceil(steps / settings.pool_refresh_steps) * settings.pool_size + EVAL_FAKES + max(EVAL_FAKES, num_real)
    shared = fakes * (one.draw + one.features) + 2 * num_real * one.features
    cost = shared / steps + settings.batch_size * 6 * one.mlp
    return Work(times, cfg.batch_size, "auto", cost, note=note)


def agree(quick: bool) -> list[Agreement]:
    """Features of the same images; that a pool of one batch is the published step is a test of train_ratio."""
    images = class_data(32, 16 if quick else 256)[0].images
    found, expected = parts("fast", quick)[1](images), parts("plain", quick)[1](images)
    return [Agreement("features, relative error", relative_error(found, expected), 0.05)]


CASE = Case(
    "ratio_step",
    "Ratio network, one step, batch 256",
    40.0,
    build,
    agree,
    warmup={"plain": 0, "fast": 0},
    repeats={"plain": 2, "fast": 1},
)

if __name__ == "__main__":
    main(CASE)
