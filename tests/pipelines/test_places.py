"""Files and folders in the wrong places, and records that no longer parse: named, with a cure that works, never passed over."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cgankd.config import ConfigError
from cgankd.data.regular import NotPlain, check_regular
from pipelines.commands.app import app
from pipelines.files.artifacts import load_weights, read_record
from pipelines.files.dvc_lock import read_lock
from pipelines.files.layout import in_its_place
from pipelines.files.made import check_made
from pipelines.files.runs import read_metrics
from pipelines.project.doctor import examine
from pipelines.project.repository import WHO, environment, git
from pipelines.tracking.moved import check_place, check_readable
from tests.pipelines.test_damage import repository_of
from tests.tiny import tiny, write_params

DVC_YAML = """\
stages:
  teacher:
    cmd: echo 1 > artifacts/teacher.safetensors && echo {} > metrics/teacher.json
    outs: [artifacts/teacher.safetensors]
    metrics: [metrics/teacher.json: {cache: false}]
  evaluate:
    cmd: echo {} > artifacts/student.config.json
    outs: [artifacts/student.config.json]
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with records of two stages."""
    return repository_of(tmp_path_factory.mktemp("kept"), DVC_YAML, ("teacher", "evaluate"))


@pytest.fixture()
def repository(kept: Path, tmp_path: Path) -> Path:
    return shutil.copytree(kept, tmp_path / "copy", symlinks=True)


@pytest.fixture()
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder with settings alone."""
    write_params(tmp_path, tiny("digits"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def refused(*words: str) -> str:
    """What a command says that ends with exit code 2."""
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 2, result.output
    assert "name a plain file" not in result.output
    return " ".join(result.output.split())


def do(folder: Path, command: str) -> None:
    """Do what a message says between its last backticks."""
    tool, *words = command.split()
    words = [sys.executable, "-m", "dvc", *words] if tool == "dvc" else [tool, *words]
    subprocess.run(words, cwd=folder, check=True, stdin=subprocess.DEVNULL, env=environment())


def as_record(path: Path) -> object:
    return read_record(path)


def as_metrics(path: Path) -> object:
    return read_metrics(path, "cgankd teacher")


@pytest.mark.parametrize("text", ['{"a" 1}', "", "{", "[]", '{"seal": "0"}'])
@pytest.mark.parametrize(
    ("name", "read", "way"),
    [
        ("metrics/teacher.json", as_metrics, "git checkout --"),
        ("artifacts/student.config.json", as_record, "dvc checkout --force"),
    ],
)
def test_the_way_back_is_named_where_a_record_no_longer_parses(
    repository: Path, name: str, read: Callable[[Path], object], way: str, text: str
) -> None:
    path = repository / name
    path.unlink()  # it may be a link into DVC's cache
    path.write_text(text)
    with pytest.raises(
        ConfigError, match="is damaged .*run `cgankd (teacher|evaluate)` again, or bring it back"
    ) as told:
        read(path)
    back = str(told.value).rpartition("bring it back with `")[2].removesuffix("`")
    assert back == f"{way} {name}"
    do(repository, back)
    assert read(path) == {}


@pytest.mark.parametrize("gone", [".git", "artifacts/digests/teacher.json", "dvc.lock"])
def test_no_way_back_is_named_that_nothing_vouches_for(repository: Path, gone: str) -> None:
    (repository / "metrics/teacher.json").write_text("{")
    if gone == ".git":
        shutil.rmtree(repository / gone)
    else:
        (repository / gone).write_text("{")
    with pytest.raises(ConfigError, match="is damaged") as told:
        as_metrics(repository / "metrics/teacher.json")
    assert ("bring it back" in str(told.value)) == (gone == "dvc.lock"), "the digest that was noted vouches for git's"


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "folder", "letters"])
def test_a_damaged_lock_is_named_with_its_cure(repository: Path, damage: str) -> None:
    lock = repository / "dvc.lock"
    whole = lock.read_bytes()
    lock.unlink()
    if damage == "folder":
        lock.mkdir()
        (lock / "any").touch()
    else:
        torn = {"flipped": whole.replace(b"outs:", b"\tuts:", 1), "cut": whole[:-20], "empty": b"", "letters": b"\xff"}
        lock.write_bytes(torn[damage])
    if damage not in ("cut", "empty"):
        with pytest.raises(ConfigError, match="git checkout -- dvc.lock"):
            read_lock(repository)
    (found,) = [finding for finding in examine(repository, only_repository=True) if finding.name == "dvc.lock"]
    assert found.level == "problem" and "`git checkout -- dvc.lock`" in found.cure, found
    do(repository, "git checkout -- dvc.lock")
    assert lock.read_bytes() == whole
    (found,) = [finding for finding in examine(repository, only_repository=True) if finding.name == "dvc.lock"]
    assert found.level == "ok"


def test_a_damaged_lock_that_git_has_not_whole_is_deleted(repository: Path) -> None:
    (repository / "dvc.lock").write_text("stages: [\n")
    git(repository, WHO, "add", "dvc.lock")
    with pytest.raises(ConfigError, match="dvc.lock, line .*; delete dvc.lock and run `dvc repro`$"):
        read_lock(repository)
    (repository / "dvc.lock").unlink()
    do(repository, "dvc repro")
    read_lock(repository)


def test_a_file_that_a_user_named_is_another_matter(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder, not a file; name a plain file"):
        check_regular(tmp_path)


@pytest.mark.parametrize(
    ("name", "words", "cure"),
    [
        ("artifacts/student.safetensors", ["export"], "move it away, then run `cgankd evaluate`"),
        ("artifacts/student.safetensors", ["predict", "photo.png"], "move it away, then run `cgankd evaluate`"),
        ("artifacts/student.safetensors", ["ship"], "move it away, then run `cgankd evaluate`"),
        ("artifacts/dataset.h5", ["teacher"], "move it away, then run `cgankd prepare`"),
        ("metrics/evaluate.json", ["compare"], "move it away, then run `cgankd evaluate`"),
        ("metrics/evaluate.json", ["report"], "move it away, then run `cgankd evaluate`"),
        ("metrics/evaluate.json", ["show", "evaluate"], "move it away, then run `cgankd evaluate`"),
        ("metrics/audit.json", ["report"], "move it away, then run `cgankd bank audit`"),
        ("params.yaml", ["report"], "move it away, then bring the file back or run `cgankd use PRESET`"),
        ("params.yaml", ["teacher"], "move it away, then bring the file back or run `cgankd use PRESET`"),
        ("artifacts/logs/evaluate.jsonl", ["sync"], "move it away, then give the same command"),
        ("artifacts/logs/evaluate.jsonl", ["show", "evaluate"], "move it away, then give the same command"),
    ],
)
def test_a_folder_in_the_place_of_a_file_is_to_be_moved(work: Path, name: str, words: list[str], cure: str) -> None:
    from PIL import Image

    Image.new("L", (8, 8), 90).save("photo.png")
    (work / name).unlink(missing_ok=True)
    (work / name).mkdir(parents=True)
    if name.endswith(".safetensors"):
        (work / "artifacts/student.config.json").write_text("{}")
    if words[0] == "show" and "logs" in name:
        (work / "metrics").mkdir()
        (work / "metrics/evaluate.json").write_text("{}")
    text = refused(*words)
    assert Path(name).name in text and "is a folder" in text and text.endswith(cure), text


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("artifacts/dataset.h5", "; move it away, then run `cgankd prepare`"),
        ("metrics/teacher.json", "; move it away, then run `cgankd teacher`"),
        ("metrics/own.json", "; name a plain file"),
        ("labels.csv", "; name a plain file"),
        ("../metrics/teacher.json", "; name a plain file"),
    ],
)
def test_a_project_below_a_folder_called_artifacts(tmp_path: Path, name: str, cure: str) -> None:
    project = tmp_path / "artifacts" / "project"
    project.mkdir(parents=True)
    write_params(project, tiny("digits"))
    (project / name).mkdir(parents=True)
    with pytest.raises(NotPlain) as raised:
        check_regular(project / name)
    assert in_its_place(raised.value).endswith(cure)


def test_weights_and_records_that_are_folders(work: Path) -> None:
    (work / "artifacts/teacher.config.json").mkdir(parents=True)
    (work / "artifacts/teacher.safetensors").touch()
    with pytest.raises(
        ConfigError, match="teacher.config.json is a folder, not a file; move it away, then run `cgankd teacher`$"
    ):
        load_weights(work / "artifacts/teacher.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [("metrics", ["report"]), ("artifacts/logs", ["sync"]), ("artifacts", ["report"]), ("artifacts", ["export"])],
)
@pytest.mark.parametrize("dangling", [False, True], ids=["file", "link to nothing"])
def test_a_file_in_the_place_of_a_folder_is_said(work: Path, name: str, words: list[str], dangling: bool) -> None:
    (work / name).parent.mkdir(exist_ok=True)
    (work / name).symlink_to("nothing") if dangling else (work / name).touch()
    text = refused(*words)
    assert name in text and "move it away" in text, text


def test_a_file_in_the_place_of_the_digests_turns_nothing_off(repository: Path) -> None:
    shutil.rmtree(repository / "artifacts/digests")
    (repository / "artifacts/digests").touch()
    with pytest.raises(ConfigError, match="artifacts/digests is a file, where a folder is needed; move it away"):
        check_made(repository / "artifacts/teacher.safetensors")
    (repository / "artifacts/digests").unlink()
    check_made(repository / "artifacts/teacher.safetensors")


def test_a_folder_in_the_place_of_the_store(work: Path) -> None:
    (work / "mlflow.db").mkdir()
    (found,) = [finding for finding in examine(work) if finding.name == "mlflow"]
    assert found.level == "warning" and "mlflow.db is a folder" in found.text and "move it away" in found.cure
    with pytest.raises(ConfigError, match="mlflow.db is a folder"):
        check_readable(work)


def test_a_file_in_the_place_of_the_files_of_runs(work: Path) -> None:
    (work / "mlruns").touch()
    with pytest.raises(ConfigError, match="mlruns is a file, where a folder is needed; move it away"):
        check_place(work)
    log = work / "artifacts/logs/evaluate.jsonl"
    log.parent.mkdir(parents=True)
    begin = {"kind": "run", "run": "a", "root": "a", "time_ms": 1, "name": "n", "mlflow": True, "experiment": "e"}
    log.write_text(json.dumps(begin) + "\n")
    assert "mlruns is a file" in refused("sync")
