"""Differences against scipy, where runs are found, and what is written; bad names are one clear sentence."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from cgankd.config import ConfigError, config_from_dict, to_dict
from cgankd.measure.predictive import unpaired_gain
from pipelines.commands.app import app
from pipelines.files.params import flatten, nested, read_params, set_value
from pipelines.report.compare import difference, notes, over_real
from pipelines.report.compare_table import changed, gain_text, page, tidy
from pipelines.report.records import Record, load, plain_settings, record
from tests.pipelines.pages import attributes, check_page
from tests.pipelines.tracking.test_mlflow_sink import open_run

SEEDS = [0, 1, 2, 3, 4]


def result(seed: int, shift: float = 0.0, **changes: Any) -> dict[str, Any]:
    """An evaluate.json with random scores; `shift` makes the bank arm better."""
    rng = np.random.default_rng(seed)
    real, raw = rng.normal(14, 1, 5), rng.normal(13 - shift, 1, 5)

    def arm(values: Any, bank: bool, distiller: str | None) -> dict[str, Any]:
        mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
        own = {"mean": mean, "sd": sd, "values": list(values), "val_mean": mean + 1, "val_sd": sd}
        return own | {"uses_bank": bank, "distiller": distiller}

    return {
        "headline": {"name": "test error", "unit": "%", "higher_is_better": False},
        "confidence": 0.9,
        "num_seeds": 5,
        "seeds": SEEDS,
        "dataset": "ab" * 32,
        "student": {"net": "convnet", "width": 4, "distiller": "kd", "protocol": "scratch"},
        "steps": 500,
        "batch_size": 64,
        "teacher": 9.0,
        "teacher_val": 10.0,
        "arms": {"real": arm(real, False, None), "raw_kd": arm(raw, True, "kd")},
        "chosen_arm": "raw_kd",
        "best_real_arm": "real",
        "best_bank_arm": "raw_kd",
        "verdict": "The bank helps: by a lot.",
    } | changes


def save(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "metrics" / "evaluate.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("sizes", [(5, 5), (4, 7)])
def test_unpaired_gain_matches_welch_of_scipy(higher: bool, sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    rival, arm = rng.normal(10, 1, sizes[0]), rng.normal(9, 3, sizes[1])
    gain = unpaired_gain(rival, arm, higher_is_better=higher, confidence=0.95)
    first, second = (arm, rival) if higher else (rival, arm)
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert gain.gain == pytest.approx(first.mean() - second.mean())
    assert (gain.low, gain.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert unpaired_gain([1.0, 1.0], [2.0, 2.0], higher_is_better=True, confidence=0.95).low == 1.0


def test_equal_seeds_and_data_are_paired_as_scipy_does(workdir: Path) -> None:
    save(workdir, result(0))
    save(workdir / "other", result(1, shift=2.0))
    first, other = (load(text, workdir, "cgankd") for text in (".", "other"))
    found = difference(first, other, "raw_kd")
    assert found is not None and found.paired
    before, after = result(0)["arms"]["raw_kd"]["values"], result(1, 2.0)["arms"]["raw_kd"]["values"]
    interval = stats.ttest_rel(before, after).confidence_interval(0.9)
    assert (found.gain.low, found.gain.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    own = over_real(other, "raw_kd")
    assert own is not None
    expected = stats.ttest_rel(result(1, 2.0)["arms"]["real"]["values"], after).confidence_interval(0.9)
    assert (own.low, own.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert "paired by seed" in notes([first, other])[0]
    assert gain_text(difference(first, first, "real").gain) == "equal"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seeds": [5, 6, 7, 8, 9]}, "their seeds differ"),
        ({"dataset": "cd" * 32}, "their data sets differ"),
        ({"dataset": None}, "the data set of one of them is not known"),
    ],
)
def test_other_seeds_or_data_are_unpaired_and_say_so(workdir: Path, change: dict[str, Any], reason: str) -> None:
    save(workdir, result(0))
    save(workdir / "other", result(1) | change)
    first, other = (load(text, workdir, "cgankd") for text in ("", "other/metrics/evaluate.json"))
    found = difference(first, other, "raw_kd")
    assert found is not None and not found.paired and found.gain.values == ()
    assert reason in notes([first, other])[0] and "unpaired" in notes([first, other])[0]


def test_other_units_have_no_difference(workdir: Path) -> None:
    save(workdir, result(0))
    save(workdir / "other", result(1, headline={"name": "test MAE", "unit": "degrees", "higher_is_better": False}))
    first, other = (load(text, workdir, "cgankd") for text in (".", "other"))
    assert difference(first, other, "raw_kd") is None and "no differences" in notes([first, other])[0]


def test_what_older_files_lack_comes_from_params_and_lock(workdir: Path) -> None:
    old = {k: v for k, v in result(0).items() if k not in ("seeds", "dataset", "student")}
    save(workdir, old)
    set_value(workdir / "params.yaml", "student.seeds", SEEDS)
    lock = "stages: {evaluate: {deps: [{path: artifacts/dataset.h5, md5: 0123456789abcdef}]}}"
    (workdir / "dvc.lock").write_text(lock)
    one = load(".", workdir, "cgankd")
    assert one.seeds == tuple(SEEDS) and one.dataset == "md5:0123456789abcdef" and one.student == "convnet, width 4"
    set_value(workdir / "params.yaml", "student.seeds", SEEDS[:4])
    assert load(".", workdir, "cgankd").seeds is None


def git(folder: Path, *args: str) -> None:
    subprocess.run(["git", "-c", "user.email=t@example.org", "-c", "user.name=T", *args], cwd=folder, check=True)


def test_git_revisions_and_experiments_are_found(workdir: Path) -> None:
    save(workdir, result(0))
    git(workdir, "init", "-q")
    git(workdir, "add", "-A")
    git(workdir, "commit", "-q", "-m", "one")
    save(workdir, result(1, shift=2.0))
    git(workdir, "commit", "-q", "-am", "two")
    git(workdir, "update-ref", "refs/exps/ab/cdef/loose", "HEAD")
    for text, seed in (("HEAD~1", 0), ("HEAD", 1), ("loose", 1)):
        one = load(text, workdir, "cgankd")
        assert one.arms["real"].values == tuple(result(seed)["arms"]["real"]["values"])
        assert one.found.startswith("git ") and one.settings["bank.rho"] == 0.9
    with pytest.raises(ConfigError, match="'nothing' is no file, git revision, DVC experiment"):
        load("nothing", workdir, "cgankd")
    git(workdir, "rm", "-q", "metrics/evaluate.json")
    git(workdir, "commit", "-q", "-m", "three")
    with pytest.raises(ConfigError, match="has no metrics/evaluate.json"):
        load("HEAD", workdir, "cgankd")


def test_mlflow_runs_are_found_by_name_and_id(store: Path) -> None:
    path = save(store, result(0))
    evaluate = open_run(store, stage="evaluate")
    evaluate.params({"bank.rho": 0.7, "student.net": "convnet"})
    evaluate.tags({"input.dataset.h5": "abababababab"})
    evaluate.file(path)
    evaluate.close("FINISHED")
    student = open_run(store, stage="student")
    student.params({"student.arms.real": "{}", "student.arms.raw": "{}", "student.distiller": "kd"})
    student.tags({"input.dataset.h5": "abababababab", "unit": "%", "higher_is_better": "false"})
    for arm, shift in (("raw", 1.0), ("real", 0.0)):
        for seed in (0, 1, 2):
            child = student.child(f"{arm} seed {seed}", {"arm": arm}, {"arm": arm, "seed": str(seed)})
            child.metrics({"result/val": 10.0 + seed - shift})
            child.close("FINISHED")
    student.close("FINISHED")
    found = load("digits", store, "cgankd")
    assert found.name == "digits/evaluate" and found.settings["bank.rho"] == 0.7 and found.seeds == tuple(SEEDS)
    again = load(found.found.removeprefix("MLflow run "), store, "cgankd")
    assert again.arms == found.arms
    trained = load("digits/student", store, "cgankd")
    assert trained.split == "validation" and trained.seeds == (0, 1, 2) and list(trained.arms) == ["real", "raw"]
    assert trained.arms["raw"].values == (9.0, 10.0, 11.0)
    assert over_real(trained, "raw").gain == 1.0  # type: ignore[union-attr]
    assert difference(found, trained, "real") is None


def test_a_folder_and_its_own_run_differ_in_no_setting(store: Path) -> None:
    """The file leaves defaults out and writes 8000 where the run has 8000.0; neither is a change."""
    path = save(store, result(0))
    read = read_params(store / "params.yaml")
    assert "kd" not in read["student"]["arms"]["raw"]
    run = open_run(store, stage="evaluate")
    tracked = flatten(to_dict(config_from_dict(read)))
    del tracked["student.arms.raw.strong"]  # as if the run were older than this switch
    run.params(tracked)
    run.tags({"input.dataset.h5": "abababababab"})
    run.file(path)
    run.close("FINISHED")
    records = [load(text, store, "cgankd") for text in (".", "digits/evaluate")]
    assert records[0].settings == records[1].settings and records[0].settings["student.arms.raw.kd"] is False
    assert changed(records) == {}
    set_value(store / "params.yaml", "bank.num_fakes", 500)
    set_value(store / "params.yaml", "search.num_trials", 3)
    set_value(store / "params.yaml", "tracking.preset", "mine")
    records[0] = load(".", store, "cgankd")
    assert changed(records) == {"bank.num_fakes": ["500", str(read["bank"]["num_fakes"])]}


def test_settings_the_code_cannot_read_are_compared_as_they_are() -> None:
    def one(**settings: Any) -> Record:
        return record("a", "b", result(0), {"student.net": "convnet"} | settings, None)

    old = one(**plain_settings({"bank": {"gone": 1, "rho": 0.5}, "student": {"arms": {"real": {}}}}))
    new = one(**{"bank.rho": 0.5, "student.arms.real.kd": False, "bank.num_fakes": 0, "bank.cap": None})
    assert changed([old, new]) == {"bank.gone": ["1", "not set"], "bank.num_fakes": ["not set", "0"]}
    assert nested({"a.b": 1, "a": {}, "c": 2}) == {"a": {"b": 1}, "c": 2}


@pytest.mark.parametrize("content", ["# A text", "[]", b"\xff\xfe"])
def test_another_file_is_said_to_be_no_result(workdir: Path, content: str | bytes) -> None:
    (workdir / "README.md").write_bytes(content if isinstance(content, bytes) else content.encode())
    done = CliRunner().invoke(app, ["compare", "README.md"])
    assert done.exit_code == 2 and "README.md is no evaluate.json" in done.output
    assert "name an evaluate.json" in done.output and "again" not in done.output


def test_one_run_is_titled_by_its_preset_and_the_star_is_explained_at_its_column(workdir: Path) -> None:
    save(workdir, result(0))
    text = page([load(".", workdir, "x")])
    assert "<h1>digits: arms of workspace</h1>" in text
    assert re.search(r"<th[^>]*>workspace \(\* ships\)</th>", text)


def test_the_command_writes_table_csv_and_page(workdir: Path) -> None:
    save(workdir, result(0))
    save(workdir / "other", result(1, shift=2.0))
    done = CliRunner().invoke(app, ["compare", ".", "other", "--csv", "out/a.csv", "--html", "out/a.html"])
    assert done.exit_code == 0, done.output
    assert "raw_kd" in done.output and "paired by seed" in " ".join(done.output.split())
    rows = list(csv.DictReader((workdir / "out/a.csv").read_text().splitlines()))
    assert [(row["run"], row["arm"]) for row in rows][1] == ("workspace", "raw_kd") and len(rows) == 4
    found = difference(load(".", workdir, "x"), load("other", workdir, "x"), "raw_kd")
    assert found is not None and float(rows[3]["difference"]) == found.gain.gain and rows[3]["paired"] == "True"
    assert rows[3]["distiller"] == "kd" and rows[3]["seeds"] == "0 1 2 3 4" and float(rows[3]["sd"]) > 0
    text = (workdir / "out/a.html").read_text()
    check_page(text)
    assert gain_text(found.gain) in text and "The bank helps: by a lot." in text
    assert len(attributes(text, "svg", "role")) == 2


def test_names_of_a_user_are_text_in_the_page(workdir: Path) -> None:
    save(workdir / "<b>x", result(0, verdict="<script>alert(1)</script>"))
    text = page([load("<b>x", workdir, "cgankd")])
    assert "<script" not in text and "<b>x" not in text and "&lt;b&gt;x" in text
    assert tidy([load("<b>x", workdir, "cgankd")]).count("\n") == 3


@pytest.mark.parametrize("content", ["{", "[]", '{"arms": {}}'])
def test_a_damaged_result_is_one_sentence(workdir: Path, content: str) -> None:
    (workdir / "metrics").mkdir()
    (workdir / "metrics/evaluate.json").write_text(content)
    done = CliRunner().invoke(app, ["compare"])
    assert done.exit_code == 2 and "evaluate.json" in done.output and "Traceback" not in done.output
