"""Stage `cgan`: train the class-conditional GAN or CcGAN, or take in the user's own; check that its fakes vary within a label."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from cgankd.config import CganConfig, to_dict
from cgankd.data.store.datasets import read_split
from cgankd.fit.course import Setback
from cgankd.fit.loop import Loop
from cgankd.gan.collapse import KINDS
from cgankd.gan.diversity import fake_diversity, real_diversity
from cgankd.gan.embed import fit_label_embed
from cgankd.gan.guides import Given
from cgankd.gan.sample import make_draw
from cgankd.gan.train import train_cgan
from cgankd.labels.task import make_task
from cgankd.labels.vicinity import ScalarVicinity
from cgankd.measure.health import check_collapse, check_diversity, check_kappa
from cgankd.nets.gans.zoo import make_generator
from cgankd.rng import derive, generator, seed_all
from cgankd.types import DatasetInfo, Draw, Split, Task, Vicinity
from pipelines.files.layout import reads_teacher
from pipelines.files.params import settings_of
from pipelines.files.writing import DiskError
from pipelines.networks import own_generator
from pipelines.networks.guides import find_features, load_features, load_teacher_loss
from pipelines.networks.kept_gan import Trained, kept_gan, replay
from pipelines.networks.weights import Weights
from pipelines.pictures import stages as pictures
from pipelines.pictures.style import label_texts
from pipelines.runtime.context import Context
from pipelines.runtime.machine import image_memory
from pipelines.stages.same_data import info_of


def run(ctx: Context) -> None:
    """Fit the label input (scalars), then G and D unless cgan.file is set; save the generator with its label embedding."""
    cfg = ctx.cfg.cgan
    (path,) = ctx.inputs("dataset.h5")
    info = info_of(path, ctx.cfg.data)
    if reads_teacher(ctx.cfg, "cgan"):
        ctx.inputs("teacher.safetensors")
        ctx.digests["teacher.scalar_loss"] = ctx.cfg.teacher.scalar_loss
    features = _find_features(ctx)
    task = make_task(info, ctx.cfg)
    memory = image_memory(ctx.cfg.data)
    train = read_split(path, "train", memory)
    vicinity = task.vicinity(train.labels, cfg.targets)
    kernel = _check_kernel(ctx, vicinity)

    seed = derive(ctx.seed, "cgan")
    real = _real_distance(cfg, train, vicinity, seed)
    if real is None:
        ctx.say("WARNING: no label has two training images, so whether the GAN ignores its noise cannot be checked")
    if cfg.file is None:
        settings = settings_of(ctx.cfg, "cgan")
        kept = kept_gan(ctx.path("resume") / "gans", settings, ctx.digests, cfg.precision, ctx.plan)
        trained = kept.load()
        if trained is None:
            trained = _train(ctx, info, task, train, vicinity, features)
            try:
                kept.save(trained)
            except DiskError as error:
                ctx.say(f"warning: the GAN is not kept for reuse: {error}")
        else:
            ctx.say("the GAN was trained before under equal settings, data and code: kept")
            for name, rows in trained.curves.items():
                replay(rows, ctx.progress(name))
        kept.used()
        ctx.metrics(trained.metrics)
        for name, found in trained.setbacks.items():
            ctx.setback(name, found)
        for kind, words in KINDS.items():
            if (step := trained.metrics.get(f"collapse.{kind}")) is not None:
                ctx.check(check_collapse(kind, words, step, trained.metrics.get(f"collapse.{kind}.passed")))
        tensors: Mapping[str, Tensor] = trained.tensors
        net, embed = make_generator(cfg, info.channels, info.image_size), task.label_embed(cfg.embed_dim)
        torch.nn.ModuleDict({"generator": net, "embed": embed}).load_state_dict(dict(tensors))
        draw: Draw = make_draw(net, embed, z_dim=cfg.z_dim, precision=cfg.precision, plan=ctx.plan)
        own = None
    else:
        embed, metrics, setback = _label_input(ctx, task, train)
        ctx.metrics(metrics)
        ctx.setback("label input", setback)
        draw, tensors, own = own_generator.take_in(ctx, info, task, vicinity, seed, memory)
        tensors = dict(tensors) | {f"embed.{name}": value for name, value in embed.state_dict().items()}
    labels = vicinity.asked(2000, generator(seed, "diversity labels"))
    fake = fake_diversity(draw, labels, generator(seed, "fake diversity"))
    ctx.metrics({"diversity.fake": fake})
    if real is not None:
        ctx.metrics({"diversity.real": real})
        ctx.check(check_diversity(fake, real))
    record = {"cgan": to_dict(cfg), "info": to_dict(info), "health": {"fake": fake, "real": real} | kernel}
    if own is not None:
        record["own"] = dataclasses.asdict(own)
    ctx.save_weights("cgan", tensors, record)

    conditions = task.conditions(train.labels)
    shown = conditions[torch.linspace(0, len(conditions) - 1, min(10, len(conditions))).round().long()]
    grid = draw(shown.repeat_interleave(10), generator(seed, "grid"))
    ctx.picture(
        "samples",
        pictures.sample_grid(
            grid, label_texts(shown, info.class_names, digits=3), "Fakes, one label a row, one z a column", columns=10
        ),
        step=cfg.num_steps if own is None else 0,
    )


def _find_features(ctx: Context) -> Weights | None:
    """The weights of cgan.features, checked, and counted among the inputs of the run; None where there are none to read."""
    found = find_features(ctx.cfg.cgan) if ctx.cfg.cgan.file is None else None
    if found is not None:
        ctx.digests["cgan.features"] = found.digest
        ctx.tracker.tags({"input.cgan_features": found.digest[:12]})
    return found


def _label_input(ctx: Context, task: Task, train: Split) -> tuple[torch.nn.Module, dict[str, float], Setback | None]:
    """The label embedding, fitted where labels are scalars, the metrics of that, and its setback if there was one."""
    cfg, seed = ctx.cfg.cgan, derive(ctx.seed, "cgan")
    seed_all(seed, "embed")
    embed = task.label_embed(cfg.embed_dim)
    loop = Loop(seed, ctx.plan, ctx.progress("label_input"), ctx.checkpoint("label_input"))
    metrics = fit_label_embed(embed, task, train, cfg.label_input, loop, cfg.targets)
    return embed, metrics, loop.course.setback


def _train(
    ctx: Context, info: DatasetInfo, task: Task, train: Split, vicinity: Vicinity, features: Weights | None
) -> Trained:
    """Fit the label input (scalars), then train G and D, guided as cgan says."""
    cfg, seed = ctx.cfg.cgan, derive(ctx.seed, "cgan")
    embed, metrics, of_labels = _label_input(ctx, task, train)
    teacher, fixed = None, None
    if features is not None:
        fixed = load_features(cfg, features, generator(seed, "feature mixing"), ctx.plan)
    if reads_teacher(ctx.cfg, "cgan"):
        its_task = make_task(info, ctx.cfg, ctx.cfg.teacher.scalar_loss)
        teacher = load_teacher_loss(ctx.path("teacher.safetensors"), info, its_task, ctx.plan)
    loop = Loop(seed, ctx.plan, ctx.progress("gan"), ctx.checkpoint("gan"))
    net, embed, losses = train_cgan(train, task, vicinity, embed, cfg, loop, Given(fixed, teacher))
    state = torch.nn.ModuleDict({"generator": net, "embed": embed}).state_dict()
    curves = {name: ctx.curve_rows(name) for name in ("label_input", "gan")}
    found = {"label input": of_labels, "GAN": loop.course.setback}
    setbacks = {name: setback for name, setback in found.items() if setback is not None}
    return Trained(state, metrics | losses, curves, setbacks)


def _real_distance(cfg: CganConfig, train: Split, vicinity: Vicinity, seed: int) -> float | None:
    """The within-label distance of real images; None where no label has two and the floor is off."""
    try:
        return real_diversity(train, vicinity, generator(seed, "real diversity"))
    except ValueError:
        if cfg.file is None and cfg.diversity_weight > 0:
            raise
        return None


def _check_kernel(ctx: Context, vicinity: Vicinity) -> dict[str, dict[str, float]]:
    """Log CcGAN's kernel widths and check them; what the bank stage needs to repeat the check, for scalars only."""
    if not isinstance(vicinity, ScalarVicinity):
        return {}
    kernel = vicinity.kernel
    ctx.metrics({"kernel.label_sigma": kernel.label_sigma, "kernel.kappa": kernel.kappa, "kernel.nu": kernel.nu})
    facts = {
        "kappa": kernel.kappa,
        "largest_gap": kernel.largest_gap,
        "median_gap": kernel.median_gap,
        "span": vicinity.label_max - vicinity.label_min,
    }
    ctx.check(check_kappa(**facts))
    return {"kernel": facts}
