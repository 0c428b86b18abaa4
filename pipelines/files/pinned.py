"""A project folder outside this repository: its dvc.yaml, and the pin that ties its results to the installed code.

In the repository every stage depends on source files. A project has none, so code.json holds a digest of them for
each stage, and its dvc.yaml depends on that digest. `cgankd pin` writes it anew after an upgrade; a stage that runs
under other code than pinned is refused, so dvc.lock never tells of code that was not there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
from pathlib import Path

from cgankd.config import ConfigError
from cgankd.data.regular import read_json
from pipelines.files.artifacts import source_digest, write_json
from pipelines.files.params import parse

PIN = "code.json"
CODE = ("cgankd/", "pipelines/")


def template(name: str) -> str:
    """A file of pipelines/project; stages.yaml is the repository's dvc.yaml under another name."""
    return (importlib.resources.files("pipelines") / "project" / name).read_text(encoding="utf-8")


def is_code(dep: str) -> bool:
    """Whether a dependency in dvc.yaml is a source file or folder of this package."""
    return dep.startswith(CODE)


def code_parts() -> dict[str, list[str]]:
    """Stage -> the source files and folders its results depend on."""
    stages = parse(template("stages.yaml"), "stages.yaml")["stages"]
    return {name: [dep for dep in stage["deps"] if is_code(dep)] for name, stage in stages.items()}


def code_digests() -> dict[str, str]:
    """Stage -> digest of the installed code behind it."""
    return {stage: source_digest(*parts)[:16] for stage, parts in code_parts().items()}


def write_pin(workdir: Path) -> list[str]:
    """Write code.json for the installed code; returns the stages whose code changed."""
    found = code_digests()
    before = read_pin(workdir) or {}
    version = importlib.metadata.version("cgankd")
    write_json(workdir / PIN, {"cgankd": version, "stages": found}, sort_keys=False)
    return [stage for stage, digest in found.items() if before.get(stage) != digest]


def read_pin(workdir: Path) -> dict[str, str] | None:
    """Stage -> pinned digest; None in a folder without code.json, such as the repository. Raises ConfigError."""
    path = workdir / PIN
    if not path.exists():
        return None
    try:
        stages = read_json(path)["stages"]
        return {str(stage): str(digest) for stage, digest in stages.items()}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"{PIN} is damaged ({type(error).__name__}); run `cgankd pin`") from error


def changed_code(workdir: Path) -> list[str]:
    """The stages whose installed code is not the one that code.json names; none where there is no code.json.

    Raises ConfigError where it is damaged.
    """
    pinned = read_pin(workdir)
    if pinned is None:
        return []
    return [stage for stage, digest in code_digests().items() if pinned.get(stage) != digest]


def check_pin(workdir: Path, stage: str) -> None:
    """Raise ConfigError where a project's stage would run under other code than its code.json names."""
    pinned = read_pin(workdir)
    parts = code_parts().get(stage)
    if pinned is None or parts is None:
        return
    if pinned.get(stage) != source_digest(*parts)[:16]:
        raise ConfigError(
            f"the installed code of stage {stage} is not the one that {PIN} names; run `cgankd pin`, then `dvc repro`"
            " (stages whose code changed run again)"
        )
