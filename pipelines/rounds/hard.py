"""The rounds of a bank: behind the plain draws of its pool come those near what a probe student finds hard."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from cgankd.bank import build, hard
from cgankd.bank.m2_replace import replace
from cgankd.bank.short import short_lines, shortages
from cgankd.config import ArmConfig, ConfigError
from cgankd.data.store.banks import BankWriter
from cgankd.fit.loop import Loop
from cgankd.rng import derive
from cgankd.types import DatasetInfo, LogFn, PredictFn, Split
from pipelines.rounds.probe import Lesson, Probes
from pipelines.runtime.context import Context


def wanted(arms: Mapping[str, ArmConfig]) -> list[str]:
    """The selections that arms want hard fakes of, in the order of the method."""
    names = {build.selection_name(arm.subsample, arm.filter) for arm in arms.values() if arm.hard}
    return [name for name in build.SELECTIONS if name in names]


@dataclass(frozen=True)
class Plain:
    """The plain draws, which the writer holds: where they come from, their scores, and the rows of each selection."""

    source: build.Source
    limits: build.Limits
    columns: build.Columns
    rows: Mapping[str, Tensor]


@dataclass(frozen=True)
class Rounds:
    """What rounds add to a pool: columns [M] over plain and further fakes, numbers for metrics/bank.json, lines for the user.

    Empty where no arm wants hard fakes, and the pool is as it is without.
    """

    columns: Mapping[str, Tensor] = field(default_factory=dict)
    report: Mapping[str, float] = field(default_factory=dict)
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Bench:
    """What all rounds of a bank work with."""

    ctx: Context
    plain: Plain
    draw: hard.LatentDraw
    train: Split
    probes: Probes
    writer: BankWriter


@dataclass(frozen=True)
class Chosen:
    """Fakes of one selection: rows of the pool [M], their filter groups [M] and latents [M, Z]."""

    rows: Tensor
    group: Tensor
    z: Tensor

    def with_more(self, more: Chosen) -> Chosen:
        """These and those."""
        return Chosen(*(torch.cat([getattr(of, name) for of in (self, more)]) for name in ("rows", "group", "z")))


@dataclass
class Grown:
    """The rounds of one selection: the rows [M] that it takes, the round [R] of each row appended, numbers and lines."""

    chosen: Chosen
    rounds: list[Tensor] = field(default_factory=list)
    report: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def hard_rounds(ctx: Context, plain: Plain, train: Split, info: DatasetInfo, writer: BankWriter) -> Rounds:
    """Draw the rounds of every selection that an arm wants hard fakes of, and append them to the pool.

    Raises ConfigError where the generator has no latents, EmptyBankError where nothing at all passes in a round.
    """
    names, cfg = wanted(ctx.cfg.student.arms), ctx.cfg.bank
    if not names:
        idle = f"WARNING: no arm uses bank.rounds {cfg.rounds}; give one hard: true (docs/howto/hard-fakes.md)"
        return Rounds(lines=[idle] if cfg.rounds > 1 else [])
    assert cfg.probe is not None, "Config checks this"
    draw = scorer_of(plain).draw
    if not isinstance(draw, hard.LatentDraw):
        raise ConfigError(
            "artifacts/cgan.safetensors is a generator of your own (cgan.file), whose latents are not known, so that arms with"
            " hard: true cannot draw near them; leave those arms out, or set cgan.file to null and run `cgankd cgan`"
        )
    bench = Bench(ctx, plain, draw, train, Probes(ctx, cfg.probe, info), writer)
    rounds, lines = [torch.ones(len(writer), dtype=torch.uint8)], [*other_net(ctx)]
    report, kept = dict[str, float](), dict[str, Tensor]()
    for name in names:
        grown = grow(bench, name)
        kept[name], rounds = grown.chosen.rows, rounds + grown.rounds
        report |= {f"hard_{name}.{key}": value for key, value in grown.report.items()}
        lines += grown.lines
    none = torch.zeros(len(writer), dtype=torch.bool)
    flags = {f"in_hard_{name}": none.index_fill(0, rows, True) for name, rows in kept.items()}
    return Rounds(flags | {"round": torch.cat(rounds)}, report, lines)


def scorer_of(plain: Plain) -> build.Scorer:
    """The generator and the nets that score its fakes."""
    assert isinstance(plain.source.score_fn, build.Scorer)
    return plain.source.score_fn


def other_net(ctx: Context) -> list[str]:
    """A line where the probe is not what the students are."""
    probe, student = ctx.cfg.bank.probe, ctx.cfg.student
    assert probe is not None
    if (probe.net, probe.width) == (student.net, student.width):
        return []
    said = [of.net if of.width is None else f"{of.net} of width {of.width}" for of in (probe, student)]
    return [f"the probe is {said[0]}, the student {said[1]}: what is hard for the one need not be for the other"]


def grow(bench: Bench, name: str) -> Grown:
    """The rounds of one selection: as many fakes of each group as the plain one has, where draws do not run out."""
    grown, later, quotas = plain_part(bench, name)
    limits = bench.plain.limits.after(bench.plain.columns)
    draws = passed = 0
    for number, quota_G in enumerate(quotas, 2):
        if not int(quota_G.sum()):
            continue
        probe = probed(bench, grown.chosen.rows, name, number)
        parents = parents_of(bench, grown.chosen, probe)
        near = hard.near_source(bench.plain.source, bench.draw, quota_G, parents, (name, number))
        new, columns, short = draw_round(bench, near, limits)
        grown.rounds.append(torch.full((len(columns),), number, dtype=torch.uint8))
        grown.chosen = grown.chosen.with_more(new)
        grown.lines += short
        if number == 2 and len(later):
            # This probe was shown neither the new fakes nor the plain ones in whose place they are.
            grown.report["divergence_plain"] = float(divergence(bench, later, probe).mean())
            grown.report["divergence_near"] = float(divergence(bench, new.rows, probe).mean())
        draws, passed = draws + len(columns), passed + int(build.passes(name, columns, limits).sum())
        limits = limits.after(columns)
    rows = grown.chosen.rows
    error = float(bench.writer.read("teacher_error", rows).double().mean())
    missing = len(bench.plain.rows[name]) - len(rows)
    grown.report |= {"kept": float(len(rows)), "draws": float(draws), "acceptance": passed / max(1, draws)}
    grown.report |= {"teacher_error_mean": error} | ({"missing": float(missing)} if missing else {})
    grown.lines.insert(0, in_words(name, grown.report, bench.ctx.cfg.bank.rounds))
    return grown


def in_words(name: str, report: Mapping[str, float], rounds: int) -> str:
    """A line on the rounds of a selection."""
    said = (
        f"{name:>12}: {report['kept']:.0f} kept in {rounds} rounds for arms with hard, {100 * report['acceptance']:.0f} % of"
        f" draws near hard ones pass, mean teacher error {report['teacher_error_mean']:.3g}"
    )
    if "divergence_near" not in report:
        return said
    return said + (
        f"; probe and teacher differ by {report['divergence_near']:.3g} on them, and by {report['divergence_plain']:.3g} on the"
        " plain fakes in whose place they are"
    )


def plain_part(bench: Bench, name: str) -> tuple[Grown, Tensor, list[Tensor]]:
    """The first part of a selection's plain fakes, the rows [M] of the others, and the quotas [G] of the rounds after it."""
    source, columns, rows = bench.plain.source, bench.plain.columns, bench.plain.rows[name]
    group_M, z_dim = columns.group[rows], bench.draw.z_dim
    have_G = torch.bincount(group_M, minlength=len(source.conditions.quota_G))
    first_G, *quotas = hard.round_quotas(have_G, source.cfg.rounds)
    mine = hard.first_of_groups(group_M, first_G)
    later = rows[torch.ones(len(rows), dtype=torch.bool).index_fill(0, mine, False)]
    block_N = bench.writer.read("shard", torch.arange(len(columns)))
    places = hard.Places.of(columns.group, block_N).take(rows[mine])
    z_MZ = places.latents(partial(hard.plain_latents, source, z_dim), z_dim)
    return Grown(Chosen(rows[mine], group_M[mine], z_MZ)), later, quotas


def probed(bench: Bench, rows: Tensor, name: str, number: int) -> PredictFn:
    """A probe that was trained on the fakes at these rows [M]; a finished one of a killed run is taken from its file."""
    ctx, cfg, writer = bench.ctx, bench.ctx.cfg.bank, bench.writer
    asked, predicted = (writer.read(column, rows) for column in ("asked", "predicted"))
    fakes = Split(writer.read("images", rows), replace(asked, predicted) if cfg.replace else asked)
    real_NO = scorer_of(bench.plain).teacher(bench.train.images)
    lesson = Lesson(bench.train, fakes, torch.cat([real_NO, writer.read("teacher_output", rows).float()]))
    title = f"probe_{name}_{number}"
    seed = derive(ctx.seed, "probe", name, number)
    loop = Loop(seed, ctx.plan, counting(ctx, title), ctx.checkpoint(title))
    probe = bench.probes.train(lesson, loop)
    ctx.setback(title, loop.course.setback)
    return probe


def divergence(bench: Bench, rows: Tensor, probe: PredictFn) -> Tensor:
    """How far probe and teacher differ on the fakes at rows [M], float64 [M]."""
    out_MO, teacher_MO = probe(bench.writer.read("images", rows)), bench.writer.read("teacher_output", rows)
    return scorer_of(bench.plain).task.divergence(out_MO, teacher_MO.float()).double()


def parents_of(bench: Bench, chosen: Chosen, probe: PredictFn) -> dict[int, hard.Parents]:
    """The hardest fakes of each group, with the labels asked."""
    has_members = scorer_of(bench.plain).spreading is not None
    spread_M = bench.writer.read("teacher_spread", chosen.rows) if has_members else None
    found = hard.parents_of(hard.hardness(divergence(bench, chosen.rows, probe), spread_M), chosen.group)
    asked_M = bench.writer.read("asked", chosen.rows)
    return {group: hard.Parents(chosen.z[places], asked_M[places]) for group, places in found.items()}


def draw_round(bench: Bench, near: hard.NearSource, limits: build.Limits) -> tuple[Chosen, build.Columns, list[str]]:
    """Append the draws of a round to the pool: those that fill its quotas, the scores of all, lines on what ran out."""
    writer, first, name = bench.writer, len(bench.writer), near.selection
    asked, parts = list[Tensor](), list[build.Columns]()
    for s in build.grow_pool(near, limits, [name], counting(bench.ctx, f"round_{name}_{near.round}")):
        writer.append(s.rows())
        asked.append(s.asked)
        parts.append(s.columns(0))
    group_N = near.conditions.grouping.groups(torch.cat(asked))
    columns = dataclasses.replace(build.Columns.joined(parts), group=group_N)
    rows = build.select(name, columns, limits, near.conditions.quota_G)
    block_N = writer.read("shard", first + torch.arange(len(columns)))
    z_MZ = hard.Places.of(group_N, block_N).take(rows).latents(near.latents, bench.draw.z_dim)
    lacking = short_lines(shortages(columns, limits, near.conditions, near.cfg, {name: rows}), near.cfg)
    said = [f"round {near.round} ran out of fakes near hard ones: {line}" for line in lacking]
    return Chosen(first + rows, group_N[rows], z_MZ), columns, said


def counting(ctx: Context, title: str) -> LogFn:
    """Progress without curves, which would be files that no stage declares."""
    progress = ctx.progress(title)
    return lambda step, values, total: progress(step, {}, total)
