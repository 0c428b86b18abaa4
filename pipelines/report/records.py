"""What `cgankd compare` reads: the results of a folder, a git revision, a DVC experiment or an MLflow run, as one record."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgankd.config import BESIDE, ConfigError
from cgankd.data.regular import parse_json, read_text
from cgankd.measure.predictive import mean_sd
from pipelines.files.dvc_lock import read_lock, read_md5
from pipelines.files.made import check_made
from pipelines.files.params import filled, nested, parse

RESULT = "metrics/evaluate.json"


@dataclass(frozen=True)
class Arm:
    """Scores of one arm, one a seed, on the split of its record; `distiller` is None where no KD loss was added."""

    values: tuple[float, ...]
    val_mean: float
    uses_bank: bool | None = None
    distiller: str | None = None

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def sd(self) -> float:
        return mean_sd(self.values)[1] if len(self.values) > 1 else 0.0


SHAPES: dict[str, Any] = {
    **{"headline": dict, "confidence": float, "steps": int, "batch_size": int, "teacher": float | int | None},
    **{"arms": dict, "student": dict | None, "seeds": list | None},
    **{"dataset": str | None, "chosen_arm": str | None, "verdict": str | None},
}
"""What evaluate.json holds under each key that is read here; older files lack some of those that may be None."""


@dataclass(frozen=True)
class Record:
    """One run to compare: where it was found, what it was trained on and with, and the scores of its arms."""

    name: str
    found: str
    split: str
    headline: Mapping[str, Any]
    confidence: float
    arms: Mapping[str, Arm]
    seeds: tuple[int, ...] | None
    dataset: str | None
    student: str
    distiller: str
    steps: str
    teacher: float | None = None
    chosen: str | None = None
    verdict: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def load(text: str, workdir: Path, experiment: str) -> Record:
    """The record that a word of the user names: "" or "." the work folder, a path, a git revision, an MLflow run.

    Raises ConfigError where nothing has that name, or what has it holds no results.
    """
    if text in ("", "."):
        return from_file(workdir / RESULT, "workspace")
    path = workdir / text
    if path.is_dir():
        return from_file(path / RESULT, text)
    if path.is_file():
        return from_file(path, text)
    revision = resolve_revision(workdir, text)
    if revision is not None:
        return from_revision(workdir, revision, text)
    from pipelines.tracking.reads import find_run

    run = find_run(workdir, experiment, text)
    if run is None:
        raise ConfigError(
            f"{text!r} is no file, git revision, DVC experiment or finished evaluate or student run of MLflow;"
            " `dvc exp list` and `cgankd ui` show their names"
        )
    settings = plain_settings(nested({key: tracked(value) for key, value in run.params.items()}))
    digest = run.tags.get("input.dataset.h5")
    if run.result is not None:
        return record(run.name, f"MLflow run {run.run_id}", run.result, settings, digest)
    headline = {
        "name": "validation score",
        "unit": run.tags.get("unit", ""),
        "higher_is_better": run.tags.get("higher_is_better") == "true",
    }
    return student_record(run.name, f"MLflow run {run.run_id}", run.children, headline, settings, digest)


def tracked(text: str) -> Any:
    """A setting as a run tells it: strings as they are (a colour begins with #, where YAML sees a comment), the rest as JSON."""
    try:
        return parse_json(text)
    except ValueError:
        return text


def plain_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are compared: defaults written out, without the sections that no result depends on."""
    return filled({key: value for key, value in values.items() if key not in BESIDE})


def from_file(path: Path, name: str) -> Record:
    """An evaluate.json on disk, with params.yaml and dvc.lock of the folder above metrics/ where they are there."""
    if not path.exists():
        raise ConfigError(f"{path} is missing; run `cgankd evaluate` first, or name a run to compare")
    top = path.resolve().parent.parent if path.resolve().parent.name == "metrics" else path.resolve().parent

    def beside(file: str) -> str | None:
        try:
            return read_text(top / file) if (top / file).exists() else None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{top / file} is not UTF-8 text; bring it back or write it again") from error

    try:
        result = read_text(path)
    except UnicodeDecodeError as error:
        raise no_result(str(path), "not UTF-8 text") from error
    check_made(path)
    return from_texts(name, str(path), result, beside("params.yaml"), read_lock(top) or None)


def no_result(found: str, why: str) -> ConfigError:
    """The error for what holds no results: a damaged evaluate.json is made again, any other file was named by mistake."""
    cure = (
        "run `cgankd evaluate` again"
        if found.endswith("evaluate.json") or found.startswith("git ")
        else ("name an evaluate.json, such as metrics/evaluate.json of another folder, or that folder")
    )
    return ConfigError(f"{found} is no evaluate.json ({why}); {cure}")


def git(workdir: Path, *args: str) -> str | None:
    """What git answers, None where it fails."""
    try:
        done = subprocess.run(["git", *args], cwd=workdir, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def resolve_revision(workdir: Path, text: str) -> str | None:
    """The commit of a branch, tag, hash or DVC experiment name; None where git knows none."""
    if text.startswith("-"):
        return None
    sha = git(workdir, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
    if sha:
        return sha.strip()
    refs = git(workdir, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or ""
    named = [line.split()[0] for line in refs.splitlines() if line.endswith(f"/{text}") and "/exps/exec/" not in line]
    return named[-1] if named else None


def from_revision(workdir: Path, revision: str, name: str) -> Record:
    """metrics/evaluate.json as a commit has it."""
    text = git(workdir, "show", f"{revision}:./{RESULT}")
    if text is None:
        raise ConfigError(f"{name} ({revision[:10]}) has no {RESULT}; commit it there, or name another revision")
    params, lock = (git(workdir, "show", f"{revision}:./{file}") for file in ("params.yaml", "dvc.lock"))
    return from_texts(name, f"git {revision[:10]}", text, params, lock)


def from_texts(name: str, found: str, result: str, params: str | None, lock: str | None) -> Record:
    """A record from the texts of evaluate.json, params.yaml and dvc.lock; the last two may be missing."""
    try:
        values = parse_json(result)
    except ValueError as error:
        raise no_result(found, f"not JSON: {error}") from error
    if not isinstance(values, dict) or not {"headline", "arms", "teacher"} <= values.keys():
        raise no_result(found, "headline, arms or teacher is missing")
    md5 = read_md5(lock, "evaluate", "artifacts/dataset.h5") if lock else None
    try:
        settings = plain_settings(parse(params, "params.yaml") or {}) if params else {}
        return record(name, found, values, settings, md5 and f"md5:{md5}")
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise no_result(found, f"it is of another shape ({type(error).__name__}: {str(error)[:100]})") from error


def record(name: str, found: str, result: Mapping[str, Any], settings: Mapping[str, Any], digest: str | None) -> Record:
    """A record from an evaluate.json; what older files do not say is taken from the settings.

    Raises ConfigError where it is JSON of another shape.
    """
    try:
        return _record(name, found, result, settings, digest)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise no_result(found, f"of another shape: {type(error).__name__} {str(error)[:120]}") from error


def _record(
    name: str, found: str, result: Mapping[str, Any], settings: Mapping[str, Any], digest: str | None
) -> Record:
    for key, kinds in SHAPES.items():
        if not isinstance(result.get(key), kinds):
            raise TypeError(f"{key} is {type(result.get(key)).__name__}")
    if not {"name", "unit", "higher_is_better"} <= result["headline"].keys():
        raise KeyError("headline")
    student = result.get("student") or {key: settings.get(f"student.{key}") for key in ("net", "width", "distiller")}
    seeds = result.get("seeds") or settings.get("student.seeds")
    arms = {
        key: Arm(tuple(arm["values"]), arm["val_mean"], arm["uses_bank"], arm.get("distiller"))
        for key, arm in result["arms"].items()
    }
    if seeds is not None and any(len(arm.values) != len(seeds) for arm in arms.values()):
        seeds = None  # settings changed since the result was written
    return Record(
        name=name,
        found=found,
        split="test",
        headline=result["headline"],
        confidence=result["confidence"],
        arms=arms,
        seeds=tuple(seeds) if seeds is not None else None,
        dataset=result.get("dataset") or digest,
        student=net_text(student),
        distiller=str(student.get("distiller") or "not known"),
        steps=f"{result['steps']} x {result['batch_size']}",
        teacher=result["teacher"],
        chosen=result["chosen_arm"],
        verdict=result["verdict"],
        settings=settings,
    )


def student_record(
    name: str,
    found: str,
    children: list[tuple[str, int, float]],
    headline: Mapping[str, Any],
    settings: Mapping[str, Any],
    digest: str | None,
) -> Record:
    """A record from the students of a student run in MLflow: validation scores, as nothing was tested yet."""
    by_arm: dict[str, dict[int, float]] = {}
    for arm, seed, score in children:
        by_arm.setdefault(arm, {})[seed] = score
    if not by_arm:
        raise ConfigError(f"{found} has no students with a validation score; name another run")
    seeds = sorted(next(iter(by_arm.values())))
    arms = {
        arm: Arm(tuple(runs[s] for s in sorted(runs)), sum(runs.values()) / len(runs)) for arm, runs in by_arm.items()
    }
    order = list(settings.get("student.arms") or []) or [
        key.split(".")[2] for key in settings if key.startswith("student.arms.")
    ]
    names = sorted(arms, key=lambda arm: (order.index(arm) if arm in order else len(order), arm))
    return Record(
        name=name,
        found=found,
        split="validation",
        headline=headline,
        confidence=float(settings.get("evaluate.confidence", 0.95)),
        arms={arm: arms[arm] for arm in names},
        seeds=tuple(seeds) if all(sorted(runs) == seeds for runs in by_arm.values()) else None,
        dataset=digest,
        student=net_text({key: settings.get(f"student.{key}") for key in ("net", "width")}),
        distiller=str(settings.get("student.distiller", "not known")),
        steps=f"{settings.get('student.num_steps', '?')} x {settings.get('student.batch_size', '?')}",
        settings=settings,
    )


def net_text(student: Mapping[str, Any]) -> str:
    """ "convnet, width 4"."""
    if not student.get("net"):
        return "not known"
    return str(student["net"]) if student.get("width") is None else f"{student['net']}, width {student['width']}"
