"""Draws on a Ray of this machine that sees no folder: the results, records and lines of those that run here."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipelines.tracking.journal import read_roots
from tests.conftest import ROOT
from tests.pipelines.repeat.test_run import small
from tests.tiny import run, write_params

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (pip install 'cgankd[ray]')")
COMMAND = (sys.executable, "-m", "cgankd", "repeat", "--draws", "2")


def repeat(folder: Path, **env: str) -> str:
    """`cgankd repeat` in a folder, without DVC; what it printed."""
    folder.mkdir(exist_ok=True)
    write_params(folder, small())
    return run(folder, *COMMAND, PYTHONPATH=str(ROOT), CGANKD_THREADS="1", **env)


def files(folder: Path) -> dict[str, bytes]:
    """All that the draws left but what only helps to go on, by name."""
    top = folder / "artifacts" / "repeat"
    found = {p.relative_to(top).as_posix(): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()}
    return {name: data for name, data in found.items() if "/resume/" not in name}


def runs(folder: Path) -> list[tuple[str, int]]:
    """The tracked runs by name, with how many curves and pictures each has."""
    (events,) = read_roots(folder / "artifacts" / "logs" / "repeat.jsonl").values()
    names = {e["run"]: e["name"] for e in events if e["kind"] == "run"}
    assert sorted(names) == sorted(e["run"] for e in events if e["kind"] == "close" and e["status"] == "FINISHED")
    assert all(Path(e["path"]).exists() for e in events if "path" in e)
    shown = [names[e["run"]] for e in events if e["kind"] == "picture"]
    return sorted((name, shown.count(name)) for name in names.values())


def test_draws_on_a_cluster_are_those_of_this_machine(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    repeat(here)
    said = repeat(there, CGANKD_ENGINE="ray", CGANKD_SHARED="ray")
    mine, other = files(here), files(there)
    assert mine.keys() == other.keys()
    assert [name for name in mine if mine[name] != other[name]] == []
    assert (here / "metrics/repeat.json").read_bytes() == (there / "metrics/repeat.json").read_bytes()
    assert runs(here) == runs(there) and ("jobs run on Ray" in said)
    assert "draw 0: teacher done in" in said and "draw 1 (2 of 2, 6 stages run)" in said
    assert "Worker ID" not in said and "(raylet)" not in said
    again = repeat(there, CGANKD_ENGINE="ray", CGANKD_SHARED="ray")
    assert "draw 0 (1 of 2, kept)" in again and "jobs run on Ray" not in again
