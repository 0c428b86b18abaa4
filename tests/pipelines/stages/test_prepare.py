"""What `prepare` says and shows of the images it took."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgankd.config import ConfigError
from cgankd.data.dataset import Dataset, make_dataset
from cgankd.data.store.datasets import read_split
from cgankd.data.store.unlabelled import read_unlabelled
from cgankd.types import Split
from pipelines.files.artifacts import file_digest
from pipelines.files.params import preset_text, set_values, write_text
from pipelines.pictures.style import shortened
from pipelines.runtime.opening import open_context
from pipelines.stages import prepare
from pipelines.stages.prepare import sheet, spread
from tests.data.builders import data_config, save_picture


def dataset(labels: list[int], names: tuple[str, ...] = ()) -> Dataset:
    values = torch.tensor(labels) if names else torch.tensor(labels, dtype=torch.float32)
    images = torch.randint(0, 255, (len(labels), 1, 16, 16), dtype=torch.uint8)
    cfg = data_config() if names else data_config(task="scalar", source="csv", val_per_label=None, num_val=2)
    split = Split(images, values)
    splits = {"train": split, "val": split, "test": split}
    return make_dataset(cfg, splits, label_unit="" if names else "mm", class_names=names)


def test_the_contact_sheet_has_names_and_every_class() -> None:
    names = tuple(f"class {i:02d}" for i in range(12))
    shown, texts, title = sheet(dataset([i % 12 for i in range(240)], names))
    assert set(texts) == set(names) and len(shown) == 36 and "first" not in title
    _, texts, _ = sheet(dataset([0] * 200 + [1] * 3, ("usual", "rare")))
    assert texts.count("rare") == 3 and texts.count("usual") == 20
    _, texts, title = sheet(dataset([i % 150 for i in range(300)], tuple(map(str, range(150)))))
    assert texts == [str(i) for i in range(120)] and title.endswith("the first 120 of 150 classes")
    shown, texts, _ = sheet(dataset([1, 0] * 30, ("a", "b")))
    assert len(shown) == 60 and texts == ["a"] * 30 + ["b"] * 30


def test_the_contact_sheet_of_scalars_goes_from_end_to_end() -> None:
    for count in (61, 79, 100, 1000):
        _, texts, _ = sheet(dataset(list(range(count))))
        assert len(texts) == 40 and texts[0] == "0" and texts[-1] == f"{count - 1:.4g}"


def test_places_are_spread_over_all() -> None:
    assert (
        spread(5, 9).tolist() == [0, 1, 2, 3, 4] and spread(9, 3).tolist() == [0, 4, 8] and spread(1, 3).tolist() == [0]
    )
    assert shortened("golden retriever") == "golden retri…" and shortened("cat") == "cat"


def test_a_file_that_is_no_image_is_said_and_changes_no_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ant", "bee"):
        for i in range(10):
            save_picture(tmp_path / f"in/{name}/{i}.png", i)
    cut = np.zeros((16, 16, 4), np.uint8)
    cut[4:9, 4:9] = 255, 0, 0, 255
    Image.fromarray(cut).save(tmp_path / "in/ant/0.png")
    write_text(tmp_path / "params.yaml", preset_text("own-classes"))
    small = {"data.root": "in", "data.image_size": 16, "tracking.mlflow": False}
    small |= {"data.val_per_label": 2, "data.val_share": None}
    set_values(tmp_path / "params.yaml", small)
    digests = []
    for extra in ("", "in/.DS_Store", "in/ant/notes.txt"):
        if extra:
            (tmp_path / extra).write_text("x")
        with open_context("prepare", ()) as ctx:
            prepare.run(ctx)
        digests.append(file_digest(tmp_path / "artifacts/dataset.h5"))
    assert len(set(digests)) == 1
    said = capsys.readouterr().out
    assert "images by class: ant 10, bee 10" in said and "left out: 1 .txt files (ant/notes.txt)" in said
    assert "1 of 20 images with transparent parts, laid on data.background" in said
    metrics = json.loads((tmp_path / "metrics/prepare.json").read_text())
    assert (metrics["files_ignored"], metrics["files_hidden"], metrics["images_transparent"]) == (1.0, 1.0, 1.0)


def test_unlabelled_images_that_are_refused_leave_the_former_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ant", "bee"):
        for i in range(10):
            save_picture(tmp_path / f"in/{name}/{i}.png", i if name == "ant" else 10 + i)
    write_text(tmp_path / "params.yaml", preset_text("own-classes"))
    small = {"data.root": "in", "data.image_size": 16, "tracking.mlflow": False}
    set_values(tmp_path / "params.yaml", small | {"data.val_per_label": 2, "data.val_share": None})
    with open_context("prepare", ()) as ctx:
        prepare.run(ctx)
    before = file_digest(tmp_path / "artifacts/dataset.h5")
    shutil.copytree(tmp_path / "in", tmp_path / "copies")
    other = ("data.val_per_label=3", "data.unlabelled=copies")
    with open_context("prepare", other) as ctx, pytest.raises(ConfigError, match="are copies of labelled ones"):
        prepare.run(ctx)
    assert file_digest(tmp_path / "artifacts/dataset.h5") == before
    (tmp_path / "in/ant/0.png").write_text("no image")  # what is wrong with the folders is said before any is decoded
    own = ("data.val_per_label=3", "data.unlabelled=in")
    with open_context("prepare", own) as ctx, pytest.raises(ConfigError, match="is the folder of the labelled images"):
        prepare.run(ctx)
    own = ("data.val_per_label=3", "data.unlabelled=in/bee")
    with open_context("prepare", own) as ctx, pytest.raises(ConfigError, match="lies inside the labelled images"):
        prepare.run(ctx)
    shutil.copy(tmp_path / "copies/ant/0.png", tmp_path / "in/ant/0.png")
    with open_context("prepare", other[:1]) as ctx:
        prepare.run(ctx)
    assert file_digest(tmp_path / "artifacts/dataset.h5") != before, "it would have been another"


def test_the_rest_of_the_training_images_is_unlabelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "params.yaml", preset_text("hands"))
    set_values(tmp_path / "params.yaml", {"data.unlabelled": "rest", "data.image_size": 16, "tracking.mlflow": False})
    with open_context("prepare", ()) as ctx:
        prepare.run(ctx)
    said = capsys.readouterr().out
    assert "hands: 100 training, 220 validation and 958 test images of 3x16x16" in said
    assert "rest: 784 unlabelled images, of which 784 are used" in said and "groups: 208 (students)" in said
    assert "no exact or near copies across training, validation and test" in said
    metrics = json.loads((tmp_path / "metrics/prepare.json").read_text())
    assert (metrics["num_train"], metrics["num_unlabelled"], metrics["groups"]) == (100, 784, 208)
    rest = {image.numpy().tobytes() for image in read_unlabelled(tmp_path / "artifacts/unlabelled.h5")[:]}
    for part in ("train", "val", "test"):
        split = read_split(tmp_path / "artifacts/dataset.h5", part)
        assert not rest & {image.numpy().tobytes() for image in split.images[:]}
