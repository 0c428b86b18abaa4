"""Both tasks from params.yaml to the verdict through the real DVC and a real MLflow store, on tiny settings."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML
from safetensors.torch import load_file

from tests.pipelines.pages import check_page
from tests.tiny import project, run, tiny, write_params

STAGES = ["prepare", "teacher", "cgan", "ratio", "bank", "student", "evaluate"]
REAL = {"real", "real_strong", "real_kd", "real_strong_kd"}


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every stage output of a work folder."""
    files = [p for part in ("artifacts", "metrics", "plots") for p in sorted((folder / part).rglob("*")) if p.is_file()]
    skipped = ("resume", "cache", "logs")
    kept = [p for p in files if not any(s in p.relative_to(folder).parts for s in skipped) and p.name != ".gitignore"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept}


def check_result(folder: Path, bank_arms: set[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "metrics/evaluate.json").read_text())
    arms = result["arms"]
    assert REAL | bank_arms <= set(arms)
    assert list(arms)[0] == "real" and "gain" not in arms["real"]
    for name, arm in arms.items():
        assert len(arm["values"]) == 2 and arm["sd"] >= 0
        if name != "real":
            assert arm["gain_low"] <= arm["gain"] <= arm["gain_high"]
    assert any(
        name.removesuffix("_kd") in bank_arms for name in arms if name.endswith("_kd") and arms[name]["uses_bank"]
    )
    assert result["chosen_arm"] in arms and result["chosen_arm"] in result["verdict"]
    shipped = json.loads((folder / "artifacts/student.config.json").read_text())
    assert shipped["arm"] == result["chosen_arm"] and shipped["test"] in arms[shipped["arm"]]["values"]
    assert load_file(folder / "artifacts/student.safetensors")
    with h5py.File(folder / "artifacts/bank.h5") as bank:
        assert set(bank) >= {"images", "asked", "labels", "ratio", "teacher_error", "teacher_output", "shard"}
        assert bank["images"].shape[0] == 60 and bank["images"].dtype == "uint8"
        assert bank["teacher_output"].dtype == "float16"
        assert {"seed", "config", "config.data", "config.cgan", "config.ratio"} <= set(bank.attrs)
    return result


@pytest.fixture(scope="module")
def digits_project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = project(tmp_path_factory.mktemp("digits") / "work", tiny("digits"))
    return folder, run(folder, "dvc", "repro")


def test_digits_through_dvc(digits_project: tuple[Path, str]) -> None:
    folder, output = digits_project
    for stage in STAGES:
        assert f"Running stage '{stage}'" in output
    result = check_result(folder, {"raw", "subsample", "filter"})
    assert result["verdict"] in " ".join(output.split()) or "ship" in output
    again = run(folder, "dvc", "repro")
    assert "Running stage" not in again and "Data and pipelines are up to date" in again
    assert "up to date" in run(folder, "dvc", "status")
    with h5py.File(folder / "artifacts/dataset.h5") as data:
        assert sorted(data) == ["images", "labels", "split"] and data.attrs["task"] == "class"
        assert data["images"].shape[1:] == (1, 16, 16) and set(data["split"][:].tolist()) == {0, 1, 2}


def changed_stages(folder: Path, *files: str) -> set[str]:
    """The stages that `dvc repro` would run again, by itself, after a change in these files, which are put back."""
    before = {folder / name: (folder / name).read_text() for name in files}
    try:
        for path, text in before.items():
            path.write_text(text + "\n# changed\n")
        return set(json.loads(run(folder, "dvc", "status", "--json")))
    finally:
        for path, text in before.items():
            path.write_text(text)


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("cgankd/data/readers/digits.py", set(STAGES)),
        ("cgankd/nets/gans/generator.py", set(STAGES) - {"prepare"}),
        ("cgankd/gan/losses.py", {"cgan", "ratio", "bank"}),
        ("cgankd/ratio/density_ratio.py", {"ratio", "bank"}),
        ("cgankd/bank/m2_filter.py", {"bank", "student"}),
        ("cgankd/distill/losses/kd.py", {"student", "evaluate"}),
        ("pipelines/stages/teacher.py", {"teacher"}),
    ],
)
def test_a_change_in_the_code_behind_its_numbers_runs_a_stage_again(
    digits_project: tuple[Path, str], file: str, stages: set[str]
) -> None:
    assert changed_stages(digits_project[0], file) == stages


def test_a_change_of_report_search_or_ship_runs_nothing_again(digits_project: tuple[Path, str]) -> None:
    folder, _ = digits_project
    wings = ("report", "search", "ship", "audit", "project", "commands", "pictures", "tracking")
    files = [str(path.relative_to(folder)) for wing in wings for path in (folder / "pipelines" / wing).rglob("*.py")]
    assert len(files) > 40 and changed_stages(folder, *files) == set()
    assert changed_stages(folder, "params.yaml") == set()  # a comment


def test_every_stage_is_an_mlflow_run_with_arms_as_children(digits_project: tuple[Path, str]) -> None:
    folder, _ = digits_project
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("cgankd")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=500)
    parents = {r.data.tags["stage"]: r for r in runs if "mlflow.parentRunId" not in r.data.tags}
    assert set(parents) >= set(STAGES)
    for stage in STAGES:
        tags = parents[stage].data.tags
        assert tags["preset"] == "digits" and len(tags["git_sha"]) >= 7 and tags["dvc.stage"] == stage
        assert parents[stage].info.status == "FINISHED"
        assert parents[stage].data.params["bank.rho"] == "0.9"
    assert any(t.startswith("input.") for t in parents["bank"].data.tags)
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parents["student"].info.run_id]
    assert len(children) == 2 * 8
    child = next(r for r in children if r.data.tags["arm"] == "raw")
    assert len(client.get_metric_history(child.info.run_id, "student/val")) > 1
    assert client.list_artifacts(parents["cgan"].info.run_id)


def test_rho_reruns_bank_student_evaluate_only(digits_project: tuple[Path, str]) -> None:
    folder, _ = digits_project
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-q", "-m", "baseline")
    output = run(folder, "dvc", "exp", "run", "-n", "loose", "-S", "bank.rho=0.7")
    assert [s for s in STAGES if f"Running stage '{s}'" in output] == ["bank", "student", "evaluate"]
    # Only the arm whose fakes changed is trained again: raw and subsample draw the same, real arms see no bank.
    assert "12 of 14 runs were finished before" in output
    assert "bank.rho" in run(folder, "dvc", "params", "diff")
    assert "evaluate.json" in run(folder, "dvc", "metrics", "diff", "--all")
    run(folder, "dvc", "plots", "diff", "HEAD", "-o", "diff")
    assert (folder / "diff/index.html").exists()
    dag = run(folder, "dvc", "dag", "--mermaid")
    assert all(stage in dag for stage in STAGES)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("cgankd")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'bank'", max_results=50)
    assert {r.data.params["bank.rho"] for r in runs} == {"0.9", "0.7"}
    assert any(r.data.tags.get("dvc.exp_name") == "loose" for r in runs)
    table = run(folder, "python", "-m", "cgankd", "compare", "HEAD", "loose", "digits/evaluate")
    assert table.count("same seeds and data set, so differences are paired by seed") == 2
    rows = list(csv.DictReader((folder / "comparison.csv").read_text().splitlines()))
    differences = {(r["run"], r["arm"]): float(r["difference"]) for r in rows if r["difference"]}
    assert all(value == 0.0 for (name, _), value in differences.items() if name == "digits/evaluate")
    assert differences["loose", "raw"] == 0.0 and ("loose", "filter") in differences
    assert "also in MLflow" in run(folder, "python", "-m", "cgankd", "report")
    check_page((folder / "report.html").read_text())
    assert "comparison" not in run(folder, "git", "status", "--short")


def test_chairs_through_dvc_and_without_it_are_the_same_bytes(tmp_path: Path) -> None:
    values = tiny("chairs")
    values["student"]["protocol"] = "finetune"
    values["student"]["real_share"] = None
    found = []
    for name in ("first", "second"):
        folder = project(tmp_path / name, values)
        output = run(folder, *(("dvc", "repro") if name == "first" else ("cgankd", "run")))
        assert "ship" in output
        check_result(folder, {"raw", "subsample", "filter", "replace", "replace_only"})
        found.append(digests(folder))
    assert found[0] == found[1] and any(k.endswith("student.safetensors") for k in found[0])
    with h5py.File(folder / "artifacts/bank.h5") as bank:
        asked, labels = bank["asked"][:], bank["labels"][:]
    assert labels.dtype == "float32" and (asked != labels).any()
    assert labels.min() >= 0 and labels.max() <= 90


def test_own_images_in_folders(tmp_path: Path) -> None:
    """A user's own classes: folders of PNG files, in a project without git or DVC."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("cat", "dog", "owl"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(14):
            pixels = rng.integers(0, 255, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    values = tiny("digits")
    values["data"] |= {
        "source": "image-folder",
        "root": "photos",
        "train_per_label": 5,
        "val_per_label": 3,
        "test_share": 0.3,
    }
    write_params(tmp_path, values)
    assert "3 labels" in run(tmp_path, "cgankd", "prepare") or (tmp_path / "artifacts/dataset.h5").exists()
    with h5py.File(tmp_path / "artifacts/dataset.h5") as data:
        assert json.loads(data.attrs["class_names"]) == ["cat", "dog", "owl"]
        assert data.attrs["num_classes"] == 3
    assert YAML(typ="safe").load((tmp_path / "params.yaml").read_text())["data"]["root"] == "photos"
