"""What MLflow shows of runs without anyone editing a page: names, tags, sections of charts and ready-made views.

Its chart page makes a section of all metrics with the same word before the slash; its runs page opens as a view of the
experiment says. Knows no MLflow, so that the command line can print links without importing it.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

NOTE = """One run a stage of cGAN-KD (`prepare` to `evaluate`); the students of all arms and seeds hang under `student`.

Metrics: `test/<arm>` and `val/<arm>` are scores (lower is better for errors), `gain/<arm>` is the paired gain over `real`
with `.low` and `.high` of its interval, `rival_gain/<arm>` that over the best real-only arm, `best/...` is the arm that
ships, `health/...` are checks, `result/...` other results of a stage; the rest are curves of the loop they are named after.
`balanced/<arm>` and `balanced_gain/<arm>` count each class or label range alike. `label/<name>` is the test score of one in the
arm that ships, `label_teacher` and `label_shipped` of the teacher and the shipped student, `label_images` its test images.
Tags: `series` (DVC experiment, else preset), `stage`, `level` (stage, child, or part of a child), `preset`, `arm`, `seed`,
`group` (series and arm), `chosen_arm`, `optuna.study`, `optuna.state`, `input.<file>` (digests), `git_sha`."""


NOTE_TAG = "mlflow.note.content"
"""The tag whose text MLflow shows as the description of a run or an experiment."""
DECIMALS = 4
"""Of tracked test and validation numbers; evaluate.json, which is a file of the same run, has all of them."""


MOST_LABELS = 100
"""With more classes than these their scores are in evaluate.json alone."""


def result_name(name: str) -> str:
    """The tracked name of a number of metrics/<stage>.json: "health.bound" -> "health/bound", others under result/.

    A section apart from the curves: a final value must not end up as one more point of a curve with its name.
    """
    head, dot, rest = name.partition(".")
    return f"health/{rest}" if dot and head == "health" else f"result/{name}"


def evaluate_names(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an evaluate.json under the names that charts and tables of runs show, rounded to fit their cells."""
    chosen = result["arms"][result["chosen_arm"]]
    # First of all: the compare page draws the metric it meets first.
    numbers = {"best/test": chosen["mean"], "best/val": chosen["val_mean"], "best/gain": chosen.get("gain", 0.0)}
    numbers |= {"test/teacher": result["teacher"], "val/teacher": result["teacher_val"]}
    for name, arm in result["arms"].items():
        numbers |= {f"test/{name}": arm["mean"], f"test_sd/{name}": arm["sd"], f"val/{name}": arm["val_mean"]}
        if "best" in arm:
            numbers |= {f"test_best_step/{name}": arm["best"]["mean"]}
        for key in ("gain", "rival_gain"):
            if key in arm:
                ends = {f"{key}/{name}.{end}": arm[f"{key}_{end}"] for end in ("low", "high")}
                numbers |= {f"{key}/{name}": arm[key]} | ends
    if "groups" in result:
        numbers |= _balanced_names(result) | _label_names(result)
    return {name: round(float(value), DECIMALS) for name, value in numbers.items()}


def _balanced_names(result: Mapping[str, Any]) -> dict[str, float]:
    """Balanced scores of the teacher and of each arm, and the gains in them over `real`."""
    numbers = {"balanced/teacher": result["teacher_balanced"]}
    for name, arm in result["arms"].items():
        even = arm["balanced"]
        numbers |= {f"balanced/{name}": even["mean"], f"balanced_val/{name}": even["val_mean"]}
        if "gain" in even:
            numbers |= {f"balanced_gain/{name}": even["gain"]}
            numbers |= {f"balanced_gain/{name}.{end}": even[f"gain_{end}"] for end in ("low", "high")}
    return numbers


def _label_names(result: Mapping[str, Any]) -> dict[str, float]:
    """Test scores and test images of each class or label range that has any; the number in front keeps names apart that
    differ only in letters that MLflow does not take."""
    groups, chosen = result["groups"], result["arms"][result["chosen_arm"]]
    if len(groups["names"]) > MOST_LABELS:
        return {}
    digits, numbers = len(str(len(groups["names"]) - 1)), dict[str, float]()
    columns = {"label": chosen["groups"], "label_teacher": groups["teacher"]}
    columns |= {"label_shipped": result["shipped"]["groups"], "label_images": groups["num_test"]}
    for place, (name, count) in enumerate(zip(groups["names"], groups["num_test"], strict=True)):
        shown = f"{place:0{digits}d} " + re.sub(r"[^A-Za-z0-9_.\- ]", "_", name)[:100].strip()
        if count:
            numbers |= {f"{column}/{shown}": values[place] for column, values in columns.items()}
    return numbers


def repeat_names(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a repeat.json under the names that charts and tables of runs show: means and gains over draws."""
    numbers = {"test/teacher": result["teacher"]["mean"]}
    numbers |= {f"result/{key}": value for key, value in result.items() if key.startswith("ships_")}
    for name, row in {**result["arms"], **result["chosen"]}.items():
        numbers |= {f"test/{name}": row["mean"], f"test_sd/{name}": row["sd"]}
        for key in ("gain", "rival_gain", "unlabelled_gain"):
            if key in row:
                ends = {f"{key}/{name}.{end}": row[f"{key}_{end}"] for end in ("low", "high")}
                numbers |= {f"{key}/{name}": row[key]} | ends
    return {name: round(float(value), DECIMALS) for name, value in numbers.items()}


def run_name(stage: str, preset: str | None, experiment: str | None) -> str:
    """Which experiment (a DVC name, else the preset) and which stage: "digits/bank"."""
    first = experiment or preset
    return f"{first}/{stage}" if first else stage


def child_name(parent: str, name: str) -> str:
    """A child of "digits/student" is "digits/<name>", so that a legend over several parents tells them apart."""
    first, slash, _ = parent.rpartition("/")
    return f"{first}{slash}{name}"


def git_state(workdir: Path) -> dict[str, str]:
    """Tags git_sha and git_dirty; empty outside a repository with a commit."""

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", *args], cwd=workdir, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    sha = git("rev-parse", "HEAD")
    if not sha:
        return {}
    return {"git_sha": sha, "git_dirty": str(bool(git("status", "--porcelain", "--untracked-files=no"))).lower()}


def source_tags(event: Mapping[str, Any]) -> dict[str, str]:
    """MLflow's own tags for what made a run: its Source, User and Version columns."""
    tags = event.get("tags", {})
    own = {"mlflow.source.name": f"cgankd {event.get('stage', '')}".strip(), "mlflow.source.type": "LOCAL"}
    if "git_sha" in tags:
        own["mlflow.source.git.commit"] = tags["git_sha"]
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        own["mlflow.user"] = getpass.getuser()
    return own


def view(search: str, columns: list[str], **more: Any) -> str:
    """A view of the runs page as MLflow keeps it in a tag of the experiment."""
    facets = {
        "searchFilter": search,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }
    return json.dumps(facets | {"selectedColumns": columns, "runsExpanded": {}} | more)


def columns(**names: str) -> list[str]:
    """Columns of a view: kind -> names with a space between."""
    return [f"{kind}.`{name}`" for kind, text in names.items() for name in text.split()]


def picture_card(key: str) -> dict[str, Any]:
    """A card of MLflow's chart page with a picture of every run; without the settings, which would push it out of view."""
    card = {"uuid": key, "type": "IMAGE", "metricSectionId": "pictures", "deleted": False, "isGenerated": False}
    return card | {"imageKeys": [key], "step": 0, "showRunParams": False, "runsCountToCompare": 10}


PICTURES = (
    "cgan/samples",
    "bank/accepted_rejected",
    "bank/ratio_histogram",
    "bank/error_histogram",
    "evaluate/arms",
    "evaluate/gains",
)
VIEWS = {
    "results": view(
        "tags.stage = 'evaluate'",
        columns(
            tags="chosen_arm",
            metrics="best/test best/gain test/real test/teacher",
            params="bank.rho bank.num_fakes student.net student.distiller",
        ),
    ),
    "stages": view("tags.level = 'stage'", columns(attributes="Source Dataset", tags="preset", metrics="seconds")),
    "students": view(
        "tags.stage = 'student' AND tags.level = 'child'",
        columns(params="seed", metrics="result/val"),
        groupBy={
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": "group"}],
        },
    ),
    "search": view(
        "tags.stage = 'search' AND tags.level = 'child'",
        columns(
            tags="optuna.study optuna.state",
            metrics="val",
            params="bank.rho bank.filter_scope bank.bound_quantile bank.num_fakes bank.replace student.real_share"
            " student.soft_weight student.temperature ratio.ratio_penalty",
        ),
    ),
    "audit": view(
        "tags.stage = 'audit'",
        columns(
            metrics="result/kid.teacher result/precision.teacher result/recall.teacher result/label_score"
            " result/copies.near result/copies.closest result/duplicates.exact",
            params="bank.rho bank.num_fakes",
        ),
    ),
    "pictures": view(
        "tags.level = 'stage' AND tags.`mlflow.loggedImages` = 'True'",
        [],
        compareRunCharts=[picture_card(key) for key in PICTURES],
        compareRunSections=[{"uuid": "pictures", "name": "pictures", "display": True, "isReordered": True}],
        isAccordionReordered=True,
    ),
}
"""Ready-made views of the runs page: name -> what it opens as."""


def experiment_tags() -> dict[str, str]:
    """Tags that an experiment is given: what the names mean, the kind of its pages, and the ready-made views."""
    shared = {f"mlflow.sharedViewState.{name}": text for name, text in VIEWS.items()}
    return {NOTE_TAG: NOTE, "mlflow.experimentKind": "custom_model_development"} | shared


def view_links(address: str, experiment_id: str) -> dict[str, str]:
    """The addresses of the ready-made views."""
    page = f"{address.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs"
    as_charts = {"pictures": "&compareRunsMode=CHART"}
    return {name: f"{page}?viewStateShareKey={name}{as_charts.get(name, '')}" for name in VIEWS}
