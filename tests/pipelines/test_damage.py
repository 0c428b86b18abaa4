"""Bytes flipped, cut off or of elsewhere in every file of a finished project: named with the command that makes it again,
never a traceback, never used in silence.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cgankd.config import ConfigError
from pipelines.commands.app import app
from pipelines.commands.running import run_stage
from pipelines.files.artifacts import ResumeFile, write_json
from pipelines.files.kept_runs import kept_tensors, read_sealed
from pipelines.files.layout import STAGES
from pipelines.files.made import check_made, note_made
from pipelines.project.repository import WHO, dvc, environment, git, make_repository
from tests.tiny import tiny, unsealed, write_params

READERS = {
    "dataset.h5": ["teacher"],
    "unlabelled.h5": ["bank"],
    "teacher.safetensors": ["bank"],
    "teacher.config.json": ["student"],
    "cgan.safetensors": ["ratio"],
    "cgan.config.json": ["bank"],
    "ratio.safetensors": ["bank"],
    "ratio.config.json": ["bank"],
    "pool.h5": ["student"],
    "bank.h5": ["bank", "audit"],
    "students": ["evaluate"],
    "student.safetensors": ["predict", "photo.png"],
    "student.config.json": ["predict", "photo.png"],
}
"""Artifact -> a command that reads it."""
SEARCH = ["search", "--trials", "1", "--study", "n1"]
ONNX = "predict photo.png --enlarge --model artifacts/export/student.onnx"
PT2 = "predict photo.png --enlarge --model sent/student.pt2"
LATER: dict[str, list[list[str]]] = {
    "artifacts/dataset.h5": [["report"], ["ship"], SEARCH],
    "artifacts/teacher.safetensors": [["ship"], SEARCH],
    "artifacts/pool.h5": [["report"]],
    "artifacts/bank.h5": [["report"]],
    "artifacts/student.config.json": [["ship"], ["export"]],
    "artifacts/students/runs.json": [["ship"], ["show", "student"]],
    "metrics/prepare.json": [["ship"], ["report"]],
    "metrics/evaluate.json": [["ship"], ["export"], ["report"]],
    "metrics/repeat.json": [["report"]],
    "artifacts/export/student.onnx": [ONNX.split(), ["ship"], ["export", "--to", "web"]],
    "artifacts/export/student.pt2": [ONNX.replace("onnx", "pt2").split(), ["ship"]],
    "artifacts/export/export.json": [ONNX.split(), ["report"], ["ship"], ["export", "--to", "web"]],
    "artifacts/own-programs.json": [PT2.split()],
}
"""File -> commands beside the stages that read it."""
FLIPS = 3
"""Bytes that are flipped in each file, one at a time."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after all seven stages, of the tiniest settings."""
    folder = tmp_path_factory.mktemp("whole")
    values = tiny("digits")
    values["tracking"] |= {"mlflow": False}
    arms = values["student"]["arms"]
    values["student"] |= {
        "num_steps": 4,
        "best_with_kd": False,
        "arms": {name: arms[name] for name in ("real", "filter")},
    }
    values["teacher"]["num_steps"] = 4
    write_params(folder, values)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for stage in STAGES:
            run_stage(stage, None)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def exported(whole: Path) -> Path:
    """The project with what `cgankd export` makes of it, and the numbers of a repeat."""
    from pipelines.ship.export import export

    export(whole, whole / "artifacts" / "export", level=0.9, int8_tolerance=0.1, repeats=1)
    shutil.copytree(whole / "artifacts" / "export", whole / "sent")
    shown = {"verdict": "none", "arms": {}, "chosen": {}, "settings": {}, "headline": {"unit": "%"}}
    shown |= {"num_draws": 0, "seeds": [], "num_students": 1, "confidence": 0.95, "teacher": {"mean": 1.0}}
    write_json(whole / "metrics" / "repeat.json", shown)
    note_made(whole, "repeat")
    return whole


@pytest.fixture()
def copy(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, by links, and the working directory of the test."""
    shutil.copytree(whole, tmp_path / "copy", copy_function=os.link)
    monkeypatch.chdir(tmp_path / "copy")
    from PIL import Image

    Image.new("L", (8, 8), 90).save("photo.png")
    return tmp_path / "copy"


def damages(data: bytes, seed: str) -> Iterator[tuple[str, bytes]]:
    """What can become of a file: flipped bits at seeded places, half of it, nothing of it, and another file."""
    rand = random.Random(seed)
    for _ in range(FLIPS):
        place = rand.randrange(len(data))
        yield f"bit of byte {place}", data[:place] + bytes([data[place] ^ 1 << rand.randrange(8)]) + data[place + 1 :]
    yield "half", data[: len(data) // 2]
    yield "empty", b""
    yield "foreign", rand.randbytes(500)


def put(path: Path, data: bytes) -> None:
    """Replace a linked file without touching the one it is linked to."""
    path.unlink()
    path.write_bytes(data)


def outcome(*words: str) -> tuple[int, str]:
    """Exit code and output of a command; a traceback fails the test."""
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"cgankd {' '.join(words)} ended in a traceback") from result.exception
    return result.exit_code, " ".join(result.output.split())


def of(copy: Path, name: str) -> list[Path]:
    """The files of an artifact."""
    path = copy / "artifacts" / name
    return sorted(path.iterdir()) if path.is_dir() else [path]


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_artifact_is_named_with_its_stage_and_not_used(copy: Path, name: str) -> None:
    tried = 0
    for path in of(copy, name):
        good = path.read_bytes()
        for what, data in damages(good, path.name):
            put(path, data)
            code, output = outcome(*READERS[name])
            assert code == 2, f"{path.name}, {what}: {output}"
            assert path.name in output or "config.json" in output, f"{path.name}, {what}: {output}"
            assert "cgankd " in output and len(output) < 1000, output
            tried += 1
        put(path, good)
    assert tried >= FLIPS + 3


@pytest.mark.parametrize("name", LATER)
def test_a_damaged_file_is_named_by_what_is_run_later(exported: Path, copy: Path, name: str) -> None:
    path = copy / name
    good = path.read_bytes()
    text = [("list", b"[1]"), ("deep", b"[" * 5000), ("text", b'"\xff"')]
    text += [("object", b"{}")] if name != "artifacts/own-programs.json" else []  # which knows no program then
    for what, data in [*damages(good, name), *(text if path.suffix == ".json" else [])]:
        put(path, data)
        for words in LATER[name]:
            if words[0] == "report":
                words = [*words, "--no-track"]
            code, output = outcome(*words)
            assert code == 2, f"{name}, {what}, {words}: {output}"
            assert path.name in output or "export.json" in output or "config.json" in output, (
                f"{what}, {words}: {output}"
            )
            assert "run `cgankd " in output and len(output) < 1200, f"{what}, {words}: {output}"
    assert not (copy / "mlflow.db").exists() and not (copy / "artifacts" / "search.db").exists()


def test_what_is_whole_is_used_by_what_is_run_later(exported: Path, copy: Path) -> None:
    for words in (ONNX.split(), ONNX.replace("onnx", "pt2").split(), PT2.split(), ["report", "--no-track"]):
        code, output = outcome(*words)
        assert code == 0, f"{words}: {output}"


def test_a_damaged_model_card_is_written_again_by_ship(
    exported: Path, copy: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_store, copy / "mlflow.db")
    assert outcome("ship")[0] == 0
    card = copy / "artifacts" / "model_card.md"
    good = card.read_bytes()
    for _, data in damages(good, card.name):
        put(card, data)
    code, output = outcome("ship")
    assert code == 0 and "registered before" in output and card.read_bytes() == good


class Hangs(Exception):
    """A command waits for what never comes."""


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dvc.lock", ["compare"]),
        ("dvc.lock", ["report", "--no-track"]),
        ("artifacts/digests/teacher.json", ["show", "teacher"]),
        ("metrics/evaluate.json", ["compare"]),
        ("artifacts/students/runs.json", ["show", "student"]),
        ("artifacts/own-programs.json", PT2.split()),
        ("artifacts/export/export.json", ONNX.split()),
    ],
)
def test_what_never_ends_is_not_read(exported: Path, copy: Path, name: str, words: list[str], kind: str) -> None:
    path = copy / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")

    def late(number: int, frame: object) -> None:
        raise Hangs(name)

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)  # only so that a fault ends this test and not all tests
    try:
        code, output = outcome(*words)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert code == 2 and path.name in output, output


@pytest.mark.parametrize("stage", STAGES)
def test_damaged_metrics_are_named_by_whatever_shows_them(copy: Path, stage: str) -> None:
    path = copy / "metrics" / f"{stage}.json"
    good = path.read_bytes()
    for what, data in [*damages(good, stage), ("list", b"[1]"), ("deep", b"[" * 5000), ("text", b'"\xff"')]:
        put(path, data)
        for words in (["show", stage], ["report", "--no-track"], *([["compare"]] if stage == "evaluate" else [])):
            code, output = outcome(*words)
            assert code == 2 and f"{stage}.json" in output and f"cgankd {stage}" in output, f"{what}: {words}: {output}"


def test_metrics_of_another_shape_are_named_where_no_record_tells(copy: Path) -> None:
    unsealed(copy)
    good = json.loads((copy / "metrics" / "evaluate.json").read_text())
    for key in good:
        for value in (None, [], {}, "x", 3):
            put(copy / "metrics" / "evaluate.json", json.dumps(good | {key: value}).encode())
            for words in (["show", "evaluate"], ["compare"]):
                code, output = outcome(*words)
                assert code in (0, 2) and (code == 0 or "evaluate.json" in output), output


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_a_damaged_record_of_digests_is_named(copy: Path, stage: str) -> None:
    path = copy / "artifacts" / "digests" / f"{stage}.json"
    good = path.read_bytes()
    for what, data in damages(good, stage):
        put(path, data)
        code, output = outcome("show", stage)
        assert code == 2 and f"cgankd {stage}" in output and f"{stage}.json" in output, f"{what}: {output}"


def test_a_damaged_log_or_lock_is_no_traceback(copy: Path) -> None:
    (copy / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    files = [*sorted((copy / "artifacts" / "logs").iterdir()), copy / "dvc.lock"]
    for path in files:
        good = path.read_bytes()
        for what, data in [*damages(good, path.name), ("other", b"[1, 2]\n"), ("numbers", b"stages: [3]\n")]:
            put(path, data)
            for words in (["show", path.stem if path.suffix == ".jsonl" else "evaluate"], ["compare"]):
                code, output = outcome(*words)
                assert code in (0, 2), f"{path.name}, {what}: {output}"
        put(path, good)


def test_what_is_kept_for_later_counts_for_nothing_once_damaged(copy: Path) -> None:
    resume = copy / "artifacts" / "resume"
    records = [path for path in resume.rglob("*.json") if not path.name.endswith(".config.json")]
    assert {path.parent.name for path in records} >= {"student", "gans", "bank"}
    tried = 0
    for record in records:
        assert read_sealed(record) is not None
        for path in sorted(p for p in record.parent.glob(f"{record.stem}*") if p.suffix != ".lock"):
            good = path.read_bytes()
            for what, data in damages(good, path.name):
                put(path, data)
                assert read_sealed(record) is None, f"{path.name}, {what}"
                assert path.suffix != ".safetensors" or kept_tensors(path) is None
                tried += 1
            put(path, good)
        assert read_sealed(record) is not None
    assert tried > 60


def test_saved_progress_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    path, state = tmp_path / "train.resume", {"w": torch.arange(300.0), "steps": [1, 2]}
    ResumeFile(path, "mark", on_save=lambda: {"curve": [1.5]}).save(7, state)
    good, rand, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        place = rand.randrange(len(good))
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << rand.randrange(8)]) + good[place + 1 :])
        seen: list[object] = []
        found = ResumeFile(path, "mark", on_load=lambda step, more, seen=seen: seen.extend((step, more))).load()
        if found is None:
            refused += 1
            continue
        weights = found["w"]
        assert isinstance(weights, torch.Tensor) and torch.equal(weights, torch.arange(300.0)), place
        assert found["steps"] == [1, 2] and seen == [7, {"curve": [1.5]}], place
    assert refused > 100


def test_a_damaged_kept_student_is_trained_again_and_evaluated(copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in (copy / "artifacts" / "students").iterdir()}
    kept = sorted((copy / "artifacts" / "resume" / "student").glob("*.safetensors"))
    for path in kept[:1]:
        data = bytearray(path.read_bytes())
        data[-5] ^= 4
        put(path, bytes(data))
    code, output = outcome("student")
    assert code == 0 and f"{len(kept) - 1} of {len(kept)} runs were finished before" in output, output
    assert outcome("evaluate")[0] == 0
    assert {path.name: path.read_bytes() for path in (copy / "artifacts" / "students").iterdir()} == before


DVC_YAML = """
stages:
  teacher:
    cmd: echo 1 > artifacts/teacher.safetensors && echo 2 > metrics/teacher.json
    outs: [artifacts/teacher.safetensors]
    metrics: [metrics/teacher.json: {cache: false}]
  student:
    cmd: mkdir -p artifacts/students && echo 3 > artifacts/students/a.json
    outs: [artifacts/students]
"""


def repository_of(folder: Path, dvc_yaml: str, stages: tuple[str, ...]) -> Path:
    """A repository of git and DVC with the files of stages, all committed, as `cgankd init` and `dvc repro` leave them."""
    for name in ("artifacts", "metrics"):
        (folder / name).mkdir()
    (folder / "dvc.yaml").write_text(dvc_yaml)
    (folder / ".gitignore").write_text("/artifacts/\n")
    make_repository(folder, None, "first", print)
    dvc(folder, "repro")
    for stage in stages:
        note_made(folder, stage)
    git(folder, WHO, "add", "--all")
    git(folder, WHO, "commit", "--quiet", "--message", "second")
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository_of(tmp_path_factory.mktemp("kept"), DVC_YAML, ("teacher", "student"))


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "in dvc.lock alone"])
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("metrics/teacher.json", "git checkout --"),
        ("artifacts/teacher.safetensors", "dvc checkout --force"),
        ("artifacts/students/a.json", "dvc checkout --force"),
    ],
)
def test_the_named_way_back_works(kept: Path, tmp_path: Path, name: str, way: str, noted: bool) -> None:
    folder = shutil.copytree(kept, tmp_path / "copy", symlinks=True)
    if not noted:
        shutil.rmtree(folder / "artifacts" / "digests")
    part = Path(*Path(name).parts[:2])  # what a stage leaves, a file or a folder
    (folder / name).write_text("other\n")
    with pytest.raises(ConfigError, match="is damaged or of elsewhere") as told:
        check_made(folder / part)
    back = str(told.value).rpartition("bring it back with `")[2].removesuffix("`")
    assert back.startswith(f"{way} {part if not noted else name}")
    tool, *words = back.split()
    command = [sys.executable, "-m", "dvc", *words] if tool == "dvc" else [tool, *words]
    subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL, env=environment())
    check_made(folder / part)


@pytest.mark.parametrize("name", ["artifacts/teacher.safetensors", "artifacts/students/a.json"])
def test_a_way_back_to_an_earlier_run_is_not_named(kept: Path, tmp_path: Path, name: str) -> None:
    """A stage was run by itself after `dvc repro`: what DVC has does not go with the other files of that stage."""
    folder = shutil.copytree(kept, tmp_path / "copy", symlinks=True)
    stage = "teacher" if "teacher" in name else "student"
    (folder / name).unlink()  # a link into DVC's cache, or a copy
    (folder / name).write_text("later\n")
    note_made(folder, stage)
    (folder / name).write_text("other\n")
    with pytest.raises(ConfigError, match=f"is damaged or of elsewhere.* run `cgankd {stage}` again$"):
        check_made(folder / name)


def test_a_way_back_whose_file_left_the_cache_is_not_named(kept: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(kept, tmp_path / "copy", symlinks=True)
    (folder / "artifacts/students/a.json").write_text("other\n")
    other = tmp_path / "store"
    shutil.move(folder / ".dvc/cache", other)
    with pytest.raises(ConfigError, match="run `cgankd student` again$"):
        check_made(folder / "artifacts/students")
    (folder / ".dvc/config.local").write_text(f"[cache]\n    dir = {other}\n")
    with pytest.raises(ConfigError, match="bring it back with `dvc checkout --force artifacts/students/a.json`$"):
        check_made(folder / "artifacts/students")


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("metrics/teacher.json", ".git"),
        ("metrics/teacher.json", "metrics"),
        ("artifacts/teacher.safetensors", ".dvc"),
        ("artifacts/teacher.safetensors", "dvc.yaml"),
        ("artifacts/teacher.safetensors", "dvc.lock"),
    ],
)
def test_a_way_back_that_does_not_work_is_not_named(kept: Path, tmp_path: Path, name: str, gone: str) -> None:
    folder = shutil.copytree(kept, tmp_path / "copy", symlinks=True)
    (folder / name).write_text("other\n")
    if gone == "metrics":  # the damaged file was committed
        git(folder, WHO, "add", "metrics")
    elif (folder / gone).is_dir():
        shutil.rmtree(folder / gone)
    else:
        (folder / gone).unlink()
    with pytest.raises(ConfigError, match="run `cgankd teacher` again$"):
        check_made(folder / name)
