"""`cgankd search` on tiny data, with the real Optuna, MLflow and stages."""

from __future__ import annotations

import copy
import importlib
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy
import torch
from mlflow import MlflowClient
from optuna.trial import TrialState
from rich.console import Console
from scipy import stats

from cgankd.bank.build import EmptyBankError
from cgankd.config import ConfigError
from cgankd.data.store.banks import read_pool_images, read_pool_scores
from cgankd.measure.predictive import Gain
from cgankd.measure.verdict import describe
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from pipelines.files.params import read_params, set_values
from pipelines.files.writing import DiskError
from pipelines.runtime.opening import open_context
from pipelines.search import (
    best as search_best,
)
from pipelines.search import (
    curves as search_curves,
)
from pipelines.search import (
    pool as search_pool,
)
from pipelines.search import (
    run as search,
)
from pipelines.search import (
    students as search_students,
)
from pipelines.search import (
    study as search_study,
)
from pipelines.search.config import SearchedConfig, load_searched, searched_config
from pipelines.search.margin import margin_text
from pipelines.search.space import check_space, distributions, first_difference, identity, in_range, with_values
from pipelines.search.storage import shown, storage_url
from pipelines.search.students import quiet_context
from pipelines.stages.student import bank_digests
from pipelines.tracking.journal import Event, Tracker, read_roots
from pipelines.tracking.names import VIEWS
from tests.conftest import ROOT
from tests.tiny import tiny, write_params

QUIET = Console(quiet=True)
HOST_GONE = "another-machine|1|1"


def settings(**changes: Any) -> dict[str, Any]:
    """Tiny digits with two arms: what a search needs and no more."""
    values = tiny("digits")
    values["student"] |= {"best_with_kd": False, "arms": {"real": {}, "filter": values["student"]["arms"]["filter"]}}
    values["student"]["num_steps"] = 12
    values["search"] |= {"num_trials": 6, "reduction": 2} | changes
    return values


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A folder with the artifacts of the stages up to the ratio, and an empty MLflow store."""
    folder = tmp_path_factory.mktemp("search") / "made"
    folder.mkdir()
    write_params(folder, settings())
    for stage in ("prepare", "teacher", "cgan", "ratio"):
        run_stage(folder, stage)
    shutil.copyfile(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture()
def work(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder for one test."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_STAGE", "CGANKD_DEBUG", "CGANKD_SEARCH_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CGANKD_THREADS", "1")
    shutil.copytree(made, tmp_path / "work")
    return tmp_path / "work"


def run_stage(folder: Path, stage: str, *overrides: str) -> None:
    with open_context(stage, ["tracking.mlflow=false", *overrides], folder, console=QUIET) as ctx:
        importlib.import_module(f"pipelines.stages.{stage}").run(ctx)


def begin(folder: Path, *overrides: str) -> search.Search:
    return search.open_search(folder, overrides)[0]


class Lines:
    """A sink of events that keeps them in a list."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events

    def apply(self, event: Event) -> None:
        self.events.append(event)


def trials_of(folder: Path, name: str = "cgankd") -> list[optuna.trial.FrozenTrial]:
    storage = search_study.connect(folder, f"sqlite:///{folder}/artifacts/search.db")
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def studied(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials of a study that may not be begun yet."""
    try:
        return trials_of(folder)
    except Exception:  # a database that is being made raises several kinds
        return []


def cgankd(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "CGANKD_THREADS": "1"}
    command = [sys.executable, "-m", "cgankd", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=pipe, stderr=subprocess.STDOUT)


def config(values: dict[str, Any], **search_section: Any) -> SearchedConfig:
    values["search"] |= search_section
    return searched_config(values)


# The pool


@pytest.mark.parametrize(
    "changes",
    [
        {"bank.rho": 0.5, "bank.num_fakes": 45, "bank.filter_scope": "global"},
        {"bank.num_fakes": 130, "bank.bound_quantile": 0.95},
        {"bank.num_fakes": 130, "bank.bound": "running", "bank.bound_quantile": 1.0, "bank.burn_in": 8},
        {"bank.num_fakes": 600, "bank.refill": False},
    ],
)
def test_a_cut_is_the_stage_banks_own_bit_for_bit(work: Path, changes: dict[str, Any]) -> None:
    cfg = load_searched(work / "params.yaml")
    run_stage(work, "bank", *(f"{key}={value}" for key, value in changes.items()))
    own = read_pool_scores(work / "artifacts/pool.h5")
    rows = own["in_filter"].bool().nonzero()[:, 0]
    ctx = quiet_context(with_values(cfg, changes), work)
    with search_pool.cut(ctx, search_pool.inputs_of(ctx, cfg), "filter") as (path, drawn):
        found, images = read_pool_scores(path), read_pool_images(path, torch.arange(len(rows)))
        size = changes.get("bank.num_fakes", 60)
        assert drawn > 0 and (len(found["asked"]) == size or ("bank.refill" in changes and 0 < len(rows) < size))
        for name in set(found) - {"in_filter"}:
            assert torch.equal(found[name], own[name][rows]), name
        assert torch.equal(images, read_pool_images(work / "artifacts/pool.h5", rows))
        assert bank_digests(path)["filter"] == bank_digests(work / "artifacts/pool.h5")["filter"]
    assert not path.exists()


def test_a_pool_serves_every_rho_scope_and_size_without_drawing_again(work: Path) -> None:
    cfg = load_searched(work / "params.yaml")

    def drawn(**changes: Any) -> int:
        ctx = quiet_context(with_values(cfg, {f"bank.{key}": value for key, value in changes.items()}), work)
        with search_pool.cut(ctx, search_pool.inputs_of(ctx, cfg), "filter") as (_, count):
            return count

    assert drawn(rho=0.4, num_fakes=150) > 0
    drawn(rho=0.4, num_fakes=60, filter_scope="global")  # a class on which the teacher is bad needs more draws
    for changes in ({"rho": 0.9}, {"rho": 0.6, "filter_scope": "global"}, {"num_fakes": 20}, {"bound_quantile": 0.96}):
        assert drawn(**({"num_fakes": 60} | changes)) == 0, changes
    pools = list((work / "artifacts/search/pools").iterdir())
    block = sorted(pools[0].glob("*.safetensors"))[0]
    block.write_bytes(b"cut short")
    assert drawn(num_fakes=60) in (32, 40), "a damaged block is drawn again, and no other"


def test_a_stage_of_other_settings_runs_once_and_is_the_stages_own(work: Path) -> None:
    cfg = load_searched(work / "params.yaml")
    events: list[Event] = []
    tracker = Tracker(Lines(events), "digits/cgankd/trial-3", {"tags": {"stage": "search", "level": "child"}})
    ctx = quiet_context(with_values(cfg, {"ratio.ratio_penalty": 0.7}), work, tracker)
    inputs = search_pool.inputs_of(ctx, cfg)
    assert inputs.cgan == work / "artifacts/cgan.safetensors" and "stages" in inputs.ratio.parts
    runs = [event for event in events if event["kind"] == "run"]
    assert [(run["name"], run["tags"]["level"]) for run in runs[1:]] == [("digits/cgankd/ratio", "part")]
    before = inputs.ratio.stat().st_mtime_ns
    assert search_pool.inputs_of(ctx, cfg) == inputs and inputs.ratio.stat().st_mtime_ns == before
    run_stage(work, "ratio", "ratio.ratio_penalty=0.7")
    assert inputs.ratio.read_bytes() == (work / "artifacts/ratio.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"ratio\.ratio_penalty = 0\.7, but params\.yaml has 0\.1; run `dvc repro`"):
        search_pool.inputs_of(ctx, cfg)


# The study


def test_a_search_prunes_reports_and_its_winner_comes_out_of_the_stages_again(work: Path) -> None:
    found = begin(work)
    search.run(found, 1, QUIET)
    trials = trials_of(work)
    assert [t.state for t in trials].count(TrialState.PRUNED) >= 1 and len(trials) == 6
    assert trials[0].user_attrs["role"] == "default" and trials[0].params["bank.rho"] == 0.9
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            assert trial.values == [pytest.approx(np.mean(trial.user_attrs["val"]))]
            assert list(trial.intermediate_values) == [1]
    search.run(found, 1, QUIET)
    assert len(trials_of(work)) == 6, "a finished study does nothing more"

    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    experiment = client.get_experiment_by_name("cgankd")
    assert experiment is not None
    runs = {r.data.tags.get("optuna.trial"): r for r in client.search_runs([experiment.experiment_id])}
    for trial in trials:
        run = runs[str(trial.number)]
        pruned = trial.state == TrialState.PRUNED
        assert run.info.status == ("KILLED" if pruned else "FINISHED")
        assert run.data.tags["optuna.state"] == trial.state.name and "mlflow.parentRunId" in run.data.tags
        assert float(run.data.params["bank.rho"]) == trial.params["bank.rho"]
        assert ("val" in run.data.metrics) != pruned
        assert run.info.run_name == f"digits/cgankd/trial-{trial.number}"
    shown = client.search_runs([experiment.experiment_id], json.loads(VIEWS["search"])["searchFilter"])
    assert {r.data.tags["optuna.trial"] for r in shown} == {str(t.number) for t in trials} and len(shown) == 6

    params = work / "params.yaml"
    params.write_text(params.read_text().replace("bank:\n", "bank:   # a note of mine\n"))
    best = max((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: -t.values[0])
    number = next(t.number for t in trials if t.state == TrialState.COMPLETE and t.number > 0)
    search_best.apply(found, QUIET, number)
    assert "# a note of mine" in params.read_text()
    assert {k: read_params(params)["bank"][k] for k in ("rho", "num_fakes")} == {
        k: trials[number].params[f"bank.{k}"] for k in ("rho", "num_fakes")
    }
    shutil.rmtree(work / "artifacts/resume/student")
    for stage in ("bank", "student"):
        run_stage(work, stage)
    record = json.loads((work / "artifacts/students/runs.json").read_text())
    assert [r["val"] for r in record["arms"]["filter"]["runs"]] == trials[number].user_attrs["val"]

    # Applied values do not make it another study, another setting does.
    assert search_best.pick(begin(work).study(), None).number == best.number
    set_values(params, {"student.learning_rate": 0.02})
    with pytest.raises(ConfigError, match=r"student\.learning_rate was 0\.003 and is 0\.02"):
        begin(work).study()


def test_a_killed_search_resumes_without_losing_or_repeating_a_trial(work: Path) -> None:
    flags = ("--set", "student.num_steps=300", "--set", "search.rungs=0", "--trials", "3")
    process = cgankd(work, "search", *flags)
    while True:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
        if (work / "artifacts/search.db").exists() and "trial-1" in (
            (work / "artifacts/logs/search-0.jsonl").read_text()
            if (work / "artifacts/logs/search-0.jsonl").exists()
            else ""
        ):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = trials_of(work)
    assert [t.state for t in before] == [TrialState.COMPLETE, TrialState.RUNNING]
    found = begin(work, "student.num_steps=300", "search.rungs=0", "search.num_trials=3")
    search.run(found, 1, QUIET)
    after = trials_of(work)
    states = [t.state for t in after]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert after[0].values == before[0].values and after[0].datetime_complete == before[0].datetime_complete
    again = [t for t in after if t.user_attrs.get("retry_of") == 1]
    assert [t.params for t in again] == [before[1].params]


def test_two_workers_finish_one_study(work: Path) -> None:
    process = cgankd(work, "search", "--workers", "2", "--trials", "4")
    output = process.communicate()[0]
    assert process.returncode == 0, output
    trials = [t for t in trials_of(work) if t.state in search_study.COUNTED]
    assert len(trials) == 4 and len({t.user_attrs["owner"] for t in trials}) == 2
    assert len({json.dumps(t.params, sort_keys=True) for t in trials}) == 4


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (pip install 'cgankd[ray]')")
def test_a_cluster_finishes_one_study_although_a_worker_is_killed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CGANKD_ENGINE", "ray")
    process = cgankd(work, "search", "--workers", "2", "--trials", "4", "--set", "student.num_steps=200")
    try:
        owner = ""
        while not owner and process.poll() is None:
            time.sleep(0.2)
            there = (work / "artifacts/search.db").exists() and studied(work)
            owner = next((t.user_attrs.get("owner", "") for t in there or [] if t.state == TrialState.RUNNING), "")
        os.kill(int(owner.split("|")[1]), signal.SIGKILL)
        output = process.communicate()[0]
    finally:
        process.kill()
    assert process.returncode == 0, output
    trials = trials_of(work)
    counted = [t for t in trials if t.state in search_study.COUNTED]
    assert len(counted) == 4 and len({json.dumps(t.params, sort_keys=True) for t in counted}) == 4
    lost = [t for t in trials if t.user_attrs.get("owner") == owner and t.state == TrialState.FAIL]
    assert lost and [t.params for t in counted if t.user_attrs.get("retry_of") == lost[0].number] == [lost[0].params]
    assert "jobs run on Ray" in output and "a worker or a node was lost: its job runs again on" in output
    assert "(raylet)" not in output and output.count("trial ") >= 4, output
    monkeypatch.setenv("CGANKD_SHARED", "ray")
    refused = cgankd(work, "search", "--workers", "2", "--trials", "5", "--set", "student.num_steps=200")
    assert "as SQLite is a file" in refused.communicate()[0] and refused.returncode == 2


def test_a_wrong_engine_is_refused_before_a_study_is_there(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CGANKD_ENGINE", "rai")
    with pytest.raises(ConfigError, match="CGANKD_ENGINE must be one of local, ray, but is 'rai'"):
        search.run(begin(work), 1, QUIET)
    assert not (work / "artifacts/search.db").exists()


def test_two_objectives_give_a_front_and_no_single_winner(work: Path) -> None:
    found = begin(work, "search.against=bank_size", "search.num_trials=4")
    search.run(found, 1, QUIET)
    study = found.study()
    trials = study.get_trials()
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 4
    assert [t.values[1] for t in trials] == [t.params["bank.num_fakes"] for t in trials]
    with pytest.raises(ConfigError, match="two objectives.*--trial"):
        search_best.pick(study, None)
    assert search_best.pick(study, 2).number == 2
    search_best.show(found, QUIET, None, 0)
    assert (work / "plots/search/front.png").stat().st_size > 5000


def test_student_size_is_the_number_of_parameters(work: Path) -> None:
    space = "search.space={student.width: {kind: int, low: 2, high: 4}}"
    found = begin(work, "search.against=student_size", "search.num_trials=2", space)
    search.run(found, 1, QUIET)
    sizes = {t.params["student.width"]: t.values[1] for t in found.study().get_trials()}
    for width, size in sizes.items():
        net = make_predictor("convnet", NetShape(10, 1, 16), width=width, mean=(0.5,), std=(0.5,))
        assert size == sum(p.numel() for p in net.parameters()) + sum(b.numel() for b in net.buffers())


def test_the_margin_and_the_curves_are_paired_over_seeds(work: Path) -> None:
    found = begin(work, "search.num_trials=5", "search.rungs=0")
    search.run(found, 1, QUIET)
    study = found.study()
    winner = search_best.pick(study, None)
    number = winner.number or 1
    search_best.show(found, QUIET, number, 3)
    record = json.loads((work / "artifacts/search/best.json").read_text())
    margin = record["margin"]
    assert margin["seeds"] == [2, 3, 4] and not set(margin["seeds"]) & set(found.cfg.search.seeds)
    gain = np.array(margin["default"]) - np.array(margin["winner"])  # an error: lower is better
    low, high = stats.t.interval(0.95, 2, gain.mean(), gain.std(ddof=1) / np.sqrt(3)) if gain.std() else (gain[0],) * 2
    assert [margin[k] for k in ("gain", "low", "high")] == pytest.approx([gain.mean(), low, high])
    assert sum(record["importances"].values()) == pytest.approx(1)
    for name in ("history", "importances"):
        assert (work / f"plots/search/{name}.png").stat().st_size > 5000

    # Without fresh seeds the margin measured before is kept; `apply` repeats it, and warns where it is none.
    search_best.show(found, QUIET, number, 0)
    assert json.loads((work / "artifacts/search/best.json").read_text())["margin"] == margin
    path, shown = work / "artifacts/search/best.json", describe(Gain(gain.mean(), low, high, tuple(gain)), "%")
    assert f"margin over the default: {shown} (95 % paired interval over 3 fresh seeds)" in applied(found, number)
    whole = path.read_text()
    path.write_text(whole.replace(f'"gain": {margin["gain"]}', '"gain": 9.0'))
    assert path.read_text() != whole and applied(found, number).startswith("margin not measured"), (
        "not as it was written"
    )
    record.pop("seal")
    for ends, warned in (((0.5, 2.0), False), ((0.0, 2.0), True), ((-1.0, 2.0), True)):
        path.write_text(json.dumps(record | {"margin": margin | {"low": ends[0], "high": ends[1]}}))
        assert ("warning: trial" in applied(found, number)) is warned
    other = record | {"winner": record["winner"] | {"values": study.user_attrs["default"]}}
    for text in (
        json.dumps(other),
        json.dumps(record | {"margin": None}),
        json.dumps(record | {"study": "x"}),
        "{",
        "[]",
    ):
        path.write_text(text)
        assert applied(found, number).startswith("margin not measured; `cgankd search best")
    path.unlink()
    assert "best --trial 77` first" in margin_text(found, study, copy_of(winner, 77))
    assert "no margin" in applied(found, 0)
    set_values(work / "params.yaml", study.user_attrs["default"])
    with pytest.raises(ConfigError, match="trial 99 is no complete trial"):
        search_best.show(found, QUIET, 99, 0)
    runs = read_roots(work / "artifacts/logs/search-best.jsonl").values()
    assert [e["status"] for events in runs for e in events if e["kind"] == "close"] == ["FINISHED"] * 2

    search_curves.curves(found, QUIET, -1, None)
    curves = json.loads((work / "artifacts/search/curves.json").read_text())
    assert set(curves["bank.rho"]) >= {"0.1", "0.5", "0.9", "1.0"} or len(curves["bank.rho"]) >= 5
    default = search_best.pick(study, 0).user_attrs["val"]
    expected = np.array(curves["control"]) - np.array(default)
    for point in (curves["bank.rho"]["0.9"], curves["bank.num_fakes"]["60.0"]):
        assert point["values"] == pytest.approx(expected.tolist())
    for name in ("gain_rho", "gain_num_fakes"):
        assert (work / f"plots/search/{name}.png").stat().st_size > 5000


def applied(found: search.Search, number: int) -> str:
    """The last line of `cgankd search apply`."""
    stream = io.StringIO()
    search_best.apply(found, Console(file=stream, width=400), number)
    return stream.getvalue().splitlines()[-1]


def copy_of(trial: optuna.trial.FrozenTrial, number: int) -> optuna.trial.FrozenTrial:
    found = copy.deepcopy(trial)
    found.number, found.params = number, {"bank.rho": 0.123}
    return found


def test_an_automatic_arm_with_kd_is_searched_and_comes_out_of_the_stages(work: Path) -> None:
    space = {"student.soft_weight": {"kind": "float", "low": 0.1, "high": 0.9}}
    section = {"arm": "filter_kd", "num_trials": 2, "rungs": 0, "space": space}
    set_values(work / "params.yaml", {f"search.{key}": value for key, value in section.items()})
    with pytest.raises(ConfigError, match=r"search\.arm must be one of .*\(real, filter\), but is 'filter_kd'"):
        begin(work)
    set_values(work / "params.yaml", {"student.best_with_kd": True})
    found = begin(work)
    search.run(found, 1, QUIET)
    trials = trials_of(work)
    assert len({tuple(t.user_attrs["val"]) for t in trials}) == 2, "the weight of the soft loss is felt"
    search_best.apply(found, QUIET, 1)
    text = (work / "params.yaml").read_text()
    assert "filter_kd: {bank: true, subsample: true, filter: true, kd: true}" in text
    assert begin(work).study().get_trials(), "the arm written out is the same study"
    for stage in ("bank", "student"):
        run_stage(work, stage)
    record = json.loads((work / "artifacts/students/runs.json").read_text())
    assert [r["val"] for r in record["arms"]["filter_kd"]["runs"]] == trials[1].user_attrs["val"]


@pytest.mark.skipif("CGANKD_TEST_POSTGRES" not in os.environ, reason="CGANKD_TEST_POSTGRES names no server")
def test_two_workers_finish_one_study_in_postgresql(work: Path) -> None:
    """The variable holds a URL such as postgresql://user@127.0.0.1/database; the study is deleted in the end."""
    url, name = os.environ["CGANKD_TEST_POSTGRES"], f"test-{time.time_ns()}"
    environment = ("--storage", url, "--study", name)
    process = cgankd(work, "search", "--workers", "2", "--trials", "5", *environment)
    output = process.communicate()[0]
    storage = search_study.connect(work, storage_url(work, load_searched(work / "params.yaml").search, url))
    try:
        assert process.returncode == 0, output
        assert f"new study {name!r}" in output and not (work / "artifacts/search.db").exists()
        trials = optuna.load_study(study_name=name, storage=storage).get_trials()
        done = [t for t in trials if t.state in search_study.COUNTED]
        assert len(done) == 5 and len({t.user_attrs["owner"] for t in done}) == 2
        assert len({json.dumps(t.params, sort_keys=True) for t in done}) == 5
        assert len(trials_in(output)) == 5 and trials_in(output) == {t.number for t in done}
        best = cgankd(work, "search", *environment, "best", "--seeds", "0")
        assert "trials:" in best.communicate()[0] and best.returncode == 0
    finally:
        optuna.delete_study(study_name=name, storage=storage)


def trials_in(output: str) -> set[int]:
    """Numbers of the trials that a search printed."""
    return {int(number) for number in re.findall(r"^trial (\d+): ", output, re.MULTILINE)}


def test_values_without_a_bank_count_as_pruned(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hopeless(*args: Any, **rest: Any) -> Any:
        raise EmptyBankError("bank: nothing passes")

    monkeypatch.setattr(search_pool.build, "grow_pool", hopeless)
    words = (
        r"none of the 2 trials .* is complete; the commonest reason \(2 of 2, such as trial 0\) is: no bank: bank: n"
    )
    for _ in range(2):  # the same command again tries none of them again, and says the same
        with pytest.raises(ConfigError, match=words):
            search.run(begin(work, "search.num_trials=2"), 1, QUIET)
    with pytest.raises(ConfigError, match=words):
        search_best.show(begin(work, "search.num_trials=2"), QUIET, None, 0)
    trials = trials_of(work)
    assert [t.state for t in trials] == [TrialState.PRUNED] * 2
    assert "no bank: bank: nothing passes" in trials[0].user_attrs["note"]


def with_space(folder: Path, space: dict[str, Any], **changes: Any) -> None:
    values = read_params(folder / "params.yaml")
    values["search"] |= {"space": space, "rungs": 0} | changes
    write_params(folder, values)


RATES = {"student.learning_rate": {"kind": "categorical", "choices": [0.003, 1e30]}}
NETS = {"student.width": {"kind": "categorical", "choices": [8, 9]}}


def test_a_trial_whose_loss_is_no_number_is_pruned_and_the_search_goes_on(work: Path) -> None:
    with_space(work, RATES, num_trials=6)
    screen = io.StringIO()
    search.run(begin(work), 1, Console(file=screen, width=300))
    trials = trials_of(work)
    bad = [t for t in trials if t.params["student.learning_rate"] == 1e30]
    assert len(trials) == 6 and bad and {t.state for t in bad} == {TrialState.PRUNED}, "none of them is tried again"
    assert all(t.state == TrialState.COMPLETE for t in trials if t not in bad)
    note = bad[0].user_attrs["note"]
    assert bad[0].user_attrs["reason"] == "diverged"
    words = r"diverged: student\.learning_rate: .* not finite at step \d+ \(.*before the rate was halved; lower student\.learn.*"
    assert re.fullmatch(words, note)
    numbers = ", ".join(str(t.number) for t in bad)
    lines = screen.getvalue().splitlines()
    assert any(line.startswith(f"trial {bad[0].number}: pruned, {note} (") for line in lines)
    summary = f"{len(bad)} could not be trained (trial {numbers}), {note}"
    assert lines[-1] == summary

    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("cgankd").experiment_id])
    run = next(r for r in runs if r.data.tags.get("optuna.trial") == str(bad[0].number))
    assert run.info.status == "KILLED" and run.data.tags["optuna.reason"] == "diverged"
    assert run.data.tags["note"] == note and run.data.tags["mlflow.note.content"] == f"pruned, {note}"

    screen = io.StringIO()
    search_best.show(begin(work), Console(file=screen, width=300), None, 0)
    assert summary in screen.getvalue().splitlines()
    record = json.loads((work / "artifacts/search/best.json").read_text())
    assert record["not_trained"] == {"diverged": [t.number for t in bad]}


@pytest.mark.parametrize(
    ("space", "reason", "words"),
    [
        ({"cgan.lr_g": [0.0003, 1e30]}, "diverged", "cgan.lr_"),
        ({"ratio.learning_rate": [0.0005, 1e30]}, "diverged", "ratio.learning_rate: the loss"),
        ({"teacher.learning_rate": [0.003, 1e30]}, "diverged", "teacher.learning_rate: the loss"),
        ({"student.real_share": [0.5, 0.001]}, "settings refused", "leaves at least one real and one fake"),
    ],
)
def test_every_way_in_which_values_cannot_be_trained(
    work: Path, space: dict[str, list[Any]], reason: str, words: str
) -> None:
    (key,) = space
    with_space(work, {key: {"kind": "categorical", "choices": space[key]}}, num_trials=5)
    search.run(begin(work), 1, QUIET)
    trials = trials_of(work)
    bad = [t for t in trials if t.params[key] == space[key][1]]
    assert len(trials) == 5 and bad and {t.state for t in bad} == {TrialState.PRUNED}
    assert {t.user_attrs["reason"] for t in bad} == {reason} and words in bad[0].user_attrs["note"]


def numpy_error(*args: Any) -> Any:
    np.zeros(3).reshape(2, 2)


def broken_unpacking(*args: Any) -> Any:
    first, second = [1]
    return first, second


def raised(error: BaseException) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "the machine has none left; smaller nets or batches"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"), "Tried to allocate 3 GiB; smaller"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "fewer --workers"),
    ],
)
def test_a_trial_without_room_says_so(
    work: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    true = search_students.train_seeds
    calls: list[int] = []

    def train(*args: Any) -> Any:
        calls.append(1)
        return raised(error)() if len(calls) == 2 else true(*args)

    monkeypatch.setattr(search_students, "train_seeds", train)
    search.run(begin(work, "search.num_trials=3", "search.rungs=0"), 1, QUIET)
    trials = trials_of(work)
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]
    assert trials[1].user_attrs["reason"] == "out of memory"
    assert trials[1].user_attrs["note"].startswith("out of memory: ") and words in trials[1].user_attrs["note"]


@pytest.mark.parametrize(
    "defect",
    [
        numpy_error,
        broken_unpacking,
        raised(OSError(28, "No space left on device")),
        raised(RuntimeError("size mismatch")),
    ],
)
def test_a_fault_of_the_machine_or_the_code_is_tried_again_and_seen(
    work: Path, monkeypatch: pytest.MonkeyPatch, defect: Callable[..., Any]
) -> None:
    # As if it stood in the code of this project.
    monkeypatch.setitem(broken_unpacking.__globals__, "__name__", "pipelines.search.run")
    found = begin(work, "search.num_trials=1")
    monkeypatch.setattr(search, "objective", defect)
    for attempt in range(search_study.RETRIES + 1):
        with pytest.raises((ValueError, OSError, RuntimeError)):
            search.run(found, 1, QUIET)
        trials = trials_of(work)
        waiting = [t for t in trials if t.state == TrialState.WAITING]
        assert [t.state for t in trials if t not in waiting] == [TrialState.FAIL] * (attempt + 1)
        assert len(waiting) == (attempt < search_study.RETRIES)


def test_an_artifact_that_vanishes_ends_the_search_and_blames_no_trial(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*args: Any) -> Any:
        (work / "artifacts/ratio.safetensors").unlink()
        return (60.0,)

    monkeypatch.setattr(search, "objective", lose)
    with pytest.raises(ConfigError, match=r"ratio\.safetensors"):
        search.run(begin(work, "search.num_trials=3"), 1, QUIET)
    assert [t.state for t in trials_of(work)] == [TrialState.COMPLETE]


def test_a_stopped_or_broken_trial_is_tried_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any) -> Any:
        raise KeyboardInterrupt

    found = begin(work, "search.num_trials=1")
    with monkeypatch.context() as patch:
        patch.setattr(search, "objective", stop)
        with pytest.raises(KeyboardInterrupt):
            search.run(found, 1, QUIET)
    search.run(found, 1, QUIET)
    trials = trials_of(work)
    assert [t.state for t in trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert trials[0].params == trials[1].params and trials[1].user_attrs["retry_of"] == 0
    assert trials[1].user_attrs["role"] == "default"


@pytest.mark.parametrize("at", ["the work", "the end"])
def test_a_database_on_a_full_disk_is_one_sentence_and_loses_no_trial(
    work: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def full(*args: Any) -> None:
        raise sqlalchemy.exc.OperationalError("commit", {}, Exception("database or disk is full"))

    def fill(*args: Any) -> Any:
        monkeypatch.setattr(sqlalchemy.orm.Session, "commit", full)
        if at == "the work":
            raise DiskError("cuts/1.h5 cannot be written")
        return (60.0,)

    found = begin(work, "search.num_trials=1")
    with monkeypatch.context() as patch:
        patch.setattr(search, "objective", fill)
        before = sqlalchemy.orm.Session.commit
        words = r"cuts/1\.h5 cannot be written" if at == "the work" else r"search\.db cannot be written \(.*full\)"
        with pytest.raises(ConfigError, match=words):
            search.run(found, 1, QUIET)
    monkeypatch.setattr(sqlalchemy.orm.Session, "commit", before)
    assert [t.state for t in trials_of(work)] == [TrialState.RUNNING]
    monkeypatch.setattr(search_study, "is_dead", lambda trial: trial.number == 0)
    search.run(found, 1, QUIET)
    trials = trials_of(work)
    assert [t.state for t in trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert trials[0].params == trials[1].params and trials[1].user_attrs["retry_of"] == 0


def test_every_command_refuses_a_score_that_was_changed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = begin(work, "search.num_trials=2")
    monkeypatch.setattr(search, "objective", lambda *given: (60.0,))
    search.run(found, 1, QUIET)
    assert found.study().best_value == 60.0
    with closing(sqlite3.connect(work / "artifacts/search.db")) as database:
        database.execute("update trial_values set value=-7.5 where trial_id=2")
        database.commit()
    before = (work / "params.yaml").read_bytes()
    commands: list[Callable[[], Any]] = [
        lambda: search.run(begin(work, "search.num_trials=3"), 1, QUIET),
        lambda: search_best.show(found, QUIET, None, 0),
        lambda: search_best.apply(found, QUIET, None),
        lambda: search_curves.curves(found, QUIET, None, None),
    ]
    for command in commands:
        with pytest.raises(ConfigError, match=r"search\.db is damaged: trial 1 of the study 'cgankd' .*move it away"):
            command()
    assert (work / "params.yaml").read_bytes() == before
    (work / "artifacts/search.db").rename(work / "away.db")
    search.run(found, 1, QUIET)
    assert len(trials_of(work)) == 2


def test_trials_of_other_machines_are_left_alone_and_retries_end(tmp_path: Path) -> None:
    study = optuna.create_study()
    study.enqueue_trial({"x": 0.5}, user_attrs={"values": {"x": 0.5}})
    for expected in range(search_study.RETRIES + 1):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("owner", HOST_GONE)
        assert search_study.repair(study) == 0
        trial.set_user_attr("owner", f"{search_study.owner().split('|')[0]}|{os.getpid()}|0")
        assert search_study.repair(study) == 1
        waiting = study.get_trials(states=(TrialState.WAITING,))
        assert len(waiting) == (expected < search_study.RETRIES)
    trial = study.ask()
    trial.set_user_attr("owner", search_study.owner())
    assert search_study.repair(study) == 0, "this process lives"


def test_values_whose_process_was_killed_before_it_queued_them_are_tried_again() -> None:
    study = optuna.create_study()

    def failed(number: int, **attrs: Any) -> None:
        study.enqueue_trial({"x": 0.1 * number})
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        for name, value in {"values": {"x": 0.1 * number}, "owner": gone, **attrs}.items():
            trial.set_user_attr(name, value)
        study.tell(trial, state=TrialState.FAIL)

    gone = f"{search_study.owner().split('|')[0]}|{os.getpid()}|0"
    failed(0)
    failed(1, owner=search_study.owner())
    failed(2, owner=HOST_GONE)
    failed(3, **{search_study.SURPLUS: True})
    failed(4, tries=search_study.RETRIES)
    assert search_study.repair(study) == 1, "its process is gone, it was no surplus, and it has tries left"
    (waiting,) = study.get_trials(states=(TrialState.WAITING,))
    assert waiting.user_attrs == {"values": {"x": 0.0}, "retry_of": 0, "tries": 1}
    assert search_study.repair(study) == 0, "once"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_study.time, "time", lambda: datetime.now().timestamp() + search_study.GRACE_S + 1)
        assert search_study.repair(study) == 1, "the other machine had its time"


# The section


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("bank.rhoo", "not a setting of params.yaml; did you mean 'bank.rho'"),
        ("data.image_size", "cannot be searched; the sections are teacher"),
        ("student.seeds", "does not change the score of 'filter'"),
        ("student.arms.raw.kd", "does not change the score of 'filter'"),
        ("ratio.hidden", "lists stay as they are"),
    ],
)
def test_a_key_that_cannot_be_searched_is_named(digits: dict[str, Any], key: str, words: str) -> None:
    cfg = config(digits, space={key: {"kind": "int", "low": 1, "high": 2}})
    with pytest.raises(ConfigError, match=words):
        check_space(cfg)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"arm": "filtre"}, r"search\.arm must be one of"),
        ({"arm": "real"}, "an arm with fakes"),
        ({"seeds": [0, 77]}, r"among student\.seeds.*\[77\]"),
        ({"space": {}}, "search.space is empty"),
        ({"space": {"bank.rho": {"kind": "float", "low": 0.5, "high": 1.5}}}, r"search\.space\.bank\.rho.*\(0, 1\]"),
        (
            {"arm": "raw", "space": {"bank.filter": {"kind": "categorical", "choices": [True, False]}}},
            "make them equal",
        ),
    ],
)
def test_a_search_that_cannot_work_is_refused(digits: dict[str, Any], section: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_space(config(digits, **section))


@pytest.mark.parametrize(
    ("knob", "words"),
    [
        ({"kind": "float", "low": 1.0, "high": 0.5}, r"bank\.rho\.low must be less than"),
        ({"kind": "float", "low": 0.0, "high": 0.5, "log": True}, "positive for a logarithmic"),
        ({"kind": "float", "low": 0.1}, r"bank\.rho\.high must be set"),
        ({"kind": "categorical", "choices": [1]}, "at least 2 values"),
        ({"kind": "categorical", "choices": [[1], [2]]}, "made of numbers"),
        ({"kind": "int", "low": 1.5, "high": 3}, "a whole number"),
        ({"kind": "logarithmic", "low": 1, "high": 3}, r"bank\.rho\.kind must be .*use kind float with log: true"),
        ({"kind": "flaot", "low": 1, "high": 3}, "kind must be one of int, float, categorical.*'float'"),
    ],
)
def test_a_wrong_knob_is_named(digits: dict[str, Any], knob: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(digits, space={"bank.rho": knob})


def test_a_password_does_not_go_into_params(digits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="free of passwords") as caught:
        config(digits, storage="postgresql://me:hush@localhost/db")
    assert "hush" not in str(caught.value)
    assert "hush" not in shown("postgresql://me:hush@localhost/db")
    assert config(digits, storage="postgresql://me@localhost/db").search.storage


def test_a_database_that_does_not_answer_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the database sqlite:////nowhere/x\.db cannot be used"):
        search_study.connect(tmp_path, "sqlite:////nowhere/x.db")


def test_knobs_in_optunas_words(digits: dict[str, Any]) -> None:
    space = {
        "bank.rho": {"kind": "float", "low": 0.2, "high": 1.0, "step": 0.2},
        "ratio.ratio_penalty": {"kind": "float", "low": 0.01, "high": 1.0, "log": True},
        "bank.num_fakes": {"kind": "int", "low": 100, "high": 900, "log": True},
        "bank.filter_scope": {"kind": "categorical", "choices": ["label", "global"]},
        "ratio.feature_width": {"kind": "categorical", "choices": [None, 64]},
    }
    cfg = config(digits, space=space)
    assert check_space(cfg) == []
    found = distributions(cfg.search)
    assert found["bank.rho"] == optuna.distributions.FloatDistribution(0.2, 1.0, step=0.2)
    assert found["ratio.ratio_penalty"] == optuna.distributions.FloatDistribution(0.01, 1.0, log=True)
    assert found["bank.num_fakes"] == optuna.distributions.IntDistribution(100, 900, log=True)
    assert found["ratio.feature_width"] == optuna.distributions.CategoricalDistribution((None, 64))
    inside = {
        "bank.rho": 0.6000000000000001,
        "ratio.ratio_penalty": 0.1,
        "bank.num_fakes": 900,
        "bank.filter_scope": "label",
        "ratio.feature_width": None,
    }
    assert in_range(cfg.search, inside)
    for key, value in {"bank.rho": 0.9, "bank.num_fakes": 901, "ratio.feature_width": 32}.items():
        assert not in_range(cfg.search, inside | {key: value})


def test_the_arm_follows_the_switches_of_the_bank(digits: dict[str, Any]) -> None:
    space = {"bank.replace": {"kind": "categorical", "choices": [True, False]}}
    cfg = config(digits, space=space | {"student.soft_weight": {"kind": "float", "low": 0.1, "high": 0.9}})
    assert ["soft_weight" in notice for notice in check_space(cfg)] == [True]
    moved = with_values(cfg, {"bank.replace": True})
    assert moved.bank.replace and moved.student.arms["filter"].replace and not cfg.student.arms["filter"].replace
    assert not moved.student.arms["subsample"].replace
    assert first_difference(identity(cfg, "d"), identity(moved, "d")) is None
    other = with_values(cfg, {"bank.rho": 0.5})
    assert first_difference(identity(cfg, "d"), identity(other, "d")) == "bank.rho was 0.9 and is 0.5"


def test_a_switch_that_an_arm_lacks_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "pipelines/presets/digits.yaml").read_text())
    set_values(path, {"student.arms.filter.replace": True, "bank.replace": True})
    assert load_searched(path).student.arms["filter"].replace and "# the published method" in path.read_text()
    with pytest.raises(ConfigError, match=r"student\.arms\.filtre is not in"):
        set_values(path, {"student.arms.filtre.replace": True})
