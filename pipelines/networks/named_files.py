"""Nets of the user's own in the settings: which sections start from weights, and which settings name a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cgankd.config import Config, FitConfig
from cgankd.config.members import member_name, overrides, sections_of
from cgankd.config.weights import file_in


def starting(cfg: Config) -> dict[str, FitConfig]:
    """The sections that may start from weights, by the words that lead to them; of the members those with their own."""
    found: dict[str, FitConfig] = {"teacher": cfg.teacher, "student": cfg.student}
    given = overrides(cfg.teacher.members or [])
    for number, (own, section) in enumerate(zip(given, sections_of(cfg.teacher, given), strict=True)):
        if own.keys() & {"weights", "weights_digest", "pretrained"}:
            found[member_name(cfg.teacher.members, number)] = section
    return found if cfg.bank.probe is None else found | {"bank.probe": cfg.bank.probe}


def with_files(cfg: Config, place: Callable[[str, str], str]) -> Config:
    """The settings with `place(setting, path)` for each path of a net that they name."""

    def placed(name: str, path: str | None) -> str | None:
        return path if file_in(path) is None else place(name, str(path))

    teacher, student, bank = cfg.teacher, cfg.student, cfg.bank
    members: Any = teacher.members
    if isinstance(members, list | tuple):
        members = [
            dict(own)
            | ({"weights": placed(f"teacher.members[{k}].weights", own["weights"])} if "weights" in own else {})
            for k, own in enumerate(members)
        ]
    file = None if teacher.file is None else place("teacher.file", teacher.file)
    weights = placed("teacher.weights", teacher.weights)
    teacher = replace(teacher, file=file, weights=weights, members=members)
    student = replace(student, weights=placed("student.weights", student.weights))
    if bank.probe is not None:
        bank = replace(bank, probe=replace(bank.probe, weights=placed("bank.probe.weights", bank.probe.weights)))
    return replace(cfg, teacher=teacher, student=student, bank=bank)


def beside(cfg: Config, workdir: Path) -> Config:
    """The settings with the files that lie in a work folder by their whole path, as for stages that run elsewhere."""

    def place(name: str, path: str) -> str:
        return str((workdir / path).resolve()) if (workdir / path).is_file() else path

    return with_files(cfg, place)


def named_files(cfg: Config) -> dict[str, str]:
    """Setting -> path of each file of a net that the settings name, whether it is there or not."""
    found: dict[str, str] = {}
    with_files(cfg, lambda name, path: found.setdefault(name, path))
    return found
