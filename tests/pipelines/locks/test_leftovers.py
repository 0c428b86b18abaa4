from __future__ import annotations

import os
from pathlib import Path

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


def test_a_folder_without_artifacts_has_nothing_to_delete(tmp_path: Path) -> None:
    assert sweep(tmp_path, 10**19) == []
