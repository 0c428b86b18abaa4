"""Weights of the user's own in draws, which run in a folder of theirs: found, and part of what a stage's results depend on."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from cgankd.config import Config, ConfigError, config_from_dict
from cgankd.types import DatasetInfo
from pipelines.networks.named_files import beside
from pipelines.networks.predictor import build_predictor
from pipelines.repeat import one_draw
from pipelines.repeat import own_files as reading
from pipelines.repeat.jobs import check_own_files
from pipelines.repeat.one_draw import key_of, make_draw, run_draw
from pipelines.repeat.own_files import own_files
from pipelines.tracking.journal import JsonLines, Tracker
from tests.tiny import tiny

NET = {"net": "convnet", "width": 4}
PROBE = NET | {"num_steps": 4, "input_size": None}
DEVICE: dict[str, Any] = {"threads": 1, "device": "cpu", "compile": "off"}


def saved(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    info = DatasetInfo("class", "toy", "", 1, 16, (0.5,), (0.5,), tuple("0123456789"))
    config = NET | {"mean": [0.5], "std": [0.5]}
    torch.save(build_predictor(config, info, 10).state_dict(), path)


def settings(member: dict[str, Any], probe: dict[str, Any] | None = None) -> Config:
    values = tiny("digits")
    values["teacher"] |= {"num_steps": 6, "members": [{}, NET | member]}
    if probe is not None:
        values["bank"] |= {"rounds": 2, "probe": PROBE | probe}
    values["tracking"]["mlflow"] = False
    values.pop("search", None)
    return config_from_dict(values)


def test_files_of_members_and_of_the_probe_are_found_from_a_draw(tmp_path: Path) -> None:
    for name in ("w.pt", "p.pt"):
        saved(tmp_path / name, 1)
    cfg = beside(settings({"weights": "w.pt"}, {"weights": "p.pt"}), tmp_path)
    assert cfg.teacher.members[1]["weights"] == str(tmp_path / "w.pt") and cfg.teacher.members[0] == {}
    assert cfg.bank.probe is not None and cfg.bank.probe.weights == str(tmp_path / "p.pt")
    assert own_files(cfg, "teacher") == {"teacher.members[1].weights": str(tmp_path / "w.pt")}
    assert own_files(cfg, "bank") == {"bank.probe.weights": str(tmp_path / "p.pt")}
    same = settings({"weights": None}, {"weights": None})
    assert beside(same, tmp_path) == same and own_files(same, "teacher") == {}


def test_a_draw_trains_a_member_from_its_file(tmp_path: Path) -> None:
    saved(tmp_path / "w.pt", 1)
    draw = make_draw(beside(settings({"weights": "w.pt"}), tmp_path), 3, tmp_path)
    console = Console(record=True, file=io.StringIO(), width=300)
    tracker = Tracker(JsonLines(tmp_path / "repeat.jsonl"), "repeat", {})
    assert run_draw(draw, tracker, console, DEVICE, ("prepare", "teacher")) == ["prepare", "teacher"]
    assert f"{tmp_path / 'w.pt'}: " in console.export_text()


def test_another_file_at_the_same_path_is_another_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_draw, "files_read", lambda cfg, stage: [])
    monkeypatch.setattr(reading, "_digest", reading.file_digest)  # that of now, and not once a process
    for name in ("w.pt", "p.pt"):
        saved(tmp_path / name, 1)
    cfg = settings({"weights": str(tmp_path / "w.pt")}, {"weights": str(tmp_path / "p.pt")})
    draw = make_draw(cfg, 3, tmp_path)
    before = {stage: key_of(draw, stage, DEVICE) for stage in ("teacher", "bank", "student")}
    for name, stage in (("w.pt", "teacher"), ("p.pt", "bank")):
        saved(tmp_path / name, 2)
        now = {stage: key_of(draw, stage, DEVICE) for stage in before}
        assert [s for s in before if now[s] != before[s]] == [stage]
        before = now


def test_a_project_that_was_moved_keeps_its_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paths of nets in a draw are whole ones, as its stages run elsewhere; what counts is what the files hold."""
    monkeypatch.setattr(one_draw, "files_read", lambda cfg, stage: [])
    cfg = settings({"weights": "w.pt"}, {"weights": "p.pt"})
    cfg = replace(cfg, teacher=replace(cfg.teacher, weights="t.pt"), student=replace(cfg.student, weights="s.pt"))
    file = replace(cfg, teacher=replace(cfg.teacher, weights=None, members=None, file="w.pt"))
    names = ("w.pt", "p.pt", "t.pt", "s.pt")
    keys = []
    for place in (tmp_path / "here", tmp_path / "there"):
        place.mkdir()
        for seed, name in enumerate(names):
            saved(place / name, seed)
        draws = [make_draw(beside(one, place), 3, place) for one in (cfg, file)]
        keys.append([key_of(draw, stage, DEVICE) for draw in draws for stage in ("teacher", "bank", "student")])
    assert keys[0] == keys[1]
    (tmp_path / "there" / "s.pt").unlink()
    assert key_of(make_draw(draws[0].cfg, 3, tmp_path), "student", DEVICE) != keys[0][2]


@pytest.mark.parametrize("who", ["teacher.members[1]", "bank.probe"])
def test_a_node_that_does_not_see_a_file_says_which(who: str, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.pt")
    cfg = settings({"weights": gone}) if who.startswith("teacher") else settings({}, {"weights": gone})
    with pytest.raises(ConfigError) as error:
        check_own_files(make_draw(cfg, 3, tmp_path))
    assert str(error.value).startswith(f"{who}.weights is {gone}, which a node of the cluster does not see")
