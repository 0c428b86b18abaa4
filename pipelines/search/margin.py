"""The margin of a trial over the default: measured on fresh seeds, kept in best.json, told in words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from cgankd.config import ArmConfig
from cgankd.data.regular import read_json
from cgankd.measure.predictive import Gain, paired_gain
from cgankd.measure.verdict import describe
from pipelines.files.made import unsealed
from pipelines.runtime.machine import set_threads
from pipelines.search.config import SearchedConfig
from pipelines.search.pool import inputs_of
from pipelines.search.run import Search, say
from pipelines.search.space import with_values
from pipelines.search.students import quiet_context, students_of, train_seeds


def margin(search: Search, study: optuna.Study, winner: FrozenTrial, num: int, console: Console) -> dict[str, Any]:
    """Paired gain of the winner over the default on validation, on `num` seeds that the search has not used.

    The winner was chosen for its luck on the seeds of the search too; fresh seeds take that part away.
    """
    taken = set(search.cfg.search.seeds)
    candidates = itertools.chain(search.cfg.student.seeds, itertools.count())
    seeds: list[int] = []
    for seed in candidates:
        if len(seeds) == num:
            break
        if seed not in taken:
            taken.add(seed)
            seeds.append(seed)
    say(console, f"training the default and trial {winner.number} on {num} fresh seeds")
    base = default_config(search, study)
    default, best = (scores(search, cfg, seeds) for cfg in (base, with_values(search.cfg, winner.params)))
    confidence = search.cfg.evaluate.confidence
    gain = paired_gain(default, best, higher_is_better=search.headline.higher_is_better, confidence=confidence)
    unit = search.headline.unit
    say(console, f"default {np.mean(default):.2f} {unit}, winner {np.mean(best):.2f} {unit} on validation")
    say(
        console,
        f"margin over the default: {describe(gain, unit)} ({100 * confidence:.0f} % paired interval over {num} fresh"
        " seeds of the student; one split, one teacher, one GAN; validation images)",
    )
    return {"seeds": seeds, "default": default, "winner": best, **asdict(gain), "confidence": confidence}


def default_config(search: Search, study: optuna.Study) -> SearchedConfig:
    """params.yaml as it was when the study began, whatever was applied since."""
    return with_values(search.cfg, study.user_attrs["default"])


def scores(search: Search, cfg: SearchedConfig, seeds: Sequence[int], arm: ArmConfig | None = None) -> list[float]:
    """Validation scores of the searched arm, or of another of the same settings, under `cfg`."""
    set_threads()
    own = cfg.student.arms[cfg.search.arm]
    ctx = quiet_context(cfg, search.workdir)
    with students_of(ctx, inputs_of(ctx, search.cfg), own) as (runner, _):
        return train_seeds(runner(cfg), cfg.search.arm if arm is None else "control", arm or own, seeds, lambda: None)


def margin_text(search: Search, study: optuna.Study, trial: FrozenTrial) -> str:
    """The margin of a trial as it was measured, with a warning where it is none."""
    if trial.params == study.user_attrs["default"]:
        return "these are the values that params.yaml had when the study began: no margin"
    found = measured(search, study, trial)
    if found is None:
        named = (
            "" if len(study.directions) == 1 and study.best_trial.number == trial.number else f" --trial {trial.number}"
        )
        return f"margin not measured; `cgankd search best{named}` first"
    gain = Gain(found["gain"], found["low"], found["high"], tuple(found["values"]))
    text = (
        f"margin over the default: {describe(gain, search.headline.unit)}"
        f" ({100 * found['confidence']:.0f} % paired interval over {len(found['seeds'])} fresh seeds)"
    )
    warning = f"; warning: trial {trial.number} is not shown to be better than params.yaml was"
    return text if gain.proved else text + warning


def measured(search: Search, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any] | None:
    """The margin of this trial in artifacts/search/best.json; None where that is of another one or has none."""
    try:
        record = read_json(search.workdir / "artifacts" / "search" / "best.json")
        if not unsealed(record):
            return None
        same = record["study"] == study.study_name and record["winner"]["number"] == trial.number
        # Values too, for a study of this name may have been begun again.
        same = same and record["winner"]["values"] == trial.params and record["default"] == study.user_attrs["default"]
        found: dict[str, Any] | None = record["margin"] if same else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, damaged, or without a margin
        return None
    return found
