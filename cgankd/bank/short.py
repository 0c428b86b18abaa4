"""Labels whose fakes run out: what a bank lacks of its quotas, why, and what helps.

The rule: a label that ends below its quota keeps what passed, and the quotas of the other labels stay. So a selection is,
label by label, the same whatever happens to another label, arms are compared on the same draws, and the bank is smaller by
what is missing. `student.sampling: balanced` lets each label come equally often all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cgankd.bank.build import LONGER, Columns, Conditions, Limits, cures, hopeless, passes
from cgankd.bank.selections import SELECTIONS
from cgankd.config import BankConfig

NAMED = 3
"""Labels that are named one by one, the emptiest first; of the others the number is said."""
RULE = (
    "labels that lack fakes keep what passed; the others keep their quotas, and with student.sampling: balanced all labels"
    " come equally often in training"
)
DRAWS, SOURCE, RATIO = "draws", "source", "ratio"
"""Why: the cap on draws was reached, a finite source ended, or M1 can accept nothing."""
REVIVE = f"lower ratio.num_steps, or raise ratio.ratio_penalty, or {LONGER}, or use arms without subsample"
"""What helps where every ratio is zero, which no bound and no cutoff of the bank does."""


@dataclass(frozen=True)
class Short:
    """A label group that ended below its quota in one selection.

    `accepted` and `passed` are the shares of its draws that M1 accepts and that M1 and M2 let through.
    """

    selection: str
    where: str
    have: int
    quota: int
    drawn: int
    cause: str
    accepted: float
    passed: float

    @property
    def missing(self) -> int:
        return self.quota - self.have

    def says(self, cfg: BankConfig, own: bool = False) -> str:
        """In one sentence what is missing, why, and the cures; `own`: the fakes come from a source of the user's."""
        head = f"{self.have} of {self.quota} fakes for {self.where} in selection {self.selection!r}"
        if self.cause == RATIO:
            why = "all burn-in ratios there are zero, so that M1 accepts none"
        else:
            end = "the cap set by bank.max_draws_factor" if self.cause == DRAWS else "all that the source has"
            why = f"after {self.drawn} draws, {end} ({self._by_step()})"
        help_by = REVIVE if self.cause == RATIO else cures(self.selection, cfg.bound == "running")
        if self.cause == SOURCE:
            help_by = help_by.replace(LONGER, "add images to the source")
        elif own:
            help_by = help_by.replace(LONGER, "bring a source whose images are nearer to the training images")
        if self.cause == DRAWS and self.passed:
            factor = cfg.max_draws_factor * self.quota / max(1, self.have)
            help_by = f"raise bank.max_draws_factor (about {math.ceil(1.2 * factor)} is needed), or {help_by}"
        return f"{head}: {why}; {help_by}"

    def _by_step(self) -> str:
        subsample, use_filter = SELECTIONS[self.selection]
        if subsample and use_filter:
            return f"M1 accepts {percent(self.accepted)} of them, M1 and M2 {percent(self.passed)}"
        return f"{percent(self.passed)} of them pass"


def percent(share: float) -> str:
    """A share as words, small ones with two digits: 0.004 is 0.4 %, 1 is 100 %."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.2g} %"


def shortages(
    columns: Columns, limits: Limits, conditions: Conditions, cfg: BankConfig, rows: Mapping[str, Tensor]
) -> list[Short]:
    """Where the selections (name -> row numbers in a pool) lack fakes, the emptiest first; none without `bank.refill`."""
    if not cfg.refill:
        return []
    found, num = [], len(conditions.quota_G)
    drawn_G = torch.bincount(columns.group, minlength=num)
    passed = {name: torch.bincount(columns.group[passes(name, columns, limits)], minlength=num) for name in SELECTIONS}
    for name, row_M in rows.items():
        have_G = torch.bincount(columns.group[row_M], minlength=num)
        for group in torch.nonzero(have_G < conditions.quota_G)[:, 0].tolist():
            quota, drawn = int(conditions.quota_G[group]), int(drawn_G[group])
            capped = drawn >= math.ceil(cfg.max_draws_factor * quota)
            cause = RATIO if hopeless(name, group, limits) else DRAWS if capped else SOURCE
            accepted, through = (int(passed[each][group]) / max(1, drawn) for each in ("subsample", name))
            where = conditions.describe(group)
            found.append(Short(name, where, int(have_G[group]), quota, drawn, cause, accepted, through))
    return sorted(found, key=lambda one: one.have / one.quota)


def short_lines(found: Sequence[Short], cfg: BankConfig, own: bool = False) -> list[str]:
    """What to say of them: a line for each of the emptiest, how many more there are, and the rule; `own` as for `says`."""
    if not found:
        return []
    lines = [one.says(cfg, own) for one in found[:NAMED]]
    if len(found) > NAMED:
        lines.append(f"and {len(found) - NAMED} more labels or selections lack fakes")
    return [*lines, RULE]


def short_report(found: Sequence[Short]) -> dict[str, float]:
    """Numbers for metrics/bank.json: fakes missing in each selection, and what stood in the way of the emptiest label.

    Empty where nothing is missing.
    """
    if not found:
        return {}
    missing: dict[str, float] = {}
    for one in found:
        missing[f"{one.selection}.missing"] = missing.get(f"{one.selection}.missing", 0.0) + one.missing
    worst = found[0]
    return missing | {
        "short.labels": float(len({one.where for one in found})),
        "short.have": float(worst.have),
        "short.quota": float(worst.quota),
        "short.draws": float(worst.drawn),
        "short.accepted_share": worst.accepted,
        "short.passed_share": worst.passed,
        "short.source_ended": float(worst.cause == SOURCE),
    }
