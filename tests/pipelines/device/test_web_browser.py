"""The page in a headless browser: it sees what `predict` sees, says what `predict` says, and asks nobody else.

Most of it runs with a made onnxruntime-web that answers by a known rule. The last test takes the true one, from the file of
`npm pack` that CGANKD_TEST_ONNXRUNTIME_WEB names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgankd.data.readers.decode import read_image
from cgankd.export import open_onnx
from cgankd.labels.answers import Margin, make_answer
from cgankd.types import DatasetInfo
from pipelines.device.web import Page, write_web
from pipelines.ship.predict import Predictor, label_files, reading_cells
from tests.pipelines.device.chromium import CHROMIUM, Browser, browser, offered
from tests.pipelines.device.pages import fake_runtime, info_of, write_graph

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
HOSTILE = ('<img src=x onerror="alert(1)">', "</script><b>bee", "$model &amp; cat")
RUNTIME = os.environ.get("CGANKD_TEST_ONNXRUNTIME_WEB")


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as found:
        yield found


def shown(place: Path, monkeypatch: pytest.MonkeyPatch, info: DatasetInfo, margin: Margin | None) -> Path:
    """The folder of a page with the made runtime."""
    fake_runtime(monkeypatch, place)
    onnx = write_graph(place / "student.onnx", info, make_answer(info).num_answers)
    write_web(onnx, place / "web", Page(HOSTILE[0], info, margin), workdir=place)
    return place / "web"


def pictures(place: Path) -> list[Path]:
    """Files that a phone and a desktop make: turned by their head, part transparent, of a palette, not square."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x112] = 6
    photo.save(place / "turned.jpg", exif=turned, quality=90)
    photo.convert("L").save(place / "grey.jpg")
    photo.quantize(64).save(place / "palette.png")
    photo.save(place / "photo.webp", lossless=True)
    Image.fromarray(noise[:8, :8]).save(place / "small.png")
    clear = np.dstack([noise, np.where(rng.random((48, 64)) < 0.5, 0, 255).astype(np.uint8)])
    Image.fromarray(clear).save(place / "clear.png")
    return sorted(path for path in place.iterdir() if path.suffix in (".jpg", ".png", ".webp"))


@pytest.mark.parametrize("channels", [1, 3])
def test_model_is_given_what_predict_would_give_it(
    tab: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    info = info_of(fit="pad", channels=channels, background="#208040")
    folder = shown(tmp_path, monkeypatch, info, None)
    with offered(folder) as address:
        assert tab.open(address) == "yes"
        tab.run("globalThis.answers = () => Float32Array.of(0.2, 0.7, 0.1), 0")
        for path in pictures(tmp_path):
            assert tab.choose(path) == ["bee", "0.7000", ""]
            assert np.array_equal(tab.run("globalThis.seen"), read_image(path, info)[0].ravel()), path.name


def test_names_are_text_and_nobody_else_is_asked(tab: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shown(tmp_path, monkeypatch, info_of(class_names=HOSTILE), Margin(0.9, 0.75, 40))
    picture = pictures(tmp_path)[-2]
    tab.events.clear()
    with offered(folder) as address:
        assert tab.open(address) == "yes"
        tab.run("globalThis.answers = () => Float32Array.of(0.5, 0.3, 0.2), 0")
        assert tab.choose(picture) == [HOSTILE[0], "0.5000", f"{HOSTILE[0]}, {HOSTILE[1]}"]
        assert tab.run("document.getElementById('label').textContent") == HOSTILE[0]
        assert tab.run("document.title") == HOSTILE[0]
        assert tab.run("document.querySelectorAll('img, b:not(#name b)').length") == 0
        bars = "Array.from(document.querySelectorAll('.bars li > span:first-child'), (name) => name.textContent)"
        assert tab.run(bars) == list(HOSTILE)
        asked = tab.requested()
        assert len(asked) >= 6 and all(url.startswith((address, "data:")) for url in asked), asked
        assert tab.complaints() == []


def test_policy_holds_back_what_a_page_must_not_do(
    tab: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shown(tmp_path, monkeypatch, info_of(), None)
    with offered(folder) as address, offered(tmp_path) as elsewhere:
        tab.open(address)
        for refused in (
            f"fetch({elsewhere!r})",
            "new Promise((_, no) => { const s = document.createElement('script'); s.textContent = 'globalThis.ran = 1';"
            " document.body.append(s); if (!globalThis.ran) no(new Error('held back')); })",
        ):
            assert tab.run(f"({refused}).then(() => 'done', () => 'held back')") == "held back"


def test_scalar_that_goes_round_is_said_with_its_unit(
    tab: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = info_of("scalar", label_unit="degrees", label_max=360.0, label_period=360.0)
    folder = shown(tmp_path, monkeypatch, info, Margin(0.9, 10.0, 40))
    Image.new("RGB", (8, 8), (2, 0, 0)).save(tmp_path / "dark.png")
    with offered(folder) as address:
        tab.open(address)
        tab.run("globalThis.answers = (levels) => Float32Array.of(levels[0] * 2), 0")
        assert tab.choose(tmp_path / "dark.png") == ["4", "0.9000", "354..14 (over 360)"]
        assert tab.run("document.getElementById('label').textContent") == "4 degrees"
        assert tab.run("document.querySelectorAll('.part').length") == 2


def test_picture_that_is_refused_is_taken_once_the_user_says_how(
    tab: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shown(tmp_path, monkeypatch, info_of(), None)
    wide = tmp_path / "wide.png"
    Image.new("RGB", (30, 6), (9, 9, 9)).save(wide)
    (tmp_path / "no.png").write_text("no picture")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(tmp_path / "deep.png")
    with offered(folder) as address:
        tab.open(address)
        tab.run("globalThis.answers = () => Float32Array.of(0.2, 0.7, 0.1), 0")
        assert "choose crop, pad or stretch" in tab.choose(wide)["refused"]
        assert tab.run("document.getElementById('rules').open") is True
        assert "smaller than the 8 px" in changed(tab, "fit", "value = 'crop'")["refused"]
        assert changed(tab, "enlarge", "checked = true") == ["bee", "0.7000", ""]
        assert "cannot read the file" in tab.choose(tmp_path / "no.png")["refused"]
        assert "more than 8 bits" in tab.choose(tmp_path / "deep.png")["refused"]


def changed(tab: Browser, control: str, how: str) -> object:
    """What the page answers when a control is changed."""
    tab.run("delete document.body.dataset.answer")
    tab.run(f"document.getElementById('{control}').{how}")
    tab.run(f"document.getElementById('{control}').dispatchEvent(new Event('change'))")
    return tab.run(f"JSON.parse({tab.until('document.body.dataset.answer')!r})")


def test_model_that_was_changed_is_not_asked(tab: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shown(tmp_path, monkeypatch, info_of(), None)
    data = (folder / "student.onnx").read_bytes()
    state = "document.getElementById('state').textContent"
    with offered(folder) as address:
        (folder / "student.onnx").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert tab.open(address) == "no" and "is not the file that this page was made for" in tab.run(state)
        assert tab.run("document.getElementById('choose').disabled") is True
        (folder / "student.onnx").write_bytes(data[:-1])
        assert tab.open(address) == "no" and f"it has {len(data) - 1} bytes" in tab.run(state)
        (folder / "student.onnx").unlink()
        assert tab.open(address) == "no" and "does not come (404)" in tab.run(state)


def test_page_that_browsers_do_not_trust_says_how_it_checked(
    tab: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shown(tmp_path, monkeypatch, info_of(), None)
    source = "Object.defineProperty(globalThis, 'isSecureContext', { value: false })"
    script = tab.ask("Page.addScriptToEvaluateOnNewDocument", source=source)["identifier"]
    try:
        with offered(folder) as address:
            assert tab.open(address) == "yes"
            assert "only its length was compared" in tab.run("document.getElementById('facts').textContent")
    finally:
        tab.ask("Page.removeScriptToEvaluateOnNewDocument", identifier=script)


def test_page_fits_a_phone_and_is_steered_by_keys(
    tab: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = info_of(class_names=("a" * 80, "bee", "cat"), fit="crop")
    folder = shown(tmp_path, monkeypatch, info, Margin(0.9, 1.0, 40))
    tab.size(390, 844, mobile=True)
    with offered(folder) as address:
        tab.open(address)
        tab.run("globalThis.answers = () => Float32Array.of(0.7, 0.2, 0.1), 0")
        assert tab.choose(pictures(tmp_path)[0])[0] == "a" * 80
        assert tab.run("document.documentElement.scrollWidth") <= 390
        tab.run("document.getElementById('rules').open = true")
        reached = []
        tab.run("document.activeElement.blur()")
        for _ in range(5):
            for kind in ("rawKeyDown", "keyUp"):
                tab.ask("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
            reached.append(tab.run("document.activeElement.id || document.activeElement.tagName"))
        assert reached == ["choose", "take", "SUMMARY", "fit", "enlarge"]


@pytest.mark.skipif(RUNTIME is None, reason="needs CGANKD_TEST_ONNXRUNTIME_WEB, the file of `npm pack onnxruntime-web`")
def test_true_runtime_answers_as_predict(tab: Browser, tmp_path: Path) -> None:
    assert RUNTIME is not None
    margin = Margin(0.9, 0.6, 40)
    info = info_of(fit="crop")
    onnx = write_graph(tmp_path / "student.onnx", info, 3)
    files = pictures(tmp_path)
    write_web(onnx, tmp_path / "web", Page("True", info, margin), workdir=tmp_path, runtime=Path(RUNTIME))
    predictor = Predictor(open_onnx(onnx), info, make_answer(info), margin)
    tab.events.clear()
    with offered(tmp_path / "web") as address:
        assert tab.open(address) == "yes"
        for labelled in label_files(predictor, files):
            assert labelled.reading is not None
            label, confidence, region = reading_cells(labelled.reading)
            assert tab.choose(labelled.path) == [label, confidence, region or "none fits"]
        assert all(url.startswith((address, "data:")) for url in tab.requested()) and tab.complaints() == []
