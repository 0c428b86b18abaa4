"""What a draw reads beside its artifacts: images of a list, code, and whether DVC would notice a change of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ruamel.yaml import YAML

from cgankd.config import Config, config_from_dict
from pipelines.files.artifacts import file_digest
from pipelines.repeat import own_files
from pipelines.repeat.one_draw import CODE, key_of, make_draw
from pipelines.repeat.own_files import LISTED, folder_digest, own_digests, watched_by_dvc
from tests.conftest import ROOT
from tests.tiny import tiny

DEVICE: dict[str, Any] = {"threads": 1, "device": "cpu", "compile": "off"}


def listed(folder: Path, names: tuple[str, ...] = ("a", "b", "c")) -> Config:
    """A project whose list names images in a folder beside it."""
    (folder / "photos").mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (16, 16), (40 * number,) * 3).save(folder / "photos" / f"{name}.png")
    lines = ["path,label", *(f"photos/{name}.png,{number}.5" for number, name in enumerate(names))]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    values = tiny("chairs")
    values["data"] |= {"source": "csv", "root": str(folder / "labels.csv")}
    values.pop("search", None)
    return config_from_dict(values)


def test_another_image_behind_the_same_list_is_another_draw(tmp_path: Path) -> None:
    draw = make_draw(listed(tmp_path), 0, tmp_path)
    before = key_of(draw, "prepare", DEVICE)
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "photos" / "b.png")
    assert key_of(draw, "prepare", DEVICE) != before
    assert LISTED in own_digests(draw.cfg, "prepare") and LISTED not in own_digests(draw.cfg, "teacher")


def folders(folder: Path) -> Config:
    """A project whose second class is a link to a folder elsewhere."""
    for place in ("photos/a", "elsewhere"):
        (folder / place).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(folder / place / "1.png")
    (folder / "photos" / "b").symlink_to(folder / "elsewhere")
    values = tiny("digits")
    values["data"] |= {"source": "image-folder", "root": str(folder / "photos"), "channels": 3}
    values.pop("search", None)
    return config_from_dict(values)


def test_an_image_behind_a_linked_class_folder_is_part_of_a_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = folders(tmp_path)
    monkeypatch.setattr(own_files, "_digest", own_files._digest.__wrapped__)  # that of now, and not once a process
    for section in (cfg.data, dataclasses.replace(cfg.data, source="digits", unlabelled=cfg.data.root)):
        own = dataclasses.replace(cfg, data=section)
        before = own_digests(own, "prepare")
        Image.new("RGB", (16, 16), (len(section.source),) * 3).save(tmp_path / "elsewhere" / "1.png")
        assert own_digests(own, "prepare") != before


def test_a_folder_without_links_is_known_by_the_digest_of_before(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "photos" / "b").unlink()
    (tmp_path / "photos" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "photos" / "a b").mkdir()
    (tmp_path / "photos" / "a b" / "2.txt").write_text("2")
    assert folder_digest(tmp_path / "photos") == file_digest(tmp_path / "photos")


def test_links_back_and_second_links_are_told_by_where_they_lead(tmp_path: Path) -> None:
    folders(tmp_path)
    photos, found = tmp_path / "photos", set[str]()
    for target in (None, photos, tmp_path, photos / "a", tmp_path / "elsewhere", Path("/")):
        (photos / "c").unlink(missing_ok=True)
        if target is not None:
            (photos / "c").symlink_to(target)
        found.add(folder_digest(photos))
    assert len(found) == 5, "folders above are all left out"


def test_a_folder_with_links_is_not_watched_by_dvc(tmp_path: Path) -> None:
    cfg = folders(tmp_path)
    lock(tmp_path, "photos", "elsewhere")
    assert not watched_by_dvc(cfg, tmp_path)
    (tmp_path / "photos" / "b").unlink()
    assert watched_by_dvc(cfg, tmp_path)


def test_a_list_that_cannot_be_read_is_left_to_prepare(tmp_path: Path) -> None:
    cfg = listed(tmp_path)
    Path(cfg.data.root).write_text("nothing of the kind\n")
    assert own_digests(cfg, "prepare").keys() == {"data.root", LISTED}


def test_the_code_of_a_draw_is_all_that_dvc_watches() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    code = {dep for stage in stages.values() for dep in stage["deps"] if dep.startswith(("cgankd", "pipelines"))}
    own = [dep for dep in code if not any(dep == top or dep.startswith(f"{top}/") for top in CODE)]
    assert own == []


def lock(folder: Path, *paths: str) -> None:
    deps = "".join(f"    - path: {path}\n      md5: {'0' * 32}\n" for path in paths)
    (folder / "dvc.lock").write_text(f"schema: '2.0'\nstages:\n  prepare:\n    cmd: cgankd prepare\n    deps:\n{deps}")


@pytest.mark.parametrize(
    ("paths", "watched"),
    [
        (("labels.csv", "photos"), True),
        (("labels.csv",), False),  # not the images
        (("photos",), False),
        ((".",), True),
    ],
)
def test_what_dvc_does_not_watch_is_not_taken_over(tmp_path: Path, paths: tuple[str, ...], watched: bool) -> None:
    cfg = listed(tmp_path)
    assert not watched_by_dvc(cfg, tmp_path)  # no dvc.lock
    lock(tmp_path, *paths)
    assert watched_by_dvc(cfg, tmp_path) == watched


def test_weights_are_watched_by_their_digest(tmp_path: Path) -> None:
    cfg = listed(tmp_path)
    lock(tmp_path, "labels.csv", "photos")
    (tmp_path / "w.pt").write_bytes(b"weights")
    path = str(tmp_path / "w.pt")
    started = dataclasses.replace(cfg, teacher=dataclasses.replace(cfg.teacher, weights=path))
    assert not watched_by_dvc(started, tmp_path)
    pinned = dataclasses.replace(started.teacher, weights_digest="0123abcd")
    assert watched_by_dvc(dataclasses.replace(cfg, teacher=pinned), tmp_path)
    beside = dataclasses.replace(cfg.data, unlabelled=path)
    assert not watched_by_dvc(dataclasses.replace(cfg, data=beside), tmp_path)
