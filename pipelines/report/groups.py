"""The report's tables of single classes or label ranges, of what `cgankd repeat` found over draws, and `cgankd sizes`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgankd.config import BESIDE, Config, to_dict
from cgankd.measure.places import places, places_of
from pipelines.files.artifacts import file_digest
from pipelines.files.made_with import NO_EFFECT
from pipelines.files.params import flatten
from pipelines.files.runs import read_metrics
from pipelines.report.charts import Interval, difference_unit, intervals
from pipelines.report.page import file_uri
from pipelines.sizes.plan import settings_of
from pipelines.sizes.table import by_bytes


@dataclass(frozen=True)
class Row:
    """One class or label range: its images in train, val and test, and a test score for each column (None: no test image)."""

    name: str
    images: tuple[int, int, int]
    scores: tuple[float | None, ...]


@dataclass(frozen=True)
class GroupTable:
    """Rows in the order of the labels, what the columns of scores are of, and how many rows there are in all."""

    kind: str
    columns: tuple[str, ...]
    rows: list[Row]
    num: int
    most: float
    """The largest score, for the length of the bars."""


def group_table(result: dict[str, Any], shown: int) -> GroupTable | None:
    """The table from an evaluate.json, the `shown` rows that the arm that ships is worst at; None for an older one."""
    if "groups" not in result:
        return None
    groups, arms, chosen = result["groups"], result["arms"], result["chosen_arm"]
    names = dict.fromkeys(("real", result["best_real_arm"], chosen))
    columns = {"teacher": groups["teacher"]} | {name: arms[name]["groups"] for name in names}
    columns["shipped student"] = result["shipped"]["groups"]
    counts = zip(groups["num_train"], groups["num_val"], groups["num_test"], strict=True)
    values = zip(*columns.values(), strict=True)
    rows = [Row(name, n, v) for name, n, v in zip(groups["names"], counts, values, strict=True) if any(n)]
    place = list(columns).index(chosen)
    worst = sorted(rows, key=lambda row: -1.0 if row.scores[place] is None else -float(row.scores[place] or 0.0))
    kept = {id(row) for row in worst[:shown]}
    most = max([score for row in rows for score in row.scores if score is not None] + [1e-12])
    return GroupTable(groups["kind"], tuple(columns), [row for row in rows if id(row) in kept], len(rows), most)


CHOSEN = {
    "best_real": "best real-only of each draw",
    "best_unlabelled": "best with unlabelled images of each draw",
    "best_bank": "best with fakes of each draw",
    "best_both": "best with both of each draw",
    "ships": "ships in each draw",
}


def draws_section(workdir: Path, cfg: Config) -> dict[str, Any] | None:
    """What the template shows of metrics/repeat.json; None where there is none. Raises ConfigError where it is damaged."""
    result = read_metrics(workdir / "metrics" / "repeat.json", "cgankd repeat")
    if result is None or not {"arms", "chosen", "verdict", "settings"} <= result.keys():
        return None
    rows = {name: (name, row) for name, row in result["arms"].items()}
    rows |= {key: (CHOSEN[key], result["chosen"][key]) for key in CHOSEN if key in result["chosen"]}
    settings = {k: v for k, v in flatten(to_dict(cfg)).items() if k != "seed" and k.split(".")[0] not in BESIDE}
    now = json.loads(json.dumps(settings))
    then = result["settings"]
    changed = sorted(k for k in now.keys() | then.keys() if now.get(k) != then.get(k) and k not in NO_EFFECT)
    bars = [
        Interval(
            title, row["rival_gain"], row["rival_gain_low"], row["rival_gain_high"], tuple(row["rival_gain_values"]), 1
        )
        for title, row in rows.values()
        if "rival_gain" in row
    ]
    axis = f"gain over the best real-only arm of each draw ({difference_unit(result['headline']['unit'])}), right is better"
    chart = intervals(bars, axis, title="What each arm gains, draw by draw", mark=0.0) if bars else None
    return {
        "result": result,
        "dec": places_of(result),
        "rows": list(rows.values()),
        "chart": chart,
        "changed": changed,
        "unlabelled": any("unlabelled_gain" in row for _, row in rows.values()),
    }


SIZES = {"sizes", "arms", "verdict", "settings", "costs", "costs_are", "headline", "teacher", "dataset"}
"""Keys of a metrics/sizes.json that is shown."""


def sizes_section(workdir: Path, cfg: Config) -> dict[str, Any] | None:
    """What the template shows of metrics/sizes.json; None where there is none. Raises ConfigError where it is damaged."""
    result = read_metrics(workdir / "metrics" / "sizes.json", "cgankd sizes")
    if result is None or not result.keys() >= SIZES:
        return None
    now, then = settings_of(cfg), result["settings"]
    changed = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    dataset = workdir / "artifacts" / "dataset.h5"
    if dataset.exists() and file_digest(dataset) != result["dataset"]:
        changed.insert(0, "the images (artifacts/dataset.h5)")
    picture = workdir / "plots" / "sizes" / "error_against_bytes.png"
    return {
        "result": result,
        "dec": places([row["val"] for row in result["sizes"]]),
        "rows": by_bytes(result),
        "key": result["costs"]["bytes"],
        "picture": file_uri(picture) if picture.is_file() else None,
        "changed": changed,
    }
