from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from cgankd.data.readers.sources import load
from cgankd.data.store.datasets import write_dataset
from pipelines.commands.app import app
from pipelines.files.params import changed, load_config, preset_text, set_values
from pipelines.files.pinned import PIN, write_pin
from pipelines.project import doctor, doctor_room
from pipelines.project.doctor import examine
from pipelines.project.doctor_room import look_at_images
from pipelines.project.finding import Finding
from pipelines.runtime import held, machine
from tests.tiny import tiny, write_params

INVOKE = CliRunner()


@pytest.fixture()
def repository(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder that looks like a git and DVC repository."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workdir.parent))
    subprocess.run(["git", "init", "-q"], cwd=workdir, check=True)
    (workdir / ".dvc").mkdir()
    (workdir / ".dvc/config").touch()
    (workdir / "dvc.yaml").write_text("stages: {}\n")
    return workdir


def levels(findings: list[Finding], level: str) -> dict[str, Finding]:
    return {f.name: f for f in findings if f.level == level}


def test_a_sound_folder_has_no_problem(repository: Path) -> None:
    findings = examine(repository)
    assert levels(findings, "problem") == {}
    assert {
        "python",
        "packages",
        "processor",
        "arithmetic",
        "disk",
        "git",
        "dvc",
        "params.yaml",
        "images",
        "mlflow",
    } <= set(levels(findings, "ok"))
    done = INVOKE.invoke(app, ["doctor"], env={"COLUMNS": "200"})
    assert done.exit_code == 0 and "torch" in done.output and "valid, preset digits" in done.output


def test_missing_weights_of_members_and_of_the_probe_are_found(repository: Path) -> None:
    probe = {"net": "convnet", "width": 4, "num_steps": 5, "weights": "probe.pt"}
    values = tiny("digits")
    values["teacher"]["members"] = [{}, {"weights": "w.pt"}, {"learning_rate": 0.01}]
    values["bank"] |= {"rounds": 2, "probe": probe}
    values["tracking"]["mlflow"] = False
    write_params(repository, values)
    found = levels(examine(repository, only_repository=True), "problem")
    assert set(found) == {"teacher.members[1].weights", "bank.probe.weights"}
    said = "teacher.members[1].weights is w.pt, but there is no such file; correct the path"
    assert found["teacher.members[1].weights"].text.startswith(said)
    (repository / "w.pt").write_bytes(b"w")
    assert "w.pt, SHA-256" in levels(examine(repository, only_repository=True), "ok")["teacher.members[1].weights"].text


def test_the_repository_alone_is_silent_when_fine(repository: Path) -> None:
    done = INVOKE.invoke(app, ["doctor", "--only", "repository"])
    assert (done.exit_code, done.output, done.stderr) == (0, "", "")
    # What `make repro` relies on: DVC reads no setting while no stage has to run again.
    (repository / "params.yaml").write_text((repository / "params.yaml").read_text() + "serach: {}\n")
    done = INVOKE.invoke(app, ["doctor", "--only", "repository"])
    assert done.exit_code == 2 and "serach" in done.stderr


@pytest.mark.parametrize(
    ("part", "name", "cure"),
    [(".git", "git", "git init"), (".dvc", "dvc", "dvc init"), (".dvc/config", "dvc", "dvc init -f")],
)
def test_a_missing_repository_blocks_with_its_cure(repository: Path, part: str, name: str, cure: str) -> None:
    path = repository / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = levels(examine(repository, only_repository=True), "problem")
    assert set(found) == {name} and cure in found[name].cure
    assert ("`cgankd run` works without" in found[name].cure) == (part != ".dvc/config")
    done = INVOKE.invoke(app, ["doctor", "--only", "repository"])
    assert done.exit_code == 2 and cure in done.stderr
    assert INVOKE.invoke(app, ["doctor"]).exit_code == 2


def test_without_stages_a_missing_repository_does_not_block(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cgankd run` works in such a folder; `dvc repro`, for which --only repository asks, does not."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workdir.parent))
    findings = examine(workdir)
    assert levels(findings, "problem") == {} and {"git", "dvc", "dvc.yaml"} <= set(levels(findings, "warning"))
    assert set(levels(examine(workdir, only_repository=True), "problem")) == {"git", "dvc"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, ["up to 1.2 GB in memory (set by data.memory_budget_gb)", "whether they fit shows once `prepare`"]),
        ({}, ["the training and validation images, 3.8e-05 GB, fit"]),
        ({"memory_budget_gb": None}, [f"{machine.total_memory_bytes() / 4e9:.4g} GB", "a quarter of", "GB, fit"]),
        ({"memory_budget_gb": 38399e-9}, ["do not fit", "when needed: slower, with the same numbers"]),
        ({"memory_budget_gb": 38400e-9}, ["fit, but not in the share of each of 2 student workers"]),
        ({"image_size": 32}, ["artifacts/dataset.h5 is of another data set"]),
    ],
)
def test_memory_for_images(workdir: Path, change: dict[str, object] | None, words: list[str]) -> None:
    values = tiny("digits")
    values["data"]["memory_budget_gb"] = 1.2
    values["student"]["workers"] = 2
    write_params(workdir, values)
    if change is not None:
        write_dataset(workdir / "artifacts/dataset.h5", load(load_config(workdir / "params.yaml").data, 0))
        write_params(workdir, values | {"data": values["data"] | change})
    (found,) = look_at_images(workdir)
    assert (found.name, found.level) == ("images", "ok")
    assert all(word in found.text for word in words), found.text


@pytest.mark.parametrize(
    ("text", "said", "cure"),
    [
        (None, "missing", "cgankd use PRESET"),
        ("seed: 0\nbank: [\n", "params.yaml, line", "that line"),
        ("seed: 0\nbnak: {}\n", "bnak", "correct the setting"),
    ],
)
def test_bad_params_block_with_their_cure(repository: Path, text: str | None, said: str, cure: str) -> None:
    path = repository / "params.yaml"
    path.unlink() if text is None else path.write_text(text)
    (found,) = levels(examine(repository), "problem").values()
    assert found.name == "params.yaml" and said in found.text and cure in found.cure


def test_images_that_are_not_there_block_with_their_cure(repository: Path) -> None:
    assert INVOKE.invoke(app, ["use", "cifar10-cpu", "--root", "the photos"]).exit_code == 0
    (found,) = levels(examine(repository, only_repository=True), "problem").values()
    assert found.name == "data.root" and str(repository / "the photos") in found.text
    assert "cgankd use PRESET --root PATH" in found.cure
    assert INVOKE.invoke(app, ["doctor", "--only", "repository"]).exit_code == 2
    set_values(repository / "params.yaml", {"data.source": "csv"})
    assert set(levels(examine(repository, only_repository=True), "problem")) == {"data.root"}
    (repository / "the photos").mkdir()
    assert levels(examine(repository, only_repository=True), "problem") == {}


def test_a_folder_to_download_into_is_made_first(repository: Path) -> None:
    params = repository / "params.yaml"
    params.write_text(changed(preset_text("cifar10-cpu"), "preset", {"data.root": "my data"}))
    params.write_text(params.read_text().replace("  root: my data", "  download: true\n  root: my data"))
    (found,) = levels(examine(repository, only_repository=True), "problem").values()
    assert "mkdir -p 'my data'" in found.cure


def test_missing_and_unpaired_packages_block(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = dict.fromkeys(doctor.PACKAGES, "1.0") | {"torch": "2.14.1+cpu", "torchvision": "0.28.0"}
    del versions["dvc"]

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = levels(doctor.look_at_packages(workdir), "problem")
    assert set(found) == {"dvc", "torchvision"}
    assert "make venv" in found["dvc"].cure and "0.29" in found["torchvision"].cure
    versions["torchvision"] = "0.29.1"
    assert set(levels(doctor.look_at_packages(workdir), "problem")) == {"dvc"}


@pytest.mark.parametrize(("free_gb", "level"), [(50, "ok"), (1, "warning"), (0.1, "problem")])
def test_disk_room(workdir: Path, monkeypatch: pytest.MonkeyPatch, free_gb: float, level: str) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, free_gb * 1e9))
    (found,) = doctor_room.look_at_disk(workdir)
    assert found.level == level and (level == "ok" or "dvc gc" in found.cure)


def test_little_memory_and_bad_threads(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory_gb", lambda: 0.5)
    monkeypatch.setenv("CGANKD_THREADS", "all")
    findings = doctor.look_at_machine(workdir)
    assert "batch_size" in levels(findings, "warning")["memory"].cure
    assert "CGANKD_THREADS" in levels(findings, "problem")["processor"].text


@pytest.mark.parametrize(("busy_s", "level"), [(0.1, "ok"), (1.0, "warning"), (4.0, "warning")])
def test_other_work_on_the_cores_is_seen(monkeypatch: pytest.MonkeyPatch, busy_s: float, level: str) -> None:
    looks = iter([held.Sample(0.0, {}, {}, 7.0), held.Sample(1.0, {}, {}, 7.0 + busy_s)])
    monkeypatch.setattr(held, "sample", lambda: next(looks))
    monkeypatch.setattr(machine, "available_cores", lambda: 2)
    found = doctor_room.look_at_cores()
    assert found.level == level and found.text.startswith(f"other work uses {busy_s:.1f} of 2")
    assert level == "ok" or "CGANKD_THREADS=1" in found.cure


def test_an_mlflow_server_that_is_down_is_a_warning(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    (found,) = doctor.look_at_tracking(workdir)
    assert found.level == "warning" and "cgankd sync" in found.cure


def test_a_damaged_store_is_a_warning(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (workdir / "mlflow.db").write_bytes(bytes(range(256)) * 4)
    (found,) = doctor.look_at_tracking(workdir)
    assert found.level == "warning" and "mlflow.db is damaged (file is not a database)" in found.text
    assert "move it away and run `cgankd sync`" in found.cure


def test_every_finding_that_is_not_fine_has_a_cure(workdir: Path) -> None:
    for finding in examine(workdir):
        assert (finding.level == "ok") != bool(finding.cure), finding


def test_cores_respect_affinity_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_text

    def quota(text: str) -> Any:
        return lambda self, *a, **k: text if str(self).endswith("cpu.max") else real(self, *a, **k)

    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    for text, cores in (("max 100000\n", 8), ("200000 100000\n", 2), ("50000 100000\n", 1), ("1600000 100000\n", 8)):
        monkeypatch.setattr(Path, "read_text", quota(text))
        assert machine.available_cores() == cores


def test_other_code_than_pinned_is_a_problem(workdir: Path) -> None:
    assert "code" not in {finding.name for finding in examine(workdir)}  # not a project
    write_pin(workdir)
    assert {f.level for f in examine(workdir) if f.name == "code"} == {"ok"}
    values = json.loads((workdir / PIN).read_text())
    (workdir / PIN).write_text(json.dumps(values | {"stages": values["stages"] | {"cgan": "0" * 16}}))
    (found,) = [f for f in examine(workdir) if f.name == "code"]
    assert found.level == "problem" and "code of cgan is not" in found.text and "cgankd pin" in found.cure
    (workdir / PIN).write_text("[]")
    assert "damaged" in next(f for f in examine(workdir) if f.name == "code").text


def test_a_class_without_test_images_is_said(workdir: Path) -> None:
    write_params(workdir, tiny("digits"))
    data = load(load_config(workdir / "params.yaml").data, 0)
    test = data.test.take((data.test.labels != 3).nonzero()[:, 0])
    write_dataset(workdir / "artifacts/dataset.h5", replace(data, test=test))
    found = [finding for finding in look_at_images(workdir) if finding.level == "warning"]
    assert any("there is no test image of 1 class (3)" in finding.text for finding in found)


def test_images_without_labels_are_looked_at_and_counted(repository: Path) -> None:
    def unlabelled(value: str | None, **more: Any) -> dict[str, Finding]:
        values = tiny("digits")
        values["data"] |= {"unlabelled": value} | more
        write_params(repository, values)
        return {f.name: f for f in look_at_images(repository)}

    assert "data.unlabelled" not in unlabelled(None) | unlabelled("rest")
    found = unlabelled("nowhere")["data.unlabelled"]
    assert found.level == "problem" and "nowhere' does not exist" in found.text and "name a folder" in found.cure
    (repository / "more/deep").mkdir(parents=True)
    found = unlabelled("more")["data.unlabelled"]
    assert found.level == "problem" and "has no images" in found.text and "put some into it" in found.cure
    for row in range(3):
        (repository / f"more/deep/{row}.png").write_bytes(b"not decoded")
    found = unlabelled("more")["data.unlabelled"]
    assert (found.level, found.text) == ("ok", "more has 3 images without labels")
    found = unlabelled("more", num_unlabelled=2)["data.unlabelled"]
    assert found.text.endswith("of which at most 2 are used (data.num_unlabelled)")
    with h5py.File(repository / "more.h5", "w") as file:
        file["images"] = np.zeros((4, 3, 20, 20), np.uint8)
    found = unlabelled("more.h5")["data.unlabelled"]
    assert found.level == "problem" and "images of 20x20" in found.text and "data.image_size" in found.text
    with h5py.File(repository / "more.h5", "w") as file:
        file["images"] = np.zeros((4, 3, 32, 32), np.uint8)
    assert unlabelled("more.h5")["data.unlabelled"].text.startswith("more.h5 has 4 images without labels")
