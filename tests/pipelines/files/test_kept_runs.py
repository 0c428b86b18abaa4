"""Which student runs stay for reuse: the stage's own, recent ones, and of the rest the last used within a share of bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.files import kept_runs
from pipelines.search.students import one_thread, quiet_context, run_job
from pipelines.stages import student
from pipelines.students.run_arm import Job, train_job
from tests.distill.arms import job, settings, workplace

NOW = 1e9
ENDINGS = (".safetensors", ".config.json", ".json", "-best.safetensors", "-train.resume")


def key(number: int) -> str:
    return f"{number:032x}"


def write_run(folder: Path, number: int, size: int, days: float) -> None:
    """A run of so many bytes in each of its five files, used so many days ago."""
    for ending in ENDINGS:
        path = folder / (key(number) + ending)
        path.write_bytes(b"x" * size)
        os.utime(path, (NOW - 86_400 * days,) * 2)


def kept(folder: Path) -> set[int]:
    names = {path.name for path in folder.iterdir()}
    found = {int(name[:32], 16) for name in names}
    assert names == {key(number) + ending for number in found for ending in ENDINGS}, "a run goes whole or not at all"
    return found


RUN = st.tuples(st.integers(1, 9), st.integers(1, 90).map(lambda tenths: tenths / 10), st.booleans())


@given(
    runs=st.lists(RUN, max_size=12, unique_by=lambda run: run[1]),
    spare=st.integers(0, 40).map(lambda fifths: 5 * fifths),
    times=st.integers(0, 3),
)
def test_what_is_kept(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, float, bool]], spare: int, times: int
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    for number, (size, days, _) in enumerate(runs):
        write_run(folder, number, size, days)
    own = {number for number, run in enumerate(runs) if run[2]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_runs, "SPARE_BYTES", spare)
        patch.setattr(kept_runs, "SPARE_TIMES", times)
        gone, size = kept_runs.prune(folder, {key(number) for number in own}, NOW)
    left = kept(folder)
    lost = set(range(len(runs))) - left
    assert (gone, size) == (len(lost), sum(5 * runs[number][0] for number in lost))
    assert own <= left and all(runs[number][1] > 1.0 for number in lost)
    room = max(spare, times * sum(5 * runs[number][0] for number in own))
    old = {number for number in left - own if runs[number][1] > 1.0}
    assert sum(5 * runs[number][0] for number in old) <= room
    # The longest unused go, and none goes while there is room.
    assert all(runs[a][1] <= runs[b][1] for a in left - own for b in lost)
    if lost:
        last = min(lost, key=lambda number: runs[number][1])
        assert sum(5 * runs[number][0] for number in left - own) + 5 * runs[last][0] > room


def test_the_stage_keeps_its_runs_and_forgets_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    workplace(artifacts, False)
    trained: list[str] = []

    def here(self: student.Runner, jobs: list[Job], title: str) -> None:
        for one in jobs:
            if not one.finished():
                trained.append(one.name)
                train_job(one)

    monkeypatch.setattr(student.Runner, "run", here)
    monkeypatch.setattr(kept_runs, "SPARE_BYTES", 0)
    monkeypatch.setattr(kept_runs, "SPARE_TIMES", 0)
    folder = artifacts / "resume/student"

    def run(steps: int) -> set[str]:
        cfg = settings(
            False, arms={"real": {}, "raw": {"bank": True}}, seeds=[0, 1], num_steps=steps, best_with_kd=False
        )
        ctx = quiet_context(cfg, tmp_path)
        ctx.stage = "student"
        student.run(ctx)
        return {path.name for path in folder.iterdir()}

    with one_thread():
        first = run(3)
        both = run(4)
        assert len(trained) == 8 and first < both, "runs of today stay, whatever they take"
        monkeypatch.setattr(kept_runs, "RECENT_S", -60.0)  # from here on nothing counts as recent
        (folder / "notes.txt").touch()
        for name in both:
            os.utime(folder / name, (0, 0))
        second = run(4)
        assert len(trained) == 8 and second == both - first | {"notes.txt"}
        records = [folder / name for name in second if Path(name).suffixes == [".json"]]
        assert len(records) == 4 and all(record.stat().st_mtime > 1e9 for record in records), "reused is used"
        assert run(3) == first | {"notes.txt"} and len(trained) == 12


def test_a_search_marks_what_it_uses(tmp_path: Path) -> None:
    workplace(tmp_path, False)
    one = job(tmp_path, settings(False, num_steps=2), key(1), bank=False, kd=False)
    run_job(one, lambda: None)
    os.utime(one.record, (0, 0))
    run_job(one, lambda: None)
    assert one.record.stat().st_mtime > 1e9
