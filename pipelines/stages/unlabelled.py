"""Unlabelled images in the bank stage: scored as fakes are, their rows behind those of the fakes in the pool."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cgankd.bank import unlabelled
from cgankd.bank.build import SELECTIONS, selection_name
from cgankd.bank.selections import Columns
from cgankd.config import ArmConfig, ConfigError, RatioConfig
from cgankd.config.settings import from_dict
from cgankd.data.store.banks import BankWriter
from cgankd.data.store.stream import MemoryBudget
from cgankd.data.store.unlabelled import read_unlabelled
from cgankd.fit.loop import Loop
from cgankd.nets.features import Extractor
from cgankd.nets.ratio_mlp import RatioMLP
from cgankd.ratio.density_ratio import RatioNets, make_ratio, train_ratio
from cgankd.ratio.features import FrozenExtractor, Reals
from cgankd.ratio.partners import FakeSource
from cgankd.ratio.stock import stock_draw
from cgankd.rng import generator, seed_all
from cgankd.types import DatasetInfo, Images, PredictFn, RatioFn, Split, Task
from pipelines.networks.ratio import drop_radius, load_ratio_nets
from pipelines.runtime.context import Context

FAKE, UNLABELLED = 0, 1
"""Values of the pool's column `source`."""


def wanted(arms: Mapping[str, ArmConfig]) -> list[str]:
    """The selections of unlabelled images that the arms need, in the order of the method."""
    names = {selection_name(arm.subsample, arm.filter) for arm in arms.values() if arm.unlabelled}
    return [name for name in SELECTIONS if name in names]


@dataclass(frozen=True)
class Taken:
    """What the unlabelled images add to a pool: flags [U] by selection, numbers for metrics/bank.json, lines for the user.

    Empty where no arm wants them, and the pool is as it is without.
    """

    flags: dict[str, Tensor] = field(default_factory=dict)
    report: dict[str, float] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

    def columns(self, num_fakes: int) -> dict[str, Tensor]:
        """The pool's columns that tell the two sources apart: `source` and, by selection, `unlabelled_<name>`."""
        if not self.flags:
            return {}
        num = len(next(iter(self.flags.values())))
        source = torch.tensor([FAKE, UNLABELLED], dtype=torch.uint8).repeat_interleave(torch.tensor([num_fakes, num]))
        none = torch.zeros(num_fakes, dtype=torch.bool)
        return {"source": source} | {f"unlabelled_{name}": torch.cat([none, flag]) for name, flag in self.flags.items()}


@dataclass(frozen=True)
class Work:
    """What unlabelled images are scored with: the files of images and ratio, the data set and the teacher."""

    images: Path
    ratio: Path
    info: DatasetInfo
    task: Task
    train: Split
    val: Split
    teacher: PredictFn
    seed: int
    memory: MemoryBudget
    spreading: PredictFn | None = None
    """The teacher's outputs with the disagreement of its members behind them; None where it has none."""


def take(ctx: Context, work: Work, writer: BankWriter) -> Taken:
    """Score the unlabelled images, append them to the pool and choose among them, where an arm wants them.

    Raises ConfigError where there are none although an arm does.
    """
    selections = wanted(ctx.cfg.student.arms)
    images = read_unlabelled(work.images, work.memory)
    if not selections:
        idle = "WARNING: no arm uses data.unlabelled; give one unlabelled: true (docs/howto/unlabelled.md)"
        return Taken(lines=(idle,) if len(images) else ())
    if len(images) == 0:
        raise ConfigError("artifacts/unlabelled.h5 has no images; set data.unlabelled and run `cgankd prepare` again")
    task, log = work.task, ctx.progress("unlabelled")
    said = unlabelled.answers(images, work.teacher, task, work.spreading, log)
    group_U = task.filter_groups(said.label)
    ratio_U = torch.ones(len(images))
    if any(SELECTIONS[name][0] for name in selections):
        ratio_U = unlabelled.ratios(images, said.label, fit_ratio(ctx, work, images, said.label))
    uniform_U = torch.rand(len(images), generator=generator(work.seed, "unlabelled"))
    columns = Columns(group_U, ratio_U, said.doubt, uniform_U, said.spread)
    limits, rows = unlabelled.judged(columns, len(task.group_names), ctx.cfg.bank, selections)
    if empty := [name for name, row in rows.items() if len(row) == 0]:
        raise ConfigError(
            f"bank: none of the {len(images)} unlabelled images passes selection {empty[0]!r}; raise bank.rho, or use arms"
            " without subsample or filter for them"
        )
    for piece in unlabelled.pool_rows(images, said, ratio_U, uniform_U):
        writer.append(piece)
    none = torch.zeros(len(images), dtype=torch.bool)
    flags = {name: none.index_fill(0, row, True) for name, row in rows.items()}
    report = unlabelled.unlabelled_report(columns, limits, rows)
    return Taken(flags, report, tuple(in_words(report, selections, task)))


def in_words(report: Mapping[str, float], selections: list[str], task: Task) -> Iterator[str]:
    """A line for each selection: how many images it takes, and of how uneven labels."""
    num, kind = report["unlabelled.images"], task.group_kind[0]
    for name in selections:
        low, high = (report[f"unlabelled.{name}.{end}_of_a_label"] for end in ("least", "most"))
        yield (
            f"{name:>12}: {report[f'unlabelled.{name}.kept']:.0f} of {num:.0f} unlabelled images, all that pass;"
            f" {low:.0f} to {high:.0f} of a {kind} by the teacher"
        )


def fit_ratio(ctx: Context, work: Work, images: Images, label_U: Tensor) -> RatioFn:
    """The density ratio of training over unlabelled images, given the teacher's label: M1's features and settings, a network of
    its own.

    That of the stage `ratio` compares with fakes, and says nothing of how usual a real image is.
    """
    task, (nets, config) = work.task, load_ratio_nets(work.ratio, work.info, work.task)
    cfg, features = from_dict(RatioConfig, config["ratio"], "ratio."), nets["features"]
    seed_all(work.seed, "unlabelled ratio")
    assert isinstance(features, Extractor)
    mlp = RatioMLP(config["embed_dim"], features.feature_width, cfg.hidden, cfg.dropout)
    embed = copy.deepcopy(nets["embed"])
    embed.requires_grad_(bool(embed.trained_with_gan))
    groups = torch.unique(task.filter_groups(label_U))
    train, val = (among(split, groups, task) for split in (work.train, work.val))
    vicinity = task.vicinity(train.labels, cfg.targets)
    zeta = drop_radius(cfg, vicinity)
    frozen = FrozenExtractor(features, cfg.precision, ctx.plan, len(images) + len(train))
    radius = zeta if task.num_classes == 0 else 0.0
    draw = stock_draw(images, label_U, radius, work.info.label_period)
    judge, redraw = partial(frozen.judge, task=task), cfg.redraw == "label"
    source = FakeSource(draw, frozen, judge, vicinity, zeta, cfg.max_redraws, redraw, cfg.targets)
    progress = ctx.progress("unlabelled_ratio")
    ratio_nets = RatioNets(mlp, embed)
    log = lambda step, values, total: progress(step, {}, total)  # noqa: E731
    loop = Loop(work.seed, ctx.plan, log, ctx.checkpoint("unlabelled_ratio"))
    report = train_ratio(ratio_nets, source, Reals(train, val if len(val) else train), task, cfg, loop)
    ctx.setback("unlabelled ratio", loop.course.setback)
    ctx.metrics(
        {f"unlabelled.ratio.{name}": report[name] for name in ("mean_train_real", "mean_val_real", "zero_share")}
    )
    mlp.to(ctx.plan.device)
    embed.to(ctx.plan.device)
    return make_ratio(ratio_nets, frozen)


def among(split: Split, groups: Tensor, task: Task) -> Split:
    """The images of a split whose label group is one of these; all of them where none is."""
    mask = torch.isin(task.filter_groups(split.labels), groups)
    return split if bool(mask.all()) else split.take(mask)
