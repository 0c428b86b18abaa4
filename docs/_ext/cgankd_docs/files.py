"""The stages with what each reads and leaves, as dvc.yaml has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgankd_docs.markdown import code, table
from pipelines.files.layout import SECTIONS, STAGES
from pipelines.files.params import parse

ROOT = Path(__file__).resolve().parents[3]
OWN = ("artifacts/", "${")
"""Beginnings of what a stage reads that is no source file of this project."""


@dataclass(frozen=True)
class Stage:
    """What dvc.yaml says of a stage: artifacts and settings in; artifacts, metrics and plots out."""

    name: str
    about: str
    reads: tuple[str, ...]
    settings: tuple[str, ...]
    writes: tuple[str, ...]
    metrics: tuple[str, ...]
    plots: tuple[str, ...]


def names(entries: list[Any] | None) -> tuple[str, ...]:
    """The paths of a list in dvc.yaml, where some stand with options."""
    return tuple(next(iter(entry)) if isinstance(entry, dict) else str(entry) for entry in entries or ())


def stages() -> list[Stage]:
    """The stages in the order of the pipeline."""
    found = parse((ROOT / "dvc.yaml").read_text(encoding="utf-8"), "dvc.yaml")["stages"]
    return [
        Stage(
            name,
            str(found[name]["desc"]),
            tuple(dep for dep in names(found[name]["deps"]) if dep.startswith(OWN)),
            SECTIONS[name],
            *(names(found[name].get(part)) for part in ("outs", "metrics", "plots")),
        )
        for name in STAGES
    ]


def page(path: Path, words: list[str]) -> str:
    """A section a stage, with a table of what goes in and out."""
    parts = []
    for stage in stages():
        reads = [f"the images at `{dep[2:-1]}`" if dep.startswith("${") else f"`{dep}`" for dep in stage.reads]
        rows = [
            ("reads", ", ".join(reads)),
            ("settings", code(stage.settings)),
            ("writes", code(stage.writes)),
            ("metrics", code(stage.metrics)),
            ("plots", code(stage.plots)),
        ]
        parts.append(f"### {stage.name}\n\n{stage.about}\n\n" + table(("", "files"), rows))
    return "\n".join(parts)
