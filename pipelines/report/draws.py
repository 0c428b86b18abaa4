"""What `cgankd repeat` found, for the page: rows of the table over draws, their chart, and whether it is of today's settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cgankd.config import Config, to_dict
from pipelines.files.made_with import NO_EFFECT, read_json
from pipelines.files.params import flatten
from pipelines.report.charts import Interval, difference_unit, intervals

CHOSEN = {
    "best_real": "best real-only of each draw",
    "best_bank": "best with fakes of each draw",
    "ships": "ships in each draw",
}


def draws_section(workdir: Path, cfg: Config) -> dict[str, Any] | None:
    """What the template shows of metrics/repeat.json; None where there is none."""
    result = read_json(workdir / "metrics" / "repeat.json")
    if not {"arms", "chosen", "verdict", "settings"} <= result.keys():
        return None
    rows = {name: (name, row) for name, row in result["arms"].items()}
    rows |= {key: (CHOSEN[key], result["chosen"][key]) for key in CHOSEN if key in result["chosen"]}
    now = json.loads(json.dumps({k: v for k, v in flatten(to_dict(cfg)).items() if k != "seed"}))
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
    return {"result": result, "rows": list(rows.values()), "chart": chart, "changed": changed}
