"""What a cluster is joined with, without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.engines.cluster import TOKENS, with_token


def test_a_token_that_this_machine_has_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray start` asks for one as soon as there is one; `ray.init` of an address has to be told."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in TOKENS:
        monkeypatch.delenv(name, raising=False)
    assert with_token() == {}
    for name in TOKENS:
        with monkeypatch.context() as patch:
            patch.setenv(name, "x")
            assert with_token() == {"RAY_AUTH_MODE": "token"}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert with_token() == {"RAY_AUTH_MODE": "token"}
