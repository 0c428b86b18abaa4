"""A disk that is full, read-only or not what is expected, at each write of a stage: one sentence, earlier files as they were,
and the same command goes on.
"""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from cgankd.config import to_dict
from cgankd.data.store import files, writing
from cgankd.data.store.banks import BankWriter, PoolRows
from cgankd.data.store.datasets import write_dataset
from cgankd.data.store.writing import Unwritten
from cgankd.nets.autoencoders import make_extractor
from cgankd.nets.ratio_mlp import RatioMLP
from pipelines.commands.app import app
from pipelines.commands.errors import sentence
from pipelines.files import artifacts
from pipelines.files.artifacts import ResumeFile, save_weights, write_json
from pipelines.files.params import load_config
from pipelines.files.writing import DiskError, disk_sentence, replacing
from pipelines.runtime import room
from pipelines.runtime.opening import open_context
from tests.conftest import ROOT
from tests.pipelines.finished import made_data
from tests.tiny import tiny, write_params

NUMBERS = [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR, errno.EIO]


def write_pool(path: Path, blocks: int = 20) -> None:
    """A pool of 16x16 images, block by block."""
    with BankWriter(path, (1, 16, 16), 3, torch.int64) as writer:
        for block in range(blocks):
            n, gen = 200, torch.Generator().manual_seed(block)
            noise = torch.randint(256, (n, 1, 16, 16), dtype=torch.uint8, generator=gen)
            zeros, labels = torch.zeros(n), torch.zeros(n, dtype=torch.int64)
            outputs = torch.zeros(n, 3).half()
            writer.append(PoolRows(noise, labels, labels, zeros, zeros, outputs, zeros, zeros.int()))
        writer.set_columns({"in_raw": torch.ones(len(writer), dtype=torch.bool)})
        writer.close({"config": "{}" * 200})


WRITERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda path: save_weights(path, {"w": torch.arange(200_000.0)}, {"net": "x"}),
    "json": lambda path: write_json(path, {"x": "y" * 500_000}),
    "data set": lambda path: write_dataset(path, made_data(False)),
    "pool": write_pool,
}


class Disk:
    """The calls by which files come to the disk; the one of this number fails, and all after it."""

    def __init__(self, fails_at: int, number: int) -> None:
        self.fails_at, self.number, self.calls = fails_at, number, 0

    def call(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """A call that counts, and fails once it is its turn."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls >= self.fails_at:
                raise OSError(self.number, os.strerror(self.number))
            return real(*args, **kwargs)

        return counted


@contextmanager
def failing(disk: Disk) -> Iterator[None]:
    """Renames, room for HDF5 files, tensors and bytes of files go by way of the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "sync", disk.call(writing.sync))
        patch.setattr(writing, "allocate", disk.call(writing.allocate))
        patch.setattr(writing.os, "replace", disk.call(os.replace))
        patch.setattr(artifacts, "save_file", disk.call(artifacts.save_file))
        patch.setattr(Path, "write_bytes", disk.call(Path.write_bytes))
        patch.setattr(Path, "write_text", disk.call(Path.write_text))
        yield


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", WRITERS)
def test_each_write_that_fails_leaves_the_former_file_and_names_it(tmp_path: Path, kind: str, number: int) -> None:
    path, write = tmp_path / "made.safetensors", WRITERS[kind]
    path.write_bytes(b"former")
    counter = Disk(10**9, number)
    with failing(counter):
        write(path)
    good = path.read_bytes()
    assert good != b"former" and counter.calls >= 3
    for turn in range(1, counter.calls + 1):
        path.write_bytes(b"former")
        with failing(Disk(turn, number)), pytest.raises((DiskError, Unwritten)) as caught:
            write(path)
        error = caught.value
        text = disk_sentence(error) if isinstance(error, OSError) else str(error)
        assert str(path.parent) in text and "\n" not in text and len(text) < 400, text
        assert path.read_bytes() in (b"former", good)  # the latter where the name itself is not yet on the disk
        assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp" or p.name.endswith(".room")] == []
    write(path)
    assert kind in ("data set", "pool") or path.read_bytes() == good


LIMITED = """
import resource, sys
from pathlib import Path
from tests.pipelines.test_disk import WRITERS
from pipelines.commands.errors import plain_errors
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
with plain_errors():
    WRITERS[sys.argv[1]](Path(sys.argv[2]))
"""


@pytest.mark.parametrize("kind", WRITERS)
def test_a_real_limit_is_one_sentence_and_no_crash_of_a_library(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "made.safetensors"
    code = LIMITED.replace("with plain_errors():", "import typer\ntry:\n  with plain_errors():").replace(
        "    WRITERS[sys.argv[1]](Path(sys.argv[2]))",
        "    WRITERS[sys.argv[1]](Path(sys.argv[2]))\nexcept typer.Exit as left:\n  sys.exit(left.exit_code)",
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, kind, str(path), "20000"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr[-2000:]
    assert "File too large" in done.stderr and "it needs" in done.stderr and "made.safetensors" in done.stderr
    assert not path.exists()


def test_the_error_of_a_worker_comes_back_whole() -> None:
    error = Unwritten(errno.ENOSPC, "No space left on device", "/a/b")
    error.needed = 3_000_000
    again = pickle.loads(pickle.dumps(error))
    assert disk_sentence(again) == disk_sentence(error) and "it needs 3.0 MB" in disk_sentence(again)


def test_room_is_taken_for_all_that_a_pool_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = list[int]()
    real = writing.allocate
    monkeypatch.setattr(writing, "allocate", lambda path, size: (taken.append(size), real(path, size))[1])
    write_pool(tmp_path / "pool.h5")
    size = (tmp_path / "pool.h5").stat().st_size
    assert size <= max(taken) < 1.5 * size + 2**20
    assert (tmp_path / "pool.h5").stat().st_blocks * 512 < size + 2**17  # what was not needed is given back
    with files.creating(tmp_path / "a.h5") as (file, space):
        for i in range(50):
            files.put(file, space, f"x{i}", np.zeros(10))
        files.put_attributes(file, space, {f"k{i}": "v" * 300 for i in range(50)})
    assert (tmp_path / "a.h5").stat().st_size <= max(taken)
    with h5py.File(tmp_path / "a.h5") as file:
        assert len(file) == 50


def test_progress_that_cannot_be_saved_is_said_once_and_training_goes_on(tmp_path: Path) -> None:
    said = list[str]()
    resume = ResumeFile(tmp_path / "a" / "train.resume", "mark", said.append)
    resume.save(1, {"w": torch.zeros(3)})
    before = resume.path.read_bytes()
    with failing(Disk(1, errno.ENOSPC)):
        for step in (2, 3):
            resume.save(step, {"w": torch.ones(3)})
    assert len(said) == 1 and "goes on without" in said[0] and "train.resume" in said[0]
    assert resume.path.read_bytes() == before and len(list(resume.path.parent.iterdir())) == 1
    resume.save(4, {"w": torch.ones(3)})
    assert (resume.load() or {})["w"].sum() == 3  # type: ignore[attr-defined]


@pytest.fixture()
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tiny settings and a data set, and the working directory of the test."""
    values = tiny("digits")
    values["tracking"] |= {"mlflow": False}
    values["teacher"]["num_steps"] = 3
    write_params(tmp_path, values)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["prepare"])
    assert result.exit_code == 0, result.output
    return tmp_path


def test_a_stage_at_each_write_of_a_full_disk(project: Path) -> None:
    counter = Disk(10**9, errno.ENOSPC)
    shutil.copytree(project, project.parent / "plain")
    os.chdir(project.parent / "plain")
    with failing(counter):
        assert CliRunner().invoke(app, ["teacher"]).exit_code == 0
    good = (project.parent / "plain/artifacts/teacher.safetensors").read_bytes()
    os.chdir(project)
    dataset = (project / "artifacts/dataset.h5").read_bytes()
    for turn in range(1, counter.calls + 1):
        with failing(Disk(turn, errno.ENOSPC)):
            result = CliRunner().invoke(app, ["teacher"])
        assert result.exit_code == 2, f"write {turn} of {counter.calls}: {result.exception!r}"
        error = [line for line in result.output.splitlines() if line.startswith("error: ")]
        assert len(error) == 1 and "No space left on device" in error[0] and str(project) in error[0]
        assert (project / "artifacts/dataset.h5").read_bytes() == dataset
    assert CliRunner().invoke(app, ["teacher"]).exit_code == 0
    assert (project / "artifacts/teacher.safetensors").read_bytes() == good
    assert not list(project.rglob("*.tmp"))


@pytest.mark.parametrize(
    "name", ["artifacts/logs", "artifacts/resume/teacher", "metrics", "plots/teacher", "artifacts/digests", "plots"]
)
def test_a_file_where_a_folder_is_needed_is_said_before_the_work(project: Path, name: str) -> None:
    path = project / name
    if path.exists():
        path.rename(project / "away")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    result = CliRunner().invoke(app, ["teacher"])
    assert result.exit_code == 2 and f"{path} is a file, but a folder is needed" in result.output
    assert path.read_text() == "in the way" and not (project / "artifacts/teacher.safetensors").exists()


@pytest.mark.parametrize("name", ["artifacts/teacher.safetensors", "metrics/teacher.json"])
def test_a_folder_where_a_file_is_written_is_said_before_the_work(project: Path, name: str) -> None:
    (project / name).mkdir(parents=True)
    result = CliRunner().invoke(app, ["teacher"])
    assert result.exit_code == 2 and f"{project / name} is a folder" in result.output
    assert "computing on" not in result.output


@pytest.mark.parametrize(
    "name",
    [
        "resume/teacher/x.json",
        "resume/members/x.safetensors",
        "resume/bank.lock",
        "logs/teacher.jsonl",
        "digests/bank.json",
    ],
)
def test_a_folder_with_the_name_of_a_file_of_the_program_is_said_before_the_work(project: Path, name: str) -> None:
    path = project / "artifacts" / name
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)
    result = CliRunner().invoke(app, ["teacher"])
    assert result.exit_code == 2, result.output
    assert f"{path} is a folder, but a file is written there; move it away and run the same command" in result.output
    assert "computing on" not in result.output and "name a file" not in result.output
    path.rename(project / "away")
    assert CliRunner().invoke(app, ["teacher"]).exit_code == 0


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_only_who_can_name_another_file_is_told_to(number: int) -> None:
    error = Unwritten(number, os.strerror(number), "/a/model_card.md")
    assert disk_sentence(error).endswith("; work in a folder of your own, or get leave to write there")
    assert disk_sentence(error, named=True).endswith("; name a file in a folder you may write to")
    lock = OSError(number, os.strerror(number), "/a/sync.lock")
    assert disk_sentence(lock).endswith("; work in a folder of your own, or get leave to write there")


def test_a_folder_in_place_of_a_lock_is_to_be_moved_away(tmp_path: Path) -> None:
    error = OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(tmp_path / "sync.lock"))
    (tmp_path / "sync.lock").mkdir()
    assert "sync.lock is a folder, but a file is written there; move it away" in disk_sentence(error)


def test_the_numbers_of_a_full_disk_do_not_contradict_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = Unwritten(errno.ENOSPC, "No space left on device", str(tmp_path / "x.h5"))
    error.needed = 197_000
    monkeypatch.setattr("pipelines.files.writing.free_bytes", lambda path: 229_000)
    assert "it needs 197 kB, and other files need room there too; make room" in disk_sentence(error)
    monkeypatch.setattr("pipelines.files.writing.free_bytes", lambda path: 196_900)
    assert "are free" not in disk_sentence(error), "197 kB and 197 kB"
    monkeypatch.setattr("pipelines.files.writing.free_bytes", lambda path: 12_000)
    assert "it needs 197 kB, 12 kB are free there; make room and run" in disk_sentence(error)


def test_what_an_hdf5_file_lacks_is_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()

    def full(path: Path, size: int) -> None:
        asked.append(size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "allocate", full)
    with pytest.raises(Unwritten) as caught:
        writing.Reserved(tmp_path / "x", tmp_path / "x").take(1000)
    assert [caught.value.needed] == asked


def test_a_limit_is_raised_and_a_full_store_needs_room(monkeypatch: pytest.MonkeyPatch) -> None:
    error = Unwritten(errno.EFBIG, "File too large", "/a/pool.h5")
    error.needed = 400_000
    full = sqlite3.OperationalError("database or disk is full")
    told = sentence(full)
    assert "make room there, then give the same command" in told and "sync" not in told and "bring" not in told
    met = sqlite3.OperationalError("disk I/O error")
    assert "over a quota or fails" in sentence(met) and "is full" not in sentence(met)
    monkeypatch.setattr("pipelines.files.writing.size_limit", lambda: 307_200)
    monkeypatch.setattr("pipelines.tracking.answers.size_limit", lambda: 307_200)
    said = disk_sentence(error)
    assert "it needs 400 kB, the limit of a file's size (ulimit -f) is 307 kB; raise it and run the same" in said
    assert "make room" not in said and "(ulimit -f); raise that" in sentence(met) and "full" not in sentence(met)
    damaged = sqlite3.DatabaseError("file is not a database")
    assert "move it away, and `cgankd sync` fills a new one" in sentence(damaged)


def test_a_stage_that_will_not_fit_is_not_begun(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda path: 2**20)
    result = CliRunner().invoke(app, ["teacher"])
    assert result.exit_code == 2 and "`cgankd teacher` will write about" in result.output, result.output
    assert "1.0 MB are free" in result.output and "computing on" not in result.output


def test_estimates_are_near_what_is_written(project: Path) -> None:
    cfg = load_config(project / "params.yaml")
    size = (project / "artifacts/dataset.h5").stat().st_size
    assert abs(room.will_write("prepare", cfg, project) - room.SMALL - size) < 0.3 * size
    with replacing(project / "x", 5):
        (project / f".x.{os.getpid()}.tmp").write_text("12345")


@pytest.mark.parametrize(
    "extractor", ["compact", "resnet18", "densenet121", "autoencoder", "autoencoder-v1", "teacher"]
)
def test_the_room_of_ratio_is_that_of_its_nets(project: Path, extractor: str) -> None:
    channels = "ratio.feature_channels=64" if extractor[0] in "rd" else "ratio.feature_channels=8"
    weight = "ratio.reconstruct_weight=1" if extractor.startswith("auto") else "ratio.reconstruct_weight=0"
    given = [f"ratio.extractor={extractor}", channels, weight, "ratio.feature_width=512", "ratio.hidden=[64]"]
    cfg = load_config(project / "params.yaml", given)
    found = room.will_write("ratio", cfg, project) - room.SMALL
    if extractor == "teacher":
        assert found == (1 + room.COPIES) * room._net(cfg, cfg.teacher) > 0
        return
    net = make_extractor(to_dict(cfg.ratio), cfg.data.channels, cfg.data.image_size, 10)
    mlp = RatioMLP(cfg.cgan.embed_dim, 512, (64,), 0.1)
    size = sum(tensor.nbytes for part in (net, mlp) for tensor in part.state_dict().values())
    assert found == (1 + room.COPIES) * size > 4 * 512 * 64


def test_the_room_of_a_bank_counts_the_draws_that_its_filter_drops(project: Path) -> None:
    given = ["bank.num_fakes=1000", "bank.rho=0.25", "bank.filter=true"]
    cfg = load_config(project / "params.yaml", given)
    row = cfg.data.channels * cfg.data.image_size**2
    assert room.will_write("bank", cfg, project) - room.SMALL == (1000 + 4000) * row
    cfg = load_config(project / "params.yaml", [*given, "bank.refill=false"])
    assert room.will_write("bank", cfg, project) - room.SMALL == 2 * 1000 * row


@pytest.mark.parametrize(
    ("run", "name", "key"),
    [
        ("audit", "bank audit", "seed"),
        ("repeat", "repeat", "teacher.num_steps"),
        ("sizes", "sizes", "student.num_steps"),
    ],
)
def test_runs_beside_the_stages_say_that_settings_changed(project: Path, run: str, name: str, key: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    with open_context(run, (), project, console=console, tracked=False):
        text = load_config(project / "params.yaml")
        values = change(to_dict(text), key)
        (project / "params.yaml").write_text(json.dumps(values))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"params.yaml changed while `cgankd {name}` ran: {key}" in said
    if run == "audit":
        with open_context(run, (), project, console=Console(file=(quiet := io.StringIO())), tracked=False):
            (project / "params.yaml").write_text(json.dumps(change(values, "teacher.num_steps")))
        assert "changed while" not in quiet.getvalue(), "the audit does not read it"


def change(values: dict[str, Any], key: str) -> dict[str, Any]:
    """The settings with one more at a dotted name."""
    *path, last = key.split(".")
    part = values
    for name in path:
        part = part[name]
    part[last] += 1
    return values


def test_inputs_or_settings_that_change_under_a_run_are_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.stages import teacher

    real = teacher.mean_score
    params = (project / "params.yaml").read_text()

    def edited(*args: Any, **kwargs: Any) -> Any:
        (project / "params.yaml").write_text(params.replace("num_steps: 3", "num_steps: 4", 1))
        return real(*args, **kwargs)

    monkeypatch.setattr(teacher, "mean_score", edited)
    result = CliRunner().invoke(app, ["teacher"])
    assert result.exit_code == 0 and "teacher.num_steps 3 is now 4" in " ".join(result.output.split())
    (project / "params.yaml").write_text(params)
    monkeypatch.setenv("DVC_STAGE", "teacher")
    result = CliRunner().invoke(app, ["teacher"])
    assert result.exit_code == 2 and "run `dvc repro` again" in " ".join(result.output.split())
    (project / "params.yaml").write_text(params)

    def replaced(*args: Any, **kwargs: Any) -> Any:
        with (project / "artifacts/dataset.h5").open("ab") as file:
            file.write(b"\0")
        return real(*args, **kwargs)

    monkeypatch.setattr(teacher, "mean_score", replaced)
    result = CliRunner().invoke(app, ["teacher"])
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and "dataset.h5 was changed while `cgankd teacher` ran" in said
