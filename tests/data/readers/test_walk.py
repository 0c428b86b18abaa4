"""Which files are images, and what is left out."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from cgankd.data.readers.walk import is_image, left_out_lines, suffixes, visible_folders, walk
from tests.data.builders import save_picture


def test_every_ending_that_is_taken_can_be_decoded() -> None:
    assert {".png", ".jpg", ".jpe", ".jfif", ".avif", ".webp", ".tif", ".bmp", ".gif", ".pgm", ".jp2"} <= suffixes()
    assert not {".h5", ".pdf", ".mpg", ".eps", ".txt", ".db", ".heic", ""} & suffixes()
    assert all(is_image(Path(f"a{suffix.upper()}")) for suffix in suffixes())


def test_sub_folders_are_walked_into_and_links_followed_once(tmp_path: Path) -> None:
    for name in ("b.png", "sub/a.jpeg", "sub/deep/c.PNG"):
        save_picture(tmp_path / "in" / name, 1)
    save_picture(tmp_path / "store/d.png", 2)
    (tmp_path / "in/linked").symlink_to(tmp_path / "store")
    (tmp_path / "in/sub/back").symlink_to(tmp_path / "in")
    (tmp_path / "in/gone.png").symlink_to(tmp_path / "nowhere.png")
    names = [path.relative_to(tmp_path / "in").as_posix() for path in walk(tmp_path / "in").images]
    assert names == ["b.png", "gone.png", "linked/d.png", "sub/a.jpeg", "sub/deep/c.PNG"]


def test_what_systems_leave_behind_is_skipped_and_other_files_are_named(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", 1)
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(b"\0")
    save_picture(tmp_path / "__MACOSX/._a.png", 1)
    save_picture(tmp_path / ".ipynb_checkpoints/a.png", 1)
    for i in range(5):
        (tmp_path / f"{i}.heic").write_bytes(b"\0")
    (tmp_path / "README").write_text("none")
    found = walk(tmp_path)
    assert [path.name for path in found.images] == ["a.png"] and not visible_folders(tmp_path)
    assert sum(entry.hidden for entry in found.left) == 6
    assert left_out_lines(found.left, tmp_path) == [
        "left out: 6 files or folders, hidden or of the system (.DS_Store, ._a.png, .ipynb_checkpoints, ...)",
        "left out: 5 .heic files (0.heic, 1.heic, 2.heic, ...)",
        "left out: 1 files without an ending (README)",
    ]


def test_images_of_all_usual_endings_are_read(tmp_path: Path) -> None:
    for suffix, form in ((".jfif", "JPEG"), (".jpe", "JPEG"), (".avif", "AVIF"), (".tiff", "TIFF"), (".qoi", "QOI")):
        if form in Image.SAVE:
            Image.new("RGB", (16, 16)).save(tmp_path / f"a{suffix}", format=form)
            assert is_image(tmp_path / f"a{suffix}")


def test_images_without_an_ending_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", 0)
    picture = (tmp_path / "a.png").read_bytes()
    images = ["photo", "photo.12", "photo.png?w=2", "photo.jpg_large", "photo.png "]
    others = ["photo.png~", "photo.png.part", "photo.txt", "photo.cr2"]
    for name in (*images, *others):
        (tmp_path / name).write_bytes(picture)
    (tmp_path / "notes").write_text("no picture")
    found = walk(tmp_path)
    assert sorted(path.name for path in found.images) == sorted(["a.png", *images])
    assert sorted(entry.path.name for entry in found.left) == sorted([*others, "notes"])


def test_files_of_several_jpegs_are_images() -> None:
    assert is_image(Path("a.MPO"))
