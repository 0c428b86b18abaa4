"""When the first draw is taken over from what `dvc repro` made, and what a kill on the way leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cgankd.config import Config
from pipelines.files.layout import STAGES
from pipelines.files.pinned import PIN, write_pin
from pipelines.repeat import one_draw
from pipelines.repeat import run as repeating
from pipelines.repeat.one_draw import adopt, is_done, key_of, make_draw

DEVICE: dict[str, Any] = {"threads": 1, "device": "cpu", "compile": "off"}


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


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("place", ["copyfile", "mark_done"])
def test_a_kill_while_a_draw_is_taken_over_loses_nothing(
    place: str, damaged: bool, tmp_path: Path, digits_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`repeat` takes over what is there as long as `prepare` is not done, so that a half of it must not look begun."""
    draw = make_draw(digits_config, digits_config.seed, tmp_path)
    for stage in STAGES:
        for path in draw.outputs(stage):
            source = tmp_path / path.relative_to(draw.folder)
            if source.suffix:
                source.parent.mkdir(parents=True, exist_ok=True)
                source.write_text(f"{stage} {path.name}")
            else:
                source.mkdir(parents=True)
                (source / "one.safetensors").write_text(stage)
    if damaged:  # a draw of before, whose images are made again
        adopt(draw, tmp_path, DEVICE)
        (draw.folder / "artifacts" / "dataset.h5").write_text("damaged")
    module: Any = shutil if place == "copyfile" else one_draw
    whole = getattr(module, place)
    calls = 0

    def killed(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return whole(*args)

    with monkeypatch.context() as patched:
        patched.setattr(module, place, killed)
        with pytest.raises(KeyboardInterrupt):
            adopt(draw, tmp_path, DEVICE)
    assert not is_done(draw, "prepare", key_of(draw, "prepare", DEVICE))
    adopt(draw, tmp_path, DEVICE)
    assert all(is_done(draw, stage, key_of(draw, stage, DEVICE)) for stage in STAGES)
