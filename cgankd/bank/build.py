"""M1 and M2 put together: draw fakes, score each once, and stop when every wanted selection has its quota.

All selections are cut from one pool of scored fakes, so that an ablation compares the same draws. The draws of a label
group come in blocks of bank.block_size, each a function of (seed, group, block) alone: one more selection never
changes the rows of another, and a larger quota or another cutoff only draws further blocks. A group that ends below its
quota (its draws are used up, its source has no more, M1 accepts none) changes no other: see cgankd.bank.short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cgankd.bank.grouping import Grouping
from cgankd.bank.scores import ScoreFn, Scorer, Scores
from cgankd.bank.selections import SELECTIONS, Columns, Limits, bank_report, freeze, passes, select, selection_name
from cgankd.config import BankConfig, ConfigError
from cgankd.rng import generator
from cgankd.types import LogFn, SupplyEnded, Task, silent

__all__ = (
    "LONGER",
    "SELECTIONS",
    "Columns",
    "Conditions",
    "EmptyBankError",
    "Grouping",
    "Limits",
    "ScoreFn",
    "Scorer",
    "Scores",
    "Source",
    "arrange",
    "asked_labels",
    "bank_report",
    "burn_in",
    "draw_burn_in",
    "freeze",
    "grow_pool",
    "limits_of",
    "passes",
    "select",
    "selection_name",
)


LONGER = "train the GAN longer (cgan.num_steps)"
"""The last cure, which there is not where the fakes come from a source of the user's."""


class EmptyBankError(ConfigError):
    """A wanted selection let no fake through at all, of any label; the message states what was drawn and the cures."""


@dataclass(frozen=True)
class Conditions:
    """The labels to synthesise, arranged by filter group: shuffled labels of each group, and each group's quota [G].

    The quota of a group is the even share of `bank.num_fakes` that its conditions have together: for classes that is a
    quota per class, for scalars the label marginal is even over the bins and only nearly so within a bin.
    """

    labels: dict[int, Tensor]
    quota_G: Tensor
    grouping: Grouping

    def ask(self, group: int, start: int, num: int) -> Tensor:
        """The start-th to (start + num)-th label to ask for in a group: its conditions, over and over."""
        labels = self.labels[group]
        return labels[(start + torch.arange(num)) % len(labels)]

    def describe(self, group: int) -> str:
        """The group in words for the user: its label, or the range of its labels."""
        low, high = float(self.labels[group].min()), float(self.labels[group].max())
        return f"label {low:g}" if low == high else f"labels {low:g} to {high:g}"


def asked_labels(task: Task, label_N: Tensor, cfg: BankConfig) -> Tensor:
    """The labels [K] to ask for, some of them more than once where they follow those of the training images, label_N [N].

    Of numbers that go by the training images K is `bank.num_conditions`: their quantiles at the levels (k + 1/2) / K.
    """
    if cfg.label_shares == "even":
        return task.conditions(label_N)
    if cfg.num_conditions is None:
        return label_N
    # ceil((k + 1/2) N / K) - 1 in whole numbers: the smallest label that at least this share does not exceed.
    twice = 2 * cfg.num_conditions
    place_K = ((2 * torch.arange(cfg.num_conditions) + 1) * len(label_N) + twice - 1) // twice - 1
    return label_N.sort().values[place_K]


def arrange(task: Task, condition_K: Tensor, cfg: BankConfig, *, seed: int) -> Conditions:
    """Spread `bank.num_fakes` over the conditions [K] and sort them into filter groups."""
    grouping = Grouping(task, torch.unique(condition_K) if cfg.bound_scope == "label" else None)
    group_K = grouping.groups(condition_K)
    edge = torch.arange(len(condition_K) + 1) * cfg.num_fakes // len(condition_K)
    quota_G = torch.zeros(int(group_K.max()) + 1, dtype=torch.int64).index_add(0, group_K, edge.diff())
    labels = {}
    for group in torch.unique(group_K).tolist():
        members = condition_K[group_K == group]
        # Shuffled, as a quota below the number of conditions would otherwise take the low end of the bin only.
        labels[group] = members[torch.randperm(len(members), generator=generator(seed, "conditions", group))]
    return Conditions(labels, quota_G, grouping)


def every(block: int) -> bool:
    """All blocks of a group."""
    return True


@dataclass(frozen=True)
class Source:
    """Where the scored fakes of a bank come from: what scores them, the labels to ask for, the settings and the seed."""

    score_fn: ScoreFn
    conditions: Conditions
    cfg: BankConfig
    seed: int

    def blocks(self, group: int, cap: int) -> Iterator[Scores]:
        """The scored blocks of a group in draw order, up to `cap` fakes asked for; fewer where a finite source ends."""
        return self.blocks_of(group, cap, every)

    def blocks_of(self, group: int, cap: int, mine: Callable[[int], bool]) -> Iterator[Scores]:
        """Those of `blocks` whose number within the group is `mine`; the others are not drawn."""
        return self._scored(group, cap, (self.cfg.block_size, "bank"), mine)

    def cap(self, group: int) -> int:
        """Most draws of a group; without refilling its quota in whole blocks, as a part of a block would be other fakes."""
        quota, size = int(self.conditions.quota_G[group]), self.cfg.block_size
        return math.ceil(self.cfg.max_draws_factor * quota) if self.cfg.refill else math.ceil(quota / size) * size

    def burn_in_blocks(self, group: int, mine: Callable[[int], bool] = every) -> Iterator[Scores]:
        """The scored blocks of a group's burn-in, those that are `mine`."""
        return self._scored(group, self.cfg.burn_in, (self.cfg.batch_size, "burn-in"), mine)

    def _scored(self, group: int, cap: int, kind: tuple[int, str], mine: Callable[[int], bool]) -> Iterator[Scores]:
        (size, use), unserved = kind, 0
        for block, start in enumerate(range(0, cap, size)):
            label_B, scores = self.conditions.ask(group, start, min(size, cap - start)), None
            try:
                if mine(block):
                    scores = self.score_fn(label_B, generator(self.seed, use, group, block), block)
                elif isinstance(self.score_fn, Scorer):
                    self.score_fn.skip(label_B, block)
            except SupplyEnded:
                # Another label of the group may have images left, so that all of them are asked for once more.
                unserved += len(label_B)
                if unserved >= len(self.conditions.labels[group]):
                    return
                continue
            unserved = 0
            if scores is not None:
                yield scores


def burn_in(source: Source, log: LogFn = silent) -> Limits:
    """Draw `bank.burn_in` fakes in every group, then freeze the bounds and the cutoffs (see `freeze`)."""
    return limits_of(draw_burn_in(source, log), source)


def limits_of(burned: Columns, source: Source) -> Limits:
    """Bounds and cutoffs that the scores of a burn-in imply."""
    conditions = source.conditions
    return freeze(burned, len(conditions.quota_G), source.cfg, conditions.grouping.bins())


def draw_burn_in(source: Source, log: LogFn = silent) -> Columns:
    """Scores of `bank.burn_in` fakes in every group; they depend on no quantile, quota or selection."""
    conditions = source.conditions
    parts: list[Columns] = []
    for done, group in enumerate(sorted(conditions.labels), 1):
        parts += [scores.columns(group) for scores in source.burn_in_blocks(group)]
        log(done, {}, len(conditions.labels))
    return Columns.joined(parts)


def grow_pool(source: Source, limits: Limits, selections: Collection[str], log: LogFn = silent) -> Iterator[Scores]:
    """Yield scored blocks until every wanted selection has its quota in every group; only counts are kept here.

    A group ends below a quota where max_draws_factor times the quota are drawn, where its source has no more, or where M1
    can accept nothing; the quotas of the others stay (cgankd.bank.short says which). Groups go one after the other, the one
    with the lowest acceptance first. Raises EmptyBankError where a selection gets nothing at all. Without `bank.refill` it
    is `one_pass`, with no quota to reach.
    """
    conditions, cfg = source.conditions, source.cfg
    names = sorted(selections, key=list(SELECTIONS).index)
    if not cfg.refill:
        yield from one_pass(source, limits, names, log)
        return
    total = int(conditions.quota_G.sum()) * len(names)
    filled, logged, draws, kept = 0, 0, 0, dict.fromkeys(names, 0)
    for group in hardest_first(conditions, limits, names):
        quota = int(conditions.quota_G[group])
        hopeful = [name for name in names if not hopeless(name, group, limits)]
        if not hopeful:
            continue
        have, here = dict.fromkeys(names, 0), limits
        for scores in source.blocks(group, source.cap(group)):
            columns = scores.columns(group)
            draws += len(scores)
            for name in hopeful:
                new = min(int(passes(name, columns, here).sum()), quota - have[name])
                have[name], kept[name], filled = have[name] + new, kept[name] + new, filled + new
            here = here.after(columns)
            yield scores
            if filled - logged >= max(1, total // 100) or filled == total:
                log(filled, {"draws": float(draws)}, total)
                logged = filled
            if all(have[name] == quota for name in hopeful):
                break
    if empty := [name for name in names if not kept[name]]:
        raise EmptyBankError(
            f"bank: nothing passes selection {empty[0]!r} among the {draws} fakes drawn, of any label; "
            + cures(empty[0], limits.running)
        )


def one_pass(source: Source, limits: Limits, names: Collection[str], log: LogFn = silent) -> Iterator[Scores]:
    """Yield as many fakes of each group as its quota says, whatever passes; published so for scalars.

    They are the ones that refilling looks at first. Raises EmptyBankError at the end where a selection got none at all.
    """
    conditions = source.conditions
    total, drawn, logged, kept = int(conditions.quota_G.sum()), 0, 0, dict.fromkeys(names, 0)
    for group in sorted(conditions.labels):
        left, here = int(conditions.quota_G[group]), limits
        for block in source.blocks(group, source.cap(group)):
            scores = block.head(left)
            columns = scores.columns(group)
            left, drawn = left - len(scores), drawn + len(scores)
            for name in names:
                kept[name] += int(passes(name, columns, here).sum())
            here = here.after(columns)
            yield scores
            if drawn - logged >= max(1, total // 100) or drawn == total:
                log(drawn, {"draws": float(drawn), "kept": float(min(kept.values()))}, total)
                logged = drawn
    if empty := [name for name in names if not kept[name]]:
        raise EmptyBankError(
            f"bank: nothing passes selection {empty[0]!r} among the {total} fakes drawn (bank.refill: false); raise "
            "bank.num_fakes or bank.rho, set bank.refill: true, or train ratio and GAN longer"
        )


def hopeless(selection: str, group: int, limits: Limits) -> bool:
    """Whether M1 can accept nothing of a group, as every ratio of its burn-in was zero; a running bound may rise yet."""
    return SELECTIONS[selection][0] and not limits.running and float(limits.bound_G[group]) <= 0


def hardest_first(conditions: Conditions, limits: Limits, names: Collection[str]) -> list[int]:
    """Groups with a quota, by their lowest acceptance in the burn-in among the wanted selections.

    Raises EmptyBankError at once where a wanted selection can accept nothing in any group.
    """
    groups = [g for g in sorted(conditions.labels) if conditions.quota_G[g] > 0]
    for name in names:
        if groups and all(hopeless(name, group, limits) for group in groups):
            raise EmptyBankError(
                f"bank: selection {name!r} accepts nothing, because all {int(limits.tried.sum())} burn-in ratios are zero"
                " (acceptance 0 %); run `cgankd ratio` with fewer ratio.num_steps or a larger ratio.ratio_penalty, or use"
                " arms without subsample"
            )
    return sorted(groups, key=lambda g: min(float(limits.passed[name][g]) for name in names))


def cures(selection: str, running: bool) -> str:
    """What lets more fakes through a selection (fewer fakes is none: the cap shrinks with them)."""
    subsample, use_filter = SELECTIONS[selection]
    lower = "set bank.bound: frozen and lower bank.bound_quantile" if running else "lower bank.bound_quantile"
    found = [
        "raise bank.rho" if use_filter else "",
        lower if subsample else "",
        LONGER,
    ]
    return ", or ".join(filter(None, found))
