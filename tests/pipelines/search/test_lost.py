"""A search on a cluster whose node is lost: the trials of its workers are tried again, those of others are left alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from pipelines.search import run as run_module
from pipelines.search import study as studies


def begun(study: optuna.Study, crew: str | None) -> int:
    """A trial under way on another machine."""
    trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    if crew is None:
        return trial.number
    trial.set_user_attr("owner", "elsewhere|1|1")
    trial.set_user_attr("values", trial.params)
    trial.set_user_attr(studies.CREW, crew)
    return trial.number


def test_trials_that_a_lost_worker_left_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study()
    of_others = begun(study, "of another command")
    calls = list[list[run_module.Worker]]()

    class Lossy:
        def loops(self, do: Any, jobs: list[run_module.Worker], crew: Any, hear: Any) -> list[str]:
            """The first time a node is lost in the middle of a trial, and the worker that is left finds enough under way."""
            calls.append(jobs)
            if len(calls) == 1:
                begun(study, jobs[0].crew)
            else:
                study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 1.0)
            return []

    monkeypatch.setattr(run_module, "executor", Lossy)
    search: Any = SimpleNamespace(workdir=tmp_path, cfg=SimpleNamespace(search=SimpleNamespace(num_trials=1)))
    with (tmp_path / "said").open("w+") as said:
        run_module.run_workers(search, study, 2, Console(file=said, width=200))
        said.seek(0)
        assert said.read() == "1 trials of a lost worker or node are tried again\n"
    assert len(calls) == 2 and {job.crew for job in calls[0]} == {job.crew for job in calls[1]} != {""}
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.RUNNING, TrialState.FAIL, TrialState.COMPLETE] and of_others == 0
    assert study.trials[2].user_attrs["retry_of"] == 1 and study.trials[2].params == study.trials[1].params


def test_a_trial_that_nobody_named_has_nobody_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study()
    begun(study, None), begun(study, "of another command")
    assert studies.abandoned(study, "mine") == 0
    monkeypatch.setattr(studies, "NAMED_S", -1.0)
    assert studies.abandoned(study, "mine") == 1
    assert [trial.state for trial in study.trials[:2]] == [TrialState.FAIL, TrialState.RUNNING]


def test_each_node_has_a_record_of_its_own_and_a_worker_that_begins_again_there_the_same() -> None:
    """Else the record of a worker that begins anew elsewhere would take the place of what the lost node sent home."""

    def record(folder: str) -> str | None:
        search: Any = SimpleNamespace(workdir=Path(folder))
        return run_module.Worker(search, None, 1, Path("out"), "/home/project", "0123456789").record

    first, other = record("/tmp/a/home/project"), record("/tmp/b/home/project")
    assert first != other and first == record("/tmp/a/home/project") and record("/home/project") is None
    assert all(str(name).startswith("search-01234567-1-") for name in (first, other))
