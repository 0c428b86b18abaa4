"""The whole pipeline with every image streamed gives the same bytes, and no step holds the bank's images at once."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from cgankd.bank import build, scores
from cgankd.config import ArmConfig
from cgankd.data.store.banks import read_pool_images, read_pool_scores
from cgankd.data.store.datasets import read_info, read_split
from cgankd.data.store.stream import StreamedImages
from cgankd.fit.predictor import make_predict
from cgankd.labels.task import make_task
from pipelines.audit import run as audit
from pipelines.files.params import load_config
from pipelines.networks.predictor import load_predictor
from pipelines.runtime import machine
from pipelines.runtime.opening import open_context
from pipelines.runtime.scratch import roomy
from pipelines.search.students import one_thread, quiet_context
from pipelines.stages.student import Runner
from pipelines.students import teacher_outputs
from pipelines.students.arm_rows import bank_rows
from pipelines.students.run_arm import Job, train_job
from tests.tiny import tiny, write_params

QUIET = Console(quiet=True)
ARMS = {"real": ArmConfig(), "filter_kd": ArmConfig(bank=True, subsample=True, filter=True, kd=True)}
BLOCK, SLAB = 20, 16


def params(gb: float | None) -> dict[str, Any]:
    values = tiny("digits")
    values["data"] |= {"train_per_label": 12, "memory_budget_gb": gb}
    values["teacher"]["num_steps"] = 20
    values["bank"] |= {"num_fakes": 200, "block_size": BLOCK, "batch_size": BLOCK, "burn_in": 20}
    values["student"] |= {
        "num_steps": 12,
        "teacher_view": "clean",
        "best_with_kd": False,
        "real_share": None,
        "arms": {"real": {}, "filter_kd": {"bank": True, "subsample": True, "filter": True, "kd": True}},
    }
    return values


def run_stage(folder: Path, stage: str) -> None:
    with open_context(stage, ["tracking.mlflow=false"], folder, console=QUIET) as ctx:
        importlib.import_module(f"pipelines.stages.{stage}").run(ctx)


def jobs(folder: Path) -> list[Job]:
    """The runs of both arms at seed 0."""
    files = [folder / "artifacts" / name for name in ("dataset.h5", "teacher.safetensors", "pool.h5")]
    ctx = quiet_context(load_config(folder / "params.yaml"), folder)
    runner = Runner(ctx, *files)
    return [runner.job(name, arm, 0) for name, arm in ARMS.items()]


def watch(patch: pytest.MonkeyPatch) -> dict[str, int]:
    """Record the most images of fakes alive at a time while the bank grows, and the most rows any read returned."""
    most = {"alive": 0, "read": 0}
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    real_score, real_empty = scores.score, np.empty

    def score(*given: Any) -> build.Scores:
        found = real_score(*given)
        alive.add(found.images)
        most["alive"] = max(most["alive"], sum(len(images) for images in alive))
        return found

    def empty(shape: Any, dtype: Any = float, **more: Any) -> Any:
        if isinstance(shape, tuple) and len(shape) == 4 and dtype == np.uint8:
            most["read"] = max(most["read"], shape[0])
        return real_empty(shape, dtype, **more)

    patch.setattr(scores, "score", score)
    patch.setattr("numpy.empty", empty)
    patch.setattr("pipelines.rounds.kept_blocks.MOST_BYTES", 0)  # blocks that wait for their file are bounded apart
    for module in ("banks", "datasets"):
        patch.setattr(f"cgankd.data.store.{module}.SLAB_ROWS", SLAB)
    return most


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, dict[str, int]]]:
    """The same settings with all images in memory and with none, up to the bank and two students."""
    base = tmp_path_factory.mktemp("streaming")
    made, most = [], {}
    for name, gb in (("held", None), ("streamed", 0.0)):
        folder = base / name
        folder.mkdir()
        write_params(folder, params(gb))
        if made:
            (folder / "artifacts").mkdir()
            for name in ("dataset.h5", "unlabelled.h5"):
                shutil.copy(made[0] / "artifacts" / name, folder / "artifacts")
        else:
            run_stage(folder, "prepare")
        for stage in ("teacher", "cgan", "ratio"):
            run_stage(folder, stage)
        with pytest.MonkeyPatch.context() as patch:
            most = watch(patch)
            run_stage(folder, "bank")
        with one_thread():
            for job in jobs(folder):
                train_job(job)
        made.append(folder)
    yield made[0], made[1], most


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["teacher.safetensors", "cgan.safetensors", "ratio.safetensors", "pool.h5", "bank.h5"])
def test_a_streamed_stage_leaves_the_same_bytes(folders: tuple[Path, Path, dict[str, int]], name: str) -> None:
    held, streamed, _ = folders
    assert digest(held / "artifacts" / name) == digest(streamed / "artifacts" / name)


def test_streamed_students_are_the_same(folders: tuple[Path, Path, dict[str, int]]) -> None:
    held, streamed, _ = folders
    pairs = list(zip(jobs(held), jobs(streamed), strict=True))
    for one, other in pairs:
        assert one.memory_bytes > 1e6 and other.memory_bytes == 0
        assert one.out.name == other.out.name  # the budget is no part of the fingerprint
        assert digest(one.out) == digest(other.out) and one.result()["val"] == other.result()["val"]


def test_the_bank_stage_holds_blocks_and_never_the_bank(folders: tuple[Path, Path, dict[str, int]]) -> None:
    _, streamed, most = folders
    assert len(read_pool_scores(streamed / "artifacts/bank.h5")["labels"]) == 200
    assert 0 < most["alive"] <= 3 * BLOCK
    # 24 rows are shown in a picture; the validation images are read by the teacher's batch.
    assert 0 < most["read"] <= 120


def test_a_student_reads_its_fakes_by_the_batch(
    folders: tuple[Path, Path, dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, streamed, _ = folders
    job = jobs(streamed)[1]
    read: list[int] = []
    real = StreamedImages._read

    def spy(self: StreamedImages, rows: Any) -> Tensor:
        if self.path == job.pool:
            read.append(len(rows))
        return real(self, rows)

    monkeypatch.setattr(StreamedImages, "_read", spy)
    monkeypatch.setattr(teacher_outputs, "CHUNK", 32)
    shutil.rmtree(job.out.parent.parent / "teacher")
    before = digest(job.out)
    with one_thread():
        train_job(job)
    assert digest(job.out) == before
    assert len(read) > 12 and max(read) <= max(32, job.config.student.batch_size) < 200


def test_an_audit_reads_the_bank_in_pieces(
    folders: tuple[Path, Path, dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def spy(path: Path, rows: Tensor) -> Tensor:
        read.append(len(rows))
        return read_pool_images(path, rows)

    monkeypatch.setattr(audit, "READ", 32)
    monkeypatch.setattr(audit, "read_pool_images", spy)
    found = []
    for folder in folders[:2]:
        with open_context("audit", ["tracking.mlflow=false"], folder, console=QUIET) as ctx:
            audit.run(ctx)
            found.append(dict(ctx._metrics))
    assert found[0] == found[1] and len(found[0]) > 50
    assert sum(read) == 2 * 200 and max(read) == 32


def test_the_teacher_is_asked_once_and_gives_what_it_gives_live(
    folders: tuple[Path, Path, dict[str, int]], tmp_path: Path
) -> None:
    held, _, _ = folders
    job = jobs(held)[1]
    info = read_info(job.dataset)
    task = make_task(info, job.config)
    net, config = load_predictor(job.teacher, info, task)
    predict = make_predict(net, config["precision"])
    train, rows = read_split(job.dataset, "train").images, bank_rows(job.pool, job.arm)
    fakes = read_pool_images(job.pool, rows)
    wanted = predict(torch.cat([train[:], fakes]))
    asked: list[int] = []

    def counted(images: Any) -> Tensor:
        asked.append(len(images))
        return predict(images)

    def table(precision: str) -> Tensor:
        images = teacher_outputs.end_to_end(train, fakes)
        found = teacher_outputs.cached_table(tmp_path, {"a": "b"}, counted, images, precision, task.num_outputs)
        return found.rows(torch.arange(len(wanted)))

    assert torch.equal(table("full"), wanted) and sum(asked) == len(wanted)
    assert torch.equal(table("full"), wanted) and sum(asked) == len(wanted)
    assert torch.equal(table("half"), wanted.half().float()) and sum(asked) == 2 * len(wanted)
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(b"damaged")
    assert torch.equal(table("full"), wanted) and sum(asked) == 3 * len(wanted)
    # The float16 outputs that the bank stage kept serve where half precision is asked for, and only of this teacher.
    pooled = teacher_outputs.table_of_pool(job.pool, rows, job.teacher_key["teacher"], "half")
    assert pooled is not None
    difference = pooled.rows(torch.arange(len(rows))) - wanted[len(train) :]
    assert float(difference.abs().max()) <= 2e-3 * float(wanted.abs().max()) + 1e-3
    assert teacher_outputs.table_of_pool(job.pool, rows, "another", "half") is None
    assert teacher_outputs.table_of_pool(job.pool, rows, job.teacher_key["teacher"], "full") is None


def test_budget_of_a_process_and_room_on_disk(tmp_path: Path) -> None:
    cfg = load_config_of(tmp_path, None)
    whole = machine.image_memory(cfg.data).left
    assert whole == machine.total_memory_bytes() / 4 > 1e8
    assert machine.image_memory(cfg.data, 4).left == whole / 4
    assert machine.image_memory(load_config_of(tmp_path, 2.0).data, 2).left == 1e9
    memory = machine.image_memory(load_config_of(tmp_path, 100e-9).data)
    rows = roomy(tmp_path / "scratch", memory)
    small, large = rows(2, 10), rows(3, 10)
    large[:] = 1.0
    assert memory.left == 20 and small.shape == (2, 10) and float(large.sum()) == 30


def load_config_of(folder: Path, gb: float | None) -> Any:
    write_params(folder, params(gb))
    return load_config(folder / "params.yaml")
