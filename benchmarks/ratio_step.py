"""One step of the ratio network (MLP-5 on 3,072 features of the stage's ResNet-34), batch 256, fakes of BigGAN at 32 px.

Plain: the published step draws its fakes and takes the features of fakes and reals. Fast: the stage's own `train_ratio`, timed
from one new pool of fakes to the next and divided by the steps between; what a training does once (features of the reals,
evaluation, report) is spread over the steps of the preset cifar10-50k. A fake is seen pool_refresh_steps * batch / pool_size
times before it is replaced: 12.5 times here, once in the presets of the paper (ratio_step_preset).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import plain
from benchmarks.peak import work_flop
from benchmarks.place import place
from benchmarks.subjects import class_data, extractor, gan_config, generator_net, ratio_config
from benchmarks.timing import Agreement, Case, Side, Work, fast_plan, main, relative_error, repeated
from cgankd.config import RatioConfig
from cgankd.data.pixels import to_signed
from cgankd.fit.loop import Loop
from cgankd.gan.sample import make_draw
from cgankd.nets.features import Extractor
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.density_ratio import RatioNets, ratio_loss, train_ratio
from cgankd.ratio.features import FeatureFn, FrozenExtractor, Reals
from cgankd.ratio.partners import FakeSource
from cgankd.rng import generator, seed_all
from cgankd.types import Draw, Images

NUM_REAL = 1024
PRESET_STEPS = 38_281
"""Steps of the ratio in cifar10-50k."""


def plain_features(net: Extractor) -> FeatureFn:
    """Features of uint8 images in float32, NCHW, decoder and head included as far as there are."""

    @torch.no_grad()
    def features(images_BCHW: Images) -> Tensor:
        scaled_BF: Tensor = net.scale(net(to_signed(images_BCHW[slice(None)].to(place())))[0])
        return scaled_BF.cpu()

    return features


def parts(side: Side, quick: bool) -> tuple[Draw, FeatureFn, nn.Module]:
    """What draws fakes, what takes features, and the label embedding."""
    cfg = gan_config("biggan", quick=quick)
    net = generator_net(cfg, 32)
    seed_all("embed")
    embed = class_data(32, 16)[1].label_embed(cfg.embed_dim)
    if side == "plain":
        return plain.sampler(net, embed, cfg.z_dim), plain_features(extractor(quick=quick).to(place())), embed
    plan = fast_plan(quick)
    draw = make_draw(net, embed, z_dim=cfg.z_dim, precision="auto", plan=plan, expected=10**6)
    return draw, FrozenExtractor(extractor(quick=quick), "auto", plan, 10**6), embed


@dataclass(frozen=True)
class Flop:
    """Floating-point operations for one image of 32 px: a fake, its features, a forward pass of the ratio network."""

    draw: float
    features: float
    mlp: float


def ratio_net(quick: bool) -> RatioMLP:
    """A fresh ratio network for the features of `extractor`."""
    seed_all("mlp")
    cfg, width = ratio_config(quick=quick), extractor(quick=quick).feature_width
    return RatioMLP(gan_config("biggan", quick=quick).embed_dim, width, cfg.hidden, cfg.dropout)


def flop(quick: bool) -> Flop:
    """What the networks of this row cost."""
    cfg, net = gan_config("biggan", quick=quick), extractor(quick=quick)
    found = (
        work_flop(generator_net(cfg, 32), torch.zeros(2, cfg.z_dim), torch.zeros(2, cfg.embed_dim)),
        work_flop(net, torch.zeros(2, 3, 32, 32), False),
        work_flop(ratio_net(quick), torch.zeros(2, cfg.embed_dim), torch.zeros(2, net.feature_width)),
    )
    return Flop(*(value / 2 for value in found))


def plain_step(quick: bool) -> Callable[[], None]:
    """The published step."""
    train, _ = class_data(32, 64 if quick else NUM_REAL)
    draw, features, embed = parts("plain", quick)
    cfg, mlp, gen = ratio_config(quick=quick), ratio_net(quick), generator("ratio step")
    embed.requires_grad_(False).to(place())
    mlp.to(place())
    optimizer = torch.optim.Adam(mlp.parameters(), cfg.learning_rate, (cfg.beta1, cfg.beta2), weight_decay=1e-4)

    def step() -> None:
        row_B = torch.randint(len(train), (cfg.batch_size,), generator=gen)
        label_B = train.labels[row_B]
        fake_BF = features(draw(label_B, gen)).to(place())
        real_BF = features(train.images[row_B]).to(place())
        h_BE = embed(label_B.to(place()))
        loss = ratio_loss(mlp(h_BE, real_BF), mlp(h_BE, fake_BF), cfg.ratio_penalty)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def fast_times(quick: bool, cfg: RatioConfig, warmup: int, repeats: int) -> list[float]:
    """Seconds a step in each of `repeats` turns of the pool; the first turn of the run, which compiles, is a warm-up."""
    train, task = class_data(32, 64 if quick else NUM_REAL)
    draw, features, embed = parts("fast", quick)
    assert isinstance(features, FrozenExtractor)
    turn = cfg.pool_refresh_steps
    total = turn * (max(1, warmup) + repeats)
    assert turn % max(1, total // 100) == 0, "the loop logs at each new pool"
    settings = ratio_config(
        quick=quick, num_steps=total, eval_every_steps=total, pool_size=cfg.pool_size, pool_refresh_steps=turn
    )
    stamps: dict[int, float] = {}
    features(draw(train.labels[: 16 if quick else 256], generator("ratio step")))  # compiles
    start = time.perf_counter()
    judge, vicinity = partial(features.judge, task=task), task.vicinity(train.labels)
    train_ratio(
        RatioNets(ratio_net(quick), embed),
        FakeSource(draw, features, judge, vicinity, float("inf"), settings.max_redraws),
        Reals(train, train),
        task,
        settings,
        Loop(0, fast_plan(quick), lambda step, values, total: stamps.__setitem__(step, time.perf_counter())),
    )
    whole = time.perf_counter() - start
    spans = [stamps[step + turn] - stamps[step] for step in range(turn, total, turn)]
    once = max(0.0, whole - statistics.median(spans) * total / turn)
    return [span / turn + once / PRESET_STEPS for span in spans[max(1, warmup) - 1 :]]


def build(side: Side, quick: bool, **pool: int) -> Work:
    """A step of a side; `pool` changes size and refresh of the row's pool."""
    cfg, one = ratio_config(quick=quick, **pool), flop(quick)
    if side == "plain":
        cost = cfg.batch_size * (one.draw + 2 * one.features + 6 * one.mlp)
        return Work(repeated(plain_step(quick)), cfg.batch_size, "fp32", cost)
    fakes = cfg.pool_size / cfg.pool_refresh_steps
    seen = cfg.batch_size / fakes
    note = (
        f"a pool of {cfg.pool_size} fakes anew every {cfg.pool_refresh_steps} steps: each fake seen {seen:.3g} times"
        f"{' (no preset goes so far; at their pools see the row below)' if seen > 10 else ''}; features of reals, "
        f"evaluation and report spread over {PRESET_STEPS} steps"
    )
    cost = fakes * (one.draw + one.features) + cfg.batch_size * 6 * one.mlp
    times = partial(fast_times, quick, cfg)
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
    warmup={"plain": 0, "fast": 1},
    repeats={"plain": 3, "fast": 3},
    rounds=1,
)

if __name__ == "__main__":
    main(CASE)
