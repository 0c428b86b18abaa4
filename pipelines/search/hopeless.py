"""Trials that cannot be trained, apart from faults of the machine or of the code: the first are pruned with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from cgankd.bank.build import EmptyBankError
from cgankd.fit.room import out_of_memory
from cgankd.types import Diverged
from pipelines.runtime.faults import origin, said_on_purpose, told_to_user

REASON, NOTE = "reason", "note"
"""User attributes of a trial: why it could not be trained in a word or two, and in a sentence."""
DIVERGED, NO_BANK, NO_MEMORY, REFUSED = "diverged", "no bank", "out of memory", "settings refused"
FILES = ("cgankd.data.store.", *(f"pipelines.files.{name}" for name in ("artifacts", "layout", "made", "writing")))
"""What these modules refuse is a damaged or missing file or a full disk, which no other values mend."""
BANK = ("the bank is empty", "the bank would be worthless")
"""How a refusal of a bank begins that is no EmptyBankError."""


def why(error: BaseException) -> tuple[str, str] | None:
    """Why no student can be had of a trial's values: a reason and its sentence; None where they are not to blame.

    To blame are values whose training diverges, that leave no bank, that do not fit together or that need more memory
    than there is; not a stopped process, a file that cannot be read or a defect.
    """
    text = " ".join(str(error).split())
    if out_of_memory(error):
        return (
            NO_MEMORY,
            f"{text[:200] or 'the machine has none left'}; smaller nets or batches, or fewer --workers, need less",
        )
    if isinstance(error, Diverged):
        return DIVERGED, text
    if isinstance(error, EmptyBankError):
        return NO_BANK, text
    if not isinstance(error, ValueError) or origin(error)[0].startswith(FILES):
        return None
    if not (told_to_user(error) and said_on_purpose(error)):
        return None
    return NO_BANK if text.startswith(BANK) else REFUSED, text


def untrained(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that were pruned because they could not be trained."""
    return [t for t in trials if t.state == TrialState.PRUNED and REASON in t.user_attrs]


def reasons(trials: Sequence[FrozenTrial]) -> list[tuple[str, list[int], str]]:
    """Each reason with the numbers of its trials and the sentence of the first, the commonest first."""
    bad = untrained(trials)
    counted = Counter(str(t.user_attrs[REASON]) for t in bad)
    found = []
    for name, _ in counted.most_common():
        these = [t for t in bad if t.user_attrs[REASON] == name]
        found.append((name, [t.number for t in these], str(these[0].user_attrs[NOTE])))
    return found


def in_words(trials: Sequence[FrozenTrial]) -> list[str]:
    """A line for each reason."""
    return [
        f"{len(numbers)} could not be trained (trial {', '.join(map(str, numbers))}), {note}"
        for name, numbers, note in reasons(trials)
    ]


def none_complete(study: optuna.Study) -> str | None:
    """Why there is no winner although trials are finished; None where there is one or none is finished yet."""
    trials = study.get_trials(deepcopy=False)
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    if not pruned or any(t.state == TrialState.COMPLETE for t in trials):
        return None
    found = reasons(trials)
    none = f"none of the {len(pruned)} trials of the study {study.study_name!r} is complete"
    if not found:
        return f"{none}: all were pruned; set search.rungs to 0"
    _, numbers, note = found[0]
    often = f"the commonest reason ({len(numbers)} of {len(pruned)}, such as trial {numbers[0]}) is: {note}"
    return f"{none}; {often}; change search.space and begin another study by search.study"
