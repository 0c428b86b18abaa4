"""One step of the ratio network (MLP-5 on 3,072 features of a ResNet-34), batch 256, fakes of BigGAN at 32 px.

Plain: the step draws its fakes and takes the features of fakes and reals. Fast: the features of the reals are computed
once, the fakes come from a refreshed pool; the shares of both are added to each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import plain
from benchmarks.subjects import class_data, gan_config, generator_net, predictor, ratio_config
from benchmarks.timing import Agreement, Case, Side, Work, fast_plan, main, of_loop, relative_error, repeated
from cgankd.bank.m1_ratio import ratio_loss, train_ratio
from cgankd.data.pixels import to_unit
from cgankd.fit.predictor import make_predict
from cgankd.gan.sample import make_draw
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.rng import generator, seed_all
from cgankd.types import Draw, PredictFn

NUM_FEATURES = 3 * 32 * 32
PUBLISHED_STEPS = 200 * 50_000 // 256
"""200 epochs of CIFAR-100, over which the features of the reals are spread."""


def plain_features(net: nn.Module) -> PredictFn:
    """Features of uint8 images in float32, NCHW."""

    @torch.no_grad()
    def features(images_BCHW: Tensor) -> Tensor:
        out: Tensor = net.eval()(to_unit(images_BCHW)).relu()
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


def seconds(step: Callable[[], object]) -> float:
    """Median of three after one warm-up."""
    return sorted(repeated(step)(1, 3))[1]


def build(side: Side, quick: bool) -> Work:
    num_real = 64 if quick else 1024
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

        return Work(repeated(step), cfg.batch_size, "fp32")

    batch = 16 if quick else 256
    label_B = train.labels[:batch]
    # A pool is drawn once for pool_refresh_steps steps, the features of N reals once for all steps.
    fakes_a_step = cfg.pool_size / cfg.pool_refresh_steps
    fake_s = seconds(lambda: features(draw(label_B, gen))) / batch
    real_s = seconds(lambda: features(train.images[:batch])) / batch
    extra_s = fakes_a_step * fake_s + real_s * 50_000 / PUBLISHED_STEPS
    known = {len(train): features(train.images)}

    def remembered(images_BCHW: Tensor) -> Tensor:
        """Random features for the fakes of the pool, which is timed above."""
        rows = len(images_BCHW)
        return known[rows] if rows in known else torch.rand(rows, num_features, generator=gen)

    def blank(label_B: Tensor, gen: torch.Generator) -> Tensor:
        return torch.zeros((len(label_B), 3, 1, 1), dtype=torch.uint8)

    def loop(steps: int, log: object) -> None:
        settings = ratio_config(quick=quick, num_steps=steps)
        args = (remembered, train, train, task, vicinity, blank, lambda images: torch.zeros(len(images)))
        train_ratio(mlp, embed, *args, settings, math.inf, seed=0, log=log)  # type: ignore[arg-type]

    note = f"pool of {cfg.pool_size} fakes for {cfg.pool_refresh_steps} steps: {1000 * extra_s:.0f} ms of a step"
    return Work(of_loop(loop), cfg.batch_size, "auto", extra_s=extra_s, note=note)


def agree(quick: bool) -> list[Agreement]:
    """Features of the same images; that a pool of one batch is the published step is a test of train_ratio."""
    images = class_data(32, 16 if quick else 256)[0].images
    found, expected = parts("fast", quick)[1](images), parts("plain", quick)[1](images)
    return [Agreement("features, relative error", relative_error(found, expected), 0.05)]


CASE = Case("ratio_step", "Ratio network, one step, batch 256", 40.0, build, agree, repeats={"plain": 2, "fast": 10})

if __name__ == "__main__":
    main(CASE)
