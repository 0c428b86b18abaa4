"""Which scored fakes go into a bank: the arithmetic of M1 and M2 on columns of scores, without any drawing.

A selection is a pair of switches (subsample, filter); replacement moves labels, not rows, so it is no selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from cgankd.bank import m1_subsample, m2_filter
from cgankd.config import BankConfig

SELECTIONS = {"raw": (False, False), "subsample": (True, False), "filter_only": (False, True), "filter": (True, True)}
"""Name of a selection -> (subsample, filter)."""


def selection_name(subsample: bool, use_filter: bool) -> str:
    """The selection with these two switches."""
    return next(name for name, switches in SELECTIONS.items() if switches == (subsample, use_filter))


@dataclass(frozen=True)
class Columns:
    """Scores of N fakes: filter group of the asked label (int64), ratio, teacher error, rejection uniform.

    spread: how far the members of the teacher disagree; None where it has none.
    """

    group: Tensor
    ratio: Tensor
    error: Tensor
    uniform: Tensor
    spread: Tensor | None = None

    def __len__(self) -> int:
        return len(self.group)

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """The rows of all parts, in their order."""
        names = [field.name for field in fields(cls) if all(getattr(part, field.name) is not None for part in parts)]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True)
class Limits:
    """What the burn-in fixed: the bound M [G], cutoffs [G] for each selection that filters, and what passed.

    passed[selection] [G] and tried [G] count burn-in draws; a bound of 0 marks a group in which every ratio was zero.
    A running bound is that of the start: what is drawn then raises it, and in its columns rows are in draw order. With
    `strict` a fake at the cutoff does not pass.
    """

    bound_G: Tensor
    cutoff: dict[str, Tensor]
    tried: Tensor
    passed: dict[str, Tensor]
    exceedance_share: float
    running: bool = False
    strict: bool = False
    spread_cutoff: dict[str, Tensor] = field(default_factory=dict)
    """Cutoffs [G] of the members' disagreement, where bank.filter_by looks at it; `cutoff`, of the teacher error, is infinite
    where it does not look at that."""

    def filtered(self, selection: str, columns: Columns) -> Tensor:
        """True [N] for the fakes that the filter of a selection lets through."""
        keep_N = m2_filter.keep(columns.error, columns.group, self.cutoff[selection], strict=self.strict)
        if selection in self.spread_cutoff:
            assert columns.spread is not None, "the teacher has members"
            keep_N &= m2_filter.keep(columns.spread, columns.group, self.spread_cutoff[selection], strict=self.strict)
        return keep_N

    def bounds(self, columns: Columns) -> Tensor:
        """M [N], the bound that each fake is compared with."""
        if self.running:
            return m1_subsample.running_bound(columns.ratio, columns.group, self.bound_G)
        return self.bound_G[columns.group]

    def after(self, columns: Columns) -> Limits:
        """The limits for the fakes that are drawn after these."""
        if not self.running:
            return self
        return replace(self, bound_G=self.bound_G.scatter_reduce(0, columns.group, columns.ratio.double(), "amax"))

    def dead_groups(self) -> list[int]:
        """Groups that were tried and in which subsampling can accept nothing."""
        groups: list[int] = torch.nonzero((self.tried > 0) & (self.bound_G <= 0))[:, 0].tolist()
        return groups


def freeze(columns: Columns, num_groups: int, cfg: BankConfig, bin_G: Tensor | None = None) -> Limits:
    """The limits that the scores of a burn-in imply.

    The cutoff of `filter` is taken from the fakes that subsampling accepts, that of `filter_only` from all of them; within
    the groups, or within the bins [G] that several groups share.
    """
    group_N = columns.group
    bound_G = m1_subsample.bound(columns.ratio, group_N, num_groups, cfg.bound_quantile)
    accepted_N = m1_subsample.accept(columns.ratio, bound_G[group_N], columns.uniform)
    bin_G = torch.arange(num_groups) if bin_G is None else bin_G
    if cfg.filter_scope == "global":
        bin_G = torch.zeros_like(bin_G)
    num_bins, cutoff, spread_cutoff = int(bin_G.max()) + 1, dict[str, Tensor](), dict[str, Tensor]()
    by_error, by_spread = cfg.filter_by != "spread", cfg.filter_by != "error"
    assert columns.spread is not None or not by_spread, "the teacher has members"

    def quantile(value_N: Tensor, bin_N: Tensor) -> Tensor:
        return m2_filter.cutoff(value_N, bin_N, num_bins, cfg.rho, strict=cfg.filter_strict)[bin_G]

    for name, (subsample, use_filter) in SELECTIONS.items():
        if use_filter:
            among_N = accepted_N if subsample else torch.ones_like(accepted_N)
            bin_N = bin_G[group_N[among_N]]
            every_G = torch.full((num_groups,), float("inf"), dtype=torch.float64)
            cutoff[name] = quantile(columns.error[among_N], bin_N) if by_error else every_G
            if by_spread and columns.spread is not None:
                spread_cutoff[name] = quantile(columns.spread[among_N], bin_N)
    exceedance = m1_subsample.exceedances(columns.ratio, bound_G[group_N])
    tried_G, running = torch.bincount(group_N, minlength=num_groups), cfg.bound == "running"
    limits = Limits(bound_G, cutoff, tried_G, {}, exceedance, running, cfg.filter_strict, spread_cutoff)
    for name in SELECTIONS:
        limits.passed[name] = torch.bincount(group_N[passes(name, columns, limits)], minlength=num_groups)
    return limits


def passes(selection: str, columns: Columns, limits: Limits) -> Tensor:
    """True [N] for the fakes that the selection's switches let through, before any quota."""
    subsample, use_filter = SELECTIONS[selection]
    pass_N = torch.ones(len(columns), dtype=torch.bool)
    if subsample:
        pass_N &= m1_subsample.accept(columns.ratio, limits.bounds(columns), columns.uniform)
    if use_filter:
        pass_N &= limits.filtered(selection, columns)
    return pass_N


def select(selection: str, columns: Columns, limits: Limits, quota_G: Tensor) -> Tensor:
    """Row numbers (int64, ascending) of a selection: the first quota rows of each group, in draw order, that pass."""
    pass_N = passes(selection, columns, limits)
    parts = [torch.nonzero(pass_N & (columns.group == g))[:, 0][: int(quota)] for g, quota in enumerate(quota_G)]
    return torch.cat(parts).sort().values


def bank_report(
    columns: Columns, asked_N: Tensor, predicted_N: Tensor, limits: Limits, rows: dict[str, Tensor]
) -> dict[str, float]:
    """Flat numbers of a pool and of the selections cut from it, `rows` being selection -> row numbers.

    Teacher errors are those of M2's filter (cross-entropy in nats, or raw units, where it is also how far replacement
    moves a label); `changed_share` is the share of labels that replacement would change. `filter.dropped_share` is the
    share of accepted fakes that the filter drops, `filter_only.dropped_share` that of all fakes. Exceedances are those
    of the burn-in's bound, a running one too.
    """
    num = len(columns)
    report = {
        "draws": float(num),
        "burn_in_draws": float(limits.tried.sum()),
        "burn_in_exceedance_share": limits.exceedance_share,
        "exceedance_share": m1_subsample.exceedances(columns.ratio, limits.bound_G[columns.group]),
        "ratio_mean": float(columns.ratio.mean()),
        "ratio_zero_share": float((columns.ratio == 0).float().mean()),
        "dead_groups": float(len(limits.dead_groups())),
    }
    passed = {name: int(passes(name, columns, limits).sum()) for name in SELECTIONS}
    for name, before in (("filter_only", "raw"), ("filter", "subsample")):
        report[f"{name}.dropped_share"] = 1.0 - passed[name] / passed[before] if passed[before] else 1.0
    for name, row_M in rows.items():
        error_M = columns.error[row_M].double()
        report[f"{name}.acceptance"] = passed[name] / num
        report[f"{name}.kept"] = float(len(row_M))
        report[f"{name}.teacher_error_mean"] = float(error_M.mean())
        report[f"{name}.teacher_error_median"] = float(error_M.quantile(0.5))
        if columns.spread is not None:
            report[f"{name}.teacher_spread_mean"] = float(columns.spread[row_M].double().mean())
        report[f"{name}.changed_share"] = float((predicted_N[row_M] != asked_N[row_M]).double().mean())
    return report
