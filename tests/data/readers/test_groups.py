"""What `data.groups` may say, in every source that has files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cgankd.config import ConfigError
from cgankd.data.dataset import Dataset
from cgankd.data.readers.groups import by_cells, by_folder, by_pattern
from cgankd.data.readers.sources import load
from tests.data.builders import data_config, save_picture

FILMS, FRAMES = 12, 4


def film_list(tmp_path: Path, *, scalar: bool, head: str = "path,label,film") -> Path:
    lines = [head]
    for film in range(FILMS):
        for frame in range(FRAMES):
            name = f"pics/film{film:02d}_{frame}.png"
            save_picture(tmp_path / name, 10 * film + frame)
            lines.append(f"{name},{film + frame / 8 if scalar else 'ab'[film % 2]},{film}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "list.csv"


def film_folders(tmp_path: Path, top: str = "") -> Path:
    for film in range(FILMS):
        for frame in range(FRAMES):
            folder = tmp_path / "in" / top / ("cat", "dog")[film % 2] / f"film{film:02d}"
            save_picture(folder / f"{frame}.png", 10 * film + frame)
    return tmp_path / "in"


def read(root: Path, **changes: Any) -> Dataset:
    return load(data_config(root=str(root), channels=3, **({"test_share": 0.2} | changes)), 0)


def films_of(data: Dataset) -> list[set[str]]:
    return [
        {part for name in names for part in name.split("/") if part.startswith("film")} for names in data.files.values()
    ]


def check_apart(data: Dataset, cut: int = 6) -> None:
    """No film in two splits; `cut` letters of a name are the film."""
    inside = [{name[:cut] for name in names} for names in films_of(data)]
    assert all(inside) and sum(map(len, inside)) == len(set.union(*inside)) == FILMS
    assert data.account.counts["groups"] == FILMS


@pytest.mark.parametrize(
    "groups", ["film", "column:film", "3", "column:Film", r"re:(film\d+)_", r"(film\d+)_", r"re:film(\d+)(_)\d"]
)
@pytest.mark.parametrize("scalar", [False, True])
def test_a_list_by_column_or_pattern(tmp_path: Path, groups: str, scalar: bool) -> None:
    kind = {"task": "scalar", "val_per_label": None, "num_val": 8} if scalar else {}
    data = read(film_list(tmp_path, scalar=scalar), source="csv", groups=groups, **kind)
    check_apart(data)
    assert any("groups: 12 (" in line and "of 4 images" in line for line in data.account.lines)


def test_a_column_called_like_a_keyword_or_pattern_can_be_named(tmp_path: Path) -> None:
    check_apart(read(film_list(tmp_path, scalar=False, head="path,label,folder"), source="csv", groups="column:folder"))
    check_apart(
        read(film_list(tmp_path, scalar=False, head="path,label,film (no.)"), source="csv", groups="film (no.)")
    )


def test_a_column_of_groups_is_no_label_and_is_pointed_out(tmp_path: Path) -> None:
    source = film_list(tmp_path, scalar=True, head="path,yaw,film")
    kind = {"task": "scalar", "val_per_label": None, "num_val": 8, "source": "csv"}
    check_apart(read(source, groups="film", **kind))
    data = read(source, **kind)
    assert any(
        "not used: 'film' (if it says which images belong together, add --groups film)" in line
        for line in data.account.lines
    )


@pytest.mark.parametrize("groups", ["folder", r"re:(film\d+)/", r"re:/(.*)/"])
def test_class_folders_by_folder_or_pattern(tmp_path: Path, groups: str) -> None:
    check_apart(read(film_folders(tmp_path), source="image-folder", groups=groups))


def test_split_folders_of_the_user_stay_and_crossing_films_are_said(tmp_path: Path) -> None:
    film_folders(tmp_path, "train")
    for film in ("film00", "film01", "new"):
        for name in ("cat", "dog"):
            save_picture(tmp_path / "in/test" / name / film / "9.png", len(film) + len(name))
    data = read(tmp_path / "in", source="image-folder", groups="folder", test_share=None)
    assert data.account.counts["groups_divided"] == 2 and len(data.test) == 6
    train, val, _ = films_of(data)
    assert not train & val
    assert any(
        "divide 2 groups ('film00', 'film01'); errors measured there flatter" in line for line in data.account.lines
    )


def test_faces_and_frames_by_pattern(tmp_path: Path) -> None:
    for number in range(40):
        save_picture(tmp_path / f"faces/{20 + number}_0_0_2017010{number // 8}{number:04d}.jpg", number)
    kind = {"task": "scalar", "val_per_label": None, "num_val": 8}
    data = read(tmp_path / "faces", source="utkface", groups=r"re:_(\d{8})\d+", **kind)
    days = [{name.split("_")[3][:8] for name in names} for names in data.files.values()]
    assert data.account.counts["groups"] == 5 == sum(map(len, days)) == len(set.union(*days))


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("patient", r"data.groups 'patient' is no column of .*list.csv; it has 'path', 'label', 'film'"),
        ("path", "data.groups 'path' is the column of images"),
        ("label", "data.groups 'label' is the column of labels"),
        ("folder", r"puts all 48 images into one group, 'pics', which cannot be divided"),
        (r"re:(cow\d+)", r"the pattern '\(cow\\\\d\+\)' matches no path, such as 'pics/film00_0.png'"),
        (
            r"re:(film1\d)",
            r"matches 8 of 48 paths alone and not 'pics/film00_0.png', .*; it is searched for in paths below",
        ),
        ("re:(film", "is no regular expression"),
        (r"re:film\d+", "has no brackets; put them around what names the group"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, groups: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(film_list(tmp_path, scalar=False), source="csv", groups=groups)


@pytest.mark.parametrize(
    ("source", "groups", "words"),
    [
        ("digits", "folder", "data.groups must be null for data.source digits"),
        (
            "image-folder",
            "film",
            "data.groups must be folder or re:PATTERN for data.source image-folder, which has no columns",
        ),
        ("image-folder", "column:film", "which has no columns"),
        ("csv", " ", "data.groups must be null, folder, a column of the list or re:PATTERN"),
    ],
)
def test_settings_that_no_source_could_meet(source: str, groups: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        data_config(source=source, groups=groups)


def test_folders_without_sub_folders_have_no_groups(tmp_path: Path) -> None:
    for number in range(20):
        save_picture(tmp_path / f"in/{'ab'[number % 2]}/{number}.png", number)
    with pytest.raises(ConfigError, match="no image lies in a sub-folder of its own"):
        read(tmp_path / "in", source="image-folder", groups="folder")


def test_numbers_are_compared_as_numbers_and_empty_cells_stand_alone() -> None:
    paths = [Path(f"{row}.png") for row in range(6)]
    found = by_cells(["1", "1.0", "01", "2", "", ""], "film", paths)
    assert found.number_N.tolist()[:3] == [found.number_N[0]] * 3 and len(found.names) == 4
    assert found.lines[0].startswith("WARNING: 2 images have no group in the list (4.png, 5.png)")
    assert len(by_cells(["1", "1.0", "x"], "film", paths[:3]).names) == 3
    assert "changes nothing" in by_cells(list("abcdef"), "film", paths).lines[-1]
    assert len(by_folder(["f", "f", "."], ["a/f/1", "a/f/2", "a/3"]).names) == 2
    rest = by_pattern(["a/film1_1", "a/film1_2", "a/x"], r"re:(film\d)")
    assert rest.number_N.tolist() == [1, 1, 0] and rest.lines[0].startswith(
        "WARNING: the pattern matches not 1 of 3 paths ('a/x')"
    )
