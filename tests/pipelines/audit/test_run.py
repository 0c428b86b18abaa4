"""`cgankd bank audit` through the real command: what it writes, what it finds, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from mlflow import MlflowClient
from typer.testing import CliRunner

from cgankd.config import BANK_UNSAID, BankConfig, ConfigError
from cgankd.data.dataset import Dataset, pixel_stats
from cgankd.data.store.banks import BankWriter, PoolRows, read_attributes, write_bank
from cgankd.data.store.datasets import read_split, write_dataset
from cgankd.measure import copies
from cgankd.types import DatasetInfo, Split
from pipelines.audit import run as audit
from pipelines.audit.inception import make_inception
from pipelines.commands.app import app
from pipelines.files.artifacts import file_digest
from pipelines.files.layout import STAGES
from pipelines.files.made_with import changed_since
from pipelines.files.params import load_config, set_values
from pipelines.pictures import audit as pictures_audit
from tests.tiny import tiny, unsealed, write_params

INVOKE = CliRunner()
WIDE = {"COLUMNS": "200"}


def command(*words: str) -> Any:
    done = INVOKE.invoke(app, list(words), env=WIDE)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny digits through the stages up to the bank."""
    folder = tmp_path_factory.mktemp("digits")
    values = tiny("digits")
    values["tracking"]["mlflow"] = False
    values["student"]["arms"] = {"real": {}, "filter": {"bank": True, "subsample": True, "filter": True}}
    write_params(folder, values)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CGANKD_THREADS", "1")
        for stage in ("prepare", "teacher", "cgan", "ratio", "bank"):
            assert command(stage).exit_code == 0
    return folder


@pytest.fixture()
def digits_bank(workdir: Path, made: Path) -> Path:
    """A copy of that run to work in."""
    shutil.copytree(made, workdir, dirs_exist_ok=True)
    unsealed(workdir)
    return workdir


def read(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "metrics/audit.json").read_text())
    return found


def test_an_audit_is_numbers_pictures_a_table_and_a_tagged_run(digits_bank: Path, empty_store: Path) -> None:
    shutil.copyfile(empty_store, digits_bank / "mlflow.db")
    before = file_digest(digits_bank / "artifacts/bank.h5")
    done = command("bank", "audit", "--set", "tracking.mlflow=true")
    assert done.exit_code == 0
    found = read(digits_bank)
    assert all(isinstance(value, float) for value in found.values())
    assert found["num_bank"] == 60 and found["num_train"] == 50 and found["num_val"] == 100
    for name in ("fid.teacher", "kid.teacher", "precision.teacher", "recall.teacher", "auc.teacher"):
        assert f"{name}.reference" in found and name in done.output
    for name in ("fid.teacher.intra_label", "kid.teacher.intra_label", "label_score", "label_marginal.tv"):
        assert {name, f"{name}.reference", f"{name}.alarm"} <= set(found)
    assert found["copies.exact"] == 0 and found["copies.exact.alarm"] == 0
    assert found["bound.theta"] == pytest.approx(50 / 110) and 0 < found["bound.acceptance"] <= 1
    # A generator of 12 steps makes nothing like a digit.
    assert found["kid.teacher"] > found["kid.teacher.reference"]
    assert found["auc.teacher"] > found["auc.teacher.reference"]
    assert found["niqe"] > found["niqe.reference"] > 0
    assert "metrics/audit.json (commit it with the other metrics)" in done.output
    assert "not Inception's" in done.output and "too few" not in done.output.split("kid.teacher")[-1]
    pictures = {p.name for p in (digits_bank / "plots/audit").iterdir()}
    assert pictures == {
        f"{p}.png" for p in ("labels", "by_label_teacher", "closest_pixels", "closest_features", "nearest_pixels")
    }
    client = MlflowClient(f"sqlite:///{digits_bank}/mlflow.db")
    experiment = client.get_experiment_by_name("cgankd")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["stage"] == "audit" and run.info.status == "FINISHED"
    assert run.data.metrics["result/fid.teacher"] == pytest.approx(found["fid.teacher"])
    assert run.data.tags["input.bank.h5"] == before[:12]
    assert file_digest(digits_bank / "artifacts/bank.h5") == before
    assert not list((digits_bank / "artifacts/resume/audit").iterdir()), "scratch files are gone"


def test_a_planted_copy_is_found_and_shown(digits_bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training image in the bank, one shifted by a pixel, two with more and less noise, and a fake ten times over."""
    train = read_split(digits_bank / "artifacts/dataset.h5", "train")
    gen = torch.Generator().manual_seed(0)
    noise = torch.randint(-6, 7, train.images[20].shape, generator=gen)
    more = (5 * torch.randn(train.images[30].shape, generator=gen)).round().int()
    with h5py.File(digits_bank / "artifacts/bank.h5", "r+") as file:
        file["images"][7] = train.images[3].numpy()
        file["images"][31] = torch.roll(train.images[11], (1, -1), (1, 2)).numpy()
        file["images"][40] = (train.images[20].int() + noise).clamp(0, 255).to(torch.uint8).numpy()
        file["images"][45] = (train.images[30].int() + more).clamp(0, 255).to(torch.uint8).numpy()
        file["images"][50:60] = file["images"][55]
        file["labels"][50:60] = file["labels"][55]
    drawn: list[tuple[Any, ...]] = []
    real_picture = pictures_audit.closest_pairs

    def spy(*args: Any) -> Any:
        drawn.append(args)
        return real_picture(*args)

    monkeypatch.setattr(pictures_audit, "closest_pairs", spy)
    done = command("bank", "audit")
    assert done.exit_code == 0
    found = read(digits_bank)
    assert found["copies.exact"] == 2 and found["copies.exact.reference"] == 0 and found["copies.exact.alarm"] == 1
    assert found["copies.closest"] == 0.0
    assert "ALARM: copies.exact is 2, training images leak into the bank" in done.output
    # The noisy copies are no exact ones, but far closer than any two real images are.
    assert found["copies.near"] == 4 and found["copies.near.alarm"] == 1 and found["copies.near.reference"] == 0
    assert found["copies.closest.alarm"] == 1 and "ALARM: copies.near is 4, training images leak" in done.output
    assert found["copies.pixel.share"] >= 3 / 60 > found["copies.pixel.share.reference"]
    assert found["duplicates.exact"] == pytest.approx(10 / 60) and found["duplicates.exact.alarm"] == 1
    fakes, reals, captions, title = drawn[0]
    assert captions[:2] == ["7 / 3\n0", "31 / 11\n0"] and [c.split("\n")[0] for c in captions[2:4]] == [
        "40 / 20",
        "45 / 30",
    ]
    real = copies.closest_real(copies.leave_one_out(train.images), nearest_shifted_of_val(digits_bank))
    assert f"closest two real images are {real:.3g} apart; a copy is alarming at {real / 2:.3g}" in title
    assert "row of the fake / row of the training image" in title
    assert torch.equal(fakes[0], train.images[3]) and torch.equal(reals[1], train.images[11])


def test_a_noisy_copy_alone_is_alarming(digits_bank: Path) -> None:
    """Five grey levels of noise on one training image among sixty fakes; without it there is no alarm of copies."""
    train = read_split(digits_bank / "artifacts/dataset.h5", "train")
    command("bank", "audit")
    before = read(digits_bank)
    assert before["copies.near"] == before["copies.near.alarm"] == before["copies.closest.alarm"] == 0
    noise = (5 * torch.randn(train.images[20].shape, generator=torch.Generator().manual_seed(0))).round().int()
    with h5py.File(digits_bank / "artifacts/bank.h5", "r+") as file:
        file["images"][40] = (train.images[20].int() + noise).clamp(0, 255).to(torch.uint8).numpy()
    done = command("bank", "audit")
    found = read(digits_bank)
    assert found["copies.exact"] == 0 and found["copies.near"] == 1
    assert "ALARM: copies.closest is" in done.output and "50 % of the closest real pair" in done.output


def nearest_shifted_of_val(folder: Path) -> torch.Tensor:
    """The smallest distance of each validation image to a training image over all shifts of one pixel, one by one."""
    train, val = (read_split(folder / "artifacts/dataset.h5", name).images for name in ("train", "val"))
    best = torch.full((len(val),), float("inf"))
    for dy, dx in copies.SHIFTS:
        for image in train:
            best = torch.minimum(best, copies.shift_distance(val, image.expand_as(val), dy, dx))
    return best


def bars(label: torch.Tensor, seed: int) -> torch.Tensor:
    """Images with a soft bright bar at the place the label (0 to 90) says, and noise."""
    gen = torch.Generator().manual_seed(seed)
    place = torch.arange(16)
    bright = 200 * torch.exp(-(((place - label[:, None] / 6) / 2.5) ** 2))[:, None, None, :]
    noisy = bright + 40 * torch.rand(len(label), 1, 16, 16, generator=gen)
    return noisy.round().to(torch.uint8)


@pytest.fixture()
def bars_bank(workdir: Path) -> Path:
    """Scalar labels: a data set of bars, a teacher, and a bank whose upper half is off its label and rarer."""
    values = tiny("chairs")
    values["tracking"]["mlflow"] = False
    values["bank"]["label_bin"] = 15.0
    values["data"] |= {"source": "csv", "channels": 1}
    write_params(workdir, values)
    gen = torch.Generator().manual_seed(0)
    parts = [Split(bars(y, i), y) for i, y in enumerate(torch.rand(n, generator=gen) * 90 for n in (120, 80, 10))]
    mean, std = pixel_stats(parts[0].images)
    info = DatasetInfo("scalar", "csv", "degree", 1, 16, mean, std, (), 0.0, 90.0)
    dataset = workdir / "artifacts/dataset.h5"
    write_dataset(dataset, Dataset(*parts, info, {}))
    assert command("teacher", "--set", "teacher.num_steps=120").exit_code == 0

    asked = torch.cat([torch.linspace(0, 45, 80), torch.linspace(45.5, 90, 20)])
    images = bars(torch.where(asked > 45, asked - 20, asked), 9)
    pool, zeros = workdir / "artifacts/pool.h5", torch.zeros(100)
    with BankWriter(pool, (1, 16, 16), 1, torch.float32) as writer:
        shard = torch.zeros(100, dtype=torch.int32)
        outputs = torch.zeros(100, 1).half()
        writer.append(PoolRows(images, asked, asked, zeros, zeros, outputs, zeros, shard))
        writer.close({"report.filter.acceptance": "0.5"})
    write_bank(workdir / "artifacts/bank.h5", pool, torch.arange(100), asked, {"selection": "filter"})
    return workdir


def test_scalar_labels_have_windows_and_a_label_score(bars_bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    real_picture = pictures_audit.distance_by_label
    monkeypatch.setattr(pictures_audit, "distance_by_label", lambda *a: drawn.append(a) or real_picture(*a))
    done = command("bank", "audit")
    assert done.exit_code == 0
    found = read(bars_bank)
    assert {"fid.teacher.sliding", "kid.teacher.sliding", "label_marginal.w1", "bound.label_part"} <= set(found)
    # 20 of 100 fakes are 20 degrees off, and the teacher says so.
    assert found["label_score"] == pytest.approx(0.2 * 20 + 0.8 * found["label_score.reference"], rel=0.35)
    assert found["label_score.alarm"] == 1 and "degree" in done.output
    assert found["bound.label_part"] == pytest.approx(found["teacher_error"] / 90)
    assert found["label_marginal.tv"] > 0.2 and found["label_marginal.w1"] == pytest.approx(13, abs=5)
    assert found["bound.acceptance"] == 0.5
    panels, names, *_ = drawn[0]
    assert names is None and set(panels) == {"FID", "KID"}
    bank = panels["KID"]["bank"]
    low, high = ([v for x, v in bank.items() if (x > 60) is side] for side in (False, True))
    assert sum(high) / len(high) > 3 * abs(sum(low) / len(low)), "the windows show where the bank is wrong"
    first = (bars_bank / "metrics/audit.json").read_bytes()
    command("bank", "audit")
    assert (bars_bank / "metrics/audit.json").read_bytes() == first


class Pooled(torch.nn.Module):
    """Stands for Inception weights: mean and sd of the pixels of each colour."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1)


class Asking(torch.nn.Module):
    """Gives features only on request, as one published file does."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return x.mean((2, 3)) if return_features else torch.zeros(len(x), 1008)


def save_script(path: Path, net: torch.nn.Module) -> Path:
    torch.jit.script(net).save(str(path))
    return path


SCRIPTED = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")


@SCRIPTED
def test_a_script_or_an_exported_program_gives_features(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (5, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    script = save_script(tmp_path / "net.pt", Pooled().eval())
    size = {0: torch.export.Dim("batch", min=1, max=4096)}
    program = torch.export.export(Pooled().eval(), (torch.rand(2, 3, 299, 299),), dynamic_shapes=(size,))
    torch.export.save(program, tmp_path / "net.pt2")
    grey = images.float().mean((1, 2, 3))
    for path in (script, tmp_path / "net.pt2"):
        found = make_inception(path, "bytes", batch_size=2)(images)
        assert found.shape == (5, 6)
        assert torch.allclose(found[:, :3], grey[:, None].expand(-1, 3), rtol=0.02)
        unit, signed = (make_inception(path, scale)(images)[:, 0] for scale in ("unit", "signed"))
        assert torch.allclose(unit * 255, found[:, 0], rtol=1e-3)
        assert torch.allclose((signed + 1) * 127.5, found[:, 0], rtol=1e-3)
    asked = make_inception(save_script(tmp_path / "asking.pt", Asking()), "bytes")(images)
    assert asked.shape == (5, 3)


@SCRIPTED
def test_the_users_own_network_is_a_second_space(bars_bank: Path) -> None:
    save_script(bars_bank / "net.pt", Pooled().eval())
    done = command("bank", "audit", "--inception", "net.pt", "--inception-pixels", "unit")
    assert done.exit_code == 0
    found = read(bars_bank)
    assert {"fid.inception", "kid.inception", "fid.inception.sliding", "auc.inception", "fid.teacher"} <= set(found)
    assert (bars_bank / "plots/audit/by_label_inception.png").exists()


@SCRIPTED
@pytest.mark.parametrize("kind", ["script", "program"])
def test_that_a_network_is_a_program_is_said_before_it_is_opened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pt"
    if kind == "script":
        save_script(path, Pooled().eval())
    else:
        torch.export.save(torch.export.export(Pooled().eval(), (torch.rand(2, 3, 299, 299),)), path)
    opened = []

    def refuse(*given: object, **named: object) -> None:
        opened.append(given)
        raise RuntimeError("stopped here")

    for name in ("torch.export.load", "torch.jit.load"):
        monkeypatch.setattr(name, refuse)
    done = command("bank", "audit", "--inception", "net.pt")
    assert done.exit_code == 2 and len(opened) == 1
    said = " ".join(done.output.split())
    assert said.index("net.pt is a program and runs with your rights") < said.index("stopped here")


@SCRIPTED
def test_a_network_that_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    images = torch.zeros(3, 1, 16, 16, dtype=torch.uint8)
    fixed = torch.export.export(Pooled().eval(), (torch.rand(2, 3, 299, 299),))
    torch.export.save(fixed, tmp_path / "fixed.pt2")
    with pytest.raises(ConfigError, match="for any B"):
        make_inception(tmp_path / "fixed.pt2", "unit")(images)
    flat = save_script(tmp_path / "flat.pt", torch.nn.Flatten(0))
    with pytest.raises(ConfigError, match="one row an image"):
        make_inception(flat, "unit")(images)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--inception", "gone.pt"], ["no file gone.pt"]),
        (["--inception", "params.yaml"], ["params.yaml is no TorchScript or exported-program file"]),
        (["--inception", "params.yaml", "--inception-pixels", "byte"], ["bytes, unit, signed", "'byte'"]),
        (["--set", "bank.roh=1"], ["bank.roh", "bank.rho"]),
    ],
)
def test_a_mistake_is_one_sentence(digits_bank: Path, words: list[str], parts: list[str]) -> None:
    done = command("bank", "audit", *words)
    assert done.exit_code == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert all(part in line for part in parts)
    assert not (digits_bank / "metrics/audit.json").exists()
    assert not (digits_bank / "artifacts/logs/audit.jsonl").exists(), "no failed run"


def test_a_bank_of_another_making_is_refused(digits_bank: Path) -> None:
    path = digits_bank / "artifacts/bank.h5"
    with h5py.File(path, "r+") as file:
        kept = file.attrs["teacher"]
        file.attrs["teacher"] = "0" * 64
    assert "made from another artifacts/teacher.safetensors; run `cgankd bank`" in command("bank", "audit").stderr
    with h5py.File(path, "r+") as file:
        file.attrs["teacher"] = kept
        columns = {name: file[name][:5] for name in file}
        for name, values in columns.items():
            del file[name]
            file[name] = values
    assert "there are only 5 fakes; an audit needs at least 10" in command("bank", "audit").stderr
    path.unlink()
    assert "artifacts/bank.h5 is missing; run `cgankd bank` first" in command("bank", "audit").stderr


def test_a_bank_made_with_other_settings_is_said_and_recorded_as_made(digits_bank: Path, empty_store: Path) -> None:
    shutil.copyfile(empty_store, digits_bank / "mlflow.db")
    assert "was made with" not in command("bank", "audit").output
    set_values(digits_bank / "params.yaml", {"bank.rho": 0.8, "cgan.beta2": 0.9, "student.width": 9})
    done = command("bank", "audit", "--set", "tracking.mlflow=true", "--set", "bank.burn_in=41")
    assert done.exit_code == 0
    assert (
        "warning: artifacts/bank.h5 was made with bank.burn_in 40, --set says 41; bank.rho 0.9, params.yaml says 0.8;"
        " cgan.beta2 0.99, params.yaml says 0.9; run `dvc repro`" in done.output
    )
    client = MlflowClient(f"sqlite:///{digits_bank}/mlflow.db")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {k: run.data.params[k] for k in ("bank.rho", "bank.burn_in", "cgan.beta2", "student.width")} == {
        "bank.rho": "0.9",
        "bank.burn_in": "40",
        "cgan.beta2": "0.99",
        "student.width": "9",
    }
    # The file itself is believed where there is no record of its run, or the record is of another one.
    shutil.rmtree(digits_bank / "artifacts/logs")
    assert "made with bank.rho 0.9, params.yaml says 0.8" in command("bank", "audit").output
    # `seed` stands in no file; only the record of the run tells it.
    assert changed_since(
        digits_bank, "bank.h5", load_config(digits_bank / "params.yaml", ["seed=1", "bank.rho=0.9"])
    ) == ("artifacts/bank.h5 was made with cgan.beta2 0.99, params.yaml says 0.9; run `dvc repro`")


def test_a_bank_made_without_refill_says_how_many_of_num_fakes_are_there(digits_bank: Path) -> None:
    path, params = digits_bank / "artifacts/bank.h5", digits_bank / "params.yaml"
    names = {f.name for f in dataclasses.fields(BankConfig)} - {"rows_per_file"}
    assert set(json.loads(str(read_attributes(path)["config"]))) == names - set(BANK_UNSAID), "as it was before"
    assert "filter.kept_share" not in json.loads((digits_bank / "metrics/bank.json").read_text())
    shutil.rmtree(digits_bank / "artifacts/logs")
    said = changed_since(digits_bank, "bank.h5", load_config(params, ["bank.refill=false"]))
    assert said == "artifacts/bank.h5 was made with bank.refill true, --set says false; run `dvc repro`"

    done = command("bank", "--set", "bank.refill=false", "--set", "bank.num_fakes=600")
    found = json.loads((digits_bank / "metrics/bank.json").read_text())
    kept = found["filter.kept"]
    assert found["draws"] == 600 and 0 < kept < 600 and found["filter.kept_share"] == kept / 600
    assert f"filter: {kept:.0f} of 600 kept" in done.output
    assert json.loads(str(read_attributes(path)["config"]))["refill"] is False
    assert "bank.refill false, params.yaml says true" in str(changed_since(digits_bank, "bank.h5"))


def test_scratch_larger_than_the_disk_is_refused(tmp_path: Path) -> None:
    held = audit.mapped(tmp_path / "scratch/x", (3, 2), torch.float32)
    held[:] = torch.arange(6.0).reshape(3, 2)
    assert held.sum() == 15.0 and not list((tmp_path / "scratch").iterdir())
    with pytest.raises(ConfigError, match="GB of scratch"):
        audit.mapped(tmp_path / "scratch/x", (2**40, 2**12), torch.float32)


def test_bank_stays_a_stage_with_its_settings(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("pipelines.commands.running.run_stage", lambda stage, settings: seen.append((stage, settings)))
    assert command("bank").exit_code == 0
    assert command("bank", "--set", "bank.rho=0.8", "--set", "seed=1").exit_code == 0
    assert seen == [("bank", None), ("bank", ["bank.rho=0.8", "seed=1"])]
    monkeypatch.setattr(audit, "run", lambda ctx, *rest: seen.append((ctx.cfg.bank.rho, ctx.cfg.seed, *rest)))
    assert command("bank", "--set", "bank.rho=0.7", "audit", "--set", "seed=3").exit_code == 0
    assert seen[2:] == [(0.7, 3, None)]


def test_help_lists_the_stages_in_the_order_of_the_method() -> None:
    text = command("--help").output
    rows = re.findall(r"^\W*(\w+) ", text, re.MULTILINE)
    assert [row for row in rows if row in STAGES] == list(STAGES)
    assert "audit" in command("bank", "--help").output
