"""What a stage leaves changes together: a disk that is full at any rename leaves the earlier files or brings all new ones."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.files import artifacts
from pipelines.files.artifacts import load_weights, save_weights
from pipelines.files.layout import OUTPUTS, STAGES, unplaced
from pipelines.files.made import check_made
from pipelines.files.writing import DiskError, disk_sentence
from pipelines.locks.leftovers import sweep
from pipelines.runtime import outputs
from pipelines.runtime.context import Context
from pipelines.runtime.opening import open_stage
from pipelines.stages import student
from tests.tiny import tiny, write_params

OTHER = {stage: ["seed=1"] for stage in STAGES} | {"evaluate": ["evaluate.confidence=0.9"]}
"""Settings under which a stage leaves other files than before."""


def values() -> dict[str, Any]:
    """Settings under which all stages take seconds."""
    found = tiny("digits")
    found["tracking"] |= {"mlflow": False}
    found["teacher"] |= {"num_steps": 3}
    found["cgan"] |= {"num_steps": 3}
    found["ratio"] |= {"feature_steps": 3, "num_steps": 3}
    found["bank"] |= {"num_fakes": 20, "burn_in": 20}
    found["student"] |= {"num_steps": 3, "arms": {"real": {}, "raw": {"bank": True}}, "best_with_kd": False}
    return found


def run_here(function: Callable[[Any], Any], jobs: Sequence[Any], *more: Any) -> None:
    """In place of worker processes, whose start takes longer than the trainings."""
    for job in jobs:
        function(job)


@contextmanager
def quick() -> Iterator[None]:
    """Without pictures, which are no part of this, and without workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "picture", lambda *args, **options: None)
        patch.setattr(student, "run_jobs", run_here)
        yield


def run(stage: str, folder: Path, settings: Sequence[str] = ()) -> None:
    with quick(), open_stage(stage, settings, folder) as ctx:
        importlib.import_module(f"pipelines.stages.{stage}").run(ctx)


@contextmanager
def full_disk(fails_at: int) -> Iterator[list[str]]:
    """The rename of this number fails, and all after it; those of logs and of what is kept for a next run are not counted.
    Gives the names they were to give."""
    asked, real = list[str](), os.replace

    def replace(source: Any, target: Any) -> None:
        name = str(target)
        if "/logs/" not in name and ("/resume/" not in name or "/resume/made/" in name):
            asked.append(name)
            if len(asked) >= fails_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        yield asked


def left(folder: Path) -> dict[str, bytes]:
    """All that stages left, by name."""
    files = [p for part in ("artifacts", "metrics", "plots") for p in (folder / part).rglob("*") if p.is_file()]
    beside = {"logs", "resume", "cache"}
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if not beside & set(p.parts[len(folder.parts) :])}


def restore(folder: Path, files: dict[str, bytes]) -> None:
    for name in left(folder).keys() - files.keys():
        (folder / name).unlink()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def check_all(folder: Path) -> None:
    """Every file passes its checks, and no weights are without their config."""
    for name in (name for names in OUTPUTS.values() for name in names):
        check_made(folder / "artifacts" / name)
        if name.endswith(".safetensors"):
            load_weights(folder / "artifacts" / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run."""
    folder = tmp_path_factory.mktemp("made") / "project"
    folder.mkdir()
    write_params(folder, values())
    for stage in STAGES:
        run(stage, folder)
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_at_the_renames_of_a_full_disk(tmp_path: Path, made: Path, stage: str) -> None:
    folder, plain = tmp_path / "project", tmp_path / "plain"
    for copy in (folder, plain):
        shutil.copytree(made, copy)
    before = left(folder)
    with full_disk(10**9) as asked:
        run(stage, plain, OTHER[stage])
    good = left(plain)
    turning = 1 + asked.index(str(unplaced(plain, stage)))
    turns = {turning // 2, turning, turning + 2}
    assert good != before and len(asked) >= turning + 2
    for turn in sorted(turns):
        restore(folder, before)
        with full_disk(turn), pytest.raises((DiskError, OSError)) as caught:
            run(stage, folder, OTHER[stage])
        text = disk_sentence(caught.value) if isinstance(caught.value, OSError) else str(caught.value)
        assert "No space left on device" in text and str(folder) in text and "\n" not in text
        if turn > turning:
            if turn < len(asked):
                with pytest.raises(ValueError, match=f"run `cgankd {stage}` again"):
                    check_made(folder / "metrics" / f"{stage}.json")
            outputs.place_all(folder)
        else:
            assert "resume/made" not in text
        assert left(folder) == (before if turn <= turning else good), (
            f"rename {turn} of {len(asked)}: {asked[turn - 1]}"
        )
        check_all(folder)
    restore(folder, before)
    run(stage, folder, OTHER[stage])
    assert left(folder) == good and not list((folder / "artifacts/resume/made").iterdir())
    assert not list(folder.rglob("*.tmp"))


def new_students(folder: Path) -> outputs.Outputs:
    """A folder with earlier files of the stage `student`, and new ones that have no places yet."""
    for name in ("artifacts/students/old.json", "artifacts/students/both.json", "metrics/student.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("former")
    made = outputs.Outputs(folder, "student")
    for name in ("artifacts/students/new.json", "artifacts/students/both.json", "metrics/student.json"):
        made.path(name).write_text("new")
    return made


def is_new(folder: Path) -> bool:
    found = left(folder)
    students = {"artifacts/students/new.json", "artifacts/students/both.json"}
    files = {*students, "metrics/student.json", "artifacts/digests/student.json"}
    return found.keys() == files and all(found[name] == b"new" for name in (*students, "metrics/student.json"))


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_kill_at_any_rename_leaves_the_former_files_or_is_made_good_by_the_next_start(tmp_path: Path) -> None:
    real = os.replace
    for turn in range(1, 20):
        folder, calls = tmp_path / str(turn), list[str]()
        made = new_students(folder)
        before = left(folder)

        def replace(source: Any, target: Any, turn: int = turn, calls: list[str] = calls) -> None:
            calls.append(str(target))
            if len(calls) == turn:
                raise Killed
            real(source, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", replace)
            try:
                made.place()
                killed = False
            except Killed:
                killed = True
        ready = unplaced(folder, "student")
        if killed and not ready.exists():
            assert left(folder) == before
            sweep(folder, 10**19)
            assert not list(ready.parent.iterdir()) and left(folder) == before
            continue
        outputs.place_all(folder)
        assert is_new(folder) and not ready.exists(), turn
        check_made(folder / "artifacts/students")
        if not killed:
            assert turn > 5
            return
    raise AssertionError("there was no end of the renames")


def test_a_folder_that_is_kept_elsewhere_stays_there_also_on_another_disk(tmp_path: Path) -> None:
    folder, elsewhere, real = tmp_path / "project", tmp_path / "elsewhere", os.replace
    made = new_students(folder)
    (folder / "artifacts/students").rename(elsewhere)
    (folder / "artifacts/students").symlink_to(elsewhere)

    def replace(source: Any, target: Any) -> None:
        if (Path(source).parent == tmp_path) != (Path(target).parent == tmp_path):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        made.place()
    assert (folder / "artifacts/students").is_symlink()
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == {"new.json": "new", "both.json": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "project"]


def test_weights_that_cannot_be_written_leave_the_former_config_too(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    save_weights(path, {"w": torch.zeros(3)}, {"precision": "bf16"})
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "save_file", failing)
        with pytest.raises(DiskError, match=r"teacher\.safetensors cannot be written"):
            save_weights(path, {"w": torch.ones(3)}, {"precision": "fp32"})
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def failing(*given: Any, **options: Any) -> None:
    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
