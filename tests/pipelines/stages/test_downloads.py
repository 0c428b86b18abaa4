from __future__ import annotations

import dataclasses
import hashlib
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cgankd.config import ConfigError, DataConfig
from cgankd.data.readers import cifar
from cgankd.data.readers.sources import load
from pipelines.stages.downloads import fetch, unpack
from tests.data.builders import data_config
from tests.data.readers.test_cifar import write_py


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture()
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server of this machine alone that gives out the files in tmp_path."""
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture()
def archive(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive of a small CIFAR-10, at the address the edition names."""
    write_py(tmp_path / "made", "cifar10", monkeypatch)
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        file.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    expect(hashlib.md5(path.read_bytes()).hexdigest(), monkeypatch, url=address + path.name)
    return path


def expect(md5: str, monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    edition = dataclasses.replace(cifar.EDITIONS["cifar10"], archive_md5=md5, **changes)
    monkeypatch.setitem(cifar.EDITIONS, "cifar10", edition)


def settings(root: Path, download: bool = True) -> DataConfig:
    return data_config(source="cifar10", root=str(root), image_size=32, channels=3, val_per_label=1, download=download)


def test_archive_is_fetched_once_and_read(tmp_path: Path, archive: Path) -> None:
    cfg, said = settings(tmp_path / "data"), []
    fetch(cfg, said.append)
    assert len(load(cfg, 0).train) == 40
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-10-batches-py"]
    archive.unlink()
    fetch(cfg, said.append)
    assert len(said) == 1


def test_nothing_is_fetched_unless_asked(tmp_path: Path, archive: Path) -> None:
    fetch(settings(tmp_path / "data", download=False), pytest.fail)
    assert not (tmp_path / "data").exists()


def test_wrong_archive_is_not_unpacked(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect("0" * 32, monkeypatch)
    with pytest.raises(
        ConfigError, match=r"data.download: .*could not be fetched into .*corrupted.*put cifar-10-batch"
    ):
        fetch(settings(tmp_path / "data"), lambda text: None)
    assert not (tmp_path / "data" / "cifar-10-batches-py").exists()


def test_address_that_does_not_answer(tmp_path: Path, archive: Path) -> None:
    archive.unlink()
    with pytest.raises(ConfigError, match="could not be fetched"):
        fetch(settings(tmp_path / "data"), lambda text: None)


@pytest.mark.parametrize("filters", [True, False])
def test_nothing_is_unpacked_outside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filters: bool) -> None:
    """Also by Python 3.11.0 to 3.11.3, whose tarfile knows no filters."""
    if not filters:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
        # Those have no warning either that no filter is named.
        monkeypatch.setattr(tarfile.TarFile, "extraction_filter", staticmethod(lambda member, _: member), raising=False)
    elif not hasattr(tarfile, "data_filter"):
        pytest.skip("this Python's tarfile has no filters")
    (tmp_path / "a.txt").write_text("a")
    inside, outside = tmp_path / "inside", tmp_path / "escaped.txt"
    with tarfile.open(tmp_path / "t.tar", "w") as file:
        file.add(tmp_path / "a.txt", "folder/a.txt")
        if not filters:
            file.add(tmp_path / "a.txt", "../escaped.txt")
    inside.mkdir()
    with tarfile.open(tmp_path / "t.tar") as file:
        unpack(file, str(inside))
    assert (inside / "folder" / "a.txt").read_text() == "a" and not outside.exists()
