"""Each stage depends in dvc.yaml on the code that its numbers come from, and on no other."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.floors import imported, modules
from tests.test_pipeline_contract import DVC, STAGES

FRAME = {
    "pipelines.runtime": "shows progress, keeps resume files, sends results on",
    "pipelines.engines": "says where jobs run, which moves no number",
    "pipelines.files": "reads settings, writes what it is given",
    "pipelines.locks": "keeps a second writer away",
    "pipelines.tracking": "hands results to MLflow",
    "pipelines.pictures": "draws what was computed",
    "pipelines.stages.same_data": "refuses, or changes nothing",
    "pipelines.networks.origin": "refuses, or changes nothing",
    "pipelines.stages.table": "prints what was computed",
    "cgankd.measure.places": "prints what was computed",
}
"""Code that every stage stands on and no number comes from, with what it does."""
COUNTS = {"pipelines.runtime.machine"}
"""Within the frame, yet bits depend on it: precision, threads, compilation."""
NEVER = ("report", "sizes", "search", "ship", "audit", "project", "commands", "tracking", "pictures", "presets")


def is_frame(module: str) -> bool:
    return module not in COUNTS and any(f"{module}.".startswith(f"{part}.") for part in FRAME)


def behind(stage: str) -> set[str]:
    """The modules that a stage's numbers come from: all it imports, directly or not, without the frame."""
    found: set[str] = set()
    waiting = [f"pipelines.stages.{stage}"]
    while waiting:
        module = waiting.pop()
        if module in found or is_frame(module) or (stage == "prepare" and module in COUNTS):
            continue
        found.add(module)
        waiting.extend(imported(module))
    if stage != "prepare":
        found |= COUNTS
    return {module for module in found if modules()[module].name != "__init__.py"}


def covers(dep: str, module: str) -> bool:
    path = modules()[module].relative_to(ROOT).as_posix()
    return path == dep or path.startswith(f"{dep}/")


def code(stage: str) -> list[str]:
    return [dep for dep in DVC[stage]["deps"] if dep.startswith(("cgankd", "pipelines"))]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_the_code_that_its_numbers_come_from(stage: str) -> None:
    missing = [m for m in sorted(behind(stage)) if not any(covers(dep, m) for dep in code(stage))]
    assert not missing, f"{stage} does not run again when these change: {missing}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_no_code_that_it_does_not_use(stage: str) -> None:
    assert code(stage) and all((ROOT / dep).exists() for dep in code(stage))
    idle = [dep for dep in code(stage) if not any(covers(dep, m) for m in behind(stage))]
    assert not idle, f"{stage} runs again for nothing when these change: {idle}"
    assert not [dep for dep in code(stage) if dep.startswith(tuple(f"pipelines/{wing}" for wing in NEVER))]
    assert len(code(stage)) <= 18, "name the folder in place of its files"


def test_the_frame_is_really_used() -> None:
    """A name that went stale would hide nothing any more, and nobody would see it."""
    assert all(part in modules() for part in (*FRAME, *COUNTS))
