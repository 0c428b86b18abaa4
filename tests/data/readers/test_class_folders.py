"""Which folders are classes, which are splits, and what is refused or said."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from cgankd.config import ConfigError
from cgankd.data.readers.class_folders import Listing, list_folder
from cgankd.data.readers.class_words import by_class, untested
from tests.data.builders import save_picture


def fill(root: Path, *names: str, num: int = 4, suffix: str = ".png") -> Path:
    """A name that ends in a star takes images named cat.0, dog.0, ..."""
    for at, name in enumerate(names):
        for i in range(num):
            stem = f"{('cat', 'dog')[i % 2]}.{i}" if name.endswith("*") else f"img_{i}"
            save_picture(root / name.rstrip("*") / f"{stem}{suffix}", 100 * at + i)
    return root


def splits(listing: Listing) -> dict[str, int]:
    return dict(Counter(listing.parts))


@pytest.mark.parametrize("val", ["val", "valid", "validation", "dev", "Validation", "DEV"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Train", "TEST"), ("training", "testing")])
def test_splits_by_any_of_their_names(tmp_path: Path, train: str, val: str, test: str) -> None:
    for part in (train, val, test):
        fill(tmp_path / part, "cat", "dog")
    listing = list_folder(str(tmp_path))
    assert listing.class_names == ("cat", "dog") and splits(listing) == {"train": 8, "test": 8, "val": 8}


def test_other_folders_and_files_beside_splits_are_left_out_and_said(tmp_path: Path) -> None:
    for part in ("train", "test", "test1"):
        fill(tmp_path / part, "cat", "dog")
    fill(tmp_path, "unlabelled", "docs")
    (tmp_path / "README.md").write_text("a set")
    save_picture(tmp_path / "example.png", 1)
    save_picture(tmp_path / "train/loose.png", 1)
    listing = list_folder(str(tmp_path))
    assert splits(listing) == {"train": 8, "test": 8}
    reasons = Counter(entry.reason for entry in listing.left)
    assert reasons == {
        "images in test1, which is no split": 8,
        "images in unlabelled, which is no split": 4,
        "images in docs, which is no split": 4,
        ".md files": 1,
        "images outside of a class folder": 2,
    }


def test_a_flat_test_folder_is_left_out_and_said(tmp_path: Path) -> None:
    fill(tmp_path / "train", "cat", "dog")
    fill(tmp_path, "test")
    listing = list_folder(str(tmp_path))
    assert splits(listing) == {"train": 8}
    assert Counter(entry.reason for entry in listing.left) == {"images in test, which has no class folders": 4}


@pytest.mark.parametrize(
    "names",
    [("train", "test1"), ("train", "test", "val"), ("Train", "unlabeled"), ("train*", "test*"), ("train", "test set")],
)
def test_flat_splits_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    fill(tmp_path, *names)
    with pytest.raises(ConfigError, match=r"rain has images but no class folders, and .* beside it looks like"):
        list_folder(str(tmp_path))


@pytest.mark.parametrize(
    "names", [("train", "plane", "bus"), ("train", "test"), ("test", "exam"), ("val", "dev"), ("Train", "tram")]
)
def test_classes_may_be_called_as_splits_are(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert list_folder(str(fill(tmp_path, *names))).class_names == tuple(sorted(names))


def test_a_class_called_train_may_have_a_sub_folder(tmp_path: Path) -> None:
    fill(tmp_path, "train", "plane", "train/batch2")
    listing = list_folder(str(tmp_path))
    assert listing.class_names == ("plane", "train") and len(listing.paths) == 12
    assert listing.lines == ("4 images lie in sub-folders of class folders, such as train/batch2, and are used",)


def test_what_may_be_a_split_or_a_class_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b", "plane")
    listing = list_folder(str(tmp_path))
    assert listing.class_names == ("a", "b") and {entry.reason for entry in listing.left} == {
        "images in plane, which is no split"
    }
    fill(tmp_path, "bus")
    with pytest.raises(ConfigError, match=r"but images in bus, plane beside it, so that it may be a split or a class"):
        list_folder(str(tmp_path))


def test_class_folders_with_the_same_folders_inside_are_warned_of(tmp_path: Path) -> None:
    fill(tmp_path, "2020/cat", "2020/dog", "2021/cat", "2021/dog")
    assert any("hold the same sub-folders, cat, dog;" in line for line in list_folder(str(tmp_path)).lines)


def test_a_class_of_other_files_says_what_there_is(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    (tmp_path / "c").mkdir()
    for i in range(3):
        (tmp_path / f"c/{i}.heic").touch()
    with pytest.raises(
        ConfigError, match=r"c has no images that can be read, such as .png or .jpg, only 3 .heic files"
    ):
        list_folder(str(tmp_path))


def test_splits_without_train_or_twice_are_refused(tmp_path: Path) -> None:
    for part in ("val", "test"):
        fill(tmp_path / part, "cat", "dog")
    with pytest.raises(ConfigError, match="has test with class folders but no such train"):
        list_folder(str(tmp_path))
    for part in ("train", "Validation"):
        fill(tmp_path / part, "cat", "dog")
    with pytest.raises(ConfigError, match="both Validation and val"):
        list_folder(str(tmp_path))


def test_one_folder_too_high_is_hinted_at(tmp_path: Path) -> None:
    fill(tmp_path / "images", "cat", "dog")
    with pytest.raises(ConfigError, match=r"has 1 sub-folders; .*did you mean .*images\?"):
        list_folder(str(tmp_path))


def test_names_are_compared_in_one_unicode_form_and_capitals_are_said(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "é")
    fill(tmp_path, "é", decomposed, "Cat", "cat")
    listing = list_folder(str(tmp_path))
    assert listing.class_names == ("Cat", "cat", "é") and Counter(listing.labels)[2] == 8
    assert any("'é' in different Unicode forms; they are one class" in line for line in listing.lines)
    assert any("classes 'Cat' and 'cat' differ in capital letters" in line for line in listing.lines)
    fill(tmp_path / "split/train", "é", "dog")
    fill(tmp_path / "split/test", decomposed, "dog")
    assert Counter(list_folder(str(tmp_path / "split")).labels) == {0: 8, 1: 8}


def test_a_class_of_test_spelt_otherwise_says_so(tmp_path: Path) -> None:
    fill(tmp_path / "train", "cat", "dog")
    fill(tmp_path / "test", "Cat", "dog")
    with pytest.raises(ConfigError, match="Cat is a class that the training folder .* rename it 'cat'"):
        list_folder(str(tmp_path))


def test_classes_without_test_images_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "train", "a", "b", "c")
    fill(tmp_path / "test", "a", "c")
    found = list_folder(str(tmp_path))
    assert list(untested(found.labels, found.parts, found.class_names)) == ["WARNING: no test images of 'b'"]


def test_many_classes_are_shortened() -> None:
    assert by_class(Counter(b=2, a=1)) == "a 1, b 2"
    assert by_class(Counter({f"{i:02d}": i + 1 for i in range(30)})).endswith("19 20 and 10 classes more, of 1 to 30")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train_set", "test_set"),
        ("birds-train", "birds-eval"),
        ("train2017", "val2017"),
        ("trn", "tst"),
        ("x_Train", "x_test"),
    ],
)
def test_folders_of_the_same_classes_called_like_splits_are_splits(tmp_path: Path, train: str, test: str) -> None:
    for part in (train, test):
        fill(tmp_path / part, "cat", "dog")
    listing = list_folder(str(tmp_path))
    assert listing.class_names == ("cat", "dog") and splits(listing)["train"] == 8 and len(splits(listing)) == 2
    assert any(f"{train} as train" in line for line in listing.lines)


def test_wrapped_splits(tmp_path: Path) -> None:
    for part in ("seg_train", "seg_test"):
        fill(tmp_path / part / part, "cat", "dog")
    fill(tmp_path / "seg_pred/seg_pred", ".")
    listing = list_folder(str(tmp_path))
    assert splits(listing) == {"train": 8, "test": 8}
    assert {entry.reason for entry in listing.left} == {"images in seg_pred, which is no split"}


def test_what_is_called_like_splits_but_is_none(tmp_path: Path) -> None:
    fill(tmp_path / "a", "train_station", "test tube")
    assert list_folder(str(tmp_path / "a")).class_names == ("test tube", "train_station")
    for part in ("train_set", "test_set"):
        fill(tmp_path / "b" / part, part + "_cat", part + "_dog")
    assert splits(list_folder(str(tmp_path / "b"))) == {"train": 16}
    fill(tmp_path / "c", "birds_train", "birds_test")
    with pytest.raises(ConfigError, match="birds_train has images but no class folders, and birds_test beside it"):
        list_folder(str(tmp_path / "c"))


def test_splits_below_classes_are_said(tmp_path: Path) -> None:
    fill(tmp_path, "cat/train", "cat/test", "dog/train", "dog/test")
    (line,) = [line for line in list_folder(str(tmp_path)).lines if "WARNING" in line]
    assert "hold test and train, but the images are split anew" in line


@pytest.mark.parametrize(
    ("name", "part"), [("eval", "test"), ("holdout", "test"), ("test_set", "test"), ("tuning-val", "val")]
)
def test_a_split_called_otherwise_beside_train_is_taken_and_said(tmp_path: Path, name: str, part: str) -> None:
    fill(tmp_path / "train", "cat", "dog")
    fill(tmp_path / name, "cat", "dog")
    listing = list_folder(str(tmp_path))
    assert Counter(listing.parts) == {"train": 8, part: 8} and not listing.left
    assert f"taken for splits of one set: {name} as {part}" in listing.lines
    fill(tmp_path / name, "cow")  # a class of its own: some other set
    assert Counter(list_folder(str(tmp_path)).parts) == {"train": 8}


def test_a_split_called_otherwise_gives_way_to_the_usual_name_and_to_another(tmp_path: Path) -> None:
    for name in ("train", "eval", "holdout"):
        fill(tmp_path / name, "cat", "dog")
    assert Counter(list_folder(str(tmp_path)).parts) == {"train": 8}
    fill(tmp_path / "Testing", "cat", "dog")
    listing = list_folder(str(tmp_path))
    assert Counter(listing.parts) == {"train": 8, "test": 8}
    assert {entry.reason for entry in listing.left} == {
        "images in eval, which is no split",
        "images in holdout, which is no split",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("name", [b"cat/caf\xe9.png", b"caf\xe9/1.png", b"dog/caf\xe9.txt"])
def test_names_that_are_no_utf_8_are_refused(tmp_path: Path, name: bytes) -> None:
    fill(tmp_path, "cat", "dog")
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy(next((tmp_path / "cat").glob("*.png")), os.fsdecode(path))
    with pytest.raises(
        ConfigError, match=r"1 files lie under names that are not UTF-8, such as .*caf\\xe9.*; rename"
    ) as said:
        list_folder(str(tmp_path))
    str(said.value).encode()


def test_a_link_that_leads_round_adds_nothing(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    (tmp_path / "cat/again").symlink_to(tmp_path / "cat")
    (tmp_path / "dog/up").symlink_to(tmp_path)
    (tmp_path / "dog/gone").symlink_to("/nowhere")
    listing = list_folder(str(tmp_path))
    assert len(listing.paths) == 8
    assert Counter(entry.reason for entry in listing.left) == {
        "links to a folder that is walked already, or that they lie in": 2,
        "links to nothing": 1,
    }


def test_one_file_in_two_classes_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    (tmp_path / "dog/other").symlink_to(tmp_path / "cat")
    with pytest.raises(ConfigError, match="by a link the same file as .* of class 'cat' and of 'dog'; remove one"):
        list_folder(str(tmp_path))


def test_one_file_in_two_classes_by_a_hard_link_is_refused_and_in_one_class_not(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    images = sorted((tmp_path / "cat").iterdir())
    (tmp_path / "cat/same.png").hardlink_to(images[0])
    assert len(list_folder(str(tmp_path)).paths) == 9
    (tmp_path / "dog/other.png").hardlink_to(images[1])
    with pytest.raises(
        ConfigError, match=r"dog/other.png is by a link the same file as .* of class 'cat' and of 'dog'"
    ):
        list_folder(str(tmp_path))


def test_all_faults_of_folders_are_said_at_once(tmp_path: Path) -> None:
    fill(tmp_path / "train", "cat", "dog")
    fill(tmp_path / "test", "Cat", "dog", "cow")
    (tmp_path / "train/eel").mkdir()
    with pytest.raises(
        ConfigError, match="eel has no images .*; and .*Cat is a class .* rename it 'cat'; and .*cow is a class"
    ):
        list_folder(str(tmp_path))


def test_one_number_in_two_spellings_is_said(tmp_path: Path) -> None:
    listing = list_folder(str(fill(tmp_path, "1", "01", "ABC", "\uff21\uff22\uff23")))
    assert [line.partition(";")[0] for line in listing.lines] == [
        "classes '01' and '1' are one number",
        "classes 'ABC' and '\uff21\uff22\uff23' differ in capital letters or spaces alone",
    ]


def test_names_of_classes_fit_a_line() -> None:
    assert by_class(Counter({"a\nb": 2, "x" * 200: 1})) == "a\\nb 2, " + "x" * 59 + "… 1"


def test_a_folder_of_links_to_nothing_is_not_just_called_empty(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).symlink_to(tmp_path / "gone" / name)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    with pytest.raises(
        ConfigError, match="is empty but for 2 links to nothing, such as ant; put a sub-folder for each class"
    ):
        list_folder(str(tmp_path))
    for name in ("ant", "bee"):
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match="is empty; put a sub-folder for each class"):
        list_folder(str(tmp_path))
