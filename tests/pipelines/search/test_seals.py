"""A database of a search in which something changed, or that fails: one sentence with the database, the trial and a cure."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from cgankd.config import ConfigError
from pipelines.files.artifacts import write_json
from pipelines.files.made import seal
from pipelines.files.writing import DiskError
from pipelines.search import hopeless, seals, storage
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
        seals.seal_trial(study, trial, state, scores)
    study.tell(trial, list(scores) or None, state=state)


def made(folder: Path, goals: int = 1, *, sealed: bool = True) -> str:
    """The URL of a database with a complete trial and a pruned one."""
    url = f"sqlite:///{folder}/search.db"
    database = studies.connect(folder, url)
    study = optuna.create_study(storage=database, study_name="cgankd", directions=["minimize"] * goals)
    if sealed:
        seals.seal_study(study, {"headline": ["e", "%", False], "default": {"bank.rho": 0.9}, "identity": {"seed": 0}})
    add(study, TrialState.COMPLETE, (1 / 3, 600.0)[:goals], sealed=sealed)
    add(study, TrialState.PRUNED, (), sealed=sealed)
    database.engine.dispose()
    return url


def change(folder: Path, command: str) -> None:
    with closing(sqlite3.connect(folder / "search.db")) as database:
        assert database.execute(command).rowcount > 0 or command.startswith("drop"), command
        database.commit()


def load(folder: Path) -> optuna.Study:
    return studies.load(studies.connect(folder, f"sqlite:///{folder}/search.db"), "cgankd")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database whose study has a complete, a pruned, a failed, a running and a queued trial; another study
    of the same settings is beside it."""
    folder = tmp_path_factory.mktemp("made")
    url = made(folder)
    database = studies.connect(folder, url)
    study = optuna.load_study(storage=database, study_name="cgankd")
    study.enqueue_trial({"bank.rho": RHO, "bank.filter_scope": "label"})
    trial = study.ask(KNOBS)
    trial.set_user_attr("owner", studies.owner())
    trial.set_user_attr("values", trial.params)
    trial.report(14.5, 1)
    study._storage.set_trial_system_attr(trial._trial_id, "completed_rung_0", 14.5)
    studies.give_up(study, study.get_trials(deepcopy=False)[trial.number])
    again = study.ask(KNOBS)
    again.set_user_attr("owner", studies.owner())
    again.report(13.5, 1)
    study._storage.set_trial_system_attr(again._trial_id, "completed_rung_0", 13.5)
    study.enqueue_trial(trial.params, user_attrs={"values": trial.params})
    states = [found.state.name for found in study.get_trials(deepcopy=False)]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING"]
    other = optuna.create_study(storage=database, study_name="other", directions=["minimize"])
    seals.seal_study(other, {"headline": ["e", "%", False], "default": {"bank.rho": 0.9}, "identity": {"seed": 0}})
    add(other, TrialState.COMPLETE, (0.25,))
    database.engine.dispose()
    return folder


def damaged(template: Path, folder: Path, *commands: str) -> Path:
    """A copy of the template's database after these changes."""
    shutil.copy(template / "search.db", folder / "search.db")
    for command in commands:
        change(folder, command)
    return folder


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
        ("update trial_user_attributes set value_json=replace(value_json,'seal','sebl') where key='seal'", "another form"),
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


SWAPPED = (
    "update trials set number=9 where trial_id=1",
    "update trials set number=0 where trial_id=2",
    "update trials set number=1 where trial_id=1",
)
CHILDREN = (
    "trial_user_attributes",
    "trial_system_attributes",
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
)
EXCHANGED = tuple(
    f"update {table} set trial_id={to} where trial_id={of}"
    for table, of, to in itertools.product(CHILDREN, (1, 2, 99), (99, 1, 2))
    if (of, to) in ((1, 99), (2, 1), (99, 2))
)
RUNGS = "update trial_system_attributes set value_json='{}' where key='completed_rung_0' and trial_id={}"
MINE = "update trial_user_attributes set value_json='{}' where key='{}' and trial_id={}"
QUEUED = "update trial_system_attributes set value_json=replace(value_json,'0.5371','{}') where trial_id=5"


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        (("update trials set state='FAIL' where trial_id=1",), "trial 0 .*it was complete"),
        (("update trials set state='RUNNING' where trial_id=1",), "trial 0 .*it was complete"),
        (("update trials set state='WAITING' where trial_id=1",), "trial 0 .*it was complete"),
        (("update trials set state='FAIL' where trial_id=2",), "trial 1 .*it was pruned"),
        (("update trials set state='RUNNING' where trial_id=3",), "trial 2 .*it was ended"),
        (("update trials set state='COMPLETE' where trial_id=3",), "trial 2 .*its seal is missing"),
        (("delete from trials where trial_id=1",), "trial 0 .*it is gone"),
        (("delete from trials where trial_id=3",), "its trial 2 has the number 3"),
        (("delete from trials where trial_id>1",), "trial 1 .*it is gone"),
        (("update trials set study_id=2, number=1 where trial_id=2",), "trial 1 .*it is gone"),
        (("update trials set number=0 where trial_id=2",), "trial 1 .*it is gone"),
        (("update trials set number=7 where trial_id=3",), "its trial 2 has the number 7"),
        (("update trials set number=1 where trial_id=3",), "its trial 2 has the number 1"),
        (SWAPPED, "its trial 0 has the number 1"),
        (EXCHANGED, "trial 0 .*its number was 1"),
        (("update trials set study_id=1, number=number+5 where study_id=2",), "trial 5 .*it is of another study"),
        ((RUNGS.format("100.0", 3),), "trial 2 .*completed_rung_0 is 100.0"),
        ((RUNGS.format('"abc"', 3),), "trial 2 .*completed_rung_0 is 'abc'"),
        ((RUNGS.format('"abc"', 4),), "trial 3 .*completed_rung_0 is 'abc'"),
        (("insert into trial_system_attributes values (99, 2, 'completed_rung_1', '12.75')",), "trial 1 .*its seal does not"),
        ((MINE.format('"abc"', "owner", 4),), "trial 3 .*its attribute owner is 'abc'"),
        ((MINE.format('"vm|abc|x"', "owner", 4),), "trial 3 .*its attribute owner is 'vm|abc|x'"),
        ((MINE.format('"abc"', "tries", 4),), "trial 3 .*its attribute tries is 'abc'"),
        ((MINE.format("[1,2]", "values", 4),), r"trial 3 .*its attribute values is \[1, 2\]"),
        ((QUEUED.format("0.9"),), "trial 4 .*its values were"),
        (("update trial_system_attributes set value_json='[1]' where trial_id=5",), "trial 4 .*fixed_params is"),
        (("delete from study_user_attributes where key='seal'",), "the study 'cgankd' .*its seal is missing"),
        (("delete from study_user_attributes where key='seal' or key like 'sealed-%'",), "trial 0 .*the seal of its study"),
        (("delete from study_user_attributes where key='identity'",), "its goals or the settings"),
        (("delete from study_user_attributes where key='default'",), "its goals or the settings"),
        (
            (
                "delete from study_user_attributes where key like 'seal%'",
                "delete from trial_user_attributes where key in ('seal', 'val')",
            ),
            "trial 0 .*the scores of its seeds are missing",
        ),
        (("update study_user_attributes set value_json='\"abc\"' where key='sealed-1'",), "trial 1 .*its seal is another"),
        (("update alembic_version set version_num='zz'",), "what it says of its version"),
        (("drop table trials",), "it has no table trials"),
        (("drop table studies",), "it has no table studies"),
    ],
)  # fmt: skip
def test_what_changed_in_a_study_under_way_is_named(
    template: Path, tmp_path: Path, commands: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load(damaged(template, tmp_path, *commands))
    text = str(caught.value)
    assert f"{tmp_path}/search.db is damaged" in text and "move it away and run `cgankd search` again" in text


def test_a_study_under_way_is_taken(template: Path, tmp_path: Path) -> None:
    load(damaged(template, tmp_path))
    load(damaged(template, tmp_path, f"update trial_params set param_value={RHO:.15g} where param_name='bank.rho'"))
    database = studies.connect(tmp_path, f"sqlite:///{tmp_path}/search.db")
    assert optuna.load_study(study_name="other", storage=database).best_value == 0.25


def test_seals_of_a_former_version_are_taken_and_still_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which held neither the trial's number nor its study; that version gave up a trial although it had a seal."""

    def former(study: optuna.Study, number: int, trial: FrozenTrial, state: TrialState, scores: Any = ()) -> Any:
        steps = {str(step): value for step, value in trial.intermediate_values.items()}
        found = {"state": state.name, "scores": list(scores), "params": dict(trial.params), "steps": steps}
        return found | {"seal": seal(seals._whole(found, trial))}

    monkeypatch.setattr(seals, "seal_of", former)
    monkeypatch.setattr(seals, "note_seal", lambda *given: None)
    url = made(tmp_path)
    study = load(tmp_path)
    lost = study.ask(KNOBS)
    lost.set_user_attr("values", lost.params)
    seals.seal_trial(study, lost, TrialState.COMPLETE, (1.0,))
    study.tell(lost, state=TrialState.FAIL)
    studies.requeue(study, study.get_trials(deepcopy=False)[lost.number])
    load(tmp_path)
    change(tmp_path, "update trials set state='FAIL' where trial_id=1")
    with pytest.raises(ConfigError, match="trial 0 .*it was complete"):
        load(tmp_path)
    assert url


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
def test_a_trial_that_was_killed_after_its_seal_ends_as_the_seal_says(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: TrialState
) -> None:
    study = load(damaged(template, tmp_path))
    study.enqueue_trial({"bank.rho": RHO, "bank.filter_scope": "label"})
    study.ask(KNOBS), (trial := study.ask(KNOBS))
    trial.report(11.5, 1)
    trial.set_user_attr("owner", studies.owner())
    seals.seal_trial(study, trial, state, (11.0,) if state == TrialState.COMPLETE else ())
    study = load(tmp_path)
    monkeypatch.setattr(studies, "is_dead", lambda found: found.number == trial.number)
    assert studies.repair(study) == 0
    ended = load(tmp_path).trials
    assert ended[trial.number].state == state and ended[trial.number].value in (11.0, 11.5)
    assert all(found.user_attrs.get("retry_of") != trial.number for found in ended)


def test_a_sealed_trial_that_was_given_up_is_no_damage(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process lives and was slow: it was given up by another machine in the moment of its seal."""
    study = load(damaged(template, tmp_path))
    monkeypatch.setattr(studies, "end_by_seal", lambda *given: False)
    seals.seal_trial(study, optuna.Trial(study, 4), TrialState.COMPLETE, (1.0,))
    assert studies.give_up(study, study.get_trials(deepcopy=False)[3])
    assert load(tmp_path).trials[3].state == TrialState.FAIL


def test_a_trial_that_ends_in_the_moment_in_which_it_is_given_up_is_no_damage(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process was taken for dead, went on, and told the study before the other machine did."""
    study = load(damaged(template, tmp_path))
    trial = optuna.Trial(study, 4)
    study_of_other = load(tmp_path)
    tell = type(study).tell

    def tells_late(self: optuna.Study, *given: Any, **words: Any) -> Any:
        monkeypatch.undo()
        tell(study, trial, 1.0)
        return tell(self, *given, **words)

    monkeypatch.setattr(studies, "end_by_seal", lambda *given: False)
    monkeypatch.setattr(type(study), "tell", tells_late)
    seals.seal_trial(study, trial, TrialState.COMPLETE, (1.0,))
    studies.give_up(study_of_other, study_of_other.get_trials(deepcopy=False)[3])
    found = load(tmp_path).trials[3]
    assert found.state == TrialState.COMPLETE and seals.GIVEN_UP in found.user_attrs


def test_a_trial_that_ended_meanwhile_is_not_given_up(template: Path, tmp_path: Path) -> None:
    study = load(damaged(template, tmp_path))
    stale = study.get_trials(deepcopy=False)[3]
    assert stale.state == TrialState.RUNNING
    other = load(tmp_path)
    seals.seal_trial(other, optuna.Trial(other, 4), TrialState.COMPLETE, (1.0,))
    other.tell(3, 1.0)
    assert not studies.give_up(study, stale)
    assert seals.GIVEN_UP not in load(tmp_path).trials[3].user_attrs


@pytest.mark.parametrize("mark", ['"abc"', "7", "{}", '{"seal": 3}', "null"])
def test_a_seal_of_another_form_is_named(template: Path, tmp_path: Path, mark: str) -> None:
    study = load(damaged(template, tmp_path))
    change(tmp_path, MINE.format(f'"{studies.owner()}"', "owner", 4))
    with closing(sqlite3.connect(tmp_path / "search.db")) as database:
        database.execute("insert into trial_user_attributes (trial_id, key, value_json) values (4, 'seal', ?)", (mark,))
        database.commit()
    with pytest.raises(ConfigError, match="trial 3 .*its seal has another form"):
        load(tmp_path)
    assert not seals.end_by_seal(study, study._storage.get_trial(4))


@pytest.mark.parametrize("where", ["repair", "ask"])
def test_what_the_checks_did_not_see_is_one_sentence_too(template: Path, tmp_path: Path, where: str) -> None:
    study = load(damaged(template, tmp_path))
    change(tmp_path, MINE.format('"abc"', "owner", 4))
    change(tmp_path, 'update trial_system_attributes set value_json=\'{"bank.rho": "abc"}\' where trial_id=5')
    if where == "ask":
        change(tmp_path, MINE.format(f'"{studies.owner()}"', "owner", 4))
    with pytest.raises(ConfigError, match="the study 'cgankd' is not as it was written .*cannot be read"):
        if where == "repair":
            studies.repair(study)
        else:
            with studies._reading(study):
                study.ask(KNOBS)


def test_a_file_of_another_program_or_without_bytes_is_no_new_study(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    path.touch()
    with pytest.raises(ConfigError, match=r"search\.db is empty, so its study is gone; bring it back, or move it away"):
        studies.connect(tmp_path, f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table experiments (x int)")
        database.execute("create table alembic_version (version_num text)")
        database.commit()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"search\.db is damaged \(it is one of another program\)"):
        studies.connect(tmp_path, f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_tables_of_another_version_of_optuna_are_no_damage(template: Path, tmp_path: Path) -> None:
    path = damaged(template, tmp_path) / "search.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("update version_info set library_version = '9.9.9'")
        database.execute("update alembic_version set version_num = 'v2.6.0.a'")
        database.commit()
    with pytest.raises(ConfigError, match=r"search\.db is of another version of Optuna \(.*9\.9\.9.*--storage"):
        studies.connect(tmp_path, f"sqlite:///{path}")


def test_a_database_that_was_being_made_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has its name only when its tables are there; one that a former version left half made is finished."""

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("optuna.storages._rdb.storage._VersionManager._set_alembic_revision", killed)
        studies.connect(tmp_path, f"sqlite:///{tmp_path}/search.db")
    assert not list(tmp_path.glob("*search.db*"))
    with closing(sqlite3.connect(tmp_path / "search.db")) as database:
        database.execute(
            "create table version_info (version_info_id integer primary key, schema_version int, library_version)"
        )
    made(tmp_path)
    load(tmp_path)


def test_a_flipped_bit_in_the_words_of_the_tables_is_one_sentence(template: Path, tmp_path: Path) -> None:
    path = damaged(template, tmp_path) / "search.db"
    whole = path.read_bytes()
    place = whole.index(b"CREATE TABLE studies") + 14
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
    with pytest.raises(ConfigError, match=r"search\.db"):
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
    text = str(storage.changed("postgresql+psycopg2://me:hush@host/x", storage.STUDIES, "it cannot be read"))
    assert "hush" not in text and text.endswith("name another database by --storage (or search.storage)")


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
