"""The small projects that are killed: tiny presets whose code saves every few steps, so that many kills meet a save."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.tiny import project, tiny, write_params

OFTENER = {
    "cgankd/fit/loop.py": {
        "SAVE_LEAST, SAVE_SHARE = 50, 10": "SAVE_LEAST, SAVE_SHARE = 5, 10",
        "SAVE_EVERY_S = 60.0": "SAVE_EVERY_S = 0.05",
        "SAVE_COST = 100.0": "SAVE_COST = 1.0",
    },
    "cgankd/fit/predictor.py": {
        "save_every = max(200, cfg.num_steps // 5)": "save_every = max(5, cfg.num_steps // 10)"
    },
    "pipelines/rounds/kept_blocks.py": {"SAVE_EVERY_S = 10.0": "SAVE_EVERY_S = 0.05"},
}
"""File of the copy -> text and what stands there instead. No number of a run depends on when it saves."""


@dataclass(frozen=True)
class Kind:
    """One sort of project, and the command that takes it to its end: given the stages known to be done."""

    name: str
    preset: str
    command: Callable[[list[str]], list[str]]


def by_dvc(begun: list[str]) -> list[str]:
    """DVC knows itself where to go on."""
    return ["dvc", "repro"]


def by_hand(begun: list[str]) -> list[str]:
    """As a user goes on without DVC: from the stage that was under way."""
    return ["cgankd", "run", *(["--from", begun[-1]] if begun else [])]


KINDS = {
    "scalars": Kind("scalars", "chairs", by_hand),
    "classes": Kind("classes", "digits", by_hand),
    "classes by DVC": Kind("classes by DVC", "digits", by_dvc),
}


def settings(kind: Kind, *, short: bool = False) -> dict[str, Any]:
    """Tiny settings; with `short` as few arms as show all that a stage does."""
    values = tiny(kind.preset)
    values["student"] |= {"workers": 2, "num_steps": 40}
    values["cgan"]["num_steps"] = 24
    values["bank"] |= {"num_fakes": 60 if short else 300, "block_size": 16, "batch_size": 16}
    values["tracking"]["mlflow"] = kind.command is by_dvc
    arms = {"real": {}, "real_kd": {"kd": True}, "filter": {"bank": True, "subsample": True, "filter": True}}
    hard = {"hard": {"bank": True, "hard": True}} if kind.preset == "digits" else {}
    values["student"]["arms"] = arms | ({} if short else hard)
    if hard and not short:
        values["bank"] |= {"rounds": 2, "probe": probe(values)}
    return values


def probe(values: dict[str, Any]) -> dict[str, Any]:
    """Settings of the probe student, those of the students."""
    names = (
        "net",
        "width",
        "batch_size",
        "optimizer",
        "learning_rate",
        "weight_decay",
        "schedule",
        "augment",
        "precision",
    )
    return {name: values["student"][name] for name in names} | {"num_steps": 20}


def make(folder: Path, kind: Kind, *, short: bool = False) -> Path:
    """A project that nothing has run in: for DVC a repository with its own copy of the code, else settings alone."""
    if kind.command is by_dvc:
        project(folder, settings(kind, short=short))
        save_oftener(folder)
    else:
        folder.mkdir(parents=True)
        write_params(folder, settings(kind, short=short))
    return folder


def code(folder: Path) -> Path:
    """A copy of the code that saves every few steps, made once: work goes on in the tree while projects are killed."""
    if not folder.exists():
        for name in ("cgankd", "pipelines"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        save_oftener(folder)
    return folder


def save_oftener(folder: Path) -> None:
    """Put what OFTENER says into a copy of the code."""
    for name, changes in OFTENER.items():
        path = folder / name
        text = path.read_text()
        for old, new in changes.items():
            assert text.count(old) == 1, f"{name} has no line {old!r} any more: put the new one into OFTENER"
            text = text.replace(old, new)
        path.write_text(text)


def copy(template: Path, folder: Path) -> Path:
    """A project as another one is, links kept."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder, symlinks=True)
    return folder
