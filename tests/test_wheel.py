"""The wheel: what a user installs has the embedded photographs, their licence and notice, and the presets."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.conftest import ROOT

OLDEST = (77, 0)
"""Of setuptools, as [build-system] in pyproject.toml asks for."""
BUILDER = "from setuptools import build_meta as b; print(b.build_wheel('dist')); print(b.build_sdist('dist'))"
HANDS = "cgankd/data/readers/embedded/hands"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive of a copy of this tree, built offline."""
    if tuple(map(int, version("setuptools").split(".")[:2])) < OLDEST:
        pytest.skip("this environment's setuptools is older than the one that the build asks for")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    for name in ("cgankd", "pipelines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILDER], cwd=folder, check=True, capture_output=True)
    return folder / "dist"


def test_the_wheel_has_the_photographs_with_their_licence(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        for name in ("hands.webp", "LICENSE", "NOTICE"):
            assert wheel.read(f"{HANDS}/{name}") == (ROOT / HANDS / name).read_bytes()
        assert {f"pipelines/presets/{preset.name}" for preset in (ROOT / "pipelines/presets").glob("*.yaml")} <= set(
            names
        )
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        found = Parser().parsestr(wheel.read(about).decode())
        assert found["License-Expression"] == "MIT AND Apache-2.0"
        assert found.get_all("License-File") == ["LICENSE", f"{HANDS}/LICENSE", f"{HANDS}/NOTICE"]
        licences = about.replace("METADATA", "licenses/")
        assert all(licences + name in names for name in found.get_all("License-File") or [])


def test_so_has_the_source_archive(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        top = archive.getnames()[0].split("/")[0]
        file = archive.extractfile(f"{top}/{HANDS}/hands.webp")
        assert file is not None
        here = (ROOT / HANDS / "hands.webp").read_bytes()
        assert hashlib.sha256(file.read()).digest() == hashlib.sha256(here).digest()
