"""Stage `bank` (M1 second half, M2): draw and score fakes, subsample, filter, replace; keep the pool for the arms."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgankd.bank import build
from cgankd.bank.m2_replace import replace
from cgankd.bank.scores import Kept
from cgankd.bank.short import short_lines, short_report, shortages
from cgankd.config import BANK_UNSAID, ArmConfig, BankConfig, ConfigError, DataConfig, to_dict
from cgankd.data.store.banks import BankWriter, of_fakes, read_pool_images, read_pool_scores, write_bank
from cgankd.data.store.datasets import read_split
from cgankd.fit.device import PLAIN, Plan
from cgankd.fit.predictor import make_predict
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
from cgankd.nets.predictors.ensemble import Ensemble, Spreading
from cgankd.rng import derive
from cgankd.types import DatasetInfo, Split, Task
from pipelines.files.artifacts import config_path, file_digest, read_record
from pipelines.networks.generator import load_draw
from pipelines.networks.predictor import load_predictor
from pipelines.networks.ratio import load_ratio
from pipelines.pictures import stages as pictures
from pipelines.pictures.style import label_texts
from pipelines.rounds.hard import Plain, hard_rounds
from pipelines.rounds.kept_blocks import KeptBlocks
from pipelines.runtime.context import Context
from pipelines.runtime.machine import image_memory
from pipelines.stages.burn_in import burn_in_mark, kept_burn_in
from pipelines.stages.same_data import info_of
from pipelines.stages.unlabelled import Work, take


@dataclass(frozen=True)
class Inputs:
    """The files that a bank is made of."""

    dataset: Path
    teacher: Path
    cgan: Path
    ratio: Path

    def digests(self) -> dict[str, str]:
        """Digest of each, by name."""
        return {name: file_digest(path) for name, path in vars(self).items()}


def wanted_selections(bank: BankConfig, arms: Mapping[str, ArmConfig]) -> list[str]:
    """The selections that the arms and the bank itself need, in the order of the method."""
    wanted = {build.selection_name(bank.subsample, bank.filter)}
    wanted |= {build.selection_name(arm.subsample, arm.filter) for arm in arms.values() if arm.bank}
    return [name for name in build.SELECTIONS if name in wanted]


def run(ctx: Context) -> None:
    """Burn in, freeze bounds and cutoffs, grow the pool (to every selection's quota, or once), cut the bank from it.

    Unlabelled images, where an arm wants them, come behind the fakes in the pool; the bank holds fakes alone.
    """
    cfg = ctx.cfg.bank
    inputs = Inputs(*ctx.inputs("dataset.h5", "teacher.safetensors", "cgan.safetensors", "ratio.safetensors"))
    unlabelled, *_ = ctx.inputs("unlabelled.h5")
    info = info_of(inputs.dataset, ctx.cfg.data)
    task = make_task(info, ctx.cfg)
    memory = image_memory(ctx.cfg.data)
    val, train = read_split(inputs.dataset, "val", memory), read_split(inputs.dataset, "train", memory)
    selections = wanted_selections(cfg, ctx.cfg.student.arms)
    refuse_worthless(ctx, inputs, selections)
    seed = derive(ctx.seed, "bank")
    conditions = build.arrange(task, build.asked_labels(task, train.labels, cfg), cfg, seed=seed)
    mark = burn_in_mark(cfg, ctx.plan, seed, ctx.digests)
    kept = ctx.until_done(KeptBlocks(ctx.path("resume/bank/blocks"), mark, ctx.say))
    scorer = make_scorer(inputs, info, task, ctx.plan, expected_draws(conditions, cfg), kept)
    check_members(cfg, scorer)
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
    pool_path = ctx.path("pool.h5")
    shape = (info.channels, info.image_size, info.image_size)
    with BankWriter(
        pool_path, shape, task.num_outputs, task.label_dtype, spread=scorer.spreading is not None
    ) as writer:
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
    write_bank(ctx.path("bank.h5"), pool_path, row, labels, attributes | behind | {"selection": chosen})
    ctx.metrics(report)
    val_error = task.error(scorer.teacher(val.images), val.labels)
    ctx.metrics({"teacher_error_val_mean": float(val_error.mean())})
    short = [f"the fakes ran out: {line}" for line in short_lines(lacking, cfg)]
    for line in (*in_words(cfg, report, selections, float(val_error.mean())), *short, *near.lines, *taken.lines):
        ctx.say(line)
    draw_pictures(ctx, conditions.grouping, pool_path, (train, val_error), limits, Shown(labels, info))


def filled_up(column: Tensor, num_rows: int) -> Tensor:
    """A column with zeros for the rows behind its own."""
    return torch.cat([column, torch.zeros(num_rows - len(column), dtype=column.dtype)])


def kept_settings(cfg: BankConfig) -> dict[str, Any]:
    """The section as the files of a bank keep it."""
    unsaid = BANK_UNSAID.items()
    return {name: value for name, value in to_dict(cfg).items() if (name, value) not in unsaid}


WHERE = ("root", "download", "memory_budget_gb", "unlabelled", "num_unlabelled")
"""Settings of `data` that say where images come from and lie, and change none of those that the fakes were made from."""


def made_from(cfg: DataConfig, seed: int, inputs: Inputs) -> dict[str, str | int | float]:
    """Attributes of a bank beside its own section: the seed, and the settings of data, GAN and ratio as JSON.

    Those of the networks are the ones they were made with, whatever params.yaml says by now.
    """
    data = {name: value for name, value in to_dict(cfg).items() if name not in WHERE}
    gan, ratio = (read_record(config_path(getattr(inputs, name)), (name,)) for name in ("cgan", "ratio"))
    sections = {"data": data, "cgan": gan["cgan"], "ratio": ratio["ratio"]}
    attributes: dict[str, str | int | float] = {"seed": seed}
    return attributes | {f"config.{name}": json.dumps(found, sort_keys=True) for name, found in sections.items()}


def expected_draws(conditions: build.Conditions, cfg: BankConfig) -> int:
    """About how many fakes will be drawn, by which networks are compiled or not: three times the burn-in.

    It must not follow num_fakes or rho: compiled networks give other last bits, and a block of fakes is the same
    whatever is cut from it.
    """
    return 3 * cfg.burn_in * len(conditions.labels)


def make_scorer(
    inputs: Inputs, info: DatasetInfo, task: Task, plan: Plan = PLAIN, expected: int = 0, kept: Kept | None = None
) -> build.Scorer:
    """What draws and scores a block of fakes, `expected` of which are to come, those in `kept` aside."""
    net, teacher_config = load_predictor(inputs.teacher, info, task)
    teacher = make_predict(net, teacher_config["precision"], plan=plan, expected=expected)
    draw = load_draw(inputs.cgan, info, task, plan, expected)
    ratio = load_ratio(inputs.ratio, info, task, plan, expected)
    scorer = build.Scorer(draw, ratio, teacher, task, kept=kept)
    if not isinstance(net, Ensemble):
        return scorer
    spreading = make_predict(Spreading(net), teacher_config["precision"], plan=plan, expected=expected)
    return dataclasses.replace(scorer, spreading=spreading)


def check_members(cfg: BankConfig, scorer: build.Scorer) -> None:
    """Raise ConfigError where the filter looks at members that the teacher does not have."""
    if cfg.filter_by != "error" and scorer.spreading is None:
        raise ConfigError(
            f"bank.filter_by is {cfg.filter_by}, but artifacts/teacher.safetensors has no members that could disagree (auto keeps"
            " one where their mean is no better); set bank.filter_by to error, or teacher.members to 2 or more"
        )


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
