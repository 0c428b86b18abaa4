"""`cgankd init` on images made here: what it finds, what it writes, and a real `dvc repro` outside this repository."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from cgankd.config import ConfigError
from cgankd.data.readers.decode import copy_image
from cgankd.data.readers.list_columns import Columns
from cgankd.data.readers.sources import load
from pipelines.commands.app import app
from pipelines.files.artifacts import source_digest
from pipelines.files.params import flatten, load_config, preset_text, read_params, set_values
from pipelines.files.pinned import PIN, check_pin, code_parts, read_pin, write_pin
from pipelines.project.dvc_file import project_stages
from pipelines.project.fitted import fitted, image_size, label_range
from pipelines.project.init import Wish, init, make_plan, summary
from pipelines.project.own_data import look_at_csv, look_at_folder, measured
from pipelines.project.own_images import Rules
from tests.conftest import ROOT
from tests.data.builders import data_config
from tests.tiny import run, tiny

RNG = np.random.default_rng(5)


def picture(path: Path, width: int, height: int | None = None, *, colour: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height or width, width, 3) if colour else (height or width, width)
    Image.fromarray(RNG.integers(0, 255, shape, dtype=np.uint8)).save(path)
    return path


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as file:
        return np.asarray(file)


def folders(root: Path, counts: dict[str, int], size: int = 20, *, colour: bool = False) -> Path:
    for name, count in counts.items():
        for i in range(count):
            picture(root / name / f"{i}.png", size, colour=colour)
    return root


def listed(root: Path, labels: list[str], size: int = 16) -> Path:
    for i in range(len(labels)):
        picture(root / "img" / f"{i}.png", size, colour=True)
    with (root / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *([f"img/{i}.png", text] for i, text in enumerate(labels))])
    return root / "list.csv"


@pytest.mark.parametrize(
    ("labels", "scalar"),
    [
        (["cat", "dog"] * 9, False),
        (["1", "2", "3"] * 7, False),
        ([str(i) for i in range(60)], True),
        (["0.5", "1", "2"] * 9, True),
        (["1", "nan"] * 9, False),
        ([str(i % 25) for i in range(500)], True),
    ],
)
def test_labels_tell_whether_they_are_measured(labels: list[str], scalar: bool) -> None:
    assert measured(labels)[0] is scalar


def test_classes_are_fitted(tmp_path: Path) -> None:
    data = look_at_folder(folders(tmp_path / "in", {"a": 30, "b": 20}, size=35), None)
    assert data.survey.grey and data.survey.median_side == 35
    assert image_size(data, None) == 32
    values = fitted(data, 32)
    # b: 20 images, 4 to test, 16 remain; a: 30, 6 to test, 24 remain: a fifth of each validates, at least five.
    assert values["data.test_share"] == 0.2 and values["data.val_per_label"] is None and values["data.val_share"] == 0.2
    assert values["bank.num_fakes"] == 1000 and values["data.channels"] == 1
    assert "flip" not in values["teacher.augment"] + values["student.strong_augment"]


def test_a_split_made_by_the_user_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for part, count in (("train", 10), ("test", 6)):
        folders(root / part, {"a": count, "b": count}, size=16, colour=True)
    values = fitted(look_at_folder(root, None), 16)
    assert values["data.test_share"] is None and values["data.val_share"] == 0.2
    assert values["data.channels"] == 3 and "teacher.augment" not in values


def test_scalars_are_fitted_from_range_and_gaps(tmp_path: Path) -> None:
    even = [f"{10 + 0.25 * i:g}" for i in range(200)]
    values = fitted(look_at_csv(listed(tmp_path / "even", even), None), 16)
    assert values["data.label_min"] == 10 and values["data.label_max"] == 59.8
    assert values["data.num_val"] == 32 and values["data.test_share"] == 0.2
    # 200 - 32 - 40 = 128 to train on, so 128 // 25 = 5 bins of about 10.
    assert values["bank.label_bin"] == pytest.approx(10, abs=0.1) and values["bank.num_conditions"] == 128
    assert "cgan.vicinity.kappa" not in values and "ratio.vicinity_drop" not in values
    holes = [f"{value:g}" for value in [*np.linspace(0, 1, 30), *np.linspace(99, 100, 30)]]
    values = fitted(look_at_csv(listed(tmp_path / "holes", holes), None), 16)
    assert "cgan.vicinity.kappa" not in values and values["ratio.vicinity_drop"] == 15  # one gap of 98 in 59
    coarse = [str(10 * (i % 5)) + ".5" for i in range(60)]
    assert fitted(look_at_csv(listed(tmp_path / "coarse", coarse), None), 16)["cgan.vicinity.kappa"] == 2.0


@given(st.floats(-1e4, 1e4), st.floats(1e-2, 1e4))
def test_the_range_holds_every_label_and_little_more(low: float, span: float) -> None:
    first, last = float(np.float32(low)), float(np.float32(low + span))
    assume(first < last)
    bottom, top = label_range(first, last)
    assert bottom <= first and last <= top and (first - bottom) + (top - last) <= 0.021 * (last - first)


def test_labels_at_the_ends_are_read_with_the_fitted_range(tmp_path: Path) -> None:
    source = listed(tmp_path / "in", [f"{value:.3f}" for value in np.linspace(0.7, 9.972, 60)])
    values = fitted(look_at_csv(source, None), 16)
    cfg = data_config(task="scalar", source="csv", root=str(source), channels=3, val_per_label=None, num_val=5)
    keys = ("num_val", "test_share", "label_min", "label_max")
    load(replace(cfg, **{key: values[f"data.{key}"] for key in keys}), seed=0)


@pytest.mark.parametrize(
    ("side", "size"), [(16, 16), (22, 16), (23, 16), (33, 32), (46, 32), (50, 32), (70, 64), (500, 64)]
)
def test_size_is_a_power_of_two_that_every_image_has(tmp_path: Path, side: int, size: int) -> None:
    data = look_at_folder(folders(tmp_path / "in", {"a": 5, "b": 5}, size=side), None)
    assert image_size(data, None) == size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--images FOLDER or --csv FILE"),
        (["--images", "small"], "less than 16"),
        (["--images", "wide"], "--square crop"),
        (["--images", "few"], "'b' of"),
        (["--images", "nowhere"], "not a folder"),
        (["--csv", "words/list.csv", "--task", "scalar"], "finite number"),
        (["--images", "few", "--task", "ordinal"], "class, scalar"),
        (["--images", "few", "--image-size", "24"], "power of two"),
        (["--images", "few", "--csv", "words/list.csv"], "both --images few and --csv words/list.csv were given"),
        (["--images", "flat"], "has 3 images but no sub-folders; sort them"),
    ],
)
def test_refusals_say_what_to_do_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "small", {"a": 5, "b": 5}, size=12)
    folders(tmp_path / "few", {"a": 5, "b": 2})
    folders(tmp_path / "wide", {"a": 5, "b": 5})
    picture(tmp_path / "wide/a/x.png", 40, 20)
    listed(tmp_path / "words", ["cat", "dog"] * 25)
    for i in range(3):
        picture(tmp_path / f"flat/{i}.png", 16)
    done = CliRunner().invoke(app, ["init", "project", *options])
    assert done.exit_code == 2 and words in done.output and len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize(
    ("listed_too", "place", "words"),
    [
        (False, "in", "is the folder of the labelled images; move the images without labels out of it into a folder"),
        (False, "link", "is the folder of the labelled images; move the images without labels out of it"),
        (False, "half", "has only images that are labelled ones as well"),
        (False, "in/more", "lies inside the labelled images in"),
        (True, "words/img", "has only images that are labelled ones as well"),
        (False, "bad", "2 of 3 files of --unlabelled bad cannot be used; replace or remove them, or add --skip-broken"),
        (False, "none", "none is not a folder"),
    ],
)
def test_images_without_labels_that_cannot_be_used_make_no_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed_too: bool, place: str, words: str
) -> None:
    """The same folder leaves nothing, one in the labelled folder becomes a class, a broken file stops `prepare`."""
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "in", {"a": 5, "b": 5, "more": 6})
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "half").mkdir()
    (tmp_path / "half/a").symlink_to(tmp_path / "in/a")
    picture(tmp_path / "in/loose.png", 16)  # has no label, but `prepare` refuses the folder all the same
    listed(tmp_path / "words", ["cat", "dog"] * 25)
    folders(tmp_path / "bad", {"deep": 1})
    (tmp_path / "bad/broken.png").write_bytes(b"no image")
    picture(tmp_path / "bad/wide.png", 40, 20)
    labelled = ["--csv", "words/list.csv"] if listed_too else ["--images", "in"]
    done = CliRunner().invoke(app, ["init", "project", *labelled, "--unlabelled", place])
    assert done.exit_code == 2 and words in " ".join(done.output.split())
    assert not (tmp_path / "project").exists()
    assert place != "bad" or ("broken.png" in done.output and "wide.png is 40x20" in done.output)


@pytest.mark.parametrize("copying", [False, True])
def test_broken_images_without_labels_are_left_out_if_asked_and_the_project_says_so(
    tmp_path: Path, copying: bool
) -> None:
    images = folders(tmp_path / "in", {"a": 5, "b": 5})
    more = folders(tmp_path / "more", {"deep": 3})
    (more / "broken.png").write_bytes(b"no image")
    plan = make_plan(tmp_path / "p", images, None, Wish(unlabelled=more, skip_broken=True, copying=copying))
    said = summary(plan)
    assert f"3 images without labels in {more}, for the arms unlabelled and both" in said
    assert "1 files without labels skipped (--skip-broken):" in said and not plan.skipped
    init(plan, lambda text: None)
    data = read_params(tmp_path / "p/params.yaml")["data"]
    assert data["skip_broken"] is True and data["unlabelled"] == str(more)


def test_a_folder_with_labelled_and_other_images_is_no_fault(tmp_path: Path) -> None:
    """The labelled ones are left out, and a folder beside train/ is no class."""
    folders(tmp_path / "in/train", {"a": 9, "b": 9})
    folders(tmp_path / "in/test", {"a": 2, "b": 2})
    more = folders(tmp_path / "in/unlabelled", {"deep": 3})
    mixed = folders(tmp_path / "mixed", {"deep": 4})
    (mixed / "a").symlink_to(tmp_path / "in/train/a")
    for place, num in ((more, 3), (mixed, 13)):
        plan = make_plan(tmp_path / "p", tmp_path / "in", None, Wish(unlabelled=place))
        assert any(line.startswith(f"{num} images without labels") for line in summary(plan))
    assert "skip_broken" not in str(plan.changes)


@pytest.mark.parametrize(
    ("project", "options", "words"),
    [
        ("in/p", ["--images", "in"], "inside the images in"),
        ("in/a/p", ["--images", "in"], "inside the images in"),
        (".", ["--images", "in"], "in lies inside"),
        (".", ["--csv", "listed/list.csv"], "list.csv lies inside"),
        ("listed/img/p", ["--csv", "listed/list.csv"], "inside the images in"),
    ],
)
def test_a_project_and_its_images_lie_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: str, options: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "in", {"a": 5, "b": 5})
    source = listed(tmp_path / "listed", [f"{i}.5" for i in range(50)])
    done = CliRunner().invoke(app, ["init", project, *options])
    assert done.exit_code == 2 and words in done.output and "name a" in done.output
    assert not list(tmp_path.rglob("params.yaml")) and not list(tmp_path.rglob("p"))
    assert make_plan(tmp_path / "listed/p", None, source).size == 16  # beside a list it is in nobody's way
    (tmp_path / "listed/img/list.csv").write_text(source.read_text().replace("img/", ""))
    assert make_plan(tmp_path / "listed/img/p", None, tmp_path / "listed/img/list.csv").size == 16


@pytest.mark.parametrize("slip", ["abc", "nan", "inf"])
def test_one_label_that_is_no_number_among_numbers_is_named(tmp_path: Path, slip: str) -> None:
    labels = [f"{i}.5" for i in range(50)]
    source = listed(tmp_path / "in", [*labels[:7], slip, *labels[8:]])
    with pytest.raises(ConfigError, match=f"list.csv:9: label '{slip}' is not a finite number, but 49 of 50"):
        make_plan(tmp_path / "p", None, source)
    names = [slip if i % 7 == 0 else str(i % 7) for i in range(70)]  # digits and a class for the rest
    assert not look_at_csv(listed(tmp_path / "names", names), "class").scalar
    assert not look_at_csv(listed(tmp_path / "words", ["ant", "1"] * 20), None).scalar


def test_the_guess_of_numbers_names_the_switch_for_the_other_kind(tmp_path: Path) -> None:
    ids = listed(tmp_path / "ids", [str(i % 25) for i in range(150)])
    plan = make_plan(tmp_path / "p", None, ids)
    assert "scalar (the labels are numbers, 25 different ones; if they are names add --task class)" in summary(plan)[0]
    few = listed(tmp_path / "few", [str(i % 3) for i in range(60)])
    assert (
        "3 different whole numbers; if they are measured add --task scalar)"
        in summary(make_plan(tmp_path / "p", None, few))[0]
    )
    assert "--task class)" in summary(make_plan(tmp_path / "p", None, ids, Wish(task="class")))[0]
    pairs = listed(tmp_path / "pairs", [f"{1 + i % 3}_{10 + i % 2}" for i in range(60)])
    plan = make_plan(tmp_path / "p", None, pairs)
    assert not plan.data.scalar and sorted(set(plan.data.labels)) == ["1_10", "1_11", "2_10", "2_11", "3_10", "3_11"]


def test_equal_numbers_are_one_class_for_init_and_prepare_alike(tmp_path: Path) -> None:
    source = listed(tmp_path / "in", [*["1", "2", "3"] * 10, *["1.0", "2.0", "3.0"] * 10])
    plan = make_plan(tmp_path / "p", None, source)
    assert plan.data.counts() == {"1": 20, "2": 20, "3": 20}
    assert any("'1' and '1.0'; '2' and '2.0'" in line for line in summary(plan))
    data = load(data_config(source="csv", root=str(source), channels=3, val_per_label=2, test_share=0.2), 0)
    assert data.info.class_names == ("1", "2", "3") and "several spellings" in data.account.lines[0]


def test_a_label_far_off_is_named_and_labels_that_lose_their_digits_are_refused(tmp_path: Path) -> None:
    labels = [f"{1.5 * i}" for i in range(60)]
    source = listed(tmp_path / "in", [*labels[:7], "55000", *labels[8:]])
    lines = summary(make_plan(tmp_path / "p", None, source))
    words = f"which run from 0 to 88.5: {source}:9 has 55000 for 7.png; correct"
    assert any(words in line and line.startswith("WARNING") for line in lines)
    cfg = data_config(task="scalar", source="csv", root=str(source), channels=3, val_per_label=None, num_val=5)
    assert words in load(replace(cfg, test_share=0.2), 0).account.lines[0]
    near = listed(tmp_path / "near", [f"{1.7e9 + i / 100:.2f}" for i in range(60)])
    with pytest.raises(ConfigError, match="subtract 1700000000 from each"):
        make_plan(tmp_path / "p", None, near)
    with pytest.raises(ConfigError, match="subtract 1700000000 from each"):
        load(replace(cfg, root=str(near), test_share=0.2), 0)


def test_columns_that_the_user_named_are_those_of_prepare(tmp_path: Path) -> None:
    source = listed(tmp_path / "in", [f"{i}.5" for i in range(50)])
    rows = list(csv.reader(source.read_text().splitlines()))
    with source.open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["photo", "yaw", "pitch"], *([*row, "7"] for row in rows[1:-1]),
                                                   [*rows[-1], "8"]])  # fmt: skip
    with pytest.raises(ConfigError, match="2 columns that could be the label: 'yaw'"):
        make_plan(tmp_path / "p", None, source)
    with pytest.raises(ConfigError, match="are for --csv FILE"):
        make_plan(tmp_path / "p", tmp_path / "in", None, Wish(columns=Columns(label="yaw")))
    init(make_plan(tmp_path / "p", None, source, Wish(columns=Columns(label="yaw"))), lambda text: None)
    section = load_config(tmp_path / "p/params.yaml").data
    assert section.label_column == "yaw" and section.path_column is None
    assert load(section, 0).account.lines == (
        "list: separator semicolon; columns 'photo' (image) and 'yaw' (label); not used: 'pitch'",
    )
    init(make_plan(tmp_path / "c", None, source, Wish(copying=True, columns=Columns(label="yaw"))), lambda text: None)
    assert load_config(tmp_path / "c/params.yaml").data.label_column is None, "the list of the copies has its own"


def test_missing_images_of_a_list_are_skipped_if_asked(tmp_path: Path) -> None:
    source = listed(tmp_path / "in", [f"{i}.5" for i in range(60)])
    for i in range(12):
        (tmp_path / f"in/img/{i}.png").unlink()
    with pytest.raises(ConfigError, match="12 of 60 images do not exist: 0.png .* and 2 more"):
        make_plan(tmp_path / "p", None, source)
    plan = make_plan(tmp_path / "p", None, source, Wish(skip_broken=True))
    lines = summary(plan)
    place = lines.index("12 files or lines skipped (--skip-broken):")
    assert lines[place + 1].endswith("img/0.png does not exist") and lines[place + 11] == "and 2 more"
    init(plan, lambda text: None)
    data = load(load_config(tmp_path / "p/params.yaml").data, 0)
    labels = torch.cat([split.labels for split in data.splits().values()])
    assert sorted(labels.tolist()) == [i + 0.5 for i in range(12, 60)]


def test_class_names_with_quotes_and_commas_survive_copies(tmp_path: Path) -> None:
    names = ['6" nail, steel', '"so" they say', "plain", "a;b", "'x'"]
    source = listed(tmp_path / "in", names * 8)
    init(make_plan(tmp_path / "p", None, source, Wish(copying=True)), lambda text: None)
    section = load_config(tmp_path / "p/params.yaml").data
    assert load(replace(section, root=str(tmp_path / "p/data/labels.csv")), 0).info.class_names == tuple(sorted(names))


def test_a_folder_that_is_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        make_plan(tmp_path / "project", folders(tmp_path / "in", {"a": 5, "b": 5}), None)
    assert [p.name for p in (tmp_path / "project").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_square_copies(tmp_path: Path, fit: str) -> None:
    bars = np.zeros((16, 32, 3), np.uint8)
    bars[:, 8:24] = 255
    Image.fromarray(bars).save(tmp_path / "wide.png")
    copy_image(tmp_path / "wide.png", tmp_path / "new/copy.png", Rules(image_size=16, channels=3, fit=fit))
    copy = pixels(tmp_path / "new/copy.png")
    assert copy.shape == (16, 16, 3)
    if fit == "crop":
        assert (copy == 255).all()
    else:  # the bars at half the size in the middle, the mean of the rim above and below: 32 + 0 of 96 pixels are white
        assert (copy[8, :4] == 0).all() and (copy[8, 4:12] == 255).all() and (copy[8, 12:] == 0).all()
        assert (copy[:4] == round(255 * 32 / 96)).all() and (copy[12:] == 85).all()


def test_a_list_with_copies_is_a_project_of_its_own(tmp_path: Path) -> None:
    source = listed(tmp_path / "in", [f"{i}.5" for i in range(50)])
    picture(tmp_path / "in/img/7.png", 60, 30, colour=True)
    project = tmp_path / "p"
    init(make_plan(project, None, source, Wish(fit="pad", copying=True)), lambda text: None)
    values = read_params(project / "params.yaml")["data"]
    assert values["root"] == "data/labels.csv" and values["task"] == "scalar" and values["image_size"] == 16
    rows = list(csv.reader((project / "data/labels.csv").read_text().splitlines()))
    assert rows[0] == ["path", "label"] and [row[1] for row in rows[1:]] == [f"{i}.5" for i in range(50)]
    assert np.array_equal(pixels(project / "data/images/000003.png"), pixels(tmp_path / "in/img/3.png"))
    ignored = run(project, "git", "status", "--porcelain", "--ignored").splitlines()
    assert [line for line in ignored if ".dvc/" not in line] == ["!! data/images/"]
    assert (project / "data/images.dvc").exists() and "data/images" in (project / "dvc.yaml").read_text()


def test_comments_of_the_preset_survive(tmp_path: Path) -> None:
    source = folders(tmp_path / "in", {"a": 6, "b": 6})
    init(make_plan(tmp_path / "p", source, None), lambda text: None)
    text = (tmp_path / "p/params.yaml").read_text()
    for line in preset_text("own-classes").splitlines()[2:]:
        if "#" in line:
            assert line.split("#", 1)[1] in text
    assert load_config(tmp_path / "p/params.yaml").tracking.preset == "p"


def test_stages_of_a_project_name_no_source_but_digests_of_it() -> None:
    from pipelines.files.params import parse

    repository: dict[str, Any] = parse((ROOT / "dvc.yaml").read_text(), "dvc.yaml")["stages"]
    own: dict[str, Any] = parse(project_stages(["pictures"]), "dvc.yaml")["stages"]
    assert list(own) == list(repository)
    for name, stage in own.items():
        assert not [dep for dep in stage["deps"] if dep.endswith(".py") or dep.startswith(("cgankd", "pipelines"))]
        assert {PIN: [f"stages.{name}"]} in stage["params"]
        assert stage["outs"] == repository[name]["outs"] and stage["cmd"] == repository[name]["cmd"]
        for part in code_parts()[name]:
            assert (ROOT / part).exists(), part
    assert own["prepare"]["deps"] == ["${data.root}", "pictures"]


def test_a_pin_refuses_other_code_until_it_is_renewed(tmp_path: Path) -> None:
    check_pin(tmp_path, "teacher")  # no code.json: not a project
    assert write_pin(tmp_path) == list(code_parts())
    check_pin(tmp_path, "teacher")
    assert read_pin(tmp_path) is not None
    assert json.loads((tmp_path / PIN).read_text())["stages"]["bank"] == source_digest(*code_parts()["bank"])[:16]
    values = json.loads((tmp_path / PIN).read_text())
    values["stages"]["teacher"] = "0" * 16
    (tmp_path / PIN).write_text(json.dumps(values))
    check_pin(tmp_path, "cgan")
    with pytest.raises(ConfigError, match="cgankd pin"):
        check_pin(tmp_path, "teacher")
    assert write_pin(tmp_path) == ["teacher"]
    check_pin(tmp_path, "teacher")
    (tmp_path / PIN).write_text("[]")
    with pytest.raises(ConfigError, match="damaged"):
        check_pin(tmp_path, "teacher")


def shrink(project: Path, name: str) -> None:
    """Tiny settings over those that init chose; the data section stays as it is."""
    small = flatten(
        {key: value for key, value in tiny(name).items() if key not in ("data", "seed", "tracking", "search")}
    )
    own = flatten(read_params(project / "params.yaml"))
    kept = ("label_bin", "student.arms", "feature_width")
    changes = {k: v for k, v in small.items() if k in own and not any(word in k for word in kept)}
    few = {"real": {}, "raw": {"bank": True}}
    changes |= {"student.arms": few, "student.best_with_kd": False, "student.num_steps": 10, "teacher.num_steps": 20}
    set_values(project / "params.yaml", changes | {"ratio.feature_width": 32, "tracking.mlflow": False})


def test_dvc_repro_runs_in_a_project_outside_the_repository(tmp_path: Path) -> None:
    """From a folder of images to a student with the real DVC; the second time only what was pinned to other code."""
    folders(tmp_path / "in", {"ant": 14, "bee": 14})
    here = {"PYTHONPATH": str(ROOT), "CGANKD_THREADS": "1"}
    output = run(tmp_path, "cgankd", "init", "project", "--images", "in", **here)
    assert "28 images, grey" in output and "dvc repro" in output
    project = tmp_path / "project"
    shrink(project, "digits")
    output = run(project, "dvc", "repro", **here)
    assert output.count("Running stage") == 7 and "Running stage 'evaluate'" in output
    assert json.loads((project / "metrics/evaluate.json").read_text())["chosen_arm"]
    assert (project / "artifacts/student.safetensors").exists()
    pinned = json.loads((project / PIN).read_text())
    pinned["stages"]["evaluate"] = "other"
    (project / PIN).write_text(json.dumps(pinned))
    output = run(project, "dvc", "repro", code=255, **here)
    assert "cgankd pin" in output and re.findall(r"Running stage '(\w+)'", output) == ["evaluate"]
