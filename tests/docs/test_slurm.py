"""The SLURM scripts of the pages: bash can read them, and they begin commands that there are."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / "docs/howto/slurm").glob("*.sh"))
STAGES = {"teacher", "cgan", "ratio", "student"}


def test_there_is_one_for_torchrun_and_one_for_ray() -> None:
    assert [path.name for path in SCRIPTS] == ["ray.sh", "torchrun.sh"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_it(path: object) -> None:
    found = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: object) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    found = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_the_page_names_both_and_the_stages_are_those_that_take_ranks() -> None:
    page = (ROOT / "docs/howto/several-machines.md").read_text(encoding="utf-8")
    assert all(f"slurm/{path.name}" in page for path in SCRIPTS)
    text = SCRIPTS[1].read_text(encoding="utf-8")
    named = re.search(r"name a stage: (.*)\}", text)
    assert named is not None and set(re.findall(r"[a-z]+", named[1])) - {"or"} == STAGES
