"""`cgankd init --groups` to `prepare`, and what report, doctor and model card say of groups and copies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFilter
from typer.testing import CliRunner

from cgankd.data.dataset import Dataset
from cgankd.data.readers.sources import load
from pipelines.commands.app import app
from pipelines.files.params import load_config, preset_text, read_params, set_values, write_text
from pipelines.project.doctor_room import look_at_images
from pipelines.project.init import Wish, init, make_plan, summary
from pipelines.runtime.opening import open_context
from pipelines.ship.card import lineage, model_card
from pipelines.ship.saved import Finished, load_package
from pipelines.stages import prepare
from tests.data.builders import save_picture
from tests.pipelines.finished import finished
from tests.pipelines.report.test_html import fill as fill_report
from tests.pipelines.report.test_html import write as write_report
from tests.tiny import unsealed

FILMS, FRAMES = 20, 4


def films(root: Path) -> Path:
    """root/<class>/film07/7-2.png, with a list beside: frames of a film are one picture, changed a little."""
    lines = ["path,label,film"]
    for film in range(FILMS):
        for frame in range(FRAMES):
            name = f"{('ant', 'bee')[film % 2]}/film{film:02d}/{film}-{frame}.png"
            save_picture(root / name, film, size=(32, 32))
            with Image.open(root / name) as picture:
                turned = picture.resize((4, 4), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BICUBIC)
            turned.filter(ImageFilter.GaussianBlur(frame / 4)).save(root / name)
            lines.append(f"in/{name},{film},{film}")
    (root.parent / "list.csv").write_text("\n".join(lines) + "\n")
    return root


def check_apart(data: Dataset) -> None:
    """Films lie in one split each, told by the pixels of their frames, which hardly differ."""
    assert data.account.counts["groups"] == FILMS
    parts = [data.account.counts[f"groups_{part}"] for part in ("train", "val", "test")]
    assert sum(parts) == FILMS and min(parts) >= 2


def project(tmp_path: Path, images: Path | None, listing: Path | None, **wish: Any) -> tuple[Dataset, dict[str, Any]]:
    plan = make_plan(tmp_path / "p", images, listing, Wish(**wish))
    assert any(line.startswith("groups: 20 (") for line in summary(plan))
    init(plan, lambda text: None)
    cfg = load_config(tmp_path / "p/params.yaml").data
    return load(cfg, 0), read_params(tmp_path / "p/params.yaml")["data"]


@pytest.mark.parametrize("groups", ["folder", r"re:/(\d+)-\d"])
@pytest.mark.parametrize("copying", [False, True])
def test_groups_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, copying: bool) -> None:
    films(tmp_path / "in")
    (tmp_path / "p").mkdir()
    monkeypatch.chdir(tmp_path / "p")
    data, values = project(tmp_path, tmp_path / "in", None, groups=groups, copying=copying)
    check_apart(data)
    assert values["groups"] == ("folder" if copying else groups)
    if copying:
        assert len(list((tmp_path / "p/data/images/ant").iterdir())) == FILMS // 2


@pytest.mark.parametrize("copying", [False, True])
def test_groups_of_a_list_of_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copying: bool) -> None:
    films(tmp_path / "in")
    (tmp_path / "p").mkdir()
    monkeypatch.chdir(tmp_path / "p")
    data, values = project(tmp_path, None, tmp_path / "list.csv", groups="film", copying=copying, task="scalar")
    check_apart(data)
    labels = [set(split.labels.tolist()) for split in data.splits().values()]
    assert sum(map(len, labels)) == FILMS == len(set.union(*labels))
    assert values["groups"] == ("column:group" if copying else "film")


def test_copies_of_split_folders_keep_splits_and_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films(tmp_path / "in/train")
    films(tmp_path / "in/test")
    (tmp_path / "in/list.csv").unlink()
    (tmp_path / "p").mkdir()
    monkeypatch.chdir(tmp_path / "p")
    plan = make_plan(tmp_path / "p", tmp_path / "in", None, Wish(groups="folder", copying=True))
    assert any("the splits that the source has itself divide 20 groups" in line for line in summary(plan))
    init(plan, lambda text: None)
    data = load(load_config(tmp_path / "p/params.yaml").data, 0)
    assert data.account.counts["groups_divided"] == FILMS and len(data.test) == FILMS * FRAMES


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("folder", "no image lies in a sub-folder"),
        ("film", "data.groups must be folder or re:PATTERN for data.source image-folder"),
        (r"re:(x)\d", "matches no path"),
        (r"re:(\d)\.png", "lie in 2 groups of data.groups, but must be divided into 3 splits"),
        ("re:(", "is no regular expression"),
    ],
)
def test_what_blocks_is_found_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ant", "bee"):
        for number in range(20):
            save_picture(tmp_path / f"in/{name}/{number % 2}{number // 2:03d}{number % 2}.png", number)
    done = CliRunner().invoke(app, ["init", "p", "--images", "in", "--groups", groups])
    said = " ".join(done.output.split())
    assert done.exit_code == 2 and said.startswith("error: ") and words in said
    assert not (tmp_path / "p").exists()


def test_prepare_names_copies_and_others_repeat_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    films(tmp_path / "in")
    write_text(tmp_path / "params.yaml", preset_text("own-classes"))
    small = {"data.root": "in", "data.image_size": 16, "tracking.mlflow": False}
    digests = {}
    for groups in (None, "folder"):
        set_values(tmp_path / "params.yaml", small | {"data.groups": groups})
        with open_context("prepare", ()) as ctx:
            prepare.run(ctx)
        numbers = json.loads((tmp_path / "metrics/prepare.json").read_text())
        copies = {name: value for name, value in numbers.items() if "copies" in name}
        said = capsys.readouterr().out
        digests[groups] = (tmp_path / "artifacts/dataset.h5").read_bytes()
        findings = [finding for finding in look_at_images(tmp_path) if finding.name == "copies"]
        if groups is None:
            assert len(copies) == 6 and copies["near_copies.test_in_train"] + copies["exact_copies.test_in_train"] >= 12
            assert "WARNING: " in said and "test images" in said and "copies of train images in test: " in said
            first = said.split("copies of train images in test: ")[1].split(";")[0]
            one, other = first.replace(" is a copy of ", " is near ").split(" is near ")
            assert one.split("/")[:2] == other.split("/")[:2] and one != other and (tmp_path / "in" / one).is_file()
            assert "groups" not in numbers and findings[0].level == "warning" and "copy among" in findings[-1].text
        else:
            assert not any(copies.values()) and not findings and numbers["groups"] == FILMS
            assert "no exact or near copies across training, validation and test" in said
            assert "groups: 20 (folders) of 4 images; " in said
    assert digests[None] != digests["folder"]


def test_the_report_says_it_beside_the_verdict(workdir: Path) -> None:
    fill_report(workdir)
    assert "Mind the copies" not in write_report(workdir)
    path = workdir / "metrics/prepare.json"
    numbers = json.loads(path.read_text()) | {
        "num_test": 6,
        "near_copies.test_in_train": 2.0,
        "exact_copies.test_in_train": 1.0,
    }
    path.write_text(json.dumps(numbers))
    unsealed(workdir)
    head = write_report(workdir).split("</header>")[0]
    assert "The bank helps." in head
    assert "3 of 6 test images (50 %) have a copy among the training images (1 exact, 2 near), so that errors" in head


def test_the_model_card_says_it(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    student, teacher = (load_package(folder / f"artifacts/{name}.safetensors") for name in ("student", "teacher"))
    result = json.loads((folder / "metrics/evaluate.json").read_text())
    path = folder / "metrics/prepare.json"
    plain = json.loads(path.read_text())

    def card() -> str:
        origin = lineage(folder, student, None, root="in", seed=0)
        return model_card("x", Finished(student, teacher, folder / "artifacts/dataset.h5", result, None), origin, None)

    assert "groups" not in card() and "flatter" not in card()
    path.write_text(
        json.dumps(plain | {"groups": 1234.0, "exact_copies.test_in_train": 2.0, "near_copies.test_in_train": 0.0})
    )
    assert "in 1,234 groups that no split divides" in card()
    assert "(2 exact, 0 near), so that errors measured on them flatter." in card().split("## Limits")[1]
