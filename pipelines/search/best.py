"""What a search found: the winner, its margin on fresh seeds, importances, curves, and writing it into params.yaml."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console
from rich.table import Table

from cgankd.config import ArmConfig, ConfigError
from cgankd.measure.predictive import Gain, paired_gain
from cgankd.measure.verdict import describe
from pipelines.files.artifacts import replacing, write_json
from pipelines.files.params import set_values
from pipelines.pictures import search as pictures_search
from pipelines.runtime.context import Drawing
from pipelines.runtime.machine import set_threads
from pipelines.search.config import SearchedConfig, load_searched
from pipelines.search.run import Search, say, score_text, values_text
from pipelines.search.space import defaults, moved_along, with_searched_arm, with_values, written_out
from pipelines.search.stages import inputs_of
from pipelines.search.students import quiet_context, students_of, train_seeds
from pipelines.tracking.journal import Tracker
from pipelines.tracking.open import open_tracker

FEW = 4
"""Complete trials below which importances would be noise."""


def pick(study: optuna.Study, number: int | None) -> FrozenTrial:
    """The best complete trial, or the one with this number. Raises ConfigError."""
    complete = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if not complete:
        raise ConfigError(f"no trial of the study {study.study_name!r} is complete yet; run `cgankd search`")
    if number is None:
        if len(study.directions) > 1:
            numbers = ", ".join(str(t.number) for t in study.best_trials)
            raise ConfigError(f"with two objectives there is no single winner; name one by --trial (best: {numbers})")
        return study.best_trial
    for trial in complete:
        if trial.number == number:
            return trial
    raise ConfigError(f"trial {number} is no complete trial (those are {', '.join(str(t.number) for t in complete)})")


def default_config(search: Search, study: optuna.Study) -> SearchedConfig:
    """params.yaml as it was when the study began, whatever was applied since."""
    return with_values(search.cfg, study.user_attrs["default"])


def show(search: Search, console: Console, number: int | None, seeds: int | None) -> None:
    """The winner, its margin over the default on fresh seeds, importances and pictures."""
    study = search.study()
    front = len(study.directions) > 1
    # Before the run is opened: a trial that is not there must not leave a failed run behind.
    winner = None if front and number is None else pick(study, number)
    with recording(search, console) as tracker:
        trials = study.get_trials(deepcopy=False)
        draw_study(search, study, tracker)
        shares = importances(study)
        if front:
            console.print(front_table(search, study))
        if winner is None:
            say(console, "`cgankd search best --trial N` measures the margin of one, `search apply --trial N` takes it")
            return
        console.print(values_table(search, study, winner, shares))
        count = {state.name.lower(): sum(t.state == state for t in trials) for state in TrialState}
        tried = ", ".join(f"{n} {name}" for name, n in count.items() if n and name != "waiting")
        say(
            console,
            f"trials: {tried}; trial {winner.number}: {score_text(search, winner.values)} (seeds of the search)",
        )
        record: dict[str, Any] = {
            "study": study.study_name,
            "trials": count,
            "winner": {"number": winner.number, "values": winner.params, "val": winner.user_attrs["val"]},
            "default": study.user_attrs["default"],
            "importances": shares,
        }
        if winner.params == study.user_attrs["default"]:
            say(console, "no setting that was tried is better than params.yaml as it was")
        elif seeds != 0:
            record["margin"] = margin(search, study, winner, seeds or search.cfg.search.fresh_seeds, console)
            tracker.metrics({f"margin.{k}": record["margin"][k] for k in ("gain", "low", "high")})
        elif (known := measured(search, study, winner)) is not None:
            record["margin"] = known
        tracker.params(winner.params)
        write_json(search.workdir / "artifacts" / "search" / "best.json", record, sort_keys=False)


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


def scores(search: Search, cfg: SearchedConfig, seeds: Sequence[int], arm: ArmConfig | None = None) -> list[float]:
    """Validation scores of the searched arm, or of another of the same settings, under `cfg`."""
    set_threads()
    own = cfg.student.arms[cfg.search.arm]
    ctx = quiet_context(cfg, search.workdir)
    with students_of(ctx, inputs_of(ctx, search.cfg), own) as (runner, _):
        return train_seeds(runner(cfg), cfg.search.arm if arm is None else "control", arm or own, seeds, lambda: None)


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each knob (PED-ANOVA, Watanabe et al., arXiv 2304.10255); empty where too few trials tell."""
    complete = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if len(complete) < FEW or len({t.values[0] for t in complete}) < 2:
        return {}
    least = study.directions[0] == optuna.study.StudyDirection.MINIMIZE
    target = (lambda t: t.values[0] if least else -t.values[0]) if len(study.directions) > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says that low targets are taken for good, as they are here
        shares = optuna.importance.get_param_importances(study, target=target)
    return {key: float(share) for key, share in shares.items()}


def values_table(search: Search, study: optuna.Study, winner: FrozenTrial, shares: dict[str, float]) -> Table:
    """Knob by knob: the default, the winner, the importance."""
    table = Table(title=f"study {study.study_name}: trial {winner.number}", box=box.SIMPLE_HEAD, title_style="bold")
    for name in ("setting", "default", f"trial {winner.number}", "importance"):
        table.add_column(name, justify="left" if name == "setting" else "right", no_wrap=True)
    for key, value in winner.params.items():
        share = f"{shares[key]:.2f}" if key in shares else ""
        table.add_row(key, short(study.user_attrs["default"][key]), short(value), share)
    return table


def front_table(search: Search, study: optuna.Study) -> Table:
    """The trials that no other beats in both objectives."""
    table = Table(title=f"study {study.study_name}: best of each size", box=box.SIMPLE_HEAD, title_style="bold")
    for name in ("trial", f"validation ({search.headline.unit})", str(search.cfg.search.against), "settings"):
        table.add_column(name, justify="left" if name == "settings" else "right")
    for t in sorted(study.best_trials, key=lambda t: t.values[1]):
        table.add_row(str(t.number), f"{t.values[0]:.2f}", f"{t.values[1]:.0f}", values_text(t.params))
    return table


def short(value: Any) -> str:
    """A value for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw_study(search: Search, study: optuna.Study, tracker: Tracker) -> None:
    """History, importances and, with two objectives, the front, to plots/search/; the trials to artifacts/search/."""
    trials = study.get_trials(deepcopy=False)
    complete = {t.number: t.values[0] for t in trials if t.state == TrialState.COMPLETE}
    pruned: dict[str, list[int]] = {}
    whole = search.cfg.search.reduction**search.cfg.search.rungs
    for t in sorted(trials, key=lambda t: max(t.intermediate_values, default=0)):
        if t.state == TrialState.PRUNED:
            step = max(t.intermediate_values, default=0)
            pruned.setdefault(f"{Fraction(step, whole)} of the steps" if step else "", []).append(t.number)
    default = next((t.number for t in trials if t.user_attrs.get("role") == "default" and t.number in complete), None)
    headline = search.headline
    ylabel = f"validation {headline.name[5:]} ({headline.unit})"
    figure = pictures_search.history(complete, pruned, default, ylabel, higher=headline.higher_is_better)
    save(search, tracker, "history", figure)
    if shares := importances(study):
        save(search, tracker, "importances", pictures_search.importances(shares))
    if len(study.directions) > 1:
        points = [(t.number, t.values[0], t.values[1]) for t in trials if t.state == TrialState.COMPLETE]
        best = [t.number for t in study.best_trials]
        save(search, tracker, "front", pictures_search.front(points, best, (ylabel, str(search.cfg.search.against))))


def save(search: Search, tracker: Tracker, name: str, figure: Drawing) -> Path:
    """plots/search/<name>.png."""
    path = search.workdir / "plots" / "search" / f"{name}.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    tracker.picture(path)
    return path


@contextmanager
def recording(search: Search, console: Console) -> Iterator[Tracker]:
    """A tracked run for what is shown. Raises ConfigError where another such command runs in this folder."""
    lock = FileLock(search.workdir / "artifacts" / "resume" / "search-best.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError("another `cgankd search best` or `curves` runs in this folder; wait for it") from None
    try:
        tracking = search.cfg.tracking
        tracker = open_tracker(
            search.workdir,
            "search-best",
            tracking.experiment,
            tags={"stage": "search", "preset": tracking.preset, "optuna.study": search.cfg.search.study},
            mlflow=tracking.mlflow,
            lock=Path(lock.lock_file),
            say=lambda text: say(console, text),
        )
        status = "FAILED"
        try:
            yield tracker
            status = "FINISHED"
        finally:
            tracker.close(status)
    finally:
        lock.release()


def apply(search: Search, console: Console, number: int | None) -> None:
    """Write a trial's values into params.yaml, comments kept."""
    study = search.study()
    trial = pick(study, number)
    path = search.workdir / "params.yaml"
    values = moved_along(search.cfg, trial.params)
    found = load_searched(path)
    before, arm = defaults(with_searched_arm(found)), search.cfg.search.arm
    if arm not in found.student.arms:
        # Written out, for `dvc repro` trains the automatic arm only where its own arm is the best one on validation.
        switches = written_out(search.cfg.student.arms[arm])
        values = {f"student.arms.{arm}": switches} | values
        say(console, f"student.arms gets {arm}: {', '.join(switches)}")
    set_values(path, values)
    load_searched(path)
    for key in trial.params:
        if before[key] != trial.params[key]:
            say(console, f"{key}: {short(before[key])} -> {short(trial.params[key])}")
    seeds = ", ".join(map(str, search.cfg.search.seeds))
    say(
        console,
        f"params.yaml has the values of trial {trial.number}; after `dvc repro` the arm {arm!r} scores"
        f" {trial.values[0]!r} {search.headline.unit} on validation, mean of seeds {seeds}, on which it was chosen",
    )
    say(console, margin_text(search, study, trial))


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
        record = json.loads((search.workdir / "artifacts" / "search" / "best.json").read_text(encoding="utf-8"))
        same = record["study"] == study.study_name and record["winner"]["number"] == trial.number
        # Values too, for a study of this name may have been begun again.
        same = same and record["winner"]["values"] == trial.params and record["default"] == study.user_attrs["default"]
        found: dict[str, Any] | None = record["margin"] if same else None
    except (OSError, ValueError, KeyError, TypeError):  # no such file, a damaged one, or one without a margin
        return None
    return found
