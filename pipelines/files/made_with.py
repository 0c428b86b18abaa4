"""The settings a file in artifacts/ was made with, and where params.yaml says something else by now.

They stand in the files themselves, and what does not (seed, data, steps of training) in the record of the stage's run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgankd.config import BANK_UNSAID, Config, to_dict
from cgankd.data.store.banks import read_attributes
from pipelines.files.artifacts import config_path, read_record
from pipelines.files.layout import SECTIONS, STAGES, within
from pipelines.files.made import check_made, damaged
from pipelines.files.params import flatten, load_config
from pipelines.files.runs import read_metrics, run_behind

BEHIND = {"bank.h5": STAGES[: STAGES.index("bank") + 1], "student.safetensors": STAGES}
"""The stages behind a file that users pass on."""
NO_EFFECT = ("student.workers", "bank.refuse_worthless")
"""Settings that leave no trace in what is made."""
SHOWN = 4
"""Settings that one warning names."""


def as_text(value: Any) -> str:
    """A setting as tracked runs keep it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def settings_behind(workdir: Path, file: str) -> dict[str, str]:
    """Dotted name -> text of every setting known to stand behind artifacts/<file>; what nothing tells is left out."""
    found: dict[str, str] = {}
    for stage in BEHIND[file]:
        found |= recorded(workdir, stage) | embedded(workdir, stage)
    return found


def recorded(workdir: Path, stage: str) -> dict[str, str]:
    """Settings of the run whose results lie in the folder, as its JSON lines have them. Raises ConfigError as `read_metrics`."""
    metrics = read_metrics(workdir / "metrics" / f"{stage}.json", f"cgankd {stage}") or {}
    events = run_behind(workdir, stage, metrics)
    ran: dict[str, Any] = next((e["values"] for e in events if e["kind"] == "params" and e["run"] == e["root"]), {})
    # The bank's rows do not depend on the arms; those decide what else the pool must hold.
    sections = [s for s in SECTIONS[stage] if (stage, s) != ("bank", "student.arms")]
    return {k: str(v) for k, v in ran.items() if within(k, sections)}


def embedded(workdir: Path, stage: str) -> dict[str, str]:
    """Settings written into what the stage made; true also where `dvc checkout` brought another file back.

    Raises ConfigError where it is damaged.
    """
    folder = workdir / "artifacts"
    own: Mapping[str, Any] = {}
    if stage in ("teacher", "cgan", "ratio"):
        path = config_path(folder / f"{stage}.safetensors")
        config = read_record(path) if path.exists() else {}
        # The teacher's own config holds its settings at the top, beside other things; the others' have a section.
        own = config.get(stage, {k: v for k, v in config.items() if k in ("net", "width", "precision")})
        own = own if isinstance(own, dict) else {}
    elif stage == "bank" and (folder / "bank.h5").exists():
        check_made(folder / "bank.h5")
        said = _mapping(str(read_attributes(folder / "bank.h5").get("config", "{}")), folder / "bank.h5")
        own = BANK_UNSAID | said if said else {}
    elif stage == "student" and (runs := folder / "students" / "runs.json").exists():
        said = read_record(runs).get("settings", {})
        own = said if isinstance(said, dict) else {}
    return {f"{stage}.{key}": as_text(value) for key, value in flatten(own).items()}


def _mapping(text: str, path: Path) -> dict[str, Any]:
    """A mapping in JSON that a file carries. Raises ConfigError where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error
    if not isinstance(found, dict):
        raise damaged(path, "its settings are no mapping")
    return found


def changed_since(workdir: Path, file: str, cfg: Config | None = None) -> str | None:
    """One sentence where artifacts/<file> was made with other settings than params.yaml has, or than `cfg`; else None.

    None too where one of the two is missing, which whoever needs it says.
    """
    if not (workdir / "params.yaml").exists() or not (workdir / "artifacts" / file).exists():
        return None
    written = flatten(to_dict(load_config(workdir / "params.yaml")))
    now = written if cfg is None else flatten(to_dict(cfg))
    made = settings_behind(workdir, file)
    parts = [
        f"{key} {value}, {'params.yaml' if now[key] == written.get(key) else '--set'} says {as_text(now[key])}"
        for key, value in sorted(made.items())
        if key in now and key not in NO_EFFECT and as_text(now[key]) != value
    ]
    if not parts:
        return None
    more = f"; and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    return f"artifacts/{file} was made with {'; '.join(parts[:SHOWN])}{more}; run `dvc repro`"
