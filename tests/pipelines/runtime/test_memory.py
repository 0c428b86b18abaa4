"""What memory is left: the machine's, the container's in both kinds of control groups, and what ulimit allows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cgankd.fit.room import NoRoom
from pipelines.commands.errors import plain_errors
from pipelines.commands.running import LOWER
from pipelines.files.layout import STAGES
from pipelines.runtime import machine, memory
from tests.conftest import ROOT


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(folder: str, most: object, used: object, cached: int, kind: int) -> dict[str, str]:
    """The files of a control group of the first or second kind."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    if kind == 2:
        names = ("memory.max", "memory.current", "inactive_file")
    return {
        f"{folder}/{names[0]}": f"{most}\n",
        f"{folder}/{names[1]}": f"{used}\n",
        f"{folder}/memory.stat": f"anon 5\n{names[2]} {cached}\n",
    }


def test_the_second_kind_counts_every_group_around_this_program(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {"proc/self/cgroup": "0::/pod/box\n"}
        | group("sys/fs/cgroup/pod", 3_000_000_000, 2_500_000_000, 300_000_000, 2)
        | group("sys/fs/cgroup/pod/box", "max", 1_000_000_000, 0, 2),
    )
    (found,) = memory.control_groups(root)
    assert found.left == 800_000_000 and found.size == 3e9 and "container) allows 3 GB" in found.name


def test_in_a_container_the_mounted_group_is_its_own(tmp_path: Path) -> None:
    """The path may be that of the host, which is not there inside."""
    root = tree(
        tmp_path,
        {"proc/self/cgroup": "0::/host/docker/abc\n"} | group("sys/fs/cgroup", 1_000_000_000, 400_000_000, 0, 2),
    )
    assert [limit.left for limit in memory.control_groups(root)] == [600_000_000]


def test_the_first_kind_is_read_beside_others_and_has_a_number_for_no_limit(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {"proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/jobs/one\n1:name=systemd:/\n0::/\n"}
        | group("sys/fs/cgroup/memory", 2**63 - 4096, 9, 0, 1)
        | group("sys/fs/cgroup/memory/jobs/one", 2_000_000_000, 1_500_000_000, 250_000_000, 1),
    )
    assert [limit.left for limit in memory.control_groups(root)] == [750_000_000]


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert memory.control_groups(tmp_path) == [] and memory.machine(tmp_path) == []
    tree(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  2000000 kB\n"})
    assert [limit.left for limit in memory.machine(tmp_path)] == [2_048_000_000]


def test_a_container_bounds_what_is_said_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "control_groups", lambda root=None: [memory.Limit("a group", 1e9, 2e9)])
    monkeypatch.setattr(memory, "machine", lambda root=None: [memory.Limit("the machine", 8e9)])
    assert machine.free_memory_gb() == 1.0 and machine.total_memory_bytes() == 2e9
    assert memory.what_is_left() == "1 GB are left (a group)"


def test_a_small_container_is_refused_before_torch_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        memory, "control_groups", lambda root=None: [memory.Limit("its control group allows 0.3 GB", 2e8)]
    )
    with pytest.raises(
        NoRoom, match=r"0.2 GB of memory are left to this program \(its control group allows 0.3 GB\), but torch"
    ):
        memory.check_start()
    monkeypatch.setattr(memory, "control_groups", lambda root=None: [memory.Limit("a group", 8e9)])
    memory.check_start()


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is kept on Linux")
@pytest.mark.parametrize(
    ("letter", "kilobytes"), [("v", 200_000), ("v", 1_500_000), ("v", 3_000_000), ("d", 100_000), ("v", 400_000)]
)
def test_a_small_ulimit_is_one_sentence(letter: str, kilobytes: int, tmp_path: Path) -> None:
    """Of those limits one lets torch's import abort, the others fail in different places of it."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"ulimit -{letter} {kilobytes}; exec '{sys.executable}' -m cgankd show evaluate"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == "", done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: torch cannot be loaded with room for work: `ulimit -")
    assert f"`ulimit -{letter} unlimited`" in line


def test_every_stage_has_settings_to_lower() -> None:
    assert set(LOWER) == set(STAGES)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        ImportError("x.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_a_stage_without_memory_ends_with_a_sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, plain_errors(), memory.naming(LOWER["ratio"]):
        raise error
    assert caught.value.exit_code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: memory ran out: ") and " left (" in line
    assert "lower ratio.feature_batch_size, ratio.batch_size or ratio.pool_size" in line


def test_another_error_of_the_same_kind_is_seen_whole() -> None:
    with pytest.raises(RuntimeError, match="shape"), plain_errors(), memory.naming("x"):
        raise RuntimeError("shape mismatch")


@pytest.mark.parametrize(
    ("code", "words"),
    [(-9, "SIGKILL, as happens where memory runs out"), (-11, "was ended by SIGSEGV"), (1, "ended with exit code 1")],
)
def test_a_death_is_told_by_its_exit_code(code: int, words: str) -> None:
    assert words in memory.death_in_words(code)
