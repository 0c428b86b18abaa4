"""What the stages left, read for the report: numbers, times, health sentences, lineage. A stage that did not run is None."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgankd.config import Config, ConfigError
from pipelines.files.artifacts import STAGES, file_digest
from pipelines.runtime.context import SECTIONS
from pipelines.tracking.journal import Event, read_roots
from pipelines.files.params import flatten, load_config, parse, preset_names, preset_text, read_params
from pipelines.runtime.progress import duration_text
from pipelines.tracking.mlflow_sink import log_folder
from pipelines.tracking.names import git_state, result_name

OUTPUTS = {
    "prepare": ("dataset.h5",),
    "teacher": ("teacher.safetensors",),
    "cgan": ("cgan.safetensors",),
    "ratio": ("ratio.safetensors",),
    "bank": ("pool.h5", "bank.h5"),
    "student": ("students",),
    "evaluate": ("student.safetensors",),
}
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
    cfg: Config
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
    cfg = load_config(workdir / "params.yaml")
    stages = {name: stage_facts(workdir, name) for name in STAGES}
    result = stages["evaluate"].metrics
    return Facts(workdir, cfg, stages, result, lineage(workdir, cfg, stages), read_audit(workdir), is_exported(workdir))


def read_metrics(path: Path, command: str) -> dict[str, Any] | None:
    """A JSON file of metrics; None where it is not there. Raises ConfigError where it is damaged."""
    if not path.exists():
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path.parent.name}/{path.name} is damaged ({error}); run `{command}` again") from error
    return values


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
    return record is not None and student.exists() and record.get("weights") == file_digest(student)


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


def run_behind(workdir: Path, stage: str, metrics: Mapping[str, Any]) -> list[Event]:
    """The events of the run whose results lie in the folder; empty where no run ended well.

    That is the last one, unless DVC brought the results of an earlier one back instead of running the stage again:
    then the last with the settings of params.yaml and the numbers of metrics/<stage>.json.
    """
    ended = finished_runs(workdir, stage)
    for events in reversed(ended):
        if not settings_changed(workdir, stage, events) and not numbers_differ(metrics, events):
            return events
    return ended[-1] if ended else []


def finished_runs(workdir: Path, stage: str) -> list[list[Event]]:
    """The events of each run that ended well, oldest first."""
    return [
        events
        for events in read_roots(log_folder(workdir) / f"{stage}.jsonl").values()
        if any(e["kind"] == "close" and e["run"] == e["root"] and e["status"] == "FINISHED" for e in events)
    ]


def numbers_differ(metrics: Mapping[str, Any], events: list[Event]) -> bool:
    """True where a number of metrics/<stage>.json is not the one that the run sent."""
    sent: dict[str, Any] = {}
    for event in events:
        if event["kind"] == "metrics" and event["run"] == event["root"]:
            sent |= event["values"]
    return any(sent.get(result_name(name), value) != value for name, value in metrics.items())


def settings_changed(workdir: Path, stage: str, events: list[Event]) -> list[str]:
    """Settings this stage reads that differ between its last finished run and params.yaml."""
    ran = next((e["values"] for e in events if e["kind"] == "params" and e["run"] == e["root"]), None)
    if ran is None:
        return []
    now = flatten(read_params(workdir / "params.yaml"))

    def read(key: str) -> bool:
        return any(f"{key}.".startswith(f"{section}.") for section in SECTIONS[stage])

    # Only keys of both: a default that is not written out is no change.
    both = {key for key in ran if key in now and read(key)}
    return sorted(key for key in both if parse(str(ran[key]), key) != now[key])


def lineage(workdir: Path, cfg: Config, stages: Mapping[str, StageFacts]) -> dict[str, list[tuple[str, str]]]:
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
        where.append(("stages", f"{who} {why}: `dvc status` tells"))
    where += [("preset", cfg.tracking.preset), ("seed", str(cfg.seed))]
    return {"code": where, "settings": preset_changes(workdir, cfg.tracking.preset), "digests": digests(workdir)}


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
    found: dict[str, str] = {}
    lock = workdir / "dvc.lock"
    if lock.exists():
        stages: Mapping[str, Any] = (parse(lock.read_text(encoding="utf-8"), "dvc.lock") or {}).get("stages") or {}
        for stage in stages.values():
            found |= {out["path"]: f"md5 {out['md5']}" for out in stage.get("outs", []) if "md5" in out}
    listed = []
    for name in STAGES:
        for output in OUTPUTS[name]:
            path = workdir / "artifacts" / output
            if path.exists():
                shown = f"artifacts/{output}"
                md5 = f", {found[shown]}" if shown in found else ""
                listed.append((shown, f"sha256 {file_digest(path)[:12]}{md5}"))
    return listed
