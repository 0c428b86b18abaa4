"""Other work on the cores is seen by the time that threads wait for one, said once, and changes nothing."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines.runtime import held
from pipelines.runtime.held import Held, Sample, Watch, between, free_cores, in_words

ME = os.getpid()


def look(at_s: float, ran: dict[int, float], waited: dict[int, float], busy: float, throttled: float = 0.0) -> Sample:
    return Sample(at_s, {(ME, k): v for k, v in ran.items()}, {(ME, k): v for k, v in waited.items()}, busy, throttled)


IDLE = look(0, {1: 0.0, 2: 0.0}, {1: 0.0, 2: 0.0}, 100)
ALONE = look(10, {1: 10.0, 2: 10.0}, {1: 0.1, 2: 0.1}, 120)
SHARED = look(10, {1: 5.0, 2: 5.0}, {1: 5.0, 2: 5.0}, 120)


def test_two_trainings_on_two_cores_hold_each_others() -> None:
    """Each runs half of the time and waits the other half."""
    found = between(IDLE, SHARED)
    assert (found.waiting, found.others, found.own) == (0.5, 1.0, 1.0) and found.slower == 2.0
    assert free_cores(found, 2) == 1
    assert in_words(found, 2, 2) == (
        "the cores are held: threads of this run wait 50 % of their time for a core, so that it takes at least 2.0 times as long;"
        " other work uses 1.0 of 2 cores: CGANKD_THREADS=1 would be faster than 2 (not changed here, as the last bits follow it)"
    )
    assert (in_words(found, 1, 2) or "").endswith("; end it, or wait for it"), "one thread is as few as there are"


def test_a_run_alone_says_nothing() -> None:
    assert in_words(between(IDLE, ALONE), 2, 2) is None


def test_waiting_of_threads_that_begin_or_end_between_two_looks_does_not_count() -> None:
    first, last = look(0, {1: 5.0, 7: 90.0}, {1: 0.0, 7: 0.0}, 0), look(10, {1: 6.0, 8: 2.0}, {1: 1.0, 8: 6.0}, 3)
    assert between(first, last).waiting == 0.5 and between(first, last).own == pytest.approx(0.3)


def test_work_of_processes_that_began_between_two_looks_is_no_other_work() -> None:
    """A batch of students begins: what their processes do is this run's."""
    first, last = look(0, {1: 5.0}, {1: 0.0}, 0), look(10, {1: 9.0, 8: 8.0, 9: 7.95}, {1: 2.0, 8: 1.0, 9: 1.0}, 20)
    found = between(first, last)
    assert found.waiting > 0.3 and found.others == pytest.approx(0.005) and in_words(found, 2, 2) is None
    assert in_words(between(first, dataclasses.replace(last, busy_s=20, throttled_s=5.0)), 2, 2) is not None
    assert in_words(found, 2, 4) is not None, "cores are free, and yet it waits"


def test_workers_are_told_of_workers() -> None:
    first = Sample(
        0,
        {(ME, 1): 0.0, (5, 5): 0.0, (6, 6): 0.0, (7, 7): 0.0},
        dict.fromkeys([(ME, 1), (5, 5), (6, 6), (7, 7)], 0.0),
        0,
    )
    last = Sample(
        10, {(ME, 1): 0.1, (5, 5): 5.0, (6, 6): 5.0, (7, 7): 0.0}, {(ME, 1): 0, (5, 5): 5.0, (6, 6): 5.0, (7, 7): 0}, 20
    )
    found = between(first, last)
    assert found.workers == 2, "one of three children only waits"
    assert "student.workers=1 would do as much" in (in_words(found, 1, 2) or "")


def test_a_quota_is_named(tmp_path: Path) -> None:
    found = between(IDLE, look(10, {1: 5.0, 2: 5.0}, {1: 0.0, 2: 0.0}, 110, throttled=4.0))
    text = in_words(found, 2, 2) or ""
    assert "a quota of processor time (container) holds this run back 40 % of the time" in text and "1.7 times" in text
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 5\nthrottled_usec 2500000\n")
    assert held.throttled_seconds(tmp_path) == 2.5
    (tmp_path / "sys/fs/cgroup/cpu.stat").unlink()
    (tmp_path / "sys/fs/cgroup/cpu").mkdir()
    (tmp_path / "sys/fs/cgroup/cpu/cpu.stat").write_text("nr_periods 5\nthrottled_time 1500000000\n")
    assert held.throttled_seconds(tmp_path) == 1.5 and held.throttled_seconds(tmp_path / "none") == 0


def test_only_own_cores_count_as_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "allowed_cores", lambda: [1])
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(
        "cpu 9 9 9 9\ncpu0 900 0 0 5 0 0 0 0\ncpu1 100 20 30 7777 5 1 2 40 9 9\nintr 5\n"
    )
    assert held.busy_seconds(tmp_path) == 1.93, "idle and waiting for disks are no work"
    assert held.busy_seconds(tmp_path / "none") is None


def test_a_system_that_tells_nothing_is_not_held(tmp_path: Path) -> None:
    found = held.sample(tmp_path)
    assert in_words(between(found, found), 2, 2) is None


def test_this_process_is_looked_at_for_real() -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("reads /proc")
    first = held.sample()
    while sum(held.sample().ran_s.values()) - sum(first.ran_s.values()) < 0.05:
        torch.ones(100, 100) @ torch.ones(100, 100)
    found = between(first, held.sample())
    assert found.own > 0 and 0 <= found.waiting < 1 and found.others >= 0


@pytest.fixture()
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [0.0]
    monkeypatch.setattr(held.time, "monotonic", lambda: now[0])
    yield now


def test_it_is_said_once_and_looked_for_again_until_then(clock: list[float]) -> None:
    looks = iter([IDLE, ALONE, look(60, {1: 35.0, 2: 35.0}, {1: 25.0, 2: 25.0}, 220)])
    watch = Watch(lambda: next(looks))
    assert watch.line(2, 2) is None, "too early"
    clock[0] = 10.0
    assert watch.line(2, 2) is None, "not held"
    clock[0] = 20.0
    assert watch.line(2, 2) is None, "the next look comes later"
    clock[0] = 60.0
    assert "would be faster" in (watch.line(2, 2) or "")
    clock[0] = 900.0
    assert watch.line(2, 2) is None, "said once"


def test_at_least_one_core_is_left() -> None:
    assert free_cores(Held(0.5, 9.0, 1.0, 0.0), 4) == 1 and free_cores(Held(0.5, 0.2, 1.0, 0.0), 4) == 4
