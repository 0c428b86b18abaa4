"""The folder with a page: what is in it, what may be in its way, and whose bytes it takes."""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cgankd.config import ConfigError
from cgankd.labels.answers import Margin
from pipelines.device import web
from pipelines.device.web import Page, write_web
from tests.pipelines.device.pages import FAKE, fake_runtime, info_of, model_of, write_graph

pytest.importorskip("onnxruntime")
HOSTILE = ('<img src=x onerror="alert(1)">', "</script><script>alert(2)</script>", "<!-- ' \" & \u2028 $title ${model}")
OUTSIDE = re.compile(r"(?:https?|wss?|ftp):|[\"'(=\s]//\w")
"""An address of another place; a comment begins with a blank after its strokes."""


@pytest.fixture()
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder with a made onnxruntime-web and a graph of three classes."""
    fake_runtime(monkeypatch, tmp_path)
    write_graph(tmp_path / "student.onnx", info_of(), 3)
    return tmp_path


def made(place: Path, page: Page | None = None, **options: Path) -> Path:
    page = page or Page("Bugs", info_of(), Margin(0.9, 0.7, 40))
    files = write_web(place / "student.onnx", place / "web", page, workdir=place, **options)
    assert files[0] == place / "web" / "index.html"
    return place / "web"


class Tags(HTMLParser):
    """Every element with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_folder_holds_the_page_the_model_and_the_runtime_with_its_licence(place: Path) -> None:
    folder = made(place)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    runtime = [
        f"onnxruntime-web/{name}" for name in ("LICENSE", "ThirdPartyNotices.txt", *(p.name for p in web.PINNED))
    ]
    own = ["answer.js", "index.html", "page.css", "page.js", "prepare.js", "student.onnx"]
    assert names == sorted(own + runtime)
    assert (folder / "student.onnx").read_bytes() == (place / "student.onnx").read_bytes()
    assert (folder / "onnxruntime-web/ort-wasm-simd-threaded.js").read_bytes() == FAKE[
        "dist/ort-wasm-simd-threaded.mjs"
    ]
    assert "MIT License" in (folder / "onnxruntime-web/LICENSE").read_text()
    assert [path.name for path in place.iterdir() if path.name.startswith(".")] == []


def test_page_states_the_model_with_its_digest_and_its_rules(place: Path) -> None:
    info = info_of(pad_colour="#ff8000", background="#102030", fit="pad", enlarge=True)
    margin = Margin(0.95, 0.25, 123)
    found = model_of(made(place, Page("Bugs", info, margin, facts=(("Test error", "8 %"),))))
    data = (place / "student.onnx").read_bytes()
    assert (found["bytes"], found["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert found["info"]["class_names"] == ["ant", "bee", "cat"]
    assert (found["info"]["fit"], found["info"]["enlarge"], found["info"]["label_period"]) == ("pad", True, None)
    assert found["rules"] == {
        "backgroundLevels": [16, 32, 48],
        "padLevels": [255, 128, 0],
        "tallFirst": web._tall_first(),
    }
    assert found["margin"] == {"level": 0.95, "width": 0.25, "num": 123}
    assert found["facts"] == [["Test error", "8 %"]]


def test_names_of_others_are_text_whatever_they_hold(place: Path) -> None:
    page = Page(
        HOSTILE[0], info_of(class_names=HOSTILE), None, no_margin=HOSTILE[1], facts=(HOSTILE[:2],), kicker=HOSTILE[2]
    )
    folder = made(place, page)
    text = (folder / "index.html").read_text()
    plain = made(place, Page("t", info_of(), None))
    tags = Tags(text).found
    assert [tag for tag, _ in tags] == [tag for tag, _ in Tags((plain / "index.html").read_text()).found]
    assert "<img" not in text and "alert(2)</script>" not in text
    (folder / "index.html").write_text(text)
    found = model_of(folder)
    assert tuple(found["info"]["class_names"]) == HOSTILE and found["no_margin"] == HOSTILE[1]
    assert "innerHTML" not in (folder / "page.js").read_text()


def test_page_lets_nothing_in_but_its_own_files(place: Path) -> None:
    folder = made(place)
    tags = Tags((folder / "index.html").read_text()).found
    policy = next(a["content"] or "" for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'" and rules["style-src"] == "'self'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'" and rules["base-uri"] == rules["form-action"] == "'none'"
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        if tag == "script":
            assert attributes.get("src") or attributes.get("type") == "application/json"
        for name in ("src", "href"):
            address = attributes.get(name)
            assert address is None or address == "data:," or (folder / address).is_file(), address
    for path in folder.iterdir():
        if path.suffix in (".html", ".js", ".css"):
            assert not OUTSIDE.findall(path.read_text()), path


def test_every_control_has_a_name_that_a_reader_says(place: Path) -> None:
    text = (made(place) / "index.html").read_text()
    tags = Tags(text).found
    fields = [attributes for tag, attributes in tags if tag in ("input", "select")]
    targets = {attributes.get("for") for tag, attributes in tags if tag == "label"}
    for field in fields:
        inside = re.search(rf'<label[^>]*>\s*<input id="{field["id"]}"[^>]*>\s*[A-Z]', text)
        assert inside or field["id"] in targets, field
    take = next(field for field in fields if field["id"] == "take")
    assert take["capture"] == "environment" and take["accept"] == "image/*"
    assert 'role="status"' in text and 'aria-live="polite"' in text


def test_second_export_takes_the_place_of_the_first_and_its_runtime(place: Path) -> None:
    folder = made(place)
    (place / web.PACKED).unlink()
    made(place, Page("Again", info_of(), None))
    assert "Again" in (folder / "index.html").read_text()
    (folder / "onnxruntime-web" / "ort.wasm.min.js").write_text("changed")
    with pytest.raises(ConfigError, match="SHA-256 differs"):
        made(place)
    assert (folder / "onnxruntime-web" / "ort.wasm.min.js").read_text() == "changed"


def test_folder_of_others_is_left_alone(place: Path) -> None:
    (place / "web").mkdir()
    made(place)
    shutil.rmtree(place / "web")
    (place / "web").mkdir()
    (place / "web" / "index.html").write_text("<p>mine")
    with pytest.raises(ConfigError, match="holds no page of an earlier export"):
        made(place)
    assert [path.name for path in (place / "web").iterdir()] == ["index.html"]
    shutil.rmtree(place / "web")
    (place / "web").write_text("a file")
    with pytest.raises(ConfigError, match="is no folder"):
        made(place)


@pytest.mark.parametrize("name", ["notes.txt", "onnxruntime-web/mine.js", "photos/a/b.png", ".hidden"])
def test_a_file_that_no_export_wrote_keeps_the_folder(place: Path, name: str) -> None:
    folder = made(place)
    before = (folder / "index.html").read_bytes()
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"web holds {name}, which no export has written"):
        made(place, Page("Again", info_of(), None))
    assert (folder / name).read_text() == "mine" and (folder / "index.html").read_bytes() == before


def test_a_link_in_the_place_of_the_page_is_kept(place: Path) -> None:
    (place / "elsewhere").mkdir()
    (place / "web").symlink_to("elsewhere")
    with pytest.raises(ConfigError, match="is a link"):
        made(place)
    assert (place / "web").is_symlink()


def test_runtime_that_is_not_here_is_one_sentence_with_the_command(place: Path) -> None:
    (place / web.PACKED).unlink()
    with pytest.raises(ConfigError, match=rf"npm pack onnxruntime-web@{web.VERSION}") as problem:
        made(place)
    assert "\n" not in str(problem.value) and not (place / "web").exists()
    with pytest.raises(ConfigError, match="does not exist"):
        made(place, runtime=place / "nowhere.tgz")


def test_runtime_is_taken_from_a_folder_that_is_named_or_from_node_modules(place: Path) -> None:
    packed = place / web.PACKED
    with tarfile.open(packed) as archive:
        archive.extractall(place / "unpacked", filter="data")
    packed.unlink()
    made(place, runtime=place / "unpacked")
    shutil.rmtree(place / "web")
    (place / "node_modules").mkdir()
    (place / "unpacked" / "package").rename(place / "node_modules" / "onnxruntime-web")
    made(place)
    shutil.rmtree(place / "web")
    (place / "unpacked" / "dist").mkdir()
    with pytest.raises(ConfigError, match="it has no dist/ort.wasm.min.js"):
        made(place, runtime=place / "unpacked")


def test_bytes_that_are_not_pinned_are_refused(place: Path) -> None:
    packed = place / web.PACKED
    data = bytearray(packed.read_bytes())
    data[9] ^= 1  # a byte of the head, which changes nothing that is unpacked
    packed.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match="SHA-512 differs"):
        made(place)
    folder = place / "loose" / "dist"
    folder.mkdir(parents=True)
    for name, content in FAKE.items():
        (place / "loose" / name).write_bytes(content + b" ")
    with pytest.raises(ConfigError, match="SHA-256 differs"):
        made(place, runtime=place / "loose")
    assert not (place / "web").exists()


def test_model_of_another_data_set_or_damaged_is_one_sentence(place: Path) -> None:
    with pytest.raises(ConfigError, match="of another data set"):
        made(place, Page("t", info_of(class_names=("a", "b")), None))
    with pytest.raises(ConfigError, match="does not answer"):
        made(place, Page("t", info_of(image_size=9), None))
    data = (place / "student.onnx").read_bytes()
    (place / "student.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(ConfigError, match="cannot be opened"):
        made(place)
    assert not (place / "web").exists()


def test_pins_are_of_one_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", web.VERSION) and web.VERSION in web.PACKED
    assert len(web.INTEGRITY) == 88 and {len(pinned.sha256) for pinned in web.PINNED} == {64}
