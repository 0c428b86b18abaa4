"""M1 and M2 put together: draw fakes, score each once, and stop when every wanted selection has its quota.

All selections are cut from one pool of scored fakes, so that an ablation compares the same draws. The draws of a label
group come in blocks of bank.block_size, each a function of (seed, group, block) alone: one more selection never
changes the rows of another, and a larger quota or another cutoff only draws further blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cgankd.bank.selections import SELECTIONS, Columns, Limits, bank_report, freeze, passes, select, selection_name
from cgankd.config import BankConfig
from cgankd.rng import generator
from cgankd.types import Dealing, Draw, LogFn, PredictFn, RatioFn, Task, silent

__all__ = (
    "SELECTIONS",
    "Columns",
    "Conditions",
    "Limits",
    "QuotaError",
    "ScoreFn",
    "Scorer",
    "Scores",
    "arrange",
    "bank_report",
    "burn_in",
    "draw_burn_in",
    "freeze",
    "grow_pool",
    "passes",
    "score",
    "select",
    "selection_name",
)


class QuotaError(ValueError):
    """A selection did not reach its quota within `bank.max_draws_factor`; the message states the acceptance rate."""


@dataclass(frozen=True)
class Scores:
    """A block of fakes with everything M1 and M2 need to know.

    images uint8 [B, C, H, W]; asked and predicted [B] labels in raw units; ratio, teacher_error, uniform float32 [B];
    teacher_output float16 [B, O]; shard is the number of the block within its label group.
    """

    images: Tensor
    asked: Tensor
    predicted: Tensor
    ratio: Tensor
    teacher_error: Tensor
    teacher_output: Tensor
    uniform: Tensor
    shard: int

    def __len__(self) -> int:
        return len(self.asked)

    def columns(self, group: int) -> Columns:
        """The scores as columns; all rows of a block are of one group."""
        return Columns(torch.full((len(self),), group), self.ratio, self.teacher_error, self.uniform)


ScoreFn = Callable[[Tensor, torch.Generator, int], Scores]
"""`score` with its first four arguments bound, as by `Scorer`: labels [B], generator, shard -> Scores."""


def score(
    draw: Draw, ratio: RatioFn, teacher: PredictFn, task: Task, label_B: Tensor, gen: torch.Generator, shard: int
) -> Scores:
    """Draw fakes for the labels and score them; the uniform of the rejection test comes from `gen` after the images.

    Raises ValueError where a ratio or a teacher error is NaN.
    """
    images_BCHW = draw(label_B, gen)
    out_BO = teacher(images_BCHW)
    ratio_B, error_B = ratio(images_BCHW, label_B).float(), task.error(out_BO, label_B).float()
    for name, value_B in (("ratio", ratio_B), ("teacher", error_B)):
        if count := int(value_B.isnan().sum()):
            raise ValueError(f"{name}: NaN scores for {count} of {len(label_B)} fakes; run `cgankd {name}` again")
    uniform_B = torch.rand(len(label_B), generator=gen)
    predicted_B, output_BO = task.predict(out_BO), out_BO.to(torch.float16)
    return Scores(images_BCHW, label_B, predicted_B, ratio_B, error_B, output_BO, uniform_B, shard)


@dataclass(frozen=True)
class Scorer:
    """`score` of one generator, ratio and teacher; each run of blocks of a label group begins with its block 0.

    A generator with a finite stock (Dealing) deals it anew there, so a block stays a function of those before it.
    """

    draw: Draw
    ratio: RatioFn
    teacher: PredictFn
    task: Task

    def __call__(self, label_B: Tensor, gen: torch.Generator, shard: int) -> Scores:
        self._begin(label_B, shard)
        return score(self.draw, self.ratio, self.teacher, self.task, label_B, gen, shard)

    def skip(self, label_B: Tensor, shard: int) -> None:
        """Go on as if this block had been drawn, for a caller that has it already."""
        self._begin(label_B, shard)
        if isinstance(self.draw, Dealing):
            self.draw.skip(label_B)

    def _begin(self, label_B: Tensor, shard: int) -> None:
        if shard == 0 and isinstance(self.draw, Dealing):
            self.draw.restart(label_B)


@dataclass(frozen=True)
class Conditions:
    """The labels to synthesise, arranged by filter group: shuffled labels of each group, and each group's quota [G].

    The quota of a group is the even share of `bank.num_fakes` that its conditions have together: for classes that is a
    quota per class, for scalars the label marginal is even over the bins and only nearly so within a bin.
    """

    labels: dict[int, Tensor]
    quota_G: Tensor

    def ask(self, group: int, start: int, num: int) -> Tensor:
        """The start-th to (start + num)-th label to ask for in a group: its conditions, over and over."""
        labels = self.labels[group]
        return labels[(start + torch.arange(num)) % len(labels)]

    def describe(self, group: int) -> str:
        """The group in words for the user: its label, or the range of its labels."""
        low, high = float(self.labels[group].min()), float(self.labels[group].max())
        return f"label {low:g}" if low == high else f"labels {low:g} to {high:g}"


def arrange(task: Task, condition_K: Tensor, cfg: BankConfig, *, seed: int) -> Conditions:
    """Spread `bank.num_fakes` over the conditions [K] and sort them into filter groups."""
    group_K = task.filter_groups(condition_K)
    edge = torch.arange(len(condition_K) + 1) * cfg.num_fakes // len(condition_K)
    quota_G = torch.zeros(int(group_K.max()) + 1, dtype=torch.int64).index_add(0, group_K, edge.diff())
    labels = {}
    for group in torch.unique(group_K).tolist():
        members = condition_K[group_K == group]
        # Shuffled, as a quota below the number of conditions would otherwise take the low end of the bin only.
        labels[group] = members[torch.randperm(len(members), generator=generator(seed, "conditions", group))]
    return Conditions(labels, quota_G)


def burn_in(score_fn: ScoreFn, conditions: Conditions, cfg: BankConfig, *, seed: int, log: LogFn = silent) -> Limits:
    """Draw `bank.burn_in` fakes in every group, then freeze the bounds and the cutoffs (see `freeze`)."""
    return freeze(draw_burn_in(score_fn, conditions, cfg, seed=seed, log=log), len(conditions.quota_G), cfg)


def draw_burn_in(
    score_fn: ScoreFn, conditions: Conditions, cfg: BankConfig, *, seed: int, log: LogFn = silent
) -> Columns:
    """Scores of `bank.burn_in` fakes in every group; they depend on no quantile, quota or selection."""
    parts: list[Columns] = []
    for done, group in enumerate(sorted(conditions.labels), 1):
        for block, start in enumerate(range(0, cfg.burn_in, cfg.batch_size)):
            label_B = conditions.ask(group, start, min(cfg.batch_size, cfg.burn_in - start))
            parts.append(score_fn(label_B, generator(seed, "burn-in", group, block), block).columns(group))
        log(done, {}, len(conditions.labels))
    return Columns(*(torch.cat([getattr(p, name) for p in parts]) for name in ("group", "ratio", "error", "uniform")))


def grow_pool(
    score_fn: ScoreFn,
    conditions: Conditions,
    limits: Limits,
    cfg: BankConfig,
    selections: Collection[str],
    *,
    seed: int,
    log: LogFn = silent,
) -> Iterator[Scores]:
    """Yield scored blocks until every wanted selection has its quota in every group; only counts are kept here.

    Groups go one after the other, the one with the lowest acceptance first, so that a hopeless quota fails early.
    Raises QuotaError where a selection exhausts max_draws_factor times the quota of a group.
    """
    names = sorted(selections, key=list(SELECTIONS).index)
    total = int(conditions.quota_G.sum()) * len(names)
    filled, logged, draws = 0, 0, 0
    for group in hardest_first(conditions, limits, names):
        quota = int(conditions.quota_G[group])
        cap = math.ceil(cfg.max_draws_factor * quota)
        have, drawn, block = dict.fromkeys(names, 0), 0, 0
        while lacking := [name for name in names if have[name] < quota]:
            if drawn >= cap:
                worst = min(lacking, key=have.__getitem__)
                raise QuotaError(quota_message(conditions, group, worst, have[worst], quota, drawn))
            label_B = conditions.ask(group, drawn, min(cfg.block_size, cap - drawn))
            scores = score_fn(label_B, generator(seed, "bank", group, block), block)
            drawn, block, draws = drawn + len(scores), block + 1, draws + len(scores)
            for name in lacking:
                new = min(int(passes(name, scores.columns(group), limits).sum()), quota - have[name])
                have[name], filled = have[name] + new, filled + new
            yield scores
            if filled - logged >= max(1, total // 100) or filled == total:
                log(filled, {"draws": float(draws)}, total)
                logged = filled


def hardest_first(conditions: Conditions, limits: Limits, names: Collection[str]) -> list[int]:
    """Groups with a quota, by their lowest acceptance in the burn-in among the wanted selections.

    Raises QuotaError at once where subsampling is wanted in a group whose every ratio was zero.
    """
    groups = [g for g in sorted(conditions.labels) if conditions.quota_G[g] > 0]
    subsampled = [name for name in names if SELECTIONS[name][0]]
    for group in groups:
        if subsampled and limits.bound_G[group] <= 0:
            raise QuotaError(
                f"bank: selection {subsampled[0]!r} accepts nothing for {conditions.describe(group)}, because all "
                f"{int(limits.tried[group])} burn-in ratios there are zero (acceptance 0 %); run `cgankd ratio` with "
                "fewer ratio.num_steps or a larger ratio.ratio_penalty, or use arms without subsample"
            )
    return sorted(groups, key=lambda g: min(float(limits.passed[name][g]) for name in names))


def quota_message(conditions: Conditions, group: int, selection: str, have: int, quota: int, drawn: int) -> str:
    """What fell short where, the acceptance rate, and the cures (fewer fakes is none: the cap shrinks with them)."""
    rate = have / drawn
    subsample, use_filter = SELECTIONS[selection]
    cures = [f"raise bank.max_draws_factor (about {math.ceil(1.2 / rate)} is needed)" if rate else ""]
    cures += ["raise bank.rho" if use_filter else "", "lower bank.bound_quantile" if subsample else ""]
    cures += ["train the GAN longer (cgan.num_steps)"]
    return (
        f"bank: selection {selection!r} has {have} of {quota} fakes for {conditions.describe(group)} after {drawn} "
        f"draws, the cap set by bank.max_draws_factor (acceptance {100 * rate:.2g} %); "
        + ", or ".join(filter(None, cures))
    )
