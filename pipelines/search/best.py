"""What a search found: the winner, importances, tables and pictures, and writing its values into params.yaml."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console
from rich.table import Table

from cgankd.config import ConfigError
from pipelines.files.artifacts import replacing, write_sealed_json
from pipelines.files.params import set_values
from pipelines.pictures import search as pictures_search
from pipelines.runtime.context import Drawing
from pipelines.search.config import load_searched
from pipelines.search.hopeless import in_words, none_complete, reasons
from pipelines.search.margin import margin, margin_text, measured
from pipelines.search.run import Search, say, score_text
from pipelines.search.space import defaults, moved_along, values_text, with_searched_arm, written_out
from pipelines.search.storage import answering
from pipelines.tracking.journal import Tracker
from pipelines.tracking.open import open_tracker

FEW = 4
"""Complete trials below which importances would be noise."""


def pick(study: optuna.Study, number: int | None) -> FrozenTrial:
    """The best complete trial, or the one with this number. Raises ConfigError."""
    complete = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if not complete:
        if (nothing := none_complete(study)) is not None:
            raise ConfigError(nothing)
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


def show(search: Search, console: Console, number: int | None, seeds: int | None) -> None:
    """The winner, its margin over the default on fresh seeds, importances and pictures."""
    study = search.study()
    front = len(study.directions) > 1
    # Before the run is opened: a trial that is not there must not leave a failed run behind.
    with answering(search.url):
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
        for line in in_words(trials):
            say(console, line)
        record: dict[str, Any] = {
            "study": study.study_name,
            "trials": count,
            "not_trained": {name: numbers for name, numbers, _ in reasons(trials)},
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
        write_sealed_json(search.workdir / "artifacts" / "search" / "best.json", record)


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
        tracker = open_tracker(
            search.workdir,
            "search-best",
            search.cfg.tracking,
            tags={"stage": "search", "optuna.study": search.cfg.search.study},
            lock=Path(lock.lock_file),
            say=lambda text: say(console, text),
        )
        status = "FAILED"
        try:
            with answering(search.url):
                yield tracker
            status = "FINISHED"
        finally:
            tracker.close(status)
    finally:
        lock.release()


def apply(search: Search, console: Console, number: int | None) -> None:
    """Write a trial's values into params.yaml, comments kept."""
    study = search.study()
    with answering(search.url):
        trial = pick(study, number)
    path = search.workdir / "params.yaml"
    values = moved_along(search.cfg.search.arm, trial.params)
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
