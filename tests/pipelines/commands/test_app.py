from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cgankd.config import ConfigError
from cgankd.nets.predictors.shape import NetShape
from pipelines.commands.app import app
from pipelines.files.layout import STAGES
from pipelines.files.params import load_config, preset_text, read_params, set_value
from pipelines.runtime.faults import told_to_user
from pipelines.stages import prepare, teacher
from pipelines.stages.table import render
from pipelines.tracking.journal import read_roots
from tests.conftest import ROOT

INVOKE = CliRunner()


def result(**changes: Any) -> dict[str, Any]:
    """A small metrics/evaluate.json."""
    real = {"mean": 9.0, "sd": 0.5, "values": [8.5, 9.5], "val_mean": 9.1, "val_sd": 0.4, "uses_bank": False}
    gain = {"gain": 1.0, "gain_low": 0.5, "gain_high": 1.5}
    return {
        "headline": {"name": "test error", "unit": "%", "higher_is_better": False},
        "confidence": 0.95,
        "num_seeds": 2,
        "steps": 500,
        "batch_size": 64,
        "teacher": 5.0,
        "teacher_val": 5.1,
        "arms": {"real": real, "raw": real | {"mean": 8.0, "uses_bank": True} | gain},
        "chosen_arm": "raw",
        "best_real_arm": "real",
        "best_bank_arm": "raw",
        "verdict": "The bank helps.",
    } | changes


def shell(*command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | env
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, text=True, capture_output=True, check=False
    )


def test_help_names_every_stage_and_imports_nothing_heavy(tmp_path: Path) -> None:
    done = shell("-X", "importtime", "-m", "cgankd", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for stage in (*STAGES, "run", "use", "show", "ui", "compare", "report", "doctor", "sync"):
        assert re.search(rf"\b{stage}\b", done.stdout)
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in loaded
    assert not loaded & {
        "torch",
        "mlflow",
        "numpy",
        "matplotlib",
        "ruamel",
        "h5py",
        "optuna",
        "sklearn",
        "dvc",
        "scipy",
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", STAGES)
def test_the_help_of_a_stage_says_what_it_reads_and_writes(stage: str) -> None:
    text = INVOKE.invoke(app, [stage, "--help"], env={"COLUMNS": "200"}).output
    assert "Reads" in text and "writes" in text and "--set" in text


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["teacher", "--set", "teacher.wdth=3"], ["teacher.wdth", "nearest", "teacher.width"]),
        (["teacher", "--set", "bank.rho"], ["bank.rho=0.8"]),
        (["teacher", "--set", "search.num_trails=3"], ["search.num_trails", "nearest", "search.num_trials"]),
        (["teacher"], ["artifacts/dataset.h5 is missing", "cgankd prepare"]),
        (["run", "--from", "teacher"], ["artifacts/dataset.h5 is missing", "cgankd prepare"]),
        (["run", "--from", "studnet"], ["no stage 'studnet'", "did you mean student"]),
        (["use", "digit"], ["no preset 'digit'", "did you mean digits"]),
        (["use", "digits", "--root", "photos"], ["--root", "preset digits", "reads no files", "leave it out"]),
        (["use", "cifar10-cpu", "--root", ""], ["--root is empty"]),
        (["prepare", "--root", ""], ["data.root must be the path of a folder or file"]),
        (["show", "teachr"], ["did you mean teacher"]),
        (["show", "teacher"], ["metrics/teacher.json is missing", "cgankd teacher"]),
        (["doctor", "--only", "moon"], ["--only must be the word repository"]),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(workdir: Path, command: list[str], parts: list[str]) -> None:
    done = INVOKE.invoke(app, command)
    assert done.exit_code == 2 and "Traceback" not in done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_no_params_file_names_the_presets(workdir: Path) -> None:
    (workdir / "params.yaml").unlink()
    done = INVOKE.invoke(app, ["teacher"])
    assert done.exit_code == 2 and "cgankd use PRESET" in done.stderr and "digits" in done.stderr


def test_show_tells_the_settings_of_the_result_and_what_differs_by_now(workdir: Path) -> None:
    from pipelines.runtime.opening import open_context

    with open_context("teacher", ["teacher.num_steps=77"], workdir, console=Console(file=io.StringIO())) as ctx:
        ctx.metrics({"val": 1.0})
    shown = INVOKE.invoke(app, ["show", "teacher"]).output
    assert "teacher as this result was made" in shown
    (line,) = [line for line in shown.splitlines() if "teacher.num_steps" in line]
    wanted = read_params(workdir / "params.yaml")["teacher"]["num_steps"]
    assert f"77  (params.yaml says {wanted})" in line and shown.count("params.yaml says") == 1


def test_use_keep_takes_a_damaged_tracking_section_for_another_preset(workdir: Path) -> None:
    (workdir / "params.yaml").write_text("tracking: 5\n")
    done = INVOKE.invoke(app, ["use", "--keep", "digits"])
    assert done.exit_code == 0 and "the former one is params.yaml.bak-1" in done.output
    assert (workdir / "params.yaml").read_text() == preset_text("digits")


def test_a_table_of_two_seeds_says_that_they_prove_nothing() -> None:
    for num_seeds, claimed in ((2, False), (3, True)):
        screen = Console(file=io.StringIO(), width=120)
        screen.print(render(result(num_seeds=num_seeds)))
        assert isinstance(screen.file, io.StringIO)
        assert ("too few seeds to claim" not in screen.file.getvalue()) == claimed


def test_debug_shows_the_traceback(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = shell("-m", "cgankd", "--debug", "show", "teachr", cwd=workdir)
    assert done.returncode == 1 and "Traceback" in done.stderr and "ConfigError" in done.stderr
    monkeypatch.setenv("CGANKD_DEBUG", "1")
    assert isinstance(INVOKE.invoke(app, ["show", "teachr"]).exception, ConfigError)


def raising(error: BaseException) -> Any:
    def run(ctx: object) -> None:
        raise error

    return run


def library_error(ctx: object) -> None:
    from cgankd.nets.predictors.zoo import make_predictor

    make_predictor("no-such-net", NetShape(2, 1, 16), width=4, mean=(0.0,), std=(1.0,))


def test_what_the_library_tells_the_user_is_a_sentence(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "run", library_error)
    done = INVOKE.invoke(app, ["teacher"])
    assert done.exit_code == 2 and "no-such-net" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_defect_keeps_its_traceback(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "run", lambda ctx: int("x"))
    # Raised by the interpreter on behalf of this file: neither the library nor the pipelines meant it for the user.
    done = INVOKE.invoke(app, ["teacher"])
    assert done.exit_code == 1 and isinstance(done.exception, ValueError)
    monkeypatch.setattr(teacher, "run", raising(RuntimeError("shape mismatch")))
    assert isinstance(INVOKE.invoke(app, ["teacher"]).exception, RuntimeError)


def test_a_worker_process_can_speak_to_the_user() -> None:
    class _RemoteTraceback(Exception):
        pass

    def from_worker(file: str) -> ValueError:
        error = ValueError("training loss became nan; lower learning_rate")
        error.__cause__ = _RemoteTraceback(
            f'Traceback:\n  File "/x/concurrent/process.py", line 1\n  File "{file}", line 9'
        )
        return error

    assert told_to_user(from_worker("/x/site-packages/cgankd/fit/predictor.py"))
    assert not told_to_user(from_worker("/x/site-packages/torch/nn/functional.py"))


def test_a_file_the_system_refuses_is_named(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "run", lambda ctx: Path("/no/such/file").read_bytes())
    done = INVOKE.invoke(app, ["teacher"])
    assert done.exit_code == 2 and done.stderr == "error: No such file or directory: /no/such/file\n"


def test_control_c_says_how_to_resume(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "run", raising(KeyboardInterrupt()))
    done = INVOKE.invoke(app, ["teacher"])
    assert done.exit_code == 130 and done.stderr == "stopped; the same command resumes where it was\n"
    monkeypatch.setattr(prepare, "run", raising(KeyboardInterrupt()))
    assert INVOKE.invoke(app, ["prepare"]).stderr == "stopped\n"  # it has no progress to go on from
    (events,) = read_roots(workdir / "artifacts/logs/teacher.jsonl").values()
    assert events[-1]["status"] == "FAILED"


WAITING = """
import time
from pathlib import Path
from pipelines import cli
from pipelines.stages import teacher
def run(ctx):
    Path("ready").touch()
    time.sleep(60)
teacher.run = run
cli.main(["teacher"])
"""


def test_a_terminated_stage_ends_its_run_as_failed(workdir: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", WAITING], cwd=workdir, env=env, stderr=subprocess.PIPE, text=True)
    while not (workdir / "ready").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "resumes" in said
    (events,) = read_roots(workdir / "artifacts/logs/teacher.jsonl").values()
    assert events[-1]["kind"] == "close" and events[-1]["status"] == "FAILED"


def test_use_keeps_the_former_file(workdir: Path) -> None:
    before = (workdir / "params.yaml").read_text()
    assert INVOKE.invoke(app, ["use", "--keep", "digits"]).output == ""
    assert (workdir / "params.yaml").read_text() == before
    done = INVOKE.invoke(app, ["use", "--keep", "chairs"])
    assert done.exit_code == 0 and "params.yaml.bak-1" in done.output
    assert (workdir / "params.yaml").read_text() == preset_text("chairs")
    assert (workdir / "params.yaml.bak-1").read_text() == before


def test_use_writes_where_the_images_are(workdir: Path) -> None:
    done = INVOKE.invoke(app, ["use", "cifar10-cpu", "--root", "/some where/a: b"])
    assert done.exit_code == 0 and "data.root /some where/a: b" in done.output
    before, after = preset_text("cifar10-cpu").splitlines(), (workdir / "params.yaml").read_text().splitlines()
    (new,) = [line for line in after if line not in before]
    (old,) = [line for line in before if line not in after]
    assert len(before) == len(after) and old.split("#")[1] == new.split("#")[1] and old.lstrip().startswith("root:")
    assert load_config(workdir / "params.yaml").data.root == "/some where/a: b"
    # The same again changes nothing and keeps no copy; --keep lets other settings be.
    backups = sorted(workdir.glob("*.bak-*"))
    assert INVOKE.invoke(app, ["use", "cifar10-cpu", "--root", "/some where/a: b"]).exit_code == 0
    set_value(workdir / "params.yaml", "bank.rho", 0.8)
    assert INVOKE.invoke(app, ["use", "--keep", "cifar10-cpu", "--root", "here"]).output == ""
    cfg = load_config(workdir / "params.yaml")
    assert (cfg.bank.rho, cfg.data.root) == (0.8, "here") and sorted(workdir.glob("*.bak-*")) == backups


def test_root_is_short_for_a_setting(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, Any]] = []
    monkeypatch.setattr("pipelines.commands.running.run_stage", lambda stage, settings: seen.append((stage, settings)))
    assert INVOKE.invoke(app, ["prepare", "--root", "a: b#c"]).exit_code == 0
    assert INVOKE.invoke(app, ["prepare"]).exit_code == 0
    assert INVOKE.invoke(app, ["run", "--from", "evaluate", "--set", "seed=3", "--root", "x"]).exit_code == 0
    (_, rooted), plain, run = seen
    assert plain == ("prepare", None) and run == ("evaluate", ["seed=3", 'data.root="x"'])
    assert load_config(workdir / "params.yaml", rooted).data.root == "a: b#c"


def test_run_goes_through_the_stages_in_order(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, Any]] = []
    monkeypatch.setattr("pipelines.commands.running.run_stage", lambda stage, settings: seen.append((stage, settings)))
    assert INVOKE.invoke(app, ["run", "--from", "bank", "--set", "bank.rho=0.8"]).exit_code == 0
    assert seen == [(stage, ["bank.rho=0.8"]) for stage in ("bank", "student", "evaluate")]


def test_show_prints_settings_results_and_where_to_look(workdir: Path) -> None:
    (workdir / "metrics").mkdir()
    (workdir / "metrics/teacher.json").write_text('{"val": 9.25, "broken": null}')
    (workdir / "plots/teacher").mkdir(parents=True)
    (workdir / "plots/teacher/teacher.csv").touch()
    note = {"kind": "mlflow", "run": "r", "root": "r", "state": "complete", "mlflow_run": "abc", "experiment_id": "1"}
    (workdir / "artifacts/logs").mkdir(parents=True)
    log = workdir / "artifacts/logs/teacher.jsonl"
    log.write_text(json.dumps(note | {"uri": "http://host:1/"}) + "\n")
    text = INVOKE.invoke(app, ["show", "teacher"], env={"COLUMNS": "200"}).output
    for part in ("teacher.learning_rate", "0.003", "val", "9.25", "plots/teacher/teacher.csv"):
        assert part in text
    assert "http://host:1/#/experiments/1/runs/abc" in text
    log.write_text(json.dumps(note | {"uri": "sqlite:////x.db"}) + "\n")
    assert "cgankd ui" in INVOKE.invoke(app, ["show", "teacher"], env={"COLUMNS": "200"}).output


def test_show_evaluate_is_the_table_of_arms(workdir: Path) -> None:
    (workdir / "metrics").mkdir()
    (workdir / "metrics/evaluate.json").write_text(json.dumps(result()))
    done = INVOKE.invoke(app, ["show", "evaluate"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    for part in ("The bank helps.", "+1.00 [+0.50,+1.50]", "teacher", "* ships"):
        assert part in done.output


def test_ui_serves_this_machine_only(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no MLflow runs" in INVOKE.invoke(app, ["ui"]).stderr
    (workdir / "mlflow.db").touch()
    calls: list[list[str]] = []
    monkeypatch.setattr("pipelines.runtime.bonds.run_bonded", lambda command: calls.append(command) or 0)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "")  # set by the command
    assert INVOKE.invoke(app, ["ui", "--port", "5055"]).exit_code == 0
    (command,) = calls
    assert command[command.index("--host") + 1] == "127.0.0.1" and command[command.index("--port") + 1] == "5055"
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{workdir / 'mlflow.db'}"
    assert not any("sqlite" in word for word in command)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example")
    assert "https://tracking.example" in INVOKE.invoke(app, ["ui"]).output and len(calls) == 1


def test_sync_says_what_it_did(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert INVOKE.invoke(app, ["sync"]).output == "0 runs added to MLflow, 0 were there\n"
    monkeypatch.setattr(teacher, "run", lambda ctx: ctx.metrics({"val": 1.0}))
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        assert INVOKE.invoke(app, ["teacher"]).exit_code == 0
        done = INVOKE.invoke(app, ["sync"])
        assert done.exit_code == 2 and "127.0.0.1:1" in done.stderr and "nothing is lost" in done.stderr
    with monkeypatch.context() as patch:
        error = OSError(errno.EROFS, os.strerror(errno.EROFS), str(store / "artifacts/resume/sync.lock"))

        def fails(workdir: Path) -> None:
            raise error

        patch.setattr("pipelines.tracking.sync.add_missing", fails)
        done = INVOKE.invoke(app, ["sync"])
        assert done.exit_code == 2 and "sync.lock cannot be written (Read-only file system)" in done.stderr
    assert INVOKE.invoke(app, ["sync"]).output == "1 runs added to MLflow, 0 were there\n"


def test_repeat_refuses_a_first_seed_below_zero_before_anything_is_made(workdir: Path) -> None:
    before = sorted(workdir.rglob("*"))
    done = INVOKE.invoke(app, ["repeat", "--draws", "2", "--first-seed", "-5"])
    assert done.exit_code == 2 and done.stderr == "error: --first-seed must be zero or more, but is -5\n"
    assert sorted(workdir.rglob("*")) == before
    done = INVOKE.invoke(app, ["repeat", "--draws", "2", "--first-seed", str(2**63 - 1)])
    assert done.exit_code == 2 and f"--first-seed must be at most {2**63 - 2}, so that 2 seeds fit" in done.stderr
    assert sorted(workdir.rglob("*")) == before
