"""A database of a search in which something changed, or that fails: one sentence with the database, the trial and a cure."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from cgankd.config import ConfigError
from pipelines.files.artifacts import write_json
from pipelines.files.writing import DiskError
from pipelines.search import hopeless, storage
from pipelines.search import study as studies

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")
KNOBS: dict[str, BaseDistribution] = {
    "bank.rho": FloatDistribution(0.3, 1.0),
    "bank.filter_scope": CategoricalDistribution(("label", "global")),
}
RHO = 0.5371267658153484


def add(study: optuna.Study, state: TrialState, scores: tuple[float, ...], *, sealed: bool = True) -> None:
    """A trial that ends as those of a search do."""
    study.enqueue_trial({"bank.rho": RHO, "bank.filter_scope": "global"})
    trial = study.ask(KNOBS)
    trial.set_user_attr("values", trial.params)
    if len(study.directions) == 1:
        trial.report(0.1 + 0.2, 1)
        trial.report(12.75, 3)
    if scores:
        trial.set_user_attr("val", [scores[0] - 0.1, scores[0] + 0.1])
    if sealed:
        storage.seal_trial(study, trial, state, scores)
    study.tell(trial, list(scores) or None, state=state)


def made(folder: Path, goals: int = 1, *, sealed: bool = True) -> str:
    """The URL of a database with a complete trial and a pruned one."""
    url = f"sqlite:///{folder}/search.db"
    database = studies.connect(folder, url)
    study = optuna.create_study(storage=database, study_name="cgankd", directions=["minimize"] * goals)
    if sealed:
        storage.seal_study(
            study, {"headline": ["e", "%", False], "default": {"bank.rho": 0.9}, "identity": {"seed": 0}}
        )
    add(study, TrialState.COMPLETE, (1 / 3, 600.0)[:goals], sealed=sealed)
    add(study, TrialState.PRUNED, (), sealed=sealed)
    database.engine.dispose()
    return url


def change(folder: Path, command: str) -> None:
    with closing(sqlite3.connect(folder / "search.db")) as database:
        assert database.execute(command).rowcount > 0, command
        database.commit()


def load(folder: Path) -> optuna.Study:
    return studies.load(studies.connect(folder, f"sqlite:///{folder}/search.db"), "cgankd")


@pytest.mark.parametrize("goals", [1, 2])
def test_what_was_written_is_taken(tmp_path: Path, goals: int) -> None:
    made(tmp_path, goals)
    assert [t.state for t in load(tmp_path).trials] == [TrialState.COMPLETE, TrialState.PRUNED]
    change(tmp_path, f"update trial_params set param_value={RHO:.15g} where param_name='bank.rho'")
    load(tmp_path)  # as databases give a float that keep 15 digits of it


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("update trial_values set value=-7.5 where trial_id=1", "trial 0 .*its scores were"),
        ("update trial_values set value_type='INF_POS' where trial_id=1", "cannot be read"),
        ("update trial_values set value=-7.5 where trial_id=2", "trial 1 .*its scores were"),
        ("update trial_params set param_value=0.5371267658 where param_name='bank.rho'", "trial 0 .*its values were"),
        ("update trial_params set param_value=0 where param_name='bank.filter_scope'", "trial 0 .*its values were"),
        ("update trial_params set distribution_json=replace(distribution_json,'0.3','0.2')", "trial 0 .*its seal"),
        ("update trial_intermediate_values set intermediate_value=9 where trial_id=2 and step=1", "trial 1 .*on the way"),
        ("update trial_user_attributes set value_json='[1.0]' where key='val'", "trial 0 .*its seal does not fit"),
        ("update trial_user_attributes set value_json=replace(value_json,'seal','sebl') where key='seal'", "cannot be read"),
        ("update trial_user_attributes set value_json=replace(value_json,'0.3','0.4') where key='seal'", "trial 0 .*its seal"),
        ("update trial_user_attributes set key='sebl' where key='seal'", "trial 0 .*its seal is missing"),
        ("update trials set state='PRUNED' where trial_id=1", "trial 0 .*it was complete"),
        ("update trials set state='COMPLETF' where trial_id=1", "cannot be read"),
        ("update trial_user_attributes set value_json='[1.0' where key='val'", "cannot be read"),
        ("update study_directions set direction='MAXIMIZE'", "its goals or the settings"),
        ("update study_directions set direction='MINIMISE'", "cannot be read"),
        ("update study_user_attributes set value_json='{}' where key='default'", "its goals or the settings"),
    ],
)  # fmt: skip
def test_what_changed_is_named(tmp_path: Path, command: str, words: str) -> None:
    made(tmp_path)
    change(tmp_path, command)
    with pytest.raises(ConfigError, match=words) as caught:
        load(tmp_path)
    text = str(caught.value)
    assert f"{tmp_path}/search.db is damaged" in text and "move it away and run `cgankd search` again" in text
    (tmp_path / "search.db").unlink()
    made(tmp_path)
    load(tmp_path)


def test_a_second_score_that_changed_is_named(tmp_path: Path) -> None:
    made(tmp_path, 2)
    change(tmp_path, "update trial_values set value=60 where objective=1")
    with pytest.raises(ConfigError, match=r"trial 0 .*its scores were \[0\.33.*, 600\.0\]"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("update trial_values set value=-7.5 where trial_id=1", r"trial 0 .*its score was 0\.33"),
        ("update trial_params set param_value=0.6 where trial_id=2", "trial 1 .*its values were"),
    ],
)
def test_trials_without_a_seal_are_checked_against_their_attributes(tmp_path: Path, command: str, words: str) -> None:
    made(tmp_path, sealed=False)
    load(tmp_path)
    change(tmp_path, command)
    with pytest.raises(ConfigError, match=words):
        load(tmp_path)


def test_a_server_has_no_file_to_move_away() -> None:
    text = str(storage.changed("postgresql+psycopg2://me:hush@host/x", "trial 3", "its seal does not fit"))
    assert "hush" not in text and text.endswith("bring it back, or begin another study by search.study")


def broken(said: str) -> Exception:
    """The error of Optuna for one of the database."""
    error = StorageInternalError("An exception is raised during the commit. ")
    error.__cause__ = sqlalchemy.exc.OperationalError("insert", {}, Exception(said))
    return error


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "database or disk is full",
            r"cannot be written \(database or disk is full\): 5 kB are free there; make room there",
        ),
        ("disk I/O error", r"cannot be written \(disk I/O error\): 5 kB are free there; make room there"),
        ("attempt to write a readonly database", "get leave to write there"),
        ("database is locked", "another program holds it: end that one"),
        ("database disk image is malformed", "bring it back, or move it away and run `cgankd search` again"),
        ("server closed the connection unexpectedly", "that the database is there and answers"),
    ],
)
@pytest.mark.parametrize("wrap", [broken, lambda said: broken(said).__cause__])
def test_each_failure_of_the_database_is_one_sentence_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, words: str, wrap: Callable[[str], Exception]
) -> None:
    monkeypatch.setattr(storage, "free_bytes", lambda path: 5000)
    with pytest.raises(ConfigError, match=words), storage.answering(f"sqlite:///{tmp_path}/search.db"):
        raise wrap(said)


def test_a_limit_of_a_files_size_is_the_cure_and_not_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "size_limit", lambda: 307_200)
    text = str(storage.failed(f"sqlite:///{tmp_path}/search.db", broken("disk I/O error")))
    assert "the limit of a file's size (ulimit -f) is 307 kB; raise it and run the same command" in text
    assert "make room" not in text


def test_a_full_disk_blames_no_trial(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError) as caught:
        write_json(tmp_path / "file" / "x.json", {})
    assert hopeless.why(caught.value) is None
