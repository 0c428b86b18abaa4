"""A draw on a node of a cluster: what was done where the command runs is not done again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cgankd.config import Config, config_from_dict
from pipelines.files.layout import STAGES
from pipelines.repeat import jobs
from pipelines.repeat.jobs import Above, DrawJob, do_draw
from pipelines.repeat.one_draw import Draw, make_draw, run_draw
from pipelines.tracking.journal import JsonLines, Tracker
from tests.tiny import tiny

DEVICE: dict[str, Any] = {"threads": 1, "device": "cpu", "compile": "off"}


def photos(folder: Path) -> Config:
    """A project with folders of images."""
    gen = np.random.default_rng(0)
    for label in range(2):
        (folder / "photos" / str(label)).mkdir(parents=True)
        for number in range(10):
            image = Image.fromarray(gen.integers(0, 256, (16, 16), np.uint8))
            image.save(folder / "photos" / str(label) / f"{number}.png")
    values = tiny("digits")
    values["data"] |= {"source": "image-folder", "root": str(folder / "photos"), "image_size": 16, "channels": 1}
    values["data"] |= {"train_per_label": 5, "val_per_label": 2, "test_share": 0.2}
    values["teacher"] |= {"num_steps": 4}
    values.pop("search", None)
    return config_from_dict(values)


def test_a_node_need_not_see_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, console = make_draw(photos(tmp_path), 3, tmp_path), Console(quiet=True)
    tracker = Tracker(JsonLines(tmp_path / "repeat.jsonl"), "draw 3", {})
    assert run_draw(draw, tracker, console, DEVICE, STAGES[:1]) == ["prepare"]
    shutil.rmtree(tmp_path / "photos")
    ran: list[str] = []

    def first_two(
        draw: Draw, tracker: Tracker, console: Console, device: Mapping[str, Any], stages: Sequence[str] = STAGES
    ) -> list[str]:
        ran.extend(run_draw(draw, tracker, console, device, [stage for stage in stages if stage in STAGES[:2]]))
        return ran

    monkeypatch.setattr(jobs, "run_draw", first_two)
    above = Above(tracker.run, tracker.root, tracker.name, tracker.facts)
    do_draw(DrawJob(0, draw, DEVICE, draw.folder / "metrics/evaluate.json", above, os.getcwd()))
    assert ran == ["teacher"]
