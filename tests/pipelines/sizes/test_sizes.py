"""`cgankd sizes` on a small finished project: the students are those of the student stage, the choice rests on validation."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from cgankd.config import ConfigError
from cgankd.measure.front import front
from pipelines.commands.app import app
from pipelines.files.params import load_config
from pipelines.pictures.sizes import error_against
from pipelines.report.groups import sizes_section
from pipelines.report.page import render_page
from pipelines.runtime.opening import open_context
from pipelines.search.config import load_searched
from pipelines.search.students import one_thread
from pipelines.ship.saved import load_package
from pipelines.sizes.costs import OnDevice, axes_of
from pipelines.sizes.plan import Size, plan_of
from pipelines.sizes.run import Asked, run
from pipelines.sizes.table import render
from pipelines.sizes.words import answer, candidates_of, fitting
from pipelines.stages import student
from tests.pipelines.finished import finished
from tests.pipelines.pages import check_page
from tests.tiny import unsealed

pytest.importorskip("onnxruntime", reason="sizes are measured as ONNX files (extra export)")

STEPS = ("student.num_steps=6", "tracking.mlflow=false")
NETS = ("sizes.nets={ds-cnn: [4, 8]}", "sizes.seeds=[0, 1]")


def side_by_side(train: Any, jobs: Sequence[Any], *rest: Any) -> None:
    """What workers do, in this process, so that no test waits for processes to begin."""
    with one_thread():
        for job in jobs:
            train(job)


@pytest.fixture(autouse=True, scope="module")
def in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.stages.student.run_jobs", side_by_side)
        yield


def call(folder: Path, command: str, *settings: str, **options: Any) -> str:
    """A command in a folder, as the command line opens it; returns what it said."""
    console = Console(record=True, width=100, file=io.StringIO())
    every = [*STEPS, *settings]
    plan = plan_of(load_searched(folder / "params.yaml", every), folder) if command == "sizes" else None
    with open_context(command, every, folder, console=console) as ctx:
        if plan is not None:
            run(ctx, plan, Asked(options.get("trials"), options.get("limits", {})), options.get("flash"))
        else:
            student.run(ctx)
    return console.export_text()


def sizes_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics/sizes.json").read_text())
    return found


def without_test_images(folder: Path) -> None:
    """Every label of the test split as one that is not there, so that whoever reads it ends with another number."""
    with h5py.File(folder / "artifacts/dataset.h5", "r+") as file:
        rows = np.array([name in (b"test", "test", 2) for name in file["split"][:]])
        assert rows.sum() == 10
        labels = file["labels"][:]
        labels[rows] = (labels[rows] + 1) % 3
        file["labels"][...] = labels
        images = file["images"][:]
        images[rows] = 255
        file["images"][...] = images


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """A finished project and what `cgankd sizes` said and wrote in it."""
    folder = finished(tmp_path_factory.mktemp("sizes") / "project")
    said = call(folder, "sizes", *NETS, limits={"bytes": 1_000_000.0})
    return folder, said, sizes_of(folder)


def test_every_size_by_both_arms(trained: tuple[Path, str, dict[str, Any]]) -> None:
    folder, said, found = trained
    assert [row["name"] for row in found["sizes"]] == ["convnet 4", "ds-cnn 4", "ds-cnn 8"]
    assert found["arms"] == ["filter", "real"] and found["seeds"] == [0, 1] and found["own"] == "convnet 4"
    assert "3 sizes x 2 arms (filter, real) x 2 seeds" in said and "Of 3 sizes 3 fit --max-bytes 1,000,000" in said
    assert all("ms" not in row["costs"] for row in found["sizes"]) and "ms" not in found["fronts"]
    for row in found["sizes"]:
        for arm in row["arms"].values():
            assert arm["val_mean"] == pytest.approx(np.mean(arm["val_values"]))
            assert arm["val_sd"] == pytest.approx(np.std(arm["val_values"], ddof=1))
        gains = np.subtract(row["arms"]["real"]["val_values"], row["arms"]["filter"]["val_values"])
        low, high = stats.t.interval(0.95, 1, gains.mean(), stats.sem(gains)) if gains.std() else (gains[0], gains[0])
        assert [row["gain"], row["gain_low"], row["gain_high"]] == pytest.approx([gains.mean(), low, high])
        assert row["val"] == min(arm["val_mean"] for arm in row["arms"].values())
    for axis in ("bytes", "multiplications", "ram", "ms"):
        assert (folder / f"plots/sizes/error_against_{axis}.png").stat().st_size > 5000
    # 16 px of one channel, width 4: the stem, then (4, 8), (4, 4), (4, 4) as channels and height.
    macs = 9 * 4 * 64 + (36 + 16) * 64 + 2 * (36 + 16) * 16 + 4 * 3
    assert found["sizes"][1]["costs"]["multiplications"] == macs
    assert found["sizes"][1]["costs"]["held_bytes"] == 16 * 16 + 4 * 64
    assert found["costs"]["bytes"] == "onnx_bytes" and found["costs"]["ram"] == "held_bytes"


def test_the_students_are_those_of_the_student_stage(trained: tuple[Path, str, dict[str, Any]]) -> None:
    folder, _, found = trained
    arms = "student.arms={real: {}, filter: {bank: true, subsample: true, filter: true}}"
    for row in found["sizes"][:2]:
        own = [f"student.net={row['net']}", f"student.width={row['width']}", "student.seeds=[0, 1]", arms]
        said = call(folder, "student", *own, "student.best_with_kd=false")
        assert "4 of 4 runs were finished before under equal settings: kept" in said
        stage = json.loads((folder / "metrics/student.json").read_text())
        assert {name: arm["val_mean"] for name, arm in row["arms"].items()} == {
            name: stage[f"{name}.val_mean"] for name in ("filter", "real")
        }


def test_what_is_done_is_kept(trained: tuple[Path, str, dict[str, Any]]) -> None:
    folder, _, found = trained
    again = call(folder, "sizes", *NETS)
    assert "12 of 12 runs were finished before under equal settings: kept" in again
    assert sizes_of(folder) == found


def test_no_number_rests_on_test_images(trained: tuple[Path, str, dict[str, Any]], tmp_path: Path) -> None:
    folder = finished(tmp_path / "other")
    unsealed(folder)
    without_test_images(folder)
    call(folder, "sizes", *NETS)
    assert sizes_of(folder) == trained[2] | {"dataset": sizes_of(folder)["dataset"]}


def test_trials_are_trained_and_kept(trained: tuple[Path, str, dict[str, Any]]) -> None:
    folder, _, _ = trained
    said = call(folder, "sizes", *NETS, trials=3)
    assert "trial 3 of 3: ds-cnn" in said
    first = sizes_of(folder)
    again = call(folder, "sizes", *NETS, trials=3)
    assert "trial 3" not in again and sizes_of(folder) == first
    widths = {row["width"] for row in first["sizes"] if row["net"] == "ds-cnn"}
    assert {4, 8} <= widths <= set(range(4, 9))
    import optuna

    storage = f"sqlite:///{folder / 'artifacts/search.db'}"
    (name,) = [n for n in optuna.get_all_study_names(storage) if n.startswith("sizes-")]
    study = optuna.load_study(study_name=name, storage=storage)
    listed = [t for t in study.trials if t.user_attrs.get("listed")]
    assert len(listed) == 2 and len(study.trials) == 5
    by_name = {row["name"]: row for row in first["sizes"]}
    for trial in study.trials:
        row = by_name[f"ds-cnn {trial.params['width.ds-cnn']}"]
        assert trial.values == pytest.approx([row["arms"]["filter"]["val_mean"], 4 * row["costs"]["parameters"]])


def made(rows: Sequence[tuple[str, int, float, float, list[float]]], **changes: Any) -> dict[str, Any]:
    """A sizes.json of rows (net, width, bytes, ms, scores by the first arm); the other arm is a point worse."""
    sizes: list[dict[str, Any]] = []
    for net, width, size, ms, values in rows:
        costs = {"parameters": size // 4, "multiplications": 1000, "held_bytes": 100, "onnx_bytes": size, "ms": ms}
        arms = {
            name: {"val_mean": float(np.mean(values)) + add, "val_sd": 0.5, "val_values": [v + add for v in values]}
            for name, add in (("filter", 0.0), ("real", 1.0))
        }
        row = {"name": f"{net} {width}", "net": net, "width": width, "costs": costs, "arms": arms}
        gain = {"gain": 1.0, "gain_low": 0.5, "gain_high": 1.5}
        sizes.append(row | {"best_arm": "filter", "val": float(np.mean(values))} | gain)
    axes = axes_of([row["costs"] for row in sizes])
    return {
        "headline": {"name": "validation error", "unit": "%", "higher_is_better": False},
        "confidence": 0.95,
        "arms": ["filter", "real"],
        "seeds": [0, 1],
        "own": sizes[0]["name"],
        "costs": axes,
        "costs_are": {key: f"the {key}" for key in axes.values()},
        "sizes": sizes,
        "fronts": {axis: [sizes[0]["name"]] for axis in axes},
        "best": sizes[-1]["name"],
        "enough": sizes[0]["name"],
        "teacher": {"net": "plain-vgg", "parameters": 10, "val": 3.0},
    } | changes


SMALL, LARGE = ("ds-cnn", 8, 10_000, 0.1, [12.0, 13.0]), ("convnet", 16, 90_000, 0.2, [9.0, 9.5])


def test_the_one_that_fits_is_the_best_on_validation() -> None:
    result = made([SMALL, ("ds-cnn", 16, 40_000, 0.9, [10.0, 11.0]), LARGE])
    found = fitting(result, {"bytes": 50_000})
    assert found == (
        "ds-cnn 16",
        "Of 3 sizes 2 fit --max-bytes 50,000 (the onnx_bytes): ds-cnn 16 (40.0 kB, 10.50 % by filter) is the best of them on"
        " validation; ship it by `cgankd run --from student --set student.net=ds-cnn --set student.width=16`.",
    )
    assert fitting(result, {"bytes": 50_000, "ms": 0.5})[0] == "ds-cnn 8"
    none = fitting(result, {"bytes": 5_000, "ms": 0.15})
    assert none == (
        None,
        "None of 3 sizes fits --max-bytes 5,000 (the onnx_bytes) and --max-ms 0.15 (the ms): the least by --max-bytes is"
        " ds-cnn 8 with 10.0 kB; the least by --max-ms is ds-cnn 8 with 0.100 ms; add smaller widths to sizes.nets.",
    )


def test_the_answer_in_words() -> None:
    result = made([SMALL, LARGE])
    assert answer(result) == (
        "You need ds-cnn 8 (10.0 kB, 12.50 % by filter): of 2 sizes it is the smallest that the best, convnet 16 (90.0 kB,"
        " 9.25 % by filter), is not shown to beat (95 % paired intervals over 2 seeds on validation, which is little with"
        " 2 seeds; bytes: the onnx_bytes); the teacher has 3.00 %. filter is shown to be better than real at 2 of 2 sizes."
    )
    assert answer(result | {"enough": "convnet 16"}).startswith("The best student on validation is convnet 16 (90.0 kB")


def test_a_device_measures_what_it_can() -> None:
    device, plain = {"int8_bytes": 1, "onnx_bytes": 4, "held_bytes": 1, "ms": 1.0}, {"onnx_bytes": 4, "held_bytes": 1}
    assert (
        axes_of([device | {"arena": 3}])["bytes"] == "int8_bytes" and axes_of([device | {"arena": 3}])["ram"] == "arena"
    )
    assert axes_of([device, plain])["bytes"] == "int8_bytes", "one size without a file hides no other"
    assert axes_of([plain])["bytes"] == "onnx_bytes"
    assert OnDevice(1, None).arena is None


def in_int8(result: dict[str, Any], losses: Sequence[float | None]) -> dict[str, Any]:
    """A result whose sizes have int8 files of a quarter of the bytes with these losses; None: it was not converted."""
    for row, loss in zip(result["sizes"], losses, strict=True):
        if loss is None:
            row["remark"] = "LiteRT cannot take the net"
            continue
        row["costs"] |= {"int8_bytes": row["costs"]["onnx_bytes"] // 4, "arena": 4000}
        row |= {"int8": {"seed": 0, "val": row["val"] + loss + 0.25, "loss": loss}, "int8_val": row["val"] + loss}
    axes = axes_of([row["costs"] for row in result["sizes"]])
    return result | {"costs": axes, "costs_are": {key: f"the {key}" for key in axes.values()}}


def test_under_a_limit_on_the_int8_file_its_own_error_decides() -> None:
    result = in_int8(made([SMALL, LARGE]), [0.0, 80.0])
    assert fitting(result, {"bytes": 50_000}) == (
        "ds-cnn 8",
        "Of 2 sizes 2 fit --max-bytes 50,000 (the int8_bytes): ds-cnn 8 (2.5 kB, 12.50 % by filter, 12.50 % in int8) is the best"
        " of them on validation in int8; ship it by `cgankd run --from student --set student.net=ds-cnn --set"
        " student.width=8`.",
    )
    assert fitting(result, {"ram": 5000})[0] == "ds-cnn 8"
    assert fitting(result, {"ms": 1.0})[0] == "convnet 16", "which is of the float student"


def test_a_size_without_an_int8_file_is_shown_and_never_chosen_by_one() -> None:
    result = in_int8(made([SMALL, LARGE]), [0.5, None]) | {"verdict": "said"}
    assert fitting(result, {"bytes": 10**9})[0] == fitting(result, {"ram": 10**9})[0] == "ds-cnn 8"
    assert fitting(result, {"ms": 10.0})[0] == "convnet 16"
    assert answer(result).startswith("You need ds-cnn 8 (2.5 kB") and "convnet 16 (no int8 file, 9.25 %" in answer(
        result
    )
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(render(result))
    text = console.export_text()
    assert "convnet 16: LiteRT cannot take the net" in text and "int8 val" in text and "13.00" in text
    (axes,) = error_against(result, "bytes").axes
    lines = [container.lines[0] for container in axes.containers if isinstance(container, ErrorbarContainer)]
    assert [float(line.get_xydata()[0][0]) for line in lines] == [2.5, 2.5]


def test_the_front_has_no_size_without_the_cost() -> None:
    candidates = candidates_of(in_int8(made([SMALL, LARGE]), [0.5, None])["sizes"])
    assert front(candidates, "int8_bytes", higher_is_better=False) == ["ds-cnn 8"], (
        "the other is better, and is no file"
    )
    assert front(candidates, "onnx_bytes", higher_is_better=False) == ["ds-cnn 8", "convnet 16"]


def test_one_size_that_is_not_converted_costs_no_other_its_row(trained: tuple[Path, str, dict[str, Any]]) -> None:
    folder, _, _ = trained

    def flash(weights: Path, images: Any) -> OnDevice:
        if load_package(weights).config["width"] == 8:
            raise ConfigError("LiteRT cannot take the net ds-cnn")
        return OnDevice(100, 50, 70.0, 2.0)

    said = call(folder, "sizes", *NETS, limits={"bytes": 1000.0}, flash=flash)
    assert "12 of 12 runs were finished before" in said, "what is trained stays as it is"
    assert "warning: ds-cnn 8: LiteRT cannot take the net ds-cnn" in said and "Of 3 sizes 2 fit" in said
    found = sizes_of(folder)
    whole, bad = found["sizes"][1:]
    assert whole["int8"] == {"seed": 0, "val": 70.0, "loss": 2.0} and whole["int8_val"] == whole["val"] + 2.0
    assert bad["remark"] == "LiteRT cannot take the net ds-cnn" and "int8_bytes" not in bad["costs"]
    assert found["fronts"]["bytes"] and "ds-cnn 8" not in found["fronts"]["bytes"] and found["costs"]["ram"] == "arena"
    page = sizes_section(folder, load_config(folder / "params.yaml"))
    assert page is not None and page["rows"][-1]["name"] == "ds-cnn 8"


def test_the_tables_and_the_picture_hold_every_size() -> None:
    result = made([SMALL, LARGE], verdict="You need the small one.")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render(result))
    text = console.export_text()
    assert all(words in text for words in ("ds-cnn 8", "90.0 kB", "12.50+-0.50", "+1.00 [+0.50,+1.50]", "teacher"))
    figure = error_against(result, "bytes")
    (axes,) = figure.axes
    lines = [container.lines[0] for container in axes.containers if isinstance(container, ErrorbarContainer)]
    drawn = [tuple(map(float, point)) for line in lines for point in np.asarray(line.get_xydata())]
    assert drawn == [(10.0, 12.5), (10.0, 13.5), (90.0, 9.25), (90.0, 10.25)]
    assert axes.get_xscale() == "log" and "onnx_bytes" in axes.get_xlabel()


def test_the_report_escapes_and_tells_what_changed(trained: tuple[Path, str, dict[str, Any]], tmp_path: Path) -> None:
    folder = finished(tmp_path / "shown")
    assert sizes_section(folder, load_config(folder / "params.yaml")) is None
    words = "<script>alert(1)</script>"
    result = copy.deepcopy(trained[2]) | {"verdict": words}
    del result["sizes"][-1]["costs"]["onnx_bytes"]  # as of one that is not converted
    (folder / "metrics/sizes.json").write_text(json.dumps(result))
    section = sizes_section(folder, load_config(folder / "params.yaml"))
    assert section is not None and section["changed"] == ["student.num_steps"] and section["picture"] is None
    from pipelines.report.facts import gather
    from pipelines.report.html import context

    (folder / "metrics/evaluate.json").unlink()  # what a whole one shows is held elsewhere
    page = render_page("report.html", context(gather(folder), None))
    check_page(page)
    assert words not in page and "&lt;script&gt;" in page and "ds-cnn 8" in page and 'href="#sizes"' in page


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("sizes.nets={ds-cn: [4]}", "sizes.nets.ds-cn.net must be one of .*did you mean 'ds-cnn'"),
        ("sizes.nets={ds-cnn: []}", r"sizes.nets.ds-cnn must be a list of widths, but is \[\]"),
        ("sizes.nets={resnet8: [4]}", r"sizes.nets.resnet8 must be an empty list, as the channels .* but is \[4\]"),
        ("sizes.nets={ds-cnn: [0]}", "sizes.nets.ds-cnn.width must be at least 1"),
        ("sizes.nets={}", "sizes.nets must be a net with its widths"),
        ("sizes.seeds=[0]", "sizes.seeds must be null or at least 2 different numbers"),
        ("sizes.seeds=[0, 77]", r"sizes.seeds must be among student.seeds, but \[77\] are not"),
        ("sizes.arm=filtr", "sizes.arm must be one of .*'filtr'; did you mean 'filter'"),
        ("sizes.against=nothing", "sizes.against must be one of"),
        ("sizes.widths=3", "sizes.widths is not a known setting"),
        ("sizes.nets={'utkface:resnet20': []}", "sizes.nets has utkface:resnet20, which does not go .*16"),
    ],
)
def test_settings_that_cannot_work_are_refused(project: Path, setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_of(load_searched(project / "params.yaml", [setting]), project)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("plan") / "project")


def test_the_arms_come_from_the_verdict(project: Path, tmp_path: Path) -> None:
    plan = plan_of(load_searched(project / "params.yaml", ["sizes.nets={resnet8: [], ds-cnn: [4, 4]}"]), project)
    assert plan.sizes == (Size("convnet", 4), Size("resnet8", None), Size("ds-cnn", 4))
    assert list(plan.arms) == ["filter", "real"] and plan.seeds == tuple(range(10))
    automatic = plan_of(load_searched(project / "params.yaml", ["sizes.arm=filter_kd", "sizes.against=real"]), project)
    assert automatic.arms["filter_kd"].kd and not automatic.arms["real"].kd
    other = finished(tmp_path / "real", arm="real")
    result = json.loads((other / "metrics/evaluate.json").read_text()) | {"best_bank_arm": "filter"}
    (other / "metrics/evaluate.json").write_text(json.dumps(result))
    assert list(plan_of(load_searched(other / "params.yaml"), other).arms) == ["real", "filter"]
    (other / "metrics/evaluate.json").unlink()
    with pytest.raises(ConfigError, match=r"evaluate.json is missing; run `cgankd evaluate` first, or set sizes.arm"):
        plan_of(load_searched(other / "params.yaml"), other)


def test_a_mistake_leaves_nothing_behind(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    for words in (("--max-bytes", "0"), ("--max-ms", "-1"), ("--set", "sizes.arm=nobody")):
        assert CliRunner().invoke(app, ["sizes", *words]).exit_code == 2
    assert not (project / "metrics/sizes.json").exists() and not (project / "artifacts/logs").exists()
