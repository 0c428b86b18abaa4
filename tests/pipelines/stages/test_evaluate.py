"""The error of each class and the balanced one, from the stage to the table, the report and the tracked names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score, recall_score
from torch import Tensor, nn

from cgankd.config import config_from_dict, to_dict
from cgankd.data.dataset import Dataset, make_dataset
from cgankd.data.store.datasets import write_dataset
from cgankd.types import DatasetInfo, Split
from pipelines.files.artifacts import save_weights, write_json
from pipelines.report.groups import group_table
from pipelines.runtime.context import Context
from pipelines.runtime.opening import untracked
from pipelines.stages import evaluate
from pipelines.stages.table import render
from pipelines.tracking.names import evaluate_names
from tests.conftest import preset
from tests.data.builders import data_config

NAMES = ("ant", "bee/wasp", "cat")
SEEDS = (0, 1, 2)
REAL = {"bank": False, "subsample": False, "filter": False, "replace": False, "strong": False, "kd": False}
ARMS = {"real": REAL, "raw": REAL | {"bank": True}}
NETS = ["teacher", *(f"student-{arm}-{seed}" for arm in ARMS for seed in SEEDS)]
"""The answer of net k to an image is the value of its pixel k."""


class Reads(nn.Module):
    def __init__(self, pixel: int) -> None:
        super().__init__()
        self.pixel = pixel

    def forward(self, unit_BCHW: Tensor) -> Tensor:
        return nn.functional.one_hot((255 * unit_BCHW[:, 0, 0, self.pixel]).round().long(), len(NAMES)).float()


def answers(labels: list[int], rng: np.random.Generator) -> Tensor:
    """Arms with the bank know the rare class and err on the frequent one; those without do it the other way."""
    found = []
    for name in NETS:
        right = {0: 0.95, 1: 0.2} if "real" in name else {0: 0.7, 1: 0.9}
        found.append([y if rng.random() < right.get(y, 0.5) else (y + 1) % 3 for y in labels])
    return torch.tensor(found).T


def made_data() -> Dataset:
    rng = np.random.default_rng(4)
    splits = {}
    for name, counts in {"train": (40, 6, 5), "val": (40, 6, 2), "test": (50, 8, 0)}.items():
        labels = [k for k, count in enumerate(counts) for _ in range(count)]
        images = torch.zeros(len(labels), 1, 16, 16, dtype=torch.uint8)
        images[:, 0, 0, : len(NETS)] = answers(labels, rng).to(torch.uint8)
        splits[name] = Split(images, torch.tensor(labels))
    return make_dataset(data_config(), splits, label_unit="", class_names=NAMES)


@pytest.fixture()
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Dataset]:
    """A work folder as `student` leaves it, with nets whose answers stand in the images."""
    data, artifacts = made_data(), tmp_path / "artifacts"
    (artifacts / "students").mkdir(parents=True)
    write_dataset(artifacts / "dataset.h5", data)

    def load(path: Path, info: DatasetInfo, task: object) -> tuple[nn.Module, dict[str, Any]]:
        return Reads(NETS.index(path.stem)), {"precision": "fp32"}

    monkeypatch.setattr(evaluate, "load_student", load)
    monkeypatch.setattr(evaluate, "load_predictor", load)
    for name in NETS:
        folder = artifacts if name == "teacher" else artifacts / "students"
        save_weights(folder / f"{name}.safetensors", {"w": torch.zeros(1)}, {"info": to_dict(data.info)})
    arms: dict[str, Any] = {}
    for arm, switches in ARMS.items():
        runs = [
            {"seed": s, "file": f"student-{arm}-{s}.safetensors", "val": mean_error(data.val, f"student-{arm}-{s}")}
            for s in SEEDS
        ]
        arms[arm] = {"switches": switches, "runs": runs}
    settings = preset("digits")["student"] | {"distillers": []}
    values = {"seeds": list(SEEDS), "settings": settings, "teacher_val": 1.0, "arms": arms}
    write_json(artifacts / "students/runs.json", values)
    return tmp_path, data


def guesses(split: Split, net: str) -> np.ndarray:
    return np.asarray(split.images[:][:, 0, 0, NETS.index(net)].numpy())


def mean_error(split: Split, net: str) -> float:
    return float(100 * (guesses(split, net) != split.labels.numpy()).mean())


def balanced_error(split: Split, net: str) -> float:
    """Scikit-learn's, over the classes that the split has; it warns where a net answers another one."""
    truth, guess = split.labels.numpy(), guesses(split, net)
    known = np.unique(truth)
    recall = recall_score(truth, guess, labels=known, average="macro")
    if set(guess) <= set(known):
        assert recall == pytest.approx(balanced_accuracy_score(truth, guess))
    return float(100 * (1 - recall))


def ran(folder: Path, headline: str) -> dict[str, Any]:
    cfg = config_from_dict(preset("digits") | {"evaluate": {"confidence": 0.95, "headline": headline}})
    with Context("evaluate", cfg, folder, untracked("evaluate"), Console(quiet=True)) as ctx:
        evaluate.run(ctx)
    result: dict[str, Any] = json.loads((folder / "metrics/evaluate.json").read_text())
    return result


@pytest.mark.parametrize("headline", ["mean", "balanced"])
def test_numbers_of_classes_are_those_of_scikit_learn(work: tuple[Path, Dataset], headline: str) -> None:
    folder, data = work
    result = ran(folder, headline)
    groups = result["groups"]
    assert (groups["kind"], groups["names"]) == ("class", list(NAMES))
    assert [groups[f"num_{name}"] for name in ("train", "val", "test")] == [[40, 6, 5], [40, 6, 2], [50, 8, 0]]
    truth = data.test.labels.numpy()
    for arm in ARMS:
        found, nets = result["arms"][arm], [f"student-{arm}-{seed}" for seed in SEEDS]
        assert found["values"] == pytest.approx([mean_error(data.test, net) for net in nets])
        assert found["balanced"]["values"] == pytest.approx([balanced_error(data.test, net) for net in nets])
        val = [balanced_error(data.val, net) for net in nets]
        assert found["balanced"]["val_mean"] == pytest.approx(np.mean(val))
        recall = np.mean(
            [recall_score(truth, guesses(data.test, n), labels=[0, 1], average=None) for n in nets], axis=0
        )
        assert found["groups"][:2] == pytest.approx((100 * (1 - recall)).tolist()) and found["groups"][2] is None
        assert None not in found["val_groups"]
    even = {arm: np.array(result["arms"][arm]["balanced"]["values"]) for arm in ARMS}
    assert result["arms"]["raw"]["balanced"]["gain"] == pytest.approx((even["real"] - even["raw"]).mean())
    assert result["teacher_balanced"] == pytest.approx(balanced_error(data.test, "teacher"))
    assert result["teacher_val_balanced"] == pytest.approx(balanced_error(data.val, "teacher"))


def test_the_headline_decides_what_ships(work: tuple[Path, Dataset]) -> None:
    """The bank costs on the frequent class and gains on the rare one: each headline ships another arm, and its best seed."""
    folder, data = work
    for headline, arm, error in (("mean", "real", mean_error), ("balanced", "raw", balanced_error)):
        result = ran(folder, headline)
        assert (result["chosen_arm"], result["chosen_by"]) == (arm, headline)
        val = [error(data.val, f"student-{arm}-{seed}") for seed in SEEDS]
        assert result["shipped"]["seed"] == SEEDS[val.index(min(val))]
        net = f"student-{arm}-{result['shipped']['seed']}"
        assert result["shipped"]["balanced"] == pytest.approx(balanced_error(data.test, net))
        shipped = json.loads((folder / "artifacts/student.config.json").read_text())
        assert shipped["arm"] == arm and shipped["test"] == pytest.approx(mean_error(data.test, net))
        table = shown(result)
        for name in ARMS:  # the chosen score stands in the table, the other one below it
            here = result["arms"][name]["balanced"] if headline == "balanced" else result["arms"][name]
            assert f"{here['mean']:.2f}+-{here['sd']:.2f}" in table
        assert ("balanced test error in %" in table) == (headline == "balanced")
        assert ("In the mean over all images raw gains -" in result["verdict"]) == (headline == "balanced")


def test_what_cannot_be_judged_is_said(work: tuple[Path, Dataset]) -> None:
    words = ran(work[0], "mean")["verdict"]
    assert words.endswith(
        "Note that there is no test image of 1 class (cat). "
        "Note that there are fewer than 5 validation images of 1 class (cat 2)."
    )


def test_the_report_and_mlflow_have_each_class(work: tuple[Path, Dataset]) -> None:
    result = ran(work[0], "balanced")
    table = group_table(result, 30)
    assert table is not None and table.columns == ("teacher", "real", "raw", "shipped student")
    assert [(row.name, row.images) for row in table.rows] == [
        ("ant", (40, 40, 50)),
        ("bee/wasp", (6, 6, 8)),
        ("cat", (5, 2, 0)),
    ]
    assert table.rows[1].scores[2] == result["arms"]["raw"]["groups"][1] and table.rows[2].scores == (None,) * 4
    worst = group_table(result, 1)
    assert worst is not None and worst.num == 3
    assert worst.rows[0].scores[2] == max(s for s in result["arms"]["raw"]["groups"] if s is not None)
    names = evaluate_names(result)
    assert names["balanced/raw"] == pytest.approx(result["arms"]["raw"]["balanced"]["mean"], abs=1e-4)
    assert names["label/1 bee_wasp"] == pytest.approx(result["arms"]["raw"]["groups"][1], abs=1e-4)
    assert names["label_images/0 ant"] == 50 and "label/2 cat" not in names
    older = {key: value for key, value in result.items() if key not in ("groups", "chosen_by")}
    assert group_table(older, 30) is None and "balanced/raw" not in evaluate_names(older)


def shown(result: dict[str, Any]) -> str:
    console = Console(width=80)
    with console.capture() as caught:
        console.print(render(result))
    return caught.get()


def test_scores_at_more_steps_come_beside_the_others(work: tuple[Path, Dataset]) -> None:
    """The students of four times the steps answer as those of the other arm, so that the gain turns round."""
    folder, _ = work
    plain = ran(folder, "mean")
    assert "more_steps" not in plain
    runs = json.loads((folder / "artifacts/students/runs.json").read_text())
    arms = runs["arms"]
    other = {"real": "raw", "raw": "real"}
    for arm, entry in arms.items():
        entry["longer"] = {"4": [run | {"val_balanced": 0.0} for run in arms[other[arm]]["runs"]]}
    write_json(folder / "artifacts/students/runs.json", runs)
    result = ran(folder, "mean")
    more = result.pop("more_steps")
    assert result == plain and list(more) == ["1", "4"]
    assert more["4"]["arms"]["raw"]["values"] == more["1"]["arms"]["real"]["values"] == plain["arms"]["real"]["values"]
    assert more["1"]["gain"] == pytest.approx(plain["arms"]["raw"]["gain"])
    assert more["4"]["gain"] == pytest.approx(-more["1"]["gain"])
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(render(result | {"more_steps": more}))
    assert "with more steps" in capture.get() and "x 4" in capture.get()


def test_more_steps_credit_fakes_with_nothing_that_unlabelled_images_may_bring(work: tuple[Path, Dataset]) -> None:
    folder, _ = work
    runs = json.loads((folder / "artifacts/students/runs.json").read_text())
    runs["arms"]["raw"]["switches"] |= {"unlabelled": True}
    for entry in runs["arms"].values():
        entry["longer"] = {"4": [run | {"val_balanced": 0.0} for run in entry["runs"]]}
    write_json(folder / "artifacts/students/runs.json", runs)
    rows = ran(folder, "mean")["more_steps"].values()
    assert all(row["best_both_arm"] == "raw" and row["best_bank_arm"] is None for row in rows)
    assert not any(key.endswith(("gain", "change")) for row in rows for key in row)
