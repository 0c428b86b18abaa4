"""Stage `bank` (M1 second half, M2): draw and score fakes, subsample, filter, replace; keep the pool for the arms."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cgankd.bank import build
from cgankd.bank.m2_replace import replace
from cgankd.bank.scores import Kept
from cgankd.bank.shards import Part, draw_part
from cgankd.bank.short import short_lines, short_report, shortages
from cgankd.config import BankConfig, ConfigError
from cgankd.data.store.banks import of_fakes, pool_writer, read_pool_images, read_pool_scores, write_bank
from cgankd.data.store.datasets import read_split
from cgankd.data.store.stream import MemoryBudget
from cgankd.labels.task import make_task
from cgankd.measure.health import (
    Check,
    check_bound,
    check_diversity,
    check_kappa,
    check_ratio_mean,
    check_ratio_overfit,
    check_ratio_zeros,
)
from cgankd.rng import derive
from cgankd.types import DatasetInfo, Split, Task
from pipelines.files.artifacts import config_path, file_digest, read_record
from pipelines.pictures import stages as pictures
from pipelines.pictures.style import label_texts
from pipelines.rounds.drawing import Inputs as Inputs
from pipelines.rounds.drawing import check_members as check_members
from pipelines.rounds.drawing import expected_draws as expected_draws
from pipelines.rounds.drawing import kept_settings, made_from
from pipelines.rounds.drawing import make_scorer as make_scorer
from pipelines.rounds.drawing import wanted_selections as wanted_selections
from pipelines.rounds.hard import Plain, hard_rounds
from pipelines.rounds.kept_blocks import KeptBlocks
from pipelines.rounds.shards import Shards, close_shard, facts_of, open_shard, with_shards
from pipelines.runtime.context import Context
from pipelines.runtime.machine import image_memory
from pipelines.stages.burn_in import burn_in_mark, kept_burn_in
from pipelines.stages.same_data import info_of
from pipelines.stages.unlabelled import Work, take

BESIDE_FAKES = ("refuse_worthless", "rows_per_file")
"""Settings of `bank` that no fake depends on."""


@dataclass(frozen=True)
class Bench:
    """What a bank, or a shard of one, is drawn with; `train` are the images whose labels are asked for."""

    inputs: Inputs
    info: DatasetInfo
    task: Task
    train: Split
    memory: MemoryBudget
    selections: list[str]
    seed: int
    conditions: build.Conditions

    def facts(self, ctx: Context) -> dict[str, str]:
        """All that the fakes of a shard depend on."""
        settings = {name: value for name, value in kept_settings(ctx.cfg.bank).items() if name not in BESIDE_FAKES}
        settings |= {"selections": ", ".join(self.selections)}
        return facts_of(settings, ctx.seed, ctx.plan, ctx.digests)

    def scorer(self, ctx: Context, kept: Kept) -> build.Scorer:
        """What draws and scores. Raises ConfigError where the filter looks at members that there are not."""
        expected = expected_draws(self.conditions, ctx.cfg.bank)
        scorer = make_scorer(self.inputs, self.info, self.task, ctx.plan, expected, kept)
        check_members(ctx.cfg.bank, scorer)
        return scorer


def set_up(ctx: Context) -> Bench:
    """Read what a bank is made of. Raises ConfigError where it would be worthless."""
    inputs = Inputs(*ctx.inputs("dataset.h5", "teacher.safetensors", "cgan.safetensors", "ratio.safetensors"))
    info = info_of(inputs.dataset, ctx.cfg.data)
    task, memory, seed = make_task(info, ctx.cfg), image_memory(ctx.cfg.data), derive(ctx.seed, "bank")
    train = read_split(inputs.dataset, "train", memory)
    selections = wanted_selections(ctx.cfg.bank, ctx.cfg.student.arms)
    refuse_worthless(ctx, inputs, selections)
    asked = build.asked_labels(task, train.labels, ctx.cfg.bank)
    conditions = build.arrange(task, asked, ctx.cfg.bank, seed=seed)
    return Bench(inputs, info, task, train, memory, selections, seed, conditions)


def run_shard(ctx: Context, part: Part) -> None:
    """Draw and score the blocks of one shard into artifacts/shards; `run` joins them."""
    bench = set_up(ctx)
    facts = bench.facts(ctx)
    blocks = open_shard(ctx.path("shards"), part, facts, ctx.say)
    if blocks is None:
        ctx.say(f"shard {part} of the bank is there already")
        return
    source = build.Source(bench.scorer(ctx, blocks), bench.conditions, ctx.cfg.bank, bench.seed)
    counts = draw_part(source, part, bench.selections, ctx.progress("groups"))
    close_shard(blocks, part, facts, counts)
    ctx.say(f"shard {part} of the bank: {counts['burn_in']} fakes of the burn-in and {counts['fakes']} of the bank")


def run(ctx: Context) -> None:
    """Burn in, freeze bounds and cutoffs, grow the pool (to every selection's quota, or once), cut the bank from it.

    Unlabelled images, where an arm wants them, come behind the fakes in the pool; the bank holds fakes alone.
    """
    cfg = ctx.cfg.bank
    bench = set_up(ctx)
    unlabelled, *_ = ctx.inputs("unlabelled.h5")
    inputs, info, task, train, selections = bench.inputs, bench.info, bench.task, bench.train, bench.selections
    memory, seed, conditions = bench.memory, bench.seed, bench.conditions
    val = read_split(inputs.dataset, "val", memory)
    mark = burn_in_mark(cfg, ctx.plan, seed, ctx.digests)
    own = KeptBlocks(ctx.path("resume/bank/blocks"), mark, ctx.say)
    kept = with_shards(ctx.path("shards"), bench.facts(ctx), own, ctx.overrides)
    ctx.until_done(kept if isinstance(kept, Shards) else own)
    scorer = bench.scorer(ctx, kept)
    source = build.Source(scorer, conditions, cfg, seed)
    burned = kept_burn_in(
        ctx.path("resume/bank/burn-in.safetensors"),
        mark,
        lambda: build.draw_burn_in(source, ctx.progress("burn_in")),
        ctx.say,
    )
    limits = build.limits_of(burned, source)
    if any(build.SELECTIONS[name][0] for name in selections):
        refuse(ctx, check_bound(len(limits.dead_groups()), len(conditions.labels)))

    attributes: dict[str, str | int | float] = {"config": json.dumps(kept_settings(cfg), sort_keys=True)}
    attributes |= inputs.digests()
    pool_path = ctx.new("pool.h5")
    shape = (info.channels, info.image_size, info.image_size)
    spread, most = scorer.spreading is not None, cfg.rows_per_file
    with pool_writer(pool_path, shape, task.num_outputs, task.label_dtype, spread=spread, rows_per_file=most) as writer:
        asked_parts, predicted_parts, parts = list[Tensor](), list[Tensor](), list[build.Columns]()
        for s in build.grow_pool(source, limits, selections, ctx.progress("fakes")):
            writer.append(s.rows())
            asked_parts.append(s.asked)
            predicted_parts.append(s.predicted)
            parts.append(s.columns(0))
        asked, predicted = torch.cat(asked_parts), torch.cat(predicted_parts)
        columns = dataclasses.replace(build.Columns.joined(parts), group=conditions.grouping.groups(asked))
        rows = {name: build.select(name, columns, limits, conditions.quota_G) for name in selections}
        none = torch.zeros(len(asked), dtype=torch.bool)
        flags = {f"in_{name}": none.index_fill(0, row, True) for name, row in rows.items()}
        lacking = shortages(columns, limits, conditions, cfg, rows)
        if isinstance(kept, Shards):
            ctx.say(kept.line())
        near = hard_rounds(ctx, Plain(source, limits, columns, rows), train, info, writer)
        teacher, spreading, num_fakes = scorer.teacher, scorer.spreading, len(writer)
        work = Work(unlabelled, inputs.ratio, info, task, train, val, teacher, seed, memory, spreading)
        taken = take(ctx, work, writer)
        writer.set_columns({name: filled_up(flag, len(writer)) for name, flag in (flags | dict(near.columns)).items()})
        writer.set_columns(taken.columns(num_fakes))
        report = build.bank_report(columns, asked, predicted, limits, rows) | short_report(lacking)
        report |= {**near.report, **taken.report}
        if not cfg.refill:
            report |= {f"{name}.kept_share": len(row) / cfg.num_fakes for name, row in rows.items()}
        beside_fakes = {"unlabelled": file_digest(unlabelled)} if taken.flags else {}
        writer.close(attributes | beside_fakes | {f"report.{name}": value for name, value in report.items()})

    chosen = build.selection_name(cfg.subsample, cfg.filter)
    row = rows[chosen]
    labels = replace(asked[row], predicted[row]) if cfg.replace else asked[row]
    behind = made_from(ctx.cfg.data, ctx.seed, inputs)
    write_bank(
        ctx.new("bank.h5"), pool_path, row, labels, attributes | behind | {"selection": chosen}, rows_per_file=most
    )
    ctx.metrics(report)
    val_error = task.error(scorer.teacher(val.images), val.labels)
    ctx.metrics({"teacher_error_val_mean": float(val_error.mean())})
    short = [f"the fakes ran out: {line}" for line in short_lines(lacking, cfg, ctx.cfg.cgan.file is not None)]
    for line in (*in_words(cfg, report, selections, float(val_error.mean())), *short, *near.lines, *taken.lines):
        ctx.say(line)
    draw_pictures(ctx, conditions.grouping, pool_path, (train, val_error), limits, Shown(labels, info))


def filled_up(column: Tensor, num_rows: int) -> Tensor:
    """A column with zeros for the rows behind its own."""
    return torch.cat([column, torch.zeros(num_rows - len(column), dtype=column.dtype)])


def refuse_worthless(ctx: Context, inputs: Inputs, selections: list[str]) -> None:
    """Repeat the health checks of GAN and ratio from the numbers saved with them; raise where the bank would be worthless.

    Raises ConfigError unless bank.refuse_worthless is off.
    """
    gan, ratio = (read_record(config_path(path), ("health",))["health"] for path in (inputs.cgan, inputs.ratio))
    checks = [check_kappa(**gan["kernel"])] if "kernel" in gan else []
    checks += [] if gan["real"] is None else [check_diversity(gan["fake"], gan["real"])]
    if any(build.SELECTIONS[name][0] for name in selections):
        checks += [check_ratio_zeros(ratio["zero_share"]), check_ratio_mean(ratio["mean_fake"])]
        checks.append(check_ratio_overfit(ratio["mean_train_real"], ratio["mean_val_real"]))
    for check in checks:
        refuse(ctx, check)


def refuse(ctx: Context, check: Check) -> None:
    """Log a check; raise ConfigError where it is failed and fatal, unless bank.refuse_worthless is off."""
    ctx.check(check)
    if check.fatal and not check.ok and ctx.cfg.bank.refuse_worthless:
        raise ConfigError(
            f"the bank would be worthless: {check.sentence} (bank.refuse_worthless: false goes on all the same)"
        )


def in_words(cfg: BankConfig, report: dict[str, float], selections: list[str], val_error: float) -> Iterator[str]:
    """A line on the pool and one a selection."""
    yield f"pool: {report['draws']:.0f} fakes drawn; teacher error on validation images {val_error:.3g}"
    of = "" if cfg.refill else f" of {cfg.num_fakes}"
    for name in selections:
        yield (
            f"{name:>12}: {report[f'{name}.kept']:.0f}{of} kept, {100 * report[f'{name}.acceptance']:.0f} % of draws pass,"
            f" mean teacher error {report[f'{name}.teacher_error_mean']:.3g}"
        )


@dataclass(frozen=True)
class Shown:
    """Labels [M] of the bank, and the data set, which knows their names and unit."""

    labels: Tensor
    info: DatasetInfo


def draw_pictures(
    ctx: Context,
    grouping: build.Grouping,
    pool: Path,
    data: tuple[Split, Tensor],
    limits: build.Limits,
    bank: Shown,
) -> None:
    """Kept and dropped fakes with their scores, the two histograms with their limits, and the label marginals."""
    train, val_error = data
    scores = of_fakes(read_pool_scores(pool, but=("teacher_output",)))
    columns = build.Columns(
        grouping.groups(scores["asked"]),
        scores["ratio"],
        scores["teacher_error"],
        scores["uniform"],
        scores.get("teacher_spread"),
    )
    accepted = build.passes("subsample", columns, limits)
    small = limits.filtered("filter", columns)
    shown = {
        "kept": accepted & small,
        "dropped by M1 (ratio)": ~accepted,
        "dropped by M2 (teacher error)": accepted & ~small,
    }
    panels = []
    for title, mask in shown.items():
        rows = mask.nonzero()[:, 0]
        rows = rows[torch.linspace(0, len(rows) - 1, min(24, len(rows))).long()] if len(rows) else rows
        asked = label_texts(scores["asked"][rows], bank.info.class_names, digits=3)
        captions = [
            f"y {label}  r {scores['ratio'][i]:.2f}\ne {scores['teacher_error'][i]:.1g}"
            for label, i in zip(asked, rows, strict=True)
        ]
        panels.append((f"{title}: {100 * mask.float().mean():.0f} %", read_pool_images(pool, rows), captions))
    ctx.picture("accepted_rejected", pictures.accepted_rejected(panels))
    bounds = limits.bound_G[limits.bound_G > 0]
    ctx.picture("ratio_histogram", pictures.ratio_histogram({"fakes": scores["ratio"]}, bounds))
    ctx.picture(
        "error_histogram",
        pictures.error_histogram(
            {"fakes": scores["teacher_error"], "validation reals": val_error}, limits.cutoff["filter"]
        ),
    )
    ctx.picture(
        "label_marginal",
        pictures.label_marginal(train.labels, bank.labels, class_names=bank.info.class_names),
    )
