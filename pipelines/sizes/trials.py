"""Sizes found by Optuna: trials of net and width with two goals, the validation score and the bytes of the weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from cgankd.rng import derive
from cgankd.types import Headline
from pipelines.files.artifacts import fingerprint
from pipelines.files.params import flatten
from pipelines.runtime.context import Context
from pipelines.search import hopeless, study
from pipelines.search.seals import SEAL, check_seals, end_by_seal, note_seal, seal_of, seal_study, seal_trial
from pipelines.search.space import identity
from pipelines.search.storage import BROKEN, answering, readable, storage_url
from pipelines.sizes.plan import Size, Sizes

Goals = tuple[float, float]
"""Mean validation score, and bytes of the weights in float32."""
LISTED = "listed"
"""User attribute of the trials that stand for sizes of the list."""
MADE = "settings"
"""User attribute of the study: the settings that its scores share."""


def distributions(nets: Mapping[str, Sequence[int]]) -> dict[str, BaseDistribution]:
    """The net, and for each net that has widths a width from the least to the largest of its list."""
    found: dict[str, BaseDistribution] = {"net": CategoricalDistribution(tuple(nets))}
    for net, widths in nets.items():
        if widths:
            found[f"width.{net}"] = IntDistribution(min(widths), max(widths), log=True)
    return found


def size_of(params: Mapping[str, Any]) -> Size:
    """The size that a trial's values name."""
    return Size(str(params["net"]), params.get(f"width.{params['net']}"))


def values_of(size: Size) -> dict[str, Any]:
    """The values of a trial that stands for a size."""
    return {"net": size.net} | ({} if size.width is None else {f"width.{size.net}": size.width})


def search(
    ctx: Context, plan: Sizes, num: int, known: dict[Size, Goals], score: Callable[[Size], Goals], headline: Headline
) -> list[Size]:
    """The sizes of `num` trials, those of former calls under equal settings among them; `known` are sizes already trained.

    A size that cannot be trained is said and left out. Raises as trainings do where the machine or the code is to blame.
    """
    with answering(storage_url(ctx.workdir, plan.cfg.search, None)):
        return _search(ctx, plan, num, known, score, headline)


def _search(
    ctx: Context, plan: Sizes, num: int, known: dict[Size, Goals], score: Callable[[Size], Goals], headline: Headline
) -> list[Size]:
    opened, url = begin(ctx, plan, headline), storage_url(ctx.workdir, plan.cfg.search, None)
    knobs = distributions(plan.cfg.sizes.nets)
    for size, goals in known.items():
        _add_known(opened, knobs, size, goals)
    while len(own_trials(opened, url)) < num:
        done = len(opened.get_trials(deepcopy=False))
        opened.sampler = optuna.samplers.TPESampler(
            seed=derive(plan.cfg.seed, "sizes", done) % 2**32, n_startup_trials=min(10, max(3, num // 3))
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna expects heartbeats from Study.optimize alone
            trial = opened.ask()
        size = _suggest(trial, knobs)
        try:
            goals = known[size] if size in known else score(size)
        except BaseException as error:
            if (blame := hopeless.why(error)) is None:
                with suppress(*BROKEN):  # the next call does it; the error under way is what is told
                    opened.tell(trial, state=TrialState.FAIL)
                raise
            seal_trial(opened, trial, TrialState.PRUNED)
            opened.tell(trial, state=TrialState.PRUNED)
            ctx.say(f"{size} could not be trained, {blame[0]}: {blame[1]}")
            continue
        known[size] = goals
        seal_trial(opened, trial, TrialState.COMPLETE, goals)
        opened.tell(trial, list(goals))
        ctx.say(f"trial {len(own_trials(opened, url))} of {num}: {size}, validation {goals[0]:.2f} {headline.unit}")
    complete = [trial for trial in own_trials(opened, url) if trial.state == TrialState.COMPLETE]
    return list(dict.fromkeys(size_of(trial.params) for trial in complete))


def begin(ctx: Context, plan: Sizes, headline: Headline) -> optuna.Study:
    """The study of these settings in the storage of `cgankd search`, begun where it is not there; other settings, another
    study, so that no score is compared with one of others."""
    parts = {"arms": {name: asdict(arm) for name, arm in plan.arms.items()}, "seeds": list(plan.seeds)}
    fixed = identity(plan.cfg, ctx.digests["dataset.h5"])
    fixed = {k: v for k, v in fixed.items() if not k.startswith(("search.", "student.net", "student.width"))}
    nets = {net: list(widths) for net, widths in plan.cfg.sizes.nets.items()}
    key = fingerprint({"settings": fixed | flatten(parts), "nets": nets, "inputs": dict(ctx.digests)})
    url = storage_url(ctx.workdir, plan.cfg.search, None)
    storage = study.connect(ctx.workdir, url)
    goal = optuna.study.StudyDirection.MAXIMIZE if headline.higher_is_better else optuna.study.StudyDirection.MINIMIZE
    with readable(url, name := f"sizes-{key[:12]}"):
        opened = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=[goal, optuna.study.StudyDirection.MINIMIZE],
            load_if_exists=True,
        )
    check_seals(opened, url)
    if MADE not in opened.user_attrs and not opened.get_trials(deepcopy=False):
        seal_study(opened, {MADE: key})
    # Of a killed run, as this one has the lock.
    for left in opened.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not end_by_seal(opened, left):
            opened.tell(left.number, state=TrialState.FAIL)
    return opened


def own_trials(opened: optuna.Study, url: str) -> list[FrozenTrial]:
    """Finished trials that the sampler asked for. Raises ConfigError where one is not as it was written."""
    check_seals(opened, url)
    trials = opened.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [trial for trial in trials if LISTED not in trial.user_attrs]


def _suggest(trial: optuna.Trial, knobs: Mapping[str, BaseDistribution]) -> Size:
    nets = knobs["net"]
    assert isinstance(nets, CategoricalDistribution)
    net = str(trial.suggest_categorical("net", nets.choices))
    width = knobs.get(f"width.{net}")
    if width is None:
        return Size(net, None)
    assert isinstance(width, IntDistribution)
    return Size(net, trial.suggest_int(f"width.{net}", width.low, width.high, log=True))


def _add_known(opened: optuna.Study, knobs: Mapping[str, BaseDistribution], size: Size, goals: Goals) -> None:
    """Tell the study of a size of the list, once, where its knobs can have it."""
    params = values_of(size)
    if size.net not in getattr(knobs["net"], "choices", ()) or any(
        name not in knobs or not knobs[name]._contains(knobs[name].to_internal_repr(value))
        for name, value in params.items()
    ):
        return
    if any(trial.params == params and LISTED in trial.user_attrs for trial in opened.get_trials(deepcopy=False)):
        return
    trial = optuna.trial.create_trial(
        params=params,
        distributions={name: knobs[name] for name in params},
        values=list(goals),
        user_attrs={LISTED: True},
    )
    number = len(opened.get_trials(deepcopy=False))  # this process alone writes here
    record = seal_of(opened, number, trial, TrialState.COMPLETE, goals)
    trial.set_user_attr(SEAL, record)
    opened.add_trial(trial)
    note_seal(opened, number, record)
