"""What is read out of dvc.lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgankd.config import ConfigError
from pipelines.files.dvc_lock import made_md5, read_lock, read_md5

TEXT = """
schema: '2.0'
stages:
  prepare:
    outs:
    - {path: artifacts/dataset.h5, md5: 0a1b, size: 4}
  student:
    outs:
    - {path: artifacts/students, md5: 45.dir}
    - {path: plots/student, hash: none}
  evaluate:
    deps:
    - {path: artifacts/dataset.h5, md5: 0a1b}
    - {path: artifacts/students, md5: 45.dir}
"""


def test_what_stages_made_and_read_is_known_by_its_md5() -> None:
    assert made_md5(TEXT) == {"artifacts/dataset.h5": "0a1b", "artifacts/students": "45.dir"}
    assert read_md5(TEXT, "evaluate", "artifacts/dataset.h5") == "0a1b"


@pytest.mark.parametrize("text", ["", "schema: '2.0'", "stages:", "stages: {evaluate: {}}"])
def test_a_lock_that_does_not_tell_gives_nothing(text: str) -> None:
    assert made_md5(text) == {} and read_md5(text, "evaluate", "artifacts/dataset.h5") is None
    assert read_md5(TEXT, "evaluate", "artifacts/bank.h5") is None


def test_a_lock_that_is_a_folder_is_a_sentence(tmp_path: Path) -> None:
    assert read_lock(tmp_path) == ""
    (tmp_path / "dvc.lock").mkdir()
    with pytest.raises(ConfigError, match=r"dvc\.lock is a folder, not a file; delete dvc.lock and run `dvc repro`$"):
        read_lock(tmp_path)
