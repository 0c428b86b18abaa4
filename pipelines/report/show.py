"""Text for the terminal: a stage's settings, results and whereabouts, and the doctor's findings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cgankd.config import ConfigError
from pipelines.files.layout import understood
from pipelines.files.made_with import as_text, embedded, recorded
from pipelines.files.params import filled, flatten, read_params
from pipelines.files.runs import read_metrics
from pipelines.project.finding import Finding
from pipelines.stages.table import render
from pipelines.tracking.page import run_link
from pipelines.tracking.places import last_run

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def show_stage(stage: str, workdir: Path, console: Console) -> None:
    """Print settings, metrics, pictures, curves and the MLflow run of a stage. Raises ConfigError where nothing ran."""
    section = "data" if stage == "prepare" else stage
    console.print(settings_table(stage, section, workdir))
    values = read_metrics(workdir / "metrics" / f"{stage}.json", f"cgankd {stage}")
    if values is None:
        raise ConfigError(f"metrics/{stage}.json is missing; run `cgankd {stage}` first")
    with understood(f"metrics/{stage}.json", f"cgankd {stage}"):
        console.print(render(values) if "arms" in values else _pairs(f"metrics/{stage}.json", flatten(values)))
    for path in sorted((workdir / "plots" / stage).glob("*.*")):
        if path.suffix in (".png", ".csv"):
            console.print(str(path.relative_to(workdir)), markup=False, highlight=False, soft_wrap=True)
    run = last_run(workdir, stage)
    if run is not None:
        console.print(run_link(run), markup=False, highlight=False, soft_wrap=True)


def settings_table(stage: str, section: str, workdir: Path) -> Table:
    """The settings a stage's result was made with, marked where params.yaml says otherwise by now.

    Where nothing tells them, as before a first run, those of params.yaml.
    """
    values = read_params(workdir / "params.yaml")
    made = recorded(workdir, stage) | embedded(workdir, stage)
    made = {name: text for name, text in made.items() if name.startswith(f"{section}.")}
    if not made:
        return _pairs(f"{section} in params.yaml", flatten({section: values.get(section) or {}}))
    now = {name: as_text(value) for name, value in filled(values).items()}
    shown = {
        name: text if now.get(name, text) == text else f"{text}  (params.yaml says {now[name]})"
        for name, text in made.items()
    }
    return _pairs(f"{section} as this result was made", shown)


def findings_table(findings: Sequence[Finding]) -> Table:
    """The doctor's findings, each problem with its cure under it."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        style = STYLES[finding.level]
        table.add_row(f"[{style}]{finding.level}[/]", finding.name, _plain(finding.text))
        if finding.cure:
            table.add_row("", "", _plain(f"cure: {finding.cure}"))
    return table


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _pairs(title: str, values: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    for name, value in values.items():
        shown = f"{value:.6g}" if isinstance(value, float) else "null" if value is None else str(value)
        table.add_row(_plain(name), _plain(shown))
    return table
