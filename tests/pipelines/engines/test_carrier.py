"""Files by an address: what was damaged there is named, and the command that is given again goes through. Needs no Ray."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cgankd.config import ConfigError
from pipelines.engines.carrier import ByAddress, ByRay, fetched
from pipelines.engines.freight import Item, item_of
from pipelines.engines.on_ray import place

pytest.importorskip("fsspec", reason="fsspec is not installed (pip install 'cgankd[ray]')")


def damaged(path: Path) -> Path:
    """One byte of a file is another one."""
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    return path


def file(folder: Path) -> tuple[Path, Item]:
    """A file that is to be sent."""
    path = folder / "teacher.safetensors"
    path.write_bytes(b"weights")
    return path, item_of(path)


def test_a_damaged_file_of_the_store_is_named_and_comes_whole_once_it_is_deleted(tmp_path: Path) -> None:
    path, item = file(tmp_path)
    by = ByAddress((tmp_path / "store").as_uri())
    by.put({item.digest: path})
    there = damaged(tmp_path / "store" / item.digest)
    for _ in range(2):  # what is there in its size is not sent again
        by.put({item.digest: path})
        with pytest.raises(
            ConfigError, match=r"teacher.safetensors reached b with other bytes than were sent"
        ) as error:
            fetched(item, by, tmp_path / "cache", "b")
        found = re.search(r"delete (\S+), which is damaged, then give the same command$", str(error.value))
        assert found is not None and Path(found[1]) == there
    Path(found[1]).unlink()
    by.put({item.digest: path})
    assert fetched(item, by, tmp_path / "cache", "b").read_bytes() == b"weights"


def test_a_damaged_result_is_named_and_comes_home_once_it_is_deleted(tmp_path: Path) -> None:
    path, item = file(tmp_path)
    by = ByAddress((tmp_path / "store").as_uri())
    by.send(item, path)
    there = damaged(tmp_path / "store" / item.digest)
    path.unlink()
    with pytest.raises(
        ConfigError, match=rf"reached this machine with other .*; delete {there}, which is damaged, then"
    ):
        place(by.send(item, damaged(file(tmp_path)[0])), by)
    there.unlink()
    place(by.send(item, file(tmp_path)[0]), by)
    assert path.read_bytes() == b"weights"


def test_the_address_of_a_bucket_is_whole() -> None:
    assert (
        ByAddress("memory://bucket/folder/").cure("0" * 64)
        == f"delete memory://bucket/folder/{'0' * 64}, which is damaged"
    )
    assert "delete" not in ByRay().cure("0" * 64), "there is nothing that stays"
