"""What repeat.json, its table, its numbers in MLflow and the report say of arms with unlabelled images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cgankd.config import Config
from cgankd.types import Headline
from pipelines.files.artifacts import write_json
from pipelines.pictures.stages import CHOSEN_ROWS, gains_over_draws
from pipelines.repeat.one_draw import make_draw
from pipelines.repeat.run import summary
from pipelines.repeat.table import CHOSEN, render
from pipelines.report.groups import draws_section
from pipelines.search.config import load_searched
from pipelines.tracking.names import repeat_names

ERROR = Headline("test error", "%", higher_is_better=False)
ARMS = {"real": 20.0, "unlabelled": 15.05, "both": 15.0}


def evaluated(shift: float, **scores: float) -> dict[str, Any]:
    """An evaluate.json of a draw, as far as it is looked at here."""
    arms: dict[str, Any] = {}
    for name, score in scores.items():
        arms[name] = {"mean": score + shift, "val_mean": score + shift, "uses_bank": name in ("raw", "both")}
        arms[name] |= {"uses_unlabelled": True} if name in ("unlabelled", "both") else {}
    best = {f"best_{name}_arm": name for name in ("unlabelled", "both") if name in scores}
    best |= {"best_bank_arm": "raw" if "raw" in scores else None}
    chosen = min(scores, key=lambda name: scores[name])
    facts = {"num_seeds": 2, "steps": 10, "batch_size": 8, "teacher": 9.0, "headline": asdict(ERROR)}
    return facts | best | {"arms": arms, "best_real_arm": "real", "chosen_arm": chosen}


def summed(cfg: Config, num: int = 3, **scores: float) -> dict[str, Any]:
    draws = [make_draw(cfg, seed, Path()) for seed in range(num)]
    return summary(cfg, draws, [evaluated(seed, **scores) for seed in range(num)])


def test_an_arm_with_both_is_judged_by_the_one_with_unlabelled_images_alone(digits_config: Config) -> None:
    found = summed(digits_config, 2, **ARMS)
    assert "uses the bank" not in found["verdict"] and "nor whether fakes add" in found["verdict"]
    found = summed(digits_config, raw=20.3, **ARMS)
    assert "; fakes add to unlabelled images over draws: " in found["verdict"]
    assert "both gains +0.05 points" in found["verdict"] and "both gains +5" not in found["verdict"]
    console = Console(width=80)
    with console.capture() as caught:
        console.print(render(found))
    lines = caught.get().splitlines()
    for name in CHOSEN.values():
        assert any(line.strip().startswith(f"{name} ") for line in lines), name
    said = " ".join(line.strip() for line in lines)
    assert "alone of each draw: both +0.05 [+0.05, +0.05]; best with both +0.05 [+0.05, +0.05]." in said
    numbers = repeat_names(found)
    assert numbers["unlabelled_gain/best_both"] == numbers["unlabelled_gain/both"] == pytest.approx(0.05)
    assert {name: numbers[f"result/ships_{name}"] for name in ("bank", "unlabelled", "both")} == {
        "bank": 0,
        "unlabelled": 0,
        "both": 3,
    }


def test_an_evaluation_of_a_draw_that_knows_no_families_is_read(digits_config: Config) -> None:
    old = [evaluated(seed, real=20.0, raw=19.0) for seed in range(3)]
    found = summary(digits_config, [make_draw(digits_config, seed, Path()) for seed in range(3)], old)
    assert found["verdict"].startswith("The bank helps over draws: ") and "ships in 3 of 3" in found["verdict"]
    assert list(found["chosen"]) == ["best_real", "best_bank", "ships"]
    assert not [key for key in found if key.startswith("ships_") and key != "ships_bank"]
    assert "unlabelled" not in str({key: value for key, value in found.items() if key != "settings"})


def test_the_report_has_a_row_for_each_family(workdir: Path, digits_config: Config) -> None:
    (workdir / "metrics").mkdir()
    cfg = load_searched(workdir / "params.yaml")
    write_json(workdir / "metrics/repeat.json", found := summed(digits_config, raw=20.3, **ARMS), sort_keys=False)
    section = draws_section(workdir, cfg)
    assert section is not None and section["unlabelled"]
    rows = dict(section["rows"])
    assert rows["best with unlabelled images of each draw"] == found["chosen"]["best_unlabelled"]
    assert rows["best with both of each draw"]["unlabelled_gain"] == pytest.approx(0.05)
    labels = [text.get_text() for text in gains_over_draws(found).axes[0].get_yticklabels()]
    assert {CHOSEN_ROWS["best_unlabelled"], CHOSEN_ROWS["best_both"]} <= set(labels)
    write_json(workdir / "metrics/repeat.json", summed(digits_config, real=20.0, raw=19.0), sort_keys=False)
    section = draws_section(workdir, cfg)
    assert section is not None and not section["unlabelled"]
