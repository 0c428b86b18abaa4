"""The tutorials as a reader follows them: every code block is really run, in order, with what comes out of it at hand.

Settings are made tiny so that a page takes a minute; all that a block is changed by stands in TINY and CHANGES.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.pipelines.conftest import empty_store  # noqa: F401
from tests.tiny import project, tiny

PAGES = ROOT / "docs/tutorials"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = {"bash", "python", "yaml"}
BLOCK_S, SERVER_S = 1200, 300

ARMS = {
    "real": {},
    "real_kd": {"kd": True},
    "real_mix_kd": {"kd": True, "mix": "mixup"},
    "raw": {"bank": True},
    "raw_mix_kd": {"bank": True, "kd": True, "mix": "mixup"},
    "filter": {"bank": True, "subsample": True, "filter": True},
}
FEW = {"student.arms": ARMS, "student.best_with_kd": False, "student.num_steps": 20, "teacher.num_steps": 30}
TINY = {
    # page: the line that writes params.yaml, over which the settings of tests/tiny.py (but for `data`) and FEW are laid then
    "first-run": "",  # the clone has them from the start
    "own-images": "cgankd init scans --images photos",
    "own-teacher": "cgankd use digits",
}
CHANGES = {
    # page: what stands there -> what is run
    "first-run": {"cgankd ui": "cgankd ui --port PORT"},
    "own-images": {
        "zip(scans.images, scans.target)": "zip(scans.images[:400], scans.target[:400])",
        "cgankd export": "cgankd export --repeats 3",
        "cgankd serve": "cgankd serve --port PORT",
        "127.0.0.1:5001": "127.0.0.1:PORT",
    },
    "own-teacher": {"MyNet(), 300": "MyNet(), 20", "resnet18(num_classes=10), 100": "resnet18(num_classes=10), 3"},
}
SERVERS = {"cgankd ui": "/", "cgankd serve": "/health"}
"""Commands that go on until they are stopped -> an address that answers when they are up."""
LOOKED_AT = {"cgankd ui"}
"""Those that are stopped once they have answered; the others serve until the end of the page."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of every fenced block of a tutorial, in order."""
    return FENCE.findall((PAGES / f"{page}.md").read_text(encoding="utf-8"))


class Reader:
    """Somebody who types the blocks of a page into a terminal: folder and environment last from block to block."""

    def __init__(self, page: str, folder: Path, code: Path, store: Path) -> None:
        self.page, self.folder, self.store = page, folder, store
        self.state = folder.parent / f"{page}.state"
        self.said = ""
        self.servers: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # A git that knows nobody and guesses no name, as on a new machine.
        unknown = folder.parent / f"{page}.gitconfig"
        unknown.write_text("[user]\n\tuseConfigOnly = true\n")
        left_out = ("MLFLOW_", "DVC_", "CGANKD_", "VIRTUAL_ENV", "GIT_", "EMAIL")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(left_out)} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(code),
            "CGANKD_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc-site-cache"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "GIT_CONFIG_GLOBAL": str(unknown),
            "GIT_CONFIG_NOSYSTEM": "1",
        }

    def follow(self) -> None:
        """Run every block of the page."""
        for number, (language, text) in enumerate(blocks(self.page), 1):
            for there, run in CHANGES[self.page].items():
                text = text.replace(there, run)
            text = text.replace("PORT", str(self.port))
            if language == "bash":
                self.type(text, number)
            elif language == "python":
                self.python(text, number)
            elif language == "yaml":
                self.lay_over(YAML(typ="safe").load(text))
            if TINY[self.page] and TINY[self.page] in text:
                self.shrink()

    def type(self, text: str, number: int) -> None:
        """A block for the shell; a server in it is started beside and waited for."""
        first = text.strip().split(" --port")[0]
        if first in SERVERS:
            self.serve(text.strip(), SERVERS[first])
            if first in LOOKED_AT:
                self.stop()
            return
        before = f'. "{self.state}"; cd "$HERE"\n' if self.state.exists() else ""
        after = f'\nexport HERE="$PWD"; export -p > "{self.state}"\n'
        self.run(["bash", "-euo", "pipefail", "-c", f"{before}{text}{after}"], number)
        here = re.search(r'^declare -x HERE="(.*)"$', self.state.read_text(), re.MULTILINE)
        assert here is not None
        self.folder = Path(here[1])

    def python(self, text: str, number: int) -> None:
        """A program of its own."""
        script = self.state.with_name(f"{self.page}-{number}.py")
        script.write_text(text, encoding="utf-8")
        self.run([sys.executable, "-W", "ignore", str(script)], number)

    def run(self, command: list[str], number: int) -> None:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BLOCK_S,
            check=False,
        )
        self.said += done.stdout
        assert done.returncode == 0, (
            f"block {number} of {self.page}.md ended with {done.returncode}:\n{done.stdout[-6000:]}"
        )

    def serve(self, command: str, path: str) -> None:
        """Start a server in a group of its own and wait until it answers."""
        with (self.state.with_suffix(".log")).open("ab") as log:
            server = subprocess.Popen(
                command.split(), cwd=self.folder, env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        self.servers.append(server)
        end = time.monotonic() + SERVER_S
        while time.monotonic() < end:
            assert server.poll() is None, f"{command} ended:\n{self.state.with_suffix('.log').read_text()[-3000:]}"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                    assert answer.status == 200
                    return
            except OSError:
                time.sleep(0.3)
        raise AssertionError(f"{command} does not answer")

    def stop(self) -> None:
        """End the servers."""
        while self.servers:
            server = self.servers.pop()
            # The whole group, for MLflow leaves the answering to a child.
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)

    def lay_over(self, values: Mapping[str, Any]) -> None:
        """Settings of the page over those of params.yaml, as a reader types them into their sections."""
        path, yaml = self.folder / "params.yaml", YAML()
        document = yaml.load(path.read_text())
        for section, settings in values.items():
            document[section].update(settings)
        with path.open("w") as stream:
            yaml.dump(document, stream)

    def shrink(self) -> None:
        """Tiny settings over params.yaml, no MLflow while stages run, and a store whose tables are made for `ship`."""
        small = small_settings()
        del small["data"], small["search"], small["seed"]
        self.lay_over(small | {"tracking": {"mlflow": False}})
        shutil.copyfile(self.store, self.folder / "mlflow.db")


def small_settings() -> dict[str, Any]:
    """The tiny digits with few arms."""
    values = tiny("digits")
    for name, value in FEW.items():
        section, key = name.split(".")
        values[section][key] = value
    return values


@pytest.fixture()
def reader(request: pytest.FixtureRequest, tmp_path: Path, empty_store: Path) -> Iterator[Reader]:  # noqa: F811
    """A reader at the start of a page: in a clone for the first, in an empty folder for the others."""
    page, folder = request.param, tmp_path / "here"
    if page == "first-run":
        project(folder, small_settings())
        clone(folder)
        subprocess.run(["git", "config", "--remove-section", "user"], cwd=folder, check=True)
        shutil.copyfile(empty_store, folder / "mlflow.db")
    else:
        folder.mkdir()
    found = Reader(page, folder, folder if page == "first-run" else ROOT, empty_store)
    yield found
    found.stop()


def clone(folder: Path) -> None:
    """What `make repro` needs beside the code: the Makefile, and an environment that is installed already: this one."""
    if not (Path(sys.prefix) / "pyvenv.cfg").exists():
        pytest.skip("make repro works in a virtual environment, and these tests run in none")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if not path.name.startswith(".installed"):
            (folder / ".venv" / path.name).symlink_to(path)
    (folder / ".venv/.installed-constraints.txt").touch()


def shown(page: str) -> set[str]:
    """Words of the expected output on a page."""
    texts = [text for language, text in blocks(page) if language == "text"]
    return set(re.findall(r"[a-z_]{5,}", " ".join(texts)))


def check_shown(reader: Reader, *but: str) -> None:
    """Most words of the output that the page shows came out here too; another size of run says some things otherwise."""
    words = shown(reader.page) - set(but)
    missing = {word for word in words if word not in reader.said}
    assert len(missing) <= 0.25 * len(words), sorted(missing)


def test_every_block_is_run_or_is_output() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")} - {"index"}
    assert pages == set(CHANGES) == set(TINY)
    for page in pages:
        found = blocks(page)
        assert {language for language, _ in found} <= RUN | {"text"} and len(found) >= 8
        text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
        assert text.count("```") == 2 * len(found)
        for there in [*CHANGES[page], TINY[page]]:
            assert there in text, f"{page}.md has no {there!r} any more"


@pytest.mark.parametrize("reader", ["first-run"], indirect=True)
def test_first_run(reader: Reader) -> None:
    reader.follow()
    check_shown(reader)
    result = json.loads((reader.folder / "metrics/evaluate.json").read_text())
    assert result["chosen_arm"] in result["verdict"]
    assert (reader.folder / "report.html").exists() and (reader.folder / "comparison.html").exists()
    # The second `make repro` ran nothing; the experiment ran three stages.
    stages = re.findall(r"Running stage '(\w+)'", reader.said)
    assert stages[7:] == ["bank", "student", "evaluate"] and "Data and pipelines are up to date" in reader.said


@pytest.mark.parametrize("reader", ["own-images"], indirect=True)
def test_own_images(reader: Reader) -> None:
    reader.follow()
    check_shown(reader)
    assert reader.folder.name == "scans"
    lines = (reader.folder / "labels.csv").read_text().splitlines()
    assert lines[0] == "path,label,confidence,region,error" and len(lines) == 1 + len(
        list((reader.folder / "../photos/3").iterdir())
    )
    assert {path.suffix for path in (reader.folder / "artifacts/export").iterdir()} >= {".onnx", ".pt2", ".json"}
    assert "CC BY 4.0" in (reader.folder / "artifacts/model_card.md").read_text()
    assert re.search(r"\d{4}\.png: class \d with probability 0\.\d\d", reader.said)


@pytest.mark.parametrize("reader", ["own-teacher"], indirect=True)
def test_own_teacher(reader: Reader) -> None:
    reader.follow()
    check_shown(reader)
    config = json.loads((reader.folder / "artifacts/teacher.config.json").read_text())
    assert config["net"] == "torchvision:resnet18" and "program" not in config  # of the last block
    assert "teacher my-teacher.pt2" in reader.said and "teacher my-resnet18.pt" in reader.said
    with h5py.File(reader.folder / "artifacts/bank.h5") as bank:
        assert len(bank["images"]) == 60
    assert json.loads((reader.folder / "metrics/evaluate.json").read_text())["chosen_arm"]
