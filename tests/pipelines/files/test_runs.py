"""Which settings a report says were changed since a stage ran, from the run's JSON lines and params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.files.params import flatten, read_params, set_values, write_preset
from pipelines.files.runs import settings_changed
from pipelines.tracking.journal import JsonLines, Tracker, read_roots


def ran(folder: Path, **values: Any) -> Path:
    """A work folder in which `prepare` has run with the settings of its params.yaml."""
    write_preset("own-classes", folder / "params.yaml")
    set_values(folder / "params.yaml", {f"data.{key}": value for key, value in values.items()})
    tracker = Tracker(JsonLines(folder / "log.jsonl"), "prepare", {"stage": "prepare"})
    tracker.params(flatten(read_params(folder / "params.yaml")))
    tracker.close("finished")
    return folder


def changed(folder: Path) -> list[str]:
    (events,) = read_roots(folder / "log.jsonl").values()
    return settings_changed(folder, "prepare", events)


def test_settings_that_are_as_they_were_are_no_change(tmp_path: Path) -> None:
    # Colours are comments, and a folder may be called by a number or null, where YAML reads what was recorded.
    assert changed(ran(tmp_path, background="#ffffff", pad_colour="#ff0000", root="007")) == []
    set_values(tmp_path / "params.yaml", {"data.val_share": 0.20})
    assert changed(tmp_path) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [("#ff0000", None), (None, "#ff0000"), ("#ff0000", "#ff0001")],
)
def test_a_colour_that_was_changed_is_one(tmp_path: Path, before: str | None, after: str | None) -> None:
    folder = ran(tmp_path, pad_colour=before)
    set_values(folder / "params.yaml", {"data.pad_colour": after, "data.val_share": 0.3})
    assert changed(folder) == ["data.pad_colour", "data.val_share"]
