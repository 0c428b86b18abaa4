"""Stage `ratio` (M1, first half): fit the feature extractor and the conditional density ratio."""

from __future__ import annotations

import math
from functools import partial

from cgankd.config import to_dict
from cgankd.data.augment import augment
from cgankd.data.store.datasets import read_split
from cgankd.fit.loop import Loop
from cgankd.labels.task import make_task
from cgankd.measure.health import check_ratio_informative, check_ratio_mean, check_ratio_overfit, check_ratio_zeros
from cgankd.nets.features import Extractor
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.density_ratio import RatioNets, make_ratio, train_ratio
from cgankd.ratio.features import FrozenExtractor, Reals, take_features, train_features
from cgankd.ratio.partners import FakeSource
from cgankd.rng import derive, generator, seed_all
from pipelines.files.artifacts import load_weights
from pipelines.networks.generator import load_source
from pipelines.networks.ratio import build_ratio_nets, build_teacher, drop_radius, heaviest
from pipelines.pictures import stages as pictures
from pipelines.runtime.context import Context
from pipelines.runtime.machine import image_memory
from pipelines.runtime.scratch import roomy
from pipelines.stages.same_data import info_of


def run(ctx: Context) -> None:
    """Train features on real images, then r on real against fake features; the best network on validation is kept."""
    cfg = ctx.cfg.ratio
    dataset, cgan_path = ctx.inputs("dataset.h5", "cgan.safetensors")
    teacher_path = ctx.inputs("teacher.safetensors")[0] if cfg.extractor == "teacher" else None
    info = info_of(dataset, ctx.cfg.data)
    task = make_task(info, ctx.cfg, cfg.scalar_loss)
    memory = image_memory(ctx.cfg.data)
    val, train = read_split(dataset, "val", memory), read_split(dataset, "train", memory)
    reals = Reals(train, val, roomy(ctx.path("resume/ratio/scratch"), memory))
    vicinity = task.vicinity(train.labels, cfg.targets)
    turns = 1 + (cfg.num_steps - 1) // cfg.pool_refresh_steps if cfg.pool_refresh_steps else 1
    fakes = cfg.pool_size * turns
    draw, embed, embed_dim = load_source(cgan_path, info, task, reuse=True, plan=ctx.plan, expected=fakes)

    seed = derive(ctx.seed, "ratio")
    seed_all(seed, "init")
    settings = to_dict(cfg)
    origin, teacher = None, None
    if teacher_path is not None:
        weights, origin = heaviest(*load_weights(teacher_path, ("info", "precision")))
        teacher = build_teacher(origin, weights, info, task)
    nets = build_ratio_nets(settings, embed, embed_dim, info, task, teacher)
    features, mlp = nets["features"], nets["mlp"]
    assert isinstance(features, Extractor) and isinstance(mlp, RatioMLP)
    log = ctx.progress("features")
    if teacher is None:
        loop = Loop(seed, ctx.plan, log, ctx.checkpoint("features"))
        found = train_features(
            features, reals, task, cfg, lambda unit, gen: augment(unit, cfg.feature_augment, gen), loop
        )
        ctx.setback("features", loop.course.setback)
    else:
        found = take_features(features, reals, task, cfg)
        log(1, {"val": found["val_score"]}, 1)  # the curve is an output of the stage
    ctx.metrics({f"features.{name}": value for name, value in found.items()})
    nets["features"].requires_grad_(False)
    nets["embed"].requires_grad_(bool(nets["embed"].trained_with_gan))
    frozen = FrozenExtractor(features, cfg.precision, ctx.plan, fakes + len(train))
    judge, zeta = partial(frozen.judge, task=task), drop_radius(cfg, vicinity)
    source = FakeSource(draw, frozen, judge, vicinity, zeta, cfg.max_redraws, cfg.redraw == "label", cfg.targets)
    ratio_nets = RatioNets(mlp, nets["embed"])
    loop = Loop(seed, ctx.plan, ctx.progress("ratio"), ctx.checkpoint("ratio"))
    report = train_ratio(ratio_nets, source, reals, task, cfg, loop)
    ctx.setback("ratio", loop.course.setback)
    ctx.metrics({f"ratio.{name}": value for name, value in report.items()})
    if math.isfinite(zeta):
        ctx.metrics({"ratio.zeta": zeta})
    ctx.check(check_ratio_zeros(report["zero_share"]))
    ctx.check(check_ratio_mean(report["mean_fake"]))
    ctx.check(check_ratio_overfit(report["mean_train_real"], report["mean_val_real"]))
    ctx.check(check_ratio_informative(report["val_loss"], report["flat_loss"]))
    config = {"ratio": settings, "embed_dim": embed_dim, "info": to_dict(info), "health": report}
    ctx.save_weights("ratio", nets, config if origin is None else config | {"extractor": origin})

    ratio = make_ratio(ratio_nets, frozen)
    gen = generator(seed, "histogram")
    asked = vicinity.asked(2000, gen)
    shown = {
        "fakes": ratio(draw(asked, gen), asked),
        "validation reals": ratio(val.images, val.labels),
        "training reals": ratio(train.images, train.labels),
    }
    ctx.picture("histogram", pictures.ratio_histogram(shown))
