"""When the first draw is taken over from what `dvc repro` made, and what a kill on the way leaves."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cgankd.config import Config
from pipelines.files.pinned import PIN, write_pin
from pipelines.repeat import run as repeating


class Begun(Exception):
    """The draws are begun, and all that is taken over is."""


def taken_over(folder: Path, cfg: Config, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that a repeat in a folder takes over where DVC finds nothing changed."""
    found: list[int] = []

    def begin(*args: Any) -> None:
        raise Begun

    monkeypatch.setattr(repeating, "is_up_to_date", lambda folder: True)
    monkeypatch.setattr(repeating, "watched_by_dvc", lambda cfg, folder: True)
    monkeypatch.setattr(repeating, "adopt", lambda draw, folder, device: found.append(draw.seed))
    monkeypatch.setattr(repeating, "results_of", begin)
    plan = SimpleNamespace(device="cpu", compile="off")
    ctx: Any = SimpleNamespace(cfg=cfg, workdir=folder, plan=plan, say=lambda text: None)
    with pytest.raises(Begun):
        repeating.run(ctx, 2)
    return found


def test_what_other_code_than_the_installed_made_is_not_taken_over(
    tmp_path: Path, digits_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade without `cgankd pin` DVC finds nothing changed, as dvc.yaml depends on code.json alone."""
    assert taken_over(tmp_path, digits_config, monkeypatch) == [0]
    write_pin(tmp_path)
    assert taken_over(tmp_path, digits_config, monkeypatch) == [0]
    pin = json.loads((tmp_path / PIN).read_text())
    pin["stages"]["teacher"] = "0" * 16
    (tmp_path / PIN).write_text(json.dumps(pin))
    assert taken_over(tmp_path, digits_config, monkeypatch) == []
