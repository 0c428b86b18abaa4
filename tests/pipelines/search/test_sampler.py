"""What a search draws depends on its seed, the trial's number and the trials before it, and on nothing else."""

from __future__ import annotations

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution

from pipelines.search.space import SamplerByTrial
from pipelines.search.study import give_up

SPACE = {"bank.rho": FloatDistribution(0.3, 1.0), "bank.filter": CategoricalDistribution((True, False))}


def search(study: optuna.Study, num_trials: int, seed: int = 0) -> None:
    """Trials of a worker that begins anew; the score has its least at rho = 0.7."""
    study.sampler = SamplerByTrial(seed, startup_trials=4)
    for _ in range(num_trials):
        trial = study.ask(SPACE)
        study.tell(trial, (trial.params["bank.rho"] - 0.7) ** 2)


def begin_and_stop(study: optuna.Study) -> None:
    """A worker that is stopped inside of a trial, whose values are queued again."""
    study.sampler = SamplerByTrial(0, startup_trials=4)
    trial = study.ask(SPACE)
    trial.set_user_attr("values", trial.params)
    give_up(study, study.get_trials(deepcopy=False)[trial.number])


def values(study: optuna.Study) -> list[dict[str, object]]:
    """What was tried, in order."""
    return [trial.params for trial in study.trials]


def test_a_stopped_search_goes_on_as_if_it_had_not_been() -> None:
    """Also within the trials that TPE chooses by the scores; another seed draws others."""
    whole, stopped, other = (optuna.create_study() for _ in range(3))
    search(whole, 12)
    for num_trials in (3, 1, 5, 3):
        search(stopped, num_trials)
    search(other, 12, seed=1)
    assert values(stopped) == values(whole)
    assert not any(a["bank.rho"] == b["bank.rho"] for a, b in zip(values(whole), values(other), strict=True))


def test_a_search_that_was_stopped_inside_of_a_trial_goes_on_too() -> None:
    """The values of the stopped trial have another number when they are tried again, and those after them stay what they are."""
    whole, stopped = (optuna.create_study() for _ in range(2))
    search(whole, 12)
    for num_trials in (2, 0, 5):  # twice in the same trial, and once among those that follow the scores
        search(stopped, num_trials)
        begin_and_stop(stopped)
    search(stopped, 5)
    done = [trial.params for trial in stopped.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert done == values(whole) and len(stopped.trials) == 15


def test_workers_that_begin_at_once_draw_different_values() -> None:
    """Each has a sampler of its own, as on machines that know nothing of each other."""
    study = optuna.create_study()
    workers = []
    for _ in range(3):
        study.sampler = SamplerByTrial(0, startup_trials=4)
        workers.append(study.ask(SPACE).params["bank.rho"])
    assert len(set(workers)) == 3


def test_the_draws_after_the_start_follow_the_scores() -> None:
    """It is still TPE: of 20 draws at random 7 would lie as near to the best value."""
    study = optuna.create_study()
    search(study, 40)
    late = [trial.params["bank.rho"] for trial in study.trials[20:]]
    assert sum(abs(rho - 0.7) < 0.12 for rho in late) > 11
