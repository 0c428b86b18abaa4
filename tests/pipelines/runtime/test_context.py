from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console
from ruamel.yaml import YAML
from torch import nn

from cgankd.config import ConfigError, to_dict
from cgankd.measure.health import Check
from pipelines.files.layout import SECTIONS, STAGES
from pipelines.files.params import flatten, load_config
from pipelines.runtime import context, held
from pipelines.runtime.context import Context
from pipelines.runtime.opening import open_context
from pipelines.tracking.journal import Event, read_roots
from tests.conftest import ROOT


class Killed(BaseException):
    """Stands for a kill: nothing below may swallow it."""


def events(folder: Path, stage: str) -> list[Event]:
    """The events of the newest run of a stage."""
    return list(read_roots(folder / "artifacts" / "logs" / f"{stage}.jsonl").values())[-1]


def loop(ctx: Context, steps: int, stop: int | None = None) -> torch.Tensor:
    """A stand-in for training: a sum over steps, saved every 10, with a curve."""
    log, checkpoint = ctx.progress("teacher"), ctx.checkpoint("teacher")
    state: Any = checkpoint.load() or {"step": 0, "x": torch.zeros(3)}
    x, start = state["x"], state["step"]
    for step in range(start + 1, steps + 1):
        x = x + step * torch.ones(3) / 7
        log(step, {"loss": float(x[0])} | ({"val": step / 3} if step % 5 == 0 else {}), steps)
        if step % 10 == 0:
            checkpoint.save(step, {"step": step, "x": x})
        if step == stop:
            raise Killed
    return x


def stage(folder: Path, steps: int = 40, stop: int | None = None, settings: tuple[str, ...] = ()) -> str:
    """Run the stand-in as stage `teacher`; returns what was printed."""
    text = io.StringIO()
    with open_context("teacher", settings, folder, console=Console(file=text, width=200)) as ctx:
        x = loop(ctx, steps, stop)
        ctx.metrics({"x": float(x[0])})
        ctx.save_weights("teacher", {"x": x}, {"width": 3})
    return text.getvalue()


def outputs(folder: Path) -> dict[str, bytes]:
    """All outputs of a stage, without logs and resume files."""
    files = [p for part in ("artifacts", "metrics", "plots") for p in (folder / part).rglob("*") if p.is_file()]
    kept = [p for p in files if not {"logs", "resume"} & set(p.parts)]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


def test_a_stage_leaves_metrics_curves_and_a_finished_run(workdir: Path) -> None:
    text = stage(workdir)
    assert json.loads((workdir / "metrics/teacher.json").read_text()) == {
        "x": float(sum(range(41)) * torch.ones(1) / 7)
    }
    rows = list(csv.reader((workdir / "plots/teacher/teacher.csv").read_text().splitlines()))
    assert rows[0] == ["step", "loss", "val"] and [r[0] for r in rows[1:]] == [str(i) for i in range(1, 41)]
    assert rows[5][2] == repr(5 / 3) and rows[4][2] == ""
    assert sorted(outputs(workdir)) == [
        "artifacts/digests/teacher.json",
        "artifacts/teacher.config.json",
        "artifacts/teacher.safetensors",
        "metrics/teacher.json",
        "plots/teacher/teacher.csv",
    ]
    found = events(workdir, "teacher")
    assert found[-1]["kind"] == "close" and found[-1]["status"] == "FINISHED"
    params = next(e["values"] for e in found if e["kind"] == "params")
    assert params["bank.rho"] == "0.9" and set(params) == set(flatten(to_dict(load_config(workdir / "params.yaml"))))
    curve = [p for e in found if e["kind"] == "curve" and e["name"] == "teacher/loss" for p in e["points"]]
    assert [step for step, _ in curve] == list(range(1, 41))
    seconds = [e for e in found if e["kind"] == "metrics" and "seconds" in e["values"]]
    assert len(seconds) == 1 and "teacher done in" in text and "40/40" in text


def test_the_same_stage_twice_leaves_the_same_bytes(workdir: Path) -> None:
    stage(workdir)
    first = outputs(workdir)
    stage(workdir)
    assert outputs(workdir) == first


@pytest.mark.parametrize("stop", [7, 10, 29])
def test_a_killed_stage_resumes_to_the_same_bytes(workdir: Path, tmp_path_factory: Any, stop: int) -> None:
    whole = tmp_path_factory.mktemp("whole")
    (whole / "params.yaml").write_bytes((workdir / "params.yaml").read_bytes())
    stage(whole)
    with pytest.raises(Killed):
        stage(workdir, stop=stop)
    assert outputs(workdir) == {}
    assert events(workdir, "teacher")[-1]["status"] == "FAILED"
    text = stage(workdir)
    assert ("resuming at step" in text) == (stop >= 10)
    assert outputs(workdir) == outputs(whole)
    curve = [p for e in events(workdir, "teacher") if e["kind"] == "curve" and "loss" in e["name"] for p in e["points"]]
    assert [step for step, _ in curve] == list(range(1, 41))
    assert list((workdir / "artifacts/resume").rglob("*.pt")) == []


@pytest.mark.parametrize(
    ("change", "resumes"),
    [
        ("teacher.width=9", False),
        ("seed=1", False),
        ("bank.rho=0.5", True),
        ("teacher.width=32", True),
    ],
)
def test_progress_is_kept_under_the_settings_of_this_stage_only(workdir: Path, change: str, resumes: bool) -> None:
    with pytest.raises(Killed):
        stage(workdir, stop=25)
    text = stage(workdir, settings=(change,))
    assert ("resuming at step 20" in text) == resumes
    assert ("starting afresh" in text) == (not resumes)


def test_progress_is_dropped_when_an_input_changed(workdir: Path) -> None:
    data = workdir / "artifacts" / "dataset.h5"
    data.parent.mkdir(exist_ok=True)
    said = []
    for content, stop in ((b"one", True), (b"one", True), (b"two", False)):
        data.write_bytes(content)
        text = io.StringIO()
        try:
            with open_context("teacher", (), workdir, console=Console(file=text)) as ctx:
                assert ctx.inputs("dataset.h5") == (data,)
                loop(ctx, 40, 25 if stop else None)
        except Killed:
            pass
        said.append("resuming" in text.getvalue())
    assert said == [False, True, False]


def test_a_missing_input_names_the_stage_to_run(workdir: Path) -> None:
    with pytest.raises(ConfigError, match=r"artifacts/dataset\.h5 is missing; run `cgankd prepare` first"):
        with open_context("teacher", (), workdir, console=Console(file=io.StringIO())) as ctx:
            ctx.inputs("dataset.h5")
    assert events(workdir, "teacher")[-1]["status"] == "FAILED" and not (workdir / "metrics").exists()


def test_inputs_tag_the_run_with_weights_and_their_config(workdir: Path) -> None:
    stage(workdir)
    with open_context("bank", (), workdir, console=Console(file=io.StringIO())) as ctx:
        ctx.inputs("teacher.safetensors")
        assert set(ctx.digests) == {"teacher.safetensors", "teacher.config.json"}
        weights, config = ctx.load_weights("teacher.safetensors")
        assert weights["x"].shape == (3,) and config == {"width": 3}
        ctx.copy_weights(workdir / "artifacts/teacher.safetensors", "students/copy.safetensors")
        assert ctx.load_weights("students/copy.safetensors")[1] == config
        ctx.write_artifact_json("students/runs.json", {"b": 1, "a": [2]})
    tags = {k: v for e in events(workdir, "bank") if e["kind"] == "tags" for k, v in e["values"].items()}
    assert tags["input.teacher.safetensors"] == ctx.digests["teacher.safetensors"][:12]
    assert json.loads((workdir / "artifacts/students/runs.json").read_text()) == {"a": [2], "b": 1}


def test_two_runs_of_a_stage_in_one_folder_are_refused(workdir: Path) -> None:
    with open_context("teacher", (), workdir, console=Console(file=io.StringIO())):
        with pytest.raises(
            ConfigError, match=r"another `cgankd teacher` \(process \d+\) is running in .*; wait for it"
        ):
            open_context("teacher", (), workdir)
        with open_context("cgan", (), workdir, console=Console(file=io.StringIO())):
            pass
    with open_context("teacher", (), workdir, console=Console(file=io.StringIO())):
        pass


def test_a_bad_setting_stops_a_stage_before_it_leaves_anything(workdir: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.wdth"):
        open_context("teacher", ["teacher.wdth=3"], workdir)
    assert [p.name for p in workdir.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("name", "ok", "fatal", "refuse", "mark", "more"),
    [
        ("cgan", True, False, True, "ok: ", ""),
        ("cgan", False, False, True, "WARNING: ", ""),
        ("cgan", False, True, True, "WARNING: ", " (the bank stage will refuse this)"),
        ("bank", False, True, True, "REFUSED: ", ""),
        ("bank", False, True, False, "WARNING: ", ""),
    ],
)
def test_checks_are_said_and_measured(
    workdir: Path, name: str, ok: bool, fatal: bool, refuse: bool, mark: str, more: str
) -> None:
    text, settings = io.StringIO(), [f"bank.refuse_worthless={str(refuse).lower()}"]
    with open_context(name, settings, workdir, console=Console(file=text, width=40)) as ctx:
        ctx.check(
            Check("diversity", 0.3, 0.5, ok, fatal, "fakes differ by [0.3] of what they should, which is a long line")
        )
    assert mark + "fakes differ by [0.3] of what they should, which is a long line" + more + "\n" in text.getvalue()
    metrics = json.loads((workdir / f"metrics/{name}.json").read_text())
    assert metrics == {"health.diversity": 0.3, "health.diversity.ok": int(ok)}


def test_nested_metrics_are_the_stages_own_file(workdir: Path) -> None:
    result = {"teacher": 5.0, "arms": {"real": {"mean": 9.0, "values": [1, 2]}}, "verdict": "no"}
    with open_context("evaluate", (), workdir, console=Console(file=io.StringIO())) as ctx:
        ctx.write_json("evaluate", result)
        ctx.metrics({"extra": 1.0})
    found = json.loads((workdir / "metrics/evaluate.json").read_text())
    assert found == result and list(found) == list(result)
    sent = [e for e in events(workdir, "evaluate") if e["kind"] in ("metrics", "file")]
    assert sent[0]["values"] == {"result/extra": 1.0} and sent[-1]["path"] == str(workdir / "metrics/evaluate.json")


def test_letters_that_the_font_lacks_are_no_warning(workdir: Path) -> None:
    with open_context("student", (), workdir, console=Console(file=io.StringIO())) as ctx:
        figure = Figure()
        figure.suptitle("\u732b")
        assert ctx.picture("names", figure).exists()


def test_pictures_and_tables_are_the_same_bytes_each_time(workdir: Path) -> None:
    found = []
    for _ in range(2):
        with open_context("student", (), workdir, console=Console(file=io.StringIO())) as ctx:
            figure = Figure()
            figure.subplots().plot([1, 2], [3, 4])
            path = ctx.picture("learning curves", figure)
            ctx.curve_table("learning_curves", {"real": ([1, 2], [0.5, 0.25]), "raw": ([1], [0.1])})
        assert path == workdir / "plots/student/learning_curves.png"
        found.append(path.read_bytes())
    assert found[0] == found[1] and b"matplotlib" not in found[0].lower()
    table = (workdir / "plots/student/learning_curves.csv").read_text()
    assert table == "step,real,raw\n1,0.5,0.1\n2,0.25,\n"


def test_weights_of_modules_are_saved(workdir: Path) -> None:
    with open_context("cgan", (), workdir, console=Console(file=io.StringIO())) as ctx:
        path = ctx.save_weights("cgan", nn.Linear(2, 1), {"z_dim": 2})
        assert path == ctx.new("cgan.safetensors") and set(ctx.load_weights("cgan.safetensors")[0]) == {
            "weight",
            "bias",
        }


@pytest.mark.parametrize("text", ["0", "many", "-1"])
def test_a_bad_number_of_threads_is_refused(workdir: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CGANKD_THREADS", text)
    with pytest.raises(ConfigError, match="CGANKD_THREADS"):
        open_context("teacher", (), workdir)


def test_sections_are_those_of_dvc_yaml() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    assert tuple(SECTIONS) == STAGES
    assert {name: tuple(stages[name]["params"]) for name in STAGES} == SECTIONS


def test_held_cores_are_said_once_and_kept_with_the_run(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other file stays as it is."""
    stage(workdir)
    before = outputs(workdir)

    def busy() -> held.Watch:
        watch = held.Watch()
        watch.line = lambda threads, cores: f"held with {threads} on {cores}"  # type: ignore[method-assign]
        return watch

    monkeypatch.setattr(context, "Watch", busy)
    monkeypatch.setattr(context, "available_cores", lambda: 3)
    said = f"held with {torch.get_num_threads()} on 3"
    assert said in stage(workdir) and outputs(workdir) == before
    log = (workdir / "artifacts/logs/teacher.jsonl").read_text()
    assert f'"compute.cores_held": "{said}"' in log
    assert f'"compute.threads": "{torch.get_num_threads()}"' in log
