"""A password in every variable that may hold one: no command prints it, keeps it, or hands it on in an argument."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, preset
from tests.pipelines.tracking.test_mlflow_sink import dead_server
from tests.tiny import write_params

CANARY = "Kanarien%2Fv0gel"
"""As it stands in an address; a slash when it is decoded."""
FORMS = ("Kanarien", "v0gel")


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """A project that keeps its runs in MLflow."""
    values = preset("digits")
    values["tracking"]["mlflow"] = True
    (place := tmp_path / "project").mkdir()
    write_params(place, values)
    return place


def variables(tracking: str, storage: str) -> dict[str, str]:
    proxy = f"http://me:{CANARY}@127.0.0.1:9"
    return {
        "MLFLOW_TRACKING_URI": tracking,
        "CGANKD_SEARCH_STORAGE": storage,
        **dict.fromkeys(("HTTP_PROXY", "https_proxy", "ALL_PROXY"), proxy),
        "NO_PROXY": "127.0.0.1",
        "CGANKD_THREADS": "1",
        "CGANKD_DEBUG": "1",  # tracebacks too
        "PYTHONPATH": str(ROOT),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def arguments(parent: int) -> list[str]:
    """The command lines of a process's children, and of theirs."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        own = [Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ") for child in children]
    except OSError:
        return []
    return own + [line for child in children for line in arguments(int(child))]


def run(folder: Path, env: dict[str, str], *words: str) -> tuple[str, list[str]]:
    """What a command prints, and the arguments of the processes that it starts; a server is ended after some seconds."""
    with (folder.parent / "printed.txt").open("w+") as printed:
        command = [sys.executable, "-m", "cgankd", *words]
        process = subprocess.Popen(command, cwd=folder, env=os.environ | env, stdout=printed, stderr=subprocess.STDOUT)
        seen: list[str] = []
        for _ in range(300 if words == ("ui",) else 100_000):
            if process.poll() is not None:
                break
            seen += arguments(process.pid)
            time.sleep(0.05)
        process.terminate()
        process.wait(60)
        printed.seek(0)
        return printed.read(), [line for line in seen if " ".join(words) not in line]  # what the user typed is theirs


def held(folder: Path) -> list[str]:
    """Files of the project that hold a piece of the password."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if any(form.encode() in path.read_bytes() for form in FORMS)]


SERVER = [
    ("prepare",),
    ("prepare", "--set", f"search.storage=postgresql://me@h/x?password={CANARY}"),
    ("prepare", "--set", f"data.root=https://me:{CANARY}@h/x"),
    ("show", "prepare"),
    ("sync",),
    ("doctor",),
    ("report",),
    ("compare", "somewhere"),
    ("serve",),
    ("search", "best"),
    ("ui",),
]
DATABASE = [("prepare",), ("sync",), ("doctor",), ("search", "dashboard"), ("ui",)]


@pytest.mark.parametrize("kind", ["server", "database"])
def test_no_command_shows_keeps_or_hands_on_a_password(kind: str, folder: Path) -> None:
    if kind == "server":
        server = dead_server().removeprefix("http://")
        env = variables(f"http://me:{CANARY}@{server}", f"postgresql://me:{CANARY}@127.0.0.1:9/base")
    else:
        env = variables(
            f"postgresql+psycopg2://me:{CANARY}@127.0.0.1:9/base",
            f"mysql+pymysql://me@127.0.0.1:9/base?password={CANARY}&ssl_key=x",
        )
    said = ""
    for words in SERVER if kind == "server" else DATABASE:
        printed, lines = run(folder, env, *words)
        assert not [form for form in FORMS if form in printed], (words, printed)
        assert not [line for line in lines if any(form in line for form in FORMS)], (words, lines)
        said += printed
    assert held(folder) == [] and "MLflow failed" in said
    assert "training goes on" in (folder / "artifacts" / "logs" / "prepare.jsonl").read_text()
