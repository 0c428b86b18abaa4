"""Files that the user names: a link stays and the file behind it is written; what is no file is refused before the work."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cgankd.config import ConfigError
from pipelines.commands.app import app
from pipelines.files.params import set_value
from pipelines.files.writing import file_meant
from tests.conftest import preset
from tests.pipelines.report.test_compare import result, save
from tests.tiny import write_params

WRITERS: dict[str, Sequence[str]] = {
    "report": ["report", "--no-track", "--out"],
    "table": ["compare", ".", "--html", "other.html", "--csv"],
    "page": ["compare", ".", "--csv", "other.csv", "--html"],
}


@pytest.fixture()
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_params(tmp_path, preset("digits"))
    save(tmp_path, result(0))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", WRITERS)
def test_a_link_stays_and_its_file_is_written(folder: Path, kind: str) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/real").write_text("former")
    (folder / "named").symlink_to("elsewhere/real")
    done = CliRunner().invoke(app, [*WRITERS[kind], "named"])
    assert done.exit_code == 0, done.output
    assert (folder / "named").is_symlink() and (folder / "elsewhere/real").stat().st_size > 100
    (folder / "named").unlink()
    (folder / "named").symlink_to("elsewhere/new")  # to a file that is not there yet
    assert CliRunner().invoke(app, [*WRITERS[kind], "named"]).exit_code == 0
    assert (folder / "named").is_symlink() and (folder / "elsewhere/new").is_file()


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_no_file_is_refused_and_nothing_is_written(folder: Path, kind: str, linked: bool) -> None:
    os.mkfifo(folder / "pipe")
    if linked:
        (folder / "link").symlink_to("pipe")
    done = CliRunner().invoke(app, [*WRITERS[kind], "link" if linked else "pipe"])
    assert done.exit_code == 2 and "is a device, pipe or socket" in done.output, done.output
    assert stat.S_ISFIFO((folder / "pipe").stat().st_mode) and not list(folder.glob("other.*"))


def test_devices_and_circles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/dev/null is a device"):
        file_meant(Path("/dev/null"))
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="leads nowhere"):
        file_meant(tmp_path / "a")


def test_settings_are_written_behind_a_link(folder: Path) -> None:
    (folder / "params.yaml").rename(folder / "shared.yaml")
    (folder / "params.yaml").symlink_to("shared.yaml")
    set_value(folder / "params.yaml", "seed", 5)
    assert (folder / "params.yaml").is_symlink() and "seed: 5" in (folder / "shared.yaml").read_text()
