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
    """A section a stage: what goes in and what comes out."""
    parts = []
    for stage in stages():
        reads = [f"the images at `{dep[2:-1]}`" if dep.startswith("${") else f"`{dep}`" for dep in stage.reads]
        settings = [f"`{name}`" for name in stage.settings]
        left = {"Writes": stage.writes, "Metrics": stage.metrics, "Plots": stage.plots}
        lines = [f"- Reads: {', '.join(reads)}", f"- Settings: {', '.join(settings)}"]
        lines += [f"- {name}: {code(paths)}" for name, paths in left.items()]
        parts.append(f"### {stage.name}\n\n{stage.about}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def artifacts(path: Path, words: list[str]) -> str:
    """A row for each artifact: the stage that makes it, and those that read it."""
    every = stages()
    rows = [
        (f"`{name}`", stage.name, ", ".join(other.name for other in every if name in other.reads) or "-")
        for stage in every
        for name in stage.writes
    ]
    return table(("artifact", "made by", "read by the stages"), rows)
