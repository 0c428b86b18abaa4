"""A handful of kills of the smallest pipeline; `make chaos` is the long version."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.__main__ import read, report
from tests.conftest import ROOT

KILLS = 5


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="processes are told apart by /proc")
def test_a_killed_pipeline_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--short", "--kills", str(KILLS), "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-6000:]
    found = read(tmp_path / "rounds.jsonl")
    kills = [kill for one in found for kill in one["kills"]]
    assert len(kills) == KILLS and any(kill["stage"] for kill in kills)
    assert all(one["faults"] == [] and one["compared"] > 30 for one in found)
    assert f"{KILLS} kills in" in report(found) and "faults: 0" in done.stdout
