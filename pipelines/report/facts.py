"""What the stages left, read for the report: numbers, times, health sentences, lineage. A stage that did not run is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.files.artifacts import file_digest
from pipelines.files.dvc_lock import made_md5, read_lock
from pipelines.files.layout import OUTPUTS, STAGES, understood
from pipelines.files.params import flatten, parse, preset_names, preset_text, read_params
from pipelines.files.runs import finished_runs, numbers_differ, read_metrics, run_behind, settings_changed
from pipelines.runtime.progress import duration_text
from pipelines.search.config import SearchedConfig, load_searched
from pipelines.tracking.names import git_state

MARKS = ("ok", "WARNING", "REFUSED")


@dataclass(frozen=True)
class StageFacts:
    """One stage: its metrics (None where it did not run), seconds of its last run, health checks, settings changed since."""

    name: str
    metrics: dict[str, Any] | None
    seconds: float | None
    ended: int | None
    health: tuple[tuple[str, str], ...]
    changed: tuple[str, ...]
    commit: str

    @property
    def state(self) -> str:
        """done, stale or missing."""
        if self.metrics is None:
            return "missing"
        return "stale" if self.changed else "done"

    @property
    def time(self) -> str:
        """How long the last finished run took."""
        return "" if self.seconds is None else duration_text(self.seconds)


@dataclass(frozen=True)
class Audit:
    """The last audit of the bank: of how many numbers, which were alarming, and whether it is of the bank that lies here."""

    num: int
    alarms: tuple[str, ...]
    current: bool


@dataclass(frozen=True)
class Facts:
    """Everything of a work folder that the report tells, but the fakes themselves.

    `audit` is None without one; `exported` tells whether `cgankd export` wrote the student that lies here.
    """

    workdir: Path
    cfg: SearchedConfig
    stages: dict[str, StageFacts]
    result: dict[str, Any] | None
    lineage: dict[str, list[tuple[str, str]]]
    audit: Audit | None
    exported: bool

    def metric(self, stage: str, name: str) -> float | None:
        """A number of metrics/<stage>.json; None where it is not there."""
        value = (self.stages[stage].metrics or {}).get(name)
        return float(value) if isinstance(value, int | float) else None


def gather(workdir: Path) -> Facts:
    """Read a work folder. Raises ConfigError where params.yaml is wrong or a metrics file is damaged."""
    cfg = load_searched(workdir / "params.yaml")
    stages = {name: stage_facts(workdir, name) for name in STAGES}
    result, come_from = stages["evaluate"].metrics, lineage(workdir, cfg.tracking.preset, cfg.seed, stages)
    return Facts(workdir, cfg, stages, result, come_from, read_audit(workdir), is_exported(workdir))


def read_audit(workdir: Path) -> Audit | None:
    """metrics/audit.json. It is of the present bank where its run read a file of the same digest, or, where no run is
    kept (artifacts/logs is not for git), where it is the younger file."""
    path, bank = workdir / "metrics" / "audit.json", workdir / "artifacts" / "bank.h5"
    metrics = read_metrics(path, "cgankd bank audit")
    if metrics is None or not bank.exists():
        return None
    runs = [events for events in finished_runs(workdir, "audit") if not numbers_differ(metrics, events)]
    tags = [event["values"] for event in (runs[-1] if runs else []) if event["kind"] == "tags"]
    digests = [values["input.bank.h5"] for values in tags if "input.bank.h5" in values]
    younger = path.stat().st_mtime >= bank.stat().st_mtime
    current = file_digest(bank).startswith(digests[-1]) if digests else younger
    raised = {name.removesuffix(".alarm"): value for name, value in metrics.items() if name.endswith(".alarm")}
    return Audit(len(raised), tuple(name for name, value in raised.items() if value), current)


def is_exported(workdir: Path) -> bool:
    """Whether artifacts/export holds the student that lies here."""
    record = read_metrics(workdir / "artifacts" / "export" / "export.json", "cgankd export")
    student = workdir / "artifacts" / "student.safetensors"
    with understood("artifacts/export/export.json", "cgankd export"):
        return record is not None and student.exists() and bool(record["weights"] == file_digest(student))


def stage_facts(workdir: Path, name: str) -> StageFacts:
    """Facts of one stage from metrics/<stage>.json, the JSON lines of its last finished run, and params.yaml."""
    metrics = read_metrics(workdir / "metrics" / f"{name}.json", f"cgankd {name}")
    events = run_behind(workdir, name, metrics or {})
    sent = [
        e["values"] for e in events if e["kind"] == "metrics" and "seconds" in e["values"] and e["run"] == e["root"]
    ]
    said = [e["text"].partition(": ") for e in events if e["kind"] == "say"]
    tags: dict[str, str] = next((e.get("tags", {}) for e in events if e["kind"] == "run"), {})
    return StageFacts(
        name,
        metrics,
        seconds=float(sent[-1]["seconds"]) if sent else None,
        ended=max((int(e["time_ms"]) for e in events if "time_ms" in e), default=None),
        health=tuple((mark, sentence) for mark, colon, sentence in said if colon and mark in MARKS),
        changed=tuple(settings_changed(workdir, name, events)) if metrics is not None else (),
        commit=tags.get("git_sha", "")[:10] + (" with changes" if tags.get("git_dirty") == "true" else ""),
    )


def lineage(
    workdir: Path, preset: str, seed: int, stages: Mapping[str, StageFacts]
) -> dict[str, list[tuple[str, str]]]:
    """Where the results come from: the commit, settings that differ from the preset, and digests of what was made."""
    state = git_state(workdir)
    where = [("commit", state["git_sha"])] if state else [("commit", "no git repository")]
    if state.get("git_dirty") == "true":
        where.append(("work folder", "has changes that are not committed"))
    sha = state.get("git_sha", "")
    elsewhere = [name for name, stage in stages.items() if sha and stage.commit and stage.commit[:10] != sha[:10]]
    if elsewhere:
        who = "all" if len(elsewhere) == len(stages) else ", ".join(elsewhere)
        why = (
            "last ran at another commit (below); DVC runs a stage again only where its code, settings or inputs changed"
        )
        where.append(("stages", f"{who} {why}: dvc status tells"))
    where += [("preset", preset), ("seed", str(seed))]
    return {"code": where, "settings": preset_changes(workdir, preset), "digests": digests(workdir)}


def preset_changes(workdir: Path, preset: str) -> list[tuple[str, str]]:
    """Settings of params.yaml that differ from the preset it names."""
    if preset not in preset_names():
        return []
    now, before = flatten(read_params(workdir / "params.yaml")), flatten(parse(preset_text(preset), preset))
    return [
        (key, f"{now.get(key, 'not set')} (preset: {before.get(key, 'not set')})")
        for key in sorted(now.keys() | before.keys())
        if now.get(key) != before.get(key)
    ]


def digests(workdir: Path) -> list[tuple[str, str]]:
    """Digests of each artifact: SHA-256, as MLflow, the model card and `compare` show it, and DVC's MD5 of dvc.lock."""
    known = made_md5(read_lock(workdir))
    listed = []
    for name in STAGES:
        for output in OUTPUTS[name]:
            path = workdir / "artifacts" / output
            if path.exists():
                shown = f"artifacts/{output}"
                md5 = f", md5 {known[shown]}" if shown in known else ""
                listed.append((shown, f"sha256 {file_digest(path)[:12]}{md5}"))
    return listed
