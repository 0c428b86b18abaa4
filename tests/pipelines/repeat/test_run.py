"""`cgankd repeat` through the command line: a draw is a run of the pipeline under its seed, kept, resumed, taken over."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipelines.files.layout import INPUTS, OUTPUTS, STAGES
from pipelines.report.groups import draws_section
from pipelines.search.config import load_searched
from tests.conftest import ROOT
from tests.tiny import project, run, tiny, write_params


def test_the_inputs_of_stages_are_those_of_dvc() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    read = {
        name: {d.removeprefix("artifacts/") for d in s["deps"] if d.startswith("artifacts/")}
        for name, s in stages.items()
    }
    assert {name: set(files) for name, files in INPUTS.items()} == read


def small() -> dict[str, object]:
    values = tiny("digits")
    arms = {"real": {}, "real_kd": {"kd": True}, "raw": {"bank": True}}
    values["student"] |= {"arms": arms, "best_with_kd": False, "num_steps": 12}
    values["cgan"]["num_steps"] = 6
    return values


def results(folder: Path, seed: int) -> dict[str, object]:
    return json.loads((folder / f"artifacts/repeat/draw-{seed}/metrics/evaluate.json").read_text())


CGANKD = (sys.executable, "-m", "cgankd")


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A project after `dvc repro`, a repeat that was killed in the second draw, and the same command again."""
    folder = project(tmp_path_factory.mktemp("repeat") / "project", small())
    run(folder, "dvc", "repro")
    command = [*CGANKD, "repeat", "--draws", "2"]
    log = folder.parent / "first.txt"
    import os

    environment = os.environ | {"PYTHONPATH": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment |= {"DVC_SITE_CACHE_DIR": str(folder.parent / "dvc-site-cache"), "DVC_NO_ANALYTICS": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
        done = folder / "artifacts/repeat/draw-1/done/cgan.json"
        while process.poll() is None and not done.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 130, log.read_text()
    return folder, log.read_text(), run(folder, *command)


def test_a_killed_repeat_goes_on_where_it_was(repeated: tuple[Path, str, str]) -> None:
    folder, first, second = repeated
    assert "taken over" in first and "resumes where it was" in first
    assert "draw 1: teacher" in first and "draw 1: teacher" not in second
    assert "draw 0 (1 of 2, kept)" in second and "draw 1: student" in second


def test_a_draw_is_the_pipeline_under_its_seed(repeated: tuple[Path, str, str], tmp_path: Path) -> None:
    folder, _, _ = repeated
    assert results(folder, 0) == json.loads((folder / "metrics/evaluate.json").read_text())
    shutil.copytree(folder / "cgankd", tmp_path / "cgankd")
    shutil.copytree(folder / "pipelines", tmp_path / "pipelines")
    write_params(tmp_path, small())
    run(tmp_path, *CGANKD, "run", "--set", "seed=1")
    assert results(folder, 1) == json.loads((tmp_path / "metrics/evaluate.json").read_text())


def test_the_table_is_made_of_the_draws(repeated: tuple[Path, str, str]) -> None:
    folder, _, output = repeated
    found = json.loads((folder / "metrics/repeat.json").read_text())
    for name in ("real", "real_kd", "raw"):
        values = [results(folder, seed)["arms"][name]["mean"] for seed in (0, 1)]  # type: ignore[index]
        assert found["arms"][name]["values"] == values
        assert found["arms"][name]["mean"] == pytest.approx(sum(values) / 2)
    assert "over 2 draws" in output and "too few" in found["verdict"]
    assert (folder / "plots/repeat/gains.png").exists()


def test_what_does_not_change_is_not_made_again(repeated: tuple[Path, str, str]) -> None:
    folder, _, _ = repeated
    output = run(folder, *CGANKD, "repeat", "--draws", "2", "--set", "student.num_steps=14")
    for seed in (0, 1):
        assert f"draw {seed}: student" in output and f"draw {seed}: evaluate" in output
        assert not [stage for stage in STAGES[:5] if f"draw {seed}: {stage}" in output]
    section = draws_section(folder, load_searched(folder / "params.yaml"))  # as the report reads them
    assert section is not None and section["changed"] == ["student.num_steps"]


def tracked(folder: Path) -> list[Any]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("cgankd")
    return list(client.search_runs([experiment.experiment_id], "tags.stage = 'repeat'", max_results=1000))


def test_the_part_before_a_kill_and_the_part_after_are_one_mlflow_run(repeated: tuple[Path, str, str]) -> None:
    folder, _, second = repeated
    runs = tracked(folder)
    parents = [r for r in runs if r.data.tags["level"] == "stage" and r.data.params["student.num_steps"] == "12"]
    first = min(parents, key=lambda r: r.info.start_time)
    assert first.info.status == "FINISHED" and first.data.tags["taken_up"] == "1" and "goes on" in second

    def below(run: Any) -> list[Any]:
        return [r for r in runs if r.data.tags.get("mlflow.parentRunId") == run.info.run_id]

    draws = {r.data.tags["draw"]: r for r in below(first)}
    assert len(below(first)) == 2 and {r.info.status for r in draws.values()} == {"FINISHED"}
    assert draws["0"].data.tags["draw.made_now"] == "nothing"
    assert draws["1"].data.tags["draw.made_now"] == " ".join(STAGES), "those before the kill and those after"
    done = [r.data.tags["draw.stage"] for r in below(draws["1"]) if r.info.status == "FINISHED"]
    assert sorted(done) == sorted(STAGES)


def test_one_mlflow_run_holds_all_draws(repeated: tuple[Path, str, str]) -> None:
    folder, _, _ = repeated
    runs = tracked(folder)
    finished = [r for r in runs if r.data.tags.get("level") == "stage" and r.info.status == "FINISHED"]
    assert finished and all(
        "rival_gain/best_bank" in r.data.metrics or "gain/best_bank" in r.data.metrics for r in finished
    )
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == finished[-1].info.run_id]
    assert {r.data.tags["draw"] for r in children if "test/real" in r.data.metrics} == {"0", "1"}


def test_a_damaged_file_of_a_draw_is_made_again(repeated: tuple[Path, str, str]) -> None:
    folder, _, _ = repeated
    teacher = folder / "artifacts/repeat/draw-1" / "artifacts" / OUTPUTS["teacher"][0]
    whole = teacher.read_bytes()
    teacher.write_bytes(whole[:-1])
    output = run(folder, *CGANKD, "repeat", "--draws", "2")
    assert "draw 1: teacher" in output and "draw 1: cgan" not in output
    assert teacher.read_bytes() == whole


@pytest.mark.parametrize(
    ("words", "said"), [(("--draws", "1"), "--draws must be from 2"), (("--set", "seed=x"), "seed")]
)
def test_a_wrong_option_ends_before_a_run_is_opened(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    write_params(tmp_path, small())
    assert said in run(tmp_path, *CGANKD, "repeat", *words, code=2, PYTHONPATH=str(ROOT))
    assert not (tmp_path / "artifacts/logs").exists()
