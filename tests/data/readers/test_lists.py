"""Lists as programs and people write them: what is read, what is said about it, and what is refused with its cause."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path

import pytest

from cgankd.config import ConfigError
from cgankd.data.readers.list_columns import Columns
from cgankd.data.readers.list_lines import read_list
from tests.data.builders import save_picture

NUM = 12
NAMES = [f"p{i:02d}.png" for i in range(NUM)]
HALVES = [f"{i + 0.5}" for i in range(NUM)]


@pytest.fixture()
def top(tmp_path: Path) -> Path:
    for i, name in enumerate(NAMES):
        save_picture(tmp_path / name, i)
    return tmp_path


def write(top: Path, rows: list[list[str]], *, delimiter: str = ",", encoding: str = "utf-8", end: str = "\n") -> Path:
    path = top / "list.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(rows)
    return path


def pairs(path: Path, columns: Columns | None = None) -> list[tuple[str, str]]:
    found = read_list(str(path), columns=columns or Columns())
    return [(entry.path.relative_to(path.parent).as_posix(), entry.label) for entry in found.entries]


def said(path: Path, columns: Columns | None = None) -> str:
    return " ".join(read_list(str(path), columns=columns or Columns()).said)


PLAIN = list(zip(NAMES, HALVES, strict=True))


def rows(*columns: list[str]) -> list[list[str]]:
    return [list(cells) for cells in zip(*columns, strict=True)]


def test_a_plain_list_needs_no_guess(top: Path) -> None:
    for header in ([], [["path", "label"]], [["PATH", " Label"]]):
        path = write(top, [*header, *rows(NAMES, HALVES)])
        assert pairs(path) == PLAIN and said(path) == ""


@pytest.mark.parametrize(("delimiter", "name"), [(";", "semicolon"), ("\t", "tab"), ("|", "|")])
@pytest.mark.parametrize("comma", [True, False])
@pytest.mark.parametrize("header", [[], [["path", "label"]]])
def test_separators(top: Path, delimiter: str, name: str, comma: bool, header: list[list[str]]) -> None:
    labels = [text.replace(".", ",") for text in HALVES] if comma else HALVES
    path = write(top, [*header, *rows(NAMES, labels)], delimiter=delimiter)
    assert pairs(path) == PLAIN
    assert said(path) == f"list: separator {name}" + ("; decimal commas" if comma else "")


def test_blanks_between_path_and_label(top: Path) -> None:
    save_picture(top / "two words.png", 99)
    path = top / "list.txt"
    path.write_text("".join(f"{name}  {label}\n" for name, label in PLAIN) + "two words.png 7\n")
    assert pairs(path) == [*PLAIN, ("two words.png", "7")] and said(path) == "list: separator blank"


def test_the_separator_line_of_a_spreadsheet(top: Path) -> None:
    path = write(top, rows(NAMES, HALVES), delimiter=";", end="\r\n")
    path.write_bytes(b"sep=;\r\n" + path.read_bytes())
    assert pairs(path) == PLAIN and read_list(str(path)).entries[0].where == f"{path}:2"


def test_decimal_commas_in_quotes(top: Path) -> None:
    path = write(top, rows(NAMES, [*(text.replace(".", ",") for text in HALVES[:-1]), "-4"]))
    assert pairs(path) == [*PLAIN[:-1], (NAMES[-1], "-4")] and said(path) == "list: decimal commas"
    path = write(top, rows(NAMES, [f"{i},{i:03d}" for i in range(1, NUM + 1)]))
    with pytest.raises(ConfigError, match=r"such as '1,001' may have a decimal comma or one between thousands"):
        pairs(path)
    pair = ["1,5", "2.5", *["3,5"] * (NUM - 2)]
    assert pairs(write(top, rows(NAMES, pair))) == list(zip(NAMES, pair, strict=True)), "no number style fits them all"


def test_an_unquoted_decimal_comma_is_told_from_two_labels(top: Path) -> None:
    with pytest.raises(ConfigError, match="2 columns that could be the label: .*decimal comma, put quotes"):
        pairs(write(top, rows(NAMES, [str(i) for i in range(NUM)], ["5"] * 6 + ["25"] * 6)))
    path = top / "list.csv"
    path.write_text("path,label\n" + "".join(f"{name},1,{i}\n" for i, name in enumerate(NAMES)))
    with pytest.raises(ConfigError, match=r"list.csv:2: expected path,label but found 'p00.png,1,0'; put quotes"):
        pairs(path)


@pytest.mark.parametrize(
    "header",
    [
        ["filename", "age"],
        ["ID", "Breed"],
        ["image", "angle"],
        ["Foto", "Alter"],
        ["what", "this"],
        ["file_name", "label"],
    ],
)
def test_headers(top: Path, header: list[str]) -> None:
    path = write(top, [header, *rows(NAMES, HALVES)])
    assert pairs(path) == PLAIN
    assert said(path) == f"list: columns {header[0]!r} (image) and {header[1]!r} (label)"


def test_a_first_line_with_an_image_is_no_header(top: Path) -> None:
    path = write(top, rows(["gone.png", *NAMES], ["tall", *HALVES]))
    with pytest.raises(ConfigError, match=r"list.csv:1: image .*gone.png' does not exist"):
        pairs(path)
    path = write(top, rows([name.removesuffix(".png") for name in NAMES], ["tall", *HALVES[1:]]))
    assert pairs(path)[0] == ("p00.png", "tall")


def test_the_label_before_the_path(top: Path) -> None:
    for header in ([], [["label", "path"]], [["height", "photo"]]):
        assert pairs(write(top, [*header, *rows(HALVES, NAMES)])) == PLAIN


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "#", "index", None])
@pytest.mark.parametrize("start", [0, 1])
def test_index_columns(top: Path, name: str | None, start: int) -> None:
    header = [] if name is None else [[name, "path", "label"]]
    path = write(top, [*header, *rows([str(i + start) for i in range(NUM)], NAMES, HALVES)])
    assert pairs(path) == PLAIN and "1 index column left out" in said(path)


def test_the_index_of_shuffled_and_filtered_rows(top: Path) -> None:
    numbers = [str(7 * i % 31) for i in range(NUM)]
    path = write(top, [["", "path", "label"], *rows(numbers, NAMES, HALVES)])
    assert pairs(path) == PLAIN
    path.write_text("path,label\n" + "".join(f"{i},{name},{label}\n" for i, (name, label) in enumerate(PLAIN, start=1)))
    assert pairs(path) == PLAIN and "1 index column left out" in said(path), "row numbers without a name, as R has them"


def test_numbers_in_order_are_labels_where_nothing_else_is(top: Path) -> None:
    count = [str(i) for i in range(NUM)]
    assert pairs(write(top, rows(NAMES, count))) == list(zip(NAMES, count, strict=True))
    assert pairs(write(top, rows(count, NAMES))) == list(zip(NAMES, count, strict=True))
    path = write(top, rows(NAMES, count, ["train"] * 8 + ["test"] * 4))
    with pytest.raises(
        ConfigError, match=r"number 2 \(such as '0'\), number 3 \(such as 'train'\); name one with --label"
    ):
        pairs(path)
    assert pairs(path, Columns(label="2")) == list(zip(NAMES, count, strict=True))


def test_further_columns(top: Path) -> None:
    split = ["train"] * 8 + ["test"] * 4
    path = write(top, [["path", "age", "split"], *rows(NAMES, HALVES, split)])
    assert pairs(path) == PLAIN and "not used: 'split' (splits are made anew; to keep" in said(path)
    patient = [f"p{number // 3}" for number in range(NUM)]
    path = write(top, [["path", "age", "Patient"], *rows(NAMES, HALVES, patient)])
    assert pairs(path) == PLAIN
    assert "not used: 'Patient' (if it says which images belong together, add --groups Patient)" in said(path)
    path = write(
        top, [["width", "image", "label", "note"], *rows(["16"] * NUM, NAMES, HALVES, ["", *["x"] * (NUM - 1)])]
    )
    assert pairs(path) == PLAIN and "not used: 'width', 'note'" in said(path)
    path = write(top, [["image", "mask", "target"], *rows(NAMES, NAMES[::-1], HALVES)])
    assert pairs(path) == PLAIN
    path = write(top, [["left", "right", "target"], *rows(NAMES, NAMES[::-1], HALVES)])
    with pytest.raises(
        ConfigError, match=r"2 columns that could be the image: 'left', 'right'; name one with --path-c"
    ):
        pairs(path)
    assert pairs(path, Columns(path="right")) == list(zip(NAMES[::-1], HALVES, strict=True))


def test_two_labels_are_refused_with_the_switch(top: Path) -> None:
    path = write(top, [["path", "yaw", "pitch"], *rows(NAMES, HALVES, HALVES[::-1])])
    with pytest.raises(
        ConfigError,
        match=r"2 columns that could be the label: 'yaw' .*, 'pitch' .*; name one with --label-column \(data.label_column\)",
    ):
        pairs(path)
    assert pairs(path, Columns(label="pitch")) == list(zip(NAMES, HALVES[::-1], strict=True))
    assert pairs(path, Columns(label="Yaw")) == PLAIN and pairs(path, Columns(label="2")) == PLAIN
    assert "not used: 'pitch'" in said(path, Columns(label="yaw"))
    with pytest.raises(
        ConfigError, match=r"data.label_column 'roll' is no column of .*; it has 'path', 'yaw', 'pitch'"
    ):
        pairs(path, Columns(label="roll"))
    with pytest.raises(ConfigError, match="is the column of images"):
        pairs(path, Columns(label="path"))


def test_empty_columns_and_trailing_separators(top: Path) -> None:
    path = write(top, [["path", "label", ""], *rows(NAMES, HALVES, [""] * NUM)], delimiter=";")
    assert pairs(path) == PLAIN
    path = write(top, rows(NAMES, HALVES))
    path.write_text(path.read_text().replace("p03.png,3.5", "p03.png,3.5,"))
    assert pairs(path) == PLAIN
    path = write(top, rows(NAMES, [""] * NUM))
    with pytest.raises(ConfigError, match="no column of labels beside the images"):
        pairs(path)


def test_backslashes(top: Path) -> None:
    for i in range(4):
        save_picture(top / f"in/side/{i}.png", 50 + i)
    path = write(top, rows([f".\\in\\side\\{i}.png" for i in range(4)], HALVES[:4]))
    assert pairs(path) == [(f"in/side/{i}.png", HALVES[i]) for i in range(4)]
    assert said(path) == "list: backslashes read as / (4)"


def test_ids_without_suffix(top: Path) -> None:
    ids = [name.removesuffix(".png") for name in NAMES]
    path = write(top, [["id", "breed"], *rows(ids, ["pug", "collie", "poodle"] * 4)])
    assert [name for name, _ in pairs(path)] == NAMES and f"suffixes of images found ({NUM})" in said(path)
    (top / "p03.txt").write_text("not an image")
    assert [name for name, _ in pairs(path)] == NAMES
    save_picture(top / "p03.jpg", 3)
    with pytest.raises(ConfigError, match=r"list.csv:5: 'p03' may be p03.jpg or p03.png; write the suffix"):
        pairs(path)


def test_whole_numbers_as_ids_are_not_taken_for_labels(tmp_path: Path) -> None:
    for i in range(1, NUM + 1):
        save_picture(tmp_path / f"{i}.jpg", i)
    numbers = [str(i) for i in range(1, NUM + 1)]
    path = write(tmp_path, rows([f"{i}.jpg" for i in numbers], numbers[::-1]))
    assert pairs(path) == [(f"{i}.jpg", label) for i, label in zip(numbers, numbers[::-1], strict=True)]
    assert said(path) == ""
    path = write(tmp_path, [["image_id", "rings"], *rows(numbers, numbers[::-1])])
    assert [name for name, _ in pairs(path)] == [f"{i}.jpg" for i in numbers]


def test_images_in_a_folder_beside_the_list(tmp_path: Path) -> None:
    for i, name in enumerate(NAMES):
        save_picture(tmp_path / "train" / name, i)
        save_picture(tmp_path / "test" / f"other-{name}", i)
    path = write(tmp_path, [["id", "label"], *rows([name.removesuffix(".png") for name in NAMES], HALVES)])
    assert pairs(path) == [(f"train/{name}", label) for name, label in PLAIN] and "images in train/" in said(path)
    for i, name in enumerate(NAMES):
        save_picture(tmp_path / "copy" / name, i)
    with pytest.raises(ConfigError, match=f"{NUM} of {NUM} images do not exist"):
        pairs(path)


def test_names_composed_otherwise_and_capitals(tmp_path: Path) -> None:
    for i, name in enumerate(["é.png", "ü/ö.png", "IMG_1.JPG"]):
        save_picture(tmp_path / unicodedata.normalize("NFD", name), i)
    path = write(tmp_path, rows(["é.png", "ü/ö.png", "img_1.jpg"], ["1", "2", "3"]))
    found = read_list(str(path))
    assert [entry.path.is_file() for entry in found.entries] == [True] * 3
    assert "accents composed otherwise than in the file names (3)" in found.said[0]
    assert "capitals otherwise than in the file names (1)" in found.said[0]
    labels = ["naïve", unicodedata.normalize("NFD", "naïve"), "naïve\u00a0"]
    path = write(tmp_path, rows(["é.png", "ü/ö.png", "img_1.jpg"], labels))
    assert {entry.label for entry in read_list(str(path)).entries} == {"naïve"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings(top: Path, encoding: str) -> None:
    path = write(top, [["path", "label"], *rows(NAMES, ["Größe", "été"] * 6)], encoding=encoding, delimiter="\t")
    assert [label for _, label in pairs(path)] == ["Größe", "été"] * 6
    words = {"utf-8-sig": "list: separator tab", "utf-16": "UTF-16", "cp1252": "Windows letters (cp1252), as byte"}
    assert words[encoding] in said(path)


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends(top: Path, end: str) -> None:
    assert pairs(write(top, rows(NAMES, HALVES), end=end)) == PLAIN


def test_json_lines(top: Path) -> None:
    path = top / "metadata.jsonl"
    objects = [{"file_name": name, "label": float(label)} for name, label in PLAIN]
    path.write_text("\n".join(map(json.dumps, objects)) + "\n")
    assert pairs(path) == PLAIN
    more = [{"label": value["label"], "text": f"no {i}", "box": [1, 2], **value} for i, value in enumerate(objects)]
    path.write_text("\n".join(map(json.dumps, more)))
    assert pairs(path) == PLAIN and "not used: 'box' (no plain values); " in said(path) and "'text'" in said(path)
    path.write_text(json.dumps(more, indent=2))
    assert pairs(path) == PLAIN
    path.write_text("\n".join([*map(json.dumps, objects[:4]), '{"file_name": "p04.png", "label":']))
    with pytest.raises(ConfigError, match=r"metadata.jsonl:5: this line is no JSON"):
        pairs(path)
    path.write_text('{"file_name": "p00.png"\n')
    with pytest.raises(ConfigError, match=r"metadata.jsonl:1: this line is no JSON"):
        pairs(path)
    path.write_text("\n".join(map(json.dumps, [*objects[:3], {"file_name": "p03.png", "label": None}])))
    with pytest.raises(ConfigError, match=r"metadata.jsonl:4: expected file_name,label but found 'p03.png,'"):
        pairs(path)


def test_all_missing_images_are_counted_and_ten_named(top: Path) -> None:
    gone = [f"gone{i:02d}.png" for i in range(14)]
    path = write(top, [["path", "label"], *rows(NAMES, HALVES), *rows(gone, ["1"] * 14)])
    with pytest.raises(
        ConfigError, match=r"14 of 26 images do not exist: gone00.png \(line 14\), .*gone09.png \(line 23\) and"
    ):
        pairs(path)
    found = read_list(str(path), skip_broken=True)
    assert [entry.path.name for entry in found.entries] == NAMES
    assert [entry.path.name for entry in found.missing] == gone and found.missing[0].where == f"{path}:14"


def test_all_wrong_lines_are_counted(top: Path) -> None:
    path = write(top, [["path", "label"], *rows(NAMES, ["1", "", "2", "", *["3"] * (NUM - 4)])])
    words = r"list.csv:3: expected path,label but found 'p01.png,'; write what is missing or remove the line \(1 more"
    with pytest.raises(ConfigError, match=words):
        pairs(path)
    path = write(top, rows([*NAMES, *NAMES[:3]], [*HALVES, "9", "9", "9"]))
    with pytest.raises(
        ConfigError, match=r"list.csv:13: 'p00.png' is listed before, .* \(2 more lines are wrong: 14, 15\)"
    ):
        pairs(path)
    found = read_list(str(path), skip_broken=True)
    assert [entry.path.name for entry in found.entries] == NAMES[3:] and len(found.skipped()) == 3


def test_a_line_that_repeats_another_is_left_out(top: Path) -> None:
    path = write(top, rows([*NAMES, "./p00.png", NAMES[1]], [*HALVES, "0.50", "1.5"]))
    assert pairs(path) == PLAIN and said(path) == "list: 2 lines that repeat another one left out"


def test_wrong_lines_and_missing_images_are_said_at_once(top: Path) -> None:
    path = write(top, rows([*NAMES, "gone.png"], [*HALVES[:-1], "", "1"]))
    with pytest.raises(ConfigError, match=r"list.csv:12: expected path,label .*; and .*list.csv:13: image .*gone.png"):
        pairs(path)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("/home/bob/photos/", "/home/bob/photos/ left out of the paths"),
        ("C:\\Users\\bob\\", "C:/Users/bob/ left out of the paths"),
        ("https://example.org/a/", "https://example.org/a/ left out of the paths"),
        ("../elsewhere/", "../elsewhere/ left out of the paths"),
    ],
)
def test_paths_of_another_machine(top: Path, before: str, words: str) -> None:
    path = write(top, rows([before + name for name in NAMES], HALVES))
    assert pairs(path) == PLAIN and words in said(path)
    deep = top / "deep/er"
    deep.mkdir(parents=True)
    for name in NAMES:
        (top / name).rename(deep / name)
    assert [entry.path.name for entry in read_list(str(path)).entries] == NAMES and "images in deep/er/" in said(path)


def test_folders_of_another_machine_stay_where_they_tell_images_apart(top: Path) -> None:
    names = [f"{part}/{i}.png" for part in "ab" for i in range(6)]
    for i, name in enumerate(names):
        save_picture(top / name, i)
    path = write(top, rows([f"/data/{name}" for name in names], HALVES))
    assert pairs(path) == list(zip(names, HALVES, strict=True))
    path = write(top, rows([f"/data/{i}/{name}" for i, name in enumerate(NAMES)], HALVES))
    assert pairs(path) == PLAIN and "folders left out of the paths" in said(path)
    path = write(top, rows([f"/data/{i}/p00.png" for i in range(NUM)], HALVES))
    with pytest.raises(ConfigError, match="12 of 12 images do not exist"):
        pairs(path)


def test_leading_zeros_and_percent_signs_and_other_suffixes(top: Path) -> None:
    for i in range(NUM):
        save_picture(top / f"{i + 1:04d}.png", i)
        save_picture(top / f"a {i}.png", i)
    for cells in ([f"{i + 1}" for i in range(NUM)], [f"{i + 1}.0" for i in range(NUM)]):
        path = write(top, [["id", "label"], *rows(cells, HALVES)])
        assert pairs(path) == [(f"{i + 1:04d}.png", HALVES[i]) for i in range(NUM)] and "leading zeros" in said(path)
    path = write(top, rows([f"a%20{i}.png" for i in range(NUM)], HALVES))
    assert pairs(path)[3][0] == "a 3.png" and "percent signs" in said(path)
    urls = [f"https://images.example.org/{i}/p{i:02d}.png?size=300#top" for i in range(NUM)]
    path = write(top, rows(urls, HALVES))
    assert pairs(path) == PLAIN and "what stands behind a ?" in said(path)
    with pytest.raises(ConfigError, match=r"do not exist: .*there is p00.png in that folder, so correct the suffixes"):
        pairs(write(top, rows([name.replace("png", "jpg") for name in NAMES], HALVES)))


def test_other_quotes_comments_and_titles(top: Path) -> None:
    for left, right in ("''", "\u201c\u201d"):
        path = write(top, rows([f"{left}{name}{right}" for name in NAMES], [f"{left}{text}{right}" for text in HALVES]))
        assert pairs(path) == PLAIN and "other quotes" in said(path)
    text = "# made by hand\n# in May\npath,label\n" + "".join(f"{name},{half}\n" for name, half in PLAIN)
    path.write_text(text.replace("p05.png", "# half of it\np05.png"))
    assert pairs(path) == PLAIN and "3 comment lines left out" in said(path)
    path.write_text("My photos\n\npath,label\n" + "".join(f"{name},{half}\n" for name, half in PLAIN))
    assert pairs(path) == PLAIN and "1 lines of a title left out" in said(path)


def test_utf_16_without_its_mark(top: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        path = write(top, [["path", "label"], *rows(NAMES, HALVES)], encoding=encoding)
        assert pairs(path) == PLAIN and "UTF-16 without its mark" in said(path)


def test_json_of_images_or_columns(top: Path) -> None:
    path = top / "list.json"
    for indent in (None, 2):
        path.write_text(json.dumps(dict(PLAIN), indent=indent))
        assert pairs(path) == PLAIN
        path.write_text(json.dumps({"image": NAMES, "age": HALVES}, indent=indent))
        assert pairs(path) == PLAIN
    path.write_text("\n".join(json.dumps({"image": {"path": name}, "label": half}) for name, half in PLAIN))
    assert pairs(path) == PLAIN
    path.write_text(json.dumps({"images": [{"file_name": "p00.png"}], "annotations": [{"image_id": 0}]}))
    with pytest.raises(ConfigError, match=r"has several tables \(images, annotations\); write one line of JSON"):
        pairs(path)


def test_a_quote_that_is_not_closed_is_named(top: Path) -> None:
    path = write(top, rows(NAMES, HALVES))
    path.write_text(path.read_text().replace("p03.png,3.5", 'p03.png,"3.5'))
    with pytest.raises(ConfigError, match="a cell runs over several lines; close its quotes"):
        pairs(path)


def test_quotes_and_commas_in_names(top: Path) -> None:
    names = ['6" nail, steel', "a;b", "C#", "=SUM(A1)", "a\tb", "it's"] * 2
    for delimiter in ",;\t":
        assert [label for _, label in pairs(write(top, rows(NAMES, names), delimiter=delimiter))] == names
