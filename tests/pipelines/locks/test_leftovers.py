from __future__ import annotations

import os
import time
from pathlib import Path

from filelock import FileLock

from pipelines.locks.holding import clean
from pipelines.locks.leftovers import sweep

HALF = (
    "artifacts/.cgan.safetensors.41.tmp",
    "artifacts/pool.h5.tmp",
    "artifacts/resume/student/0123456789abcdef0123456789abcdef.7.tmp",
    "artifacts/resume/bank/blocks/.000001.safetensors.9.tmp",
    "artifacts/search/cuts/123.h5",
    "artifacts/repeat/draw-3/artifacts/.teacher.safetensors.8.tmp",
    "metrics/.bank.json.41.tmp",
    "plots/cgan/.samples.png.41.tmp",
)
WHOLE = ("artifacts/pool.h5", "artifacts/search/pools/a/b.safetensors", "metrics/bank.json", "notes.tmp", "data/my.tmp")
RANK = "artifacts/resume/ranks/1/metrics/.ratio.json.42.tmp"
"""Of another rank, which may end after the first one, whose end cleans."""
CACHED = "artifacts/cache/chairs/1.npy.41.tmp"


def test_what_a_kill_left_half_written_goes_and_all_else_stays(tmp_path: Path) -> None:
    for name in (*HALF, *WHOLE, RANK, CACHED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    late = tmp_path / "artifacts/.ratio.safetensors.5.tmp"
    late.write_bytes(b"being written")
    mark_ns = 10**18
    os.utime(late, ns=(mark_ns, mark_ns))
    for name in (*HALF, RANK, CACHED):
        os.utime(tmp_path / name, ns=(mark_ns - 1, mark_ns - 1))
    gone = sweep(tmp_path, mark_ns)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in gone) == sorted(HALF)
    assert all((tmp_path / name).exists() for name in (*WHOLE, RANK, CACHED)) and late.exists()
    assert [path.name for path in sweep(tmp_path, mark_ns, cache=True)] == [Path(CACHED).name]


def test_a_file_of_a_time_that_is_yet_to_come_goes_too(tmp_path: Path) -> None:
    """The clock was set back since a kill; what is being written now is at most a little ahead."""
    mark_ns, hour_ns = 10**18, 3600 * 10**9
    for name, ahead_ns in (("old.tmp", 3 * hour_ns), ("next-year.tmp", 9000 * hour_ns), ("now.tmp", 30 * 10**9)):
        (tmp_path / "metrics").mkdir(exist_ok=True)
        (tmp_path / "metrics" / name).write_bytes(b"half")
        os.utime(tmp_path / "metrics" / name, ns=(mark_ns + ahead_ns, mark_ns + ahead_ns))
    assert {path.name for path in sweep(tmp_path, mark_ns)} == {"old.tmp", "next-year.tmp"}
    assert (tmp_path / "metrics/now.tmp").exists()


def test_a_mark_that_nobody_looks_for_any_more_goes(tmp_path: Path) -> None:
    """By it the nodes of a cluster tell whether they see the folder of a command; a killed one leaves it."""
    (tmp_path / "artifacts").mkdir()
    old, young = (tmp_path / "artifacts" / f".seen-0123456{n}" for n in range(2))
    for path, hours in ((old, 25), (young, 23)):
        path.write_text("words")
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    assert sweep(tmp_path, time.time_ns()) == [old] and young.exists()


def test_a_clock_set_back_keeps_no_half_written_file_for_ever(tmp_path: Path) -> None:
    (tmp_path / "artifacts/resume").mkdir(parents=True)
    half = tmp_path / "artifacts/.cgan.safetensors.41.tmp"
    half.write_bytes(b"half")
    later_ns = half.stat().st_mtime_ns + 3600 * 10**9
    os.utime(half, ns=(later_ns, later_ns))
    lock = FileLock(tmp_path / "artifacts/resume/teacher.lock")
    with lock:
        clean(tmp_path)
        assert half.exists(), "another may be at work, whose clock is ahead"
    clean(tmp_path)
    assert not half.exists()


def test_a_folder_without_artifacts_has_nothing_to_delete(tmp_path: Path) -> None:
    assert sweep(tmp_path, 10**19) == []
