"""A project that was renamed, moved or copied, with a real MLflow store: noticed, never made again, mended at once."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from cgankd.config import ConfigError, TrackingConfig
from pipelines.commands.app import app
from pipelines.project.doctor import look_at_tracking
from pipelines.tracking.journal import Tracker
from pipelines.tracking.moved import RUNS, Repaired, StoreMoved, check_experiment, check_place, check_readable, repair
from pipelines.tracking.open import open_tracker
from pipelines.tracking.places import FILE, store_uri
from pipelines.tracking.reads import attach, find_run
from pipelines.tracking.sync import SyncReport, sync
from tests.conftest import ROOT

INVOKE = CliRunner()
CFG = TrackingConfig(mlflow=True, experiment="cgankd", preset="digits")


@pytest.fixture()
def old(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a finished run that has a file."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_STAGE", "CGANKD_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "work" / "my project"
    folder.mkdir(parents=True)
    shutil.copyfile(empty_store, folder / FILE)
    shutil.copyfile(ROOT / "pipelines/presets/digits.yaml", folder / "params.yaml")
    one_run(folder, "first")
    return folder


def one_run(folder: Path, words: str, experiment: str = "cgankd") -> list[str]:
    """A run with a file; returns what the user was told."""
    said: list[str] = []
    lock = folder / "artifacts" / "resume" / "cgan.lock"
    cfg = TrackingConfig(mlflow=True, experiment=experiment, preset="digits")
    tracker: Tracker = open_tracker(folder, "cgan", cfg, tags={}, lock=lock, say=said.append)
    path = folder / f"{words}.txt"
    path.write_text(words)
    tracker.file(path)
    tracker.close("FINISHED")
    return said


def texts(folder: Path, experiment: str = "cgankd") -> dict[str, str]:
    """The files of all runs, as MLflow gives them back."""
    client = MlflowClient(store_uri(folder))
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id])
    files = [(run.info.run_id, file.path) for run in runs for file in client.list_artifacts(run.info.run_id, "files")]
    return {path: Path(client.download_artifacts(run, path)).read_text() for run, path in files}


def command(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    monkeypatch.chdir(folder)
    return INVOKE.invoke(app, list(words))


@pytest.mark.parametrize("target", ["work/renamed", "elsewhere/deep/my project", "work/my project/inside", "top"])
def test_a_moved_project_loses_nothing_and_is_mended_by_one_command(
    old: Path, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_place(old, "cgankd")
    new = tmp_path / target
    aside = tmp_path / "aside"
    old.rename(aside)
    new.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(new)

    (said,) = one_run(new, "second")
    assert said.startswith("warning: the MLflow store mlflow.db looks for the files of its runs below ")
    assert str(old) in said and "`cgankd doctor --repair`" in said and "`cgankd sync` adds it" in said
    assert not (old / "mlruns").exists()
    for words in (["ship"], ["serve"], ["sync"]):
        done = command(new, monkeypatch, *words)
        assert done.exit_code == 2 and "doctor --repair" in done.stderr and len(done.stderr.splitlines()) == 1, words
    with pytest.raises(StoreMoved):
        find_run(new, "cgankd", "digits/cgan")
    with pytest.raises(StoreMoved):
        attach(new, ["cgan"], new / "second.txt")
    (finding,) = look_at_tracking(new)
    assert finding.level == "warning" and finding.cure.startswith("run `cgankd doctor --repair`")
    assert not (old / "mlruns").exists()

    before = dump(new / FILE)
    done = command(new, monkeypatch, "doctor", "--repair")
    assert done.exit_code == 0 and "1 experiment, 1 run;" in done.stdout and "mlflow.db.bak-1" in done.stdout
    place = f"{old.as_uri()}/mlruns"
    assert place not in dump(new / FILE)
    assert dump(new / "mlflow.db.bak-1") == before and place in before
    assert command(new, monkeypatch, "doctor", "--repair").stdout == "MLflow's store needs no repair\n"
    assert sync(new) == SyncReport(added=1, there=1, running=0)
    assert one_run(new, "third") == []
    assert texts(new) == {f"files/{name}.txt": name for name in ("first", "second", "third")}
    assert look_at_tracking(new)[0].level == "ok" and not (old / "mlruns").exists()


def dump(file: Path) -> str:
    """All that a store holds."""
    with closing(sqlite3.connect(file)) as store:
        return "\n".join(store.iterdump())


def test_the_page_opens_with_a_warning(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []

    def serve(uri: str, port: int, run: Any) -> int:
        served.append(uri)
        return 0

    monkeypatch.setattr("pipelines.tracking.page.serve", serve)
    assert command(old, monkeypatch, "ui").stderr == ""
    old.rename(new := tmp_path / "new")
    done = command(new, monkeypatch, "ui")
    assert done.exit_code == 0 and len(served) == 2
    assert done.stderr.startswith("warning: pictures and files of runs are not shown: the MLflow store mlflow.db looks")


def test_a_copy_is_told_from_its_original(old: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(old, copy)
    assert one_run(old, "second") == [] and len(one_run(copy, "other")) == 1
    assert isinstance(repair(copy), Repaired) and repair(old) is None
    assert one_run(copy, "third") == []
    assert sync(copy).added == 1
    assert texts(old) == {"files/first.txt": "first", "files/second.txt": "second"}
    assert texts(copy) == {f"files/{name}.txt": name for name in ("first", "other", "third")}


def test_moved_twice_and_back(old: Path, tmp_path: Path) -> None:
    for number, target in enumerate((tmp_path / "a", tmp_path / "b", old)):
        next(path for path in (old, tmp_path / "a", tmp_path / "b") if path.exists()).rename(target)
        done = repair(target)
        assert done is not None and done.changed == {"experiments": 1, "runs": number + 1}
        assert one_run(target, f"at{number}") == []
    assert texts(old) == {f"files/{name}.txt": name for name in ("first", "at0", "at1", "at2")}


def test_a_run_recorded_before_the_move_brings_its_files_to_mlflow_after_it(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        one_run(old, "offline")
    old.rename(new := tmp_path / "new")
    repair(new)
    assert sync(new).added == 1
    assert texts(new) == {"files/first.txt": "first", "files/offline.txt": "offline"}


def test_folders_that_the_user_chose_are_left_alone(old: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "disk" / "mlruns"
    chosen.parent.mkdir()
    MlflowClient(store_uri(old)).create_experiment("elsewhere", artifact_location=chosen.as_uri())
    MlflowClient(store_uri(old)).create_experiment("bucket", artifact_location="s3://mine/runs")
    assert one_run(old, "mine", "elsewhere") == [] and chosen.is_dir()
    check_place(old, "elsewhere")
    assert repair(old) is None
    old.rename(new := tmp_path / "new")
    done = repair(new)
    assert done is not None and done.changed == {"experiments": 1, "runs": 1}
    client = MlflowClient(store_uri(new))
    assert client.get_experiment_by_name("elsewhere").artifact_location == chosen.as_uri()
    assert client.get_experiment_by_name("bucket").artifact_location == "s3://mine/runs"
    assert texts(new, "elsewhere") == {"files/mine.txt": "mine"}

    chosen.parent.rename(tmp_path / "unplugged")
    check_place(new, "cgankd")
    (said,) = one_run(new, "late", "elsewhere")
    assert f"keeps the files of its runs in {chosen}, which is not there" in said and not chosen.exists()
    assert repair(new) is None
    (tmp_path / "unplugged").rename(chosen.parent)
    assert sync(new).added == 1 and len(texts(new, "elsewhere")) == 2


def test_files_that_stayed_behind_keep_their_place(old: Path, tmp_path: Path) -> None:
    # An earlier version made the old folder again and put newer runs there.
    shutil.copytree(old, new := tmp_path / "new")
    one_run(old, "behind")
    shutil.copyfile(old / FILE, new / FILE)
    done = repair(new)
    assert done is not None and done.changed == {"experiments": 1, "runs": 1} and done.left == 1
    assert "for their files lie at the old place alone: 1" in done.text
    assert texts(new) == {"files/first.txt": "first", "files/behind.txt": "behind"}
    assert one_run(new, "now") == []


def test_a_link_to_the_old_place_is_no_move(old: Path, tmp_path: Path) -> None:
    old.rename(new := tmp_path / "new")
    old.symlink_to(new)
    assert one_run(new, "second") == [] and repair(new) is None


def test_a_store_in_use_is_not_changed(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tracking.moved.BUSY_S", 0.1)
    old.rename(new := tmp_path / "new")
    with closing(sqlite3.connect(new / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigError, match="stop what uses it and try again"):
            repair(new)
        other.execute("ROLLBACK")
    assert not (new / "mlflow.db.bak-1").exists() and repair(new) is not None


def test_what_is_no_store_is_left_to_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    check_place(tmp_path, "cgankd")
    (tmp_path / FILE).write_text("no database")
    check_place(tmp_path, "cgankd")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example.invalid:1")
    check_place(tmp_path, "cgankd")
    assert repair(tmp_path) is None


def test_a_damaged_store_is_one_sentence(empty_store: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, rand = workdir / FILE, random.Random(0)
    good = empty_store.read_bytes()
    file.write_bytes(good)
    check_readable(workdir)
    refused = 0
    for data in (b"no database" * 100, good[:5000], rand.randbytes(5000), good[:100] + rand.randbytes(len(good) - 100)):
        file.write_bytes(data)
        with pytest.raises(ConfigError, match=r"mlflow.db is damaged .*move it away and run `cgankd sync`"):
            check_readable(workdir)
        result = CliRunner().invoke(app, ["ui"])
        assert result.exit_code == 2 and "is damaged" in result.output
        refused += 1
    assert refused == 4
    file.write_bytes(b"")
    check_readable(workdir)


def test_no_store_of_any_kind_makes_the_old_folder_again(tmp_path: Path) -> None:
    gone, top = tmp_path / "old", tmp_path / "new"
    (top / RUNS).mkdir(parents=True)
    for place in (gone / RUNS, gone / RUNS / "1", gone / RUNS / "0" / "abc"):
        with pytest.raises(StoreMoved, match="of which nothing is there"):
            check_experiment("e", place.as_uri(), top)
    gone.mkdir()
    check_experiment("e", (gone / RUNS / "1").as_uri(), top)  # a new experiment, whose folder comes with its first file
    check_experiment("e", (top / RUNS).as_uri(), top)
    check_experiment("e", "mlflow-artifacts:/1", top)
    check_experiment("e", None, top)
