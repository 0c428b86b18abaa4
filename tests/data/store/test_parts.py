"""Pools and banks in several files: the rows of one file in the same order, and a part that does not fit is named."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import torch
from torch import Tensor

from cgankd.data.store.banks import (
    BankWriter,
    PoolRows,
    pool_writer,
    read_attributes,
    read_bank,
    read_pool_images,
    read_pool_scores,
    read_pool_stream,
    write_bank,
)
from cgankd.data.store.parts import StreamedParts
from cgankd.data.store.stream import MemoryBudget, StreamedImages

NUM = 57
ATTRIBUTES: dict[str, str | int | float] = {"config": "{}", "teacher": "abc", "number": 3}


def rows(num: int, start: int = 0) -> PoolRows:
    gen = torch.Generator().manual_seed(start)
    images = torch.randint(256, (num, 2, 4, 4), dtype=torch.uint8, generator=gen)
    label = start + torch.arange(num)
    score = torch.rand(4, num, generator=gen)
    outputs = torch.rand(num, 3, generator=gen).half()
    shard = torch.full((num,), start, dtype=torch.int32)
    return PoolRows(images, label, label + 1, score[0], score[1], outputs, score[2], shard, score[3])


def fill(writer: BankWriter, attributes: dict[str, str | int | float]) -> None:
    with writer:
        for start in range(0, NUM, 10):
            writer.append(rows(min(10, NUM - start), start))
        writer.set_columns({"in_raw": torch.arange(NUM) % 3 == 0})
        writer.close(attributes)


def write(path: Path, most: int | None, attributes: dict[str, str | int | float] | None = None) -> Path:
    fill(pool_writer(path, (2, 4, 4), 3, torch.int64, spread=True, rows_per_file=most), attributes or ATTRIBUTES)
    return path


@pytest.mark.parametrize("most", [1, 8, 10, 56, 57, 1000])
def test_parts_read_as_one_file(tmp_path: Path, most: int) -> None:
    one, many = write(tmp_path / "one.h5", None), write(tmp_path / "pool.h5", most)
    count = -(-NUM // most)
    assert [path.name for path in sorted(many.iterdir())] == [f"{i:05d}-of-{count:05d}.h5" for i in range(count)]
    ours, theirs = read_pool_scores(many), read_pool_scores(one)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    asked = torch.tensor([56, 0, 7, 8, 8, 31, 9, 10])
    assert torch.equal(read_pool_images(many, asked), read_pool_images(one, asked))
    assert len(read_pool_images(many, asked[:0])) == 0
    assert read_attributes(many) == read_attributes(one) == ATTRIBUTES


def test_one_file_has_the_bytes_that_it_always_had(tmp_path: Path) -> None:
    fill(BankWriter(tmp_path / "plain.h5", (2, 4, 4), 3, torch.int64, spread=True), ATTRIBUTES)
    assert write(tmp_path / "pool.h5", None).read_bytes() == (tmp_path / "plain.h5").read_bytes()


@pytest.mark.parametrize("most", [8, 1000])
def test_streamed_parts_give_what_a_tensor_gives(tmp_path: Path, most: int) -> None:
    many = write(tmp_path / "pool.h5", most)
    chosen = torch.tensor([50, 3, 8, 7, 56, 22])
    whole = read_pool_images(many, chosen)
    streamed = read_pool_stream(many, chosen, MemoryBudget(0))
    assert isinstance(streamed, StreamedParts if most == 8 else StreamedParts | StreamedImages)
    again = pickle.loads(pickle.dumps(streamed))
    for images in (streamed, again):
        assert images.shape == whole.shape and len(images) == 6 and images.dtype == torch.uint8
        assert torch.equal(images[:], whole) and torch.equal(images[2:5], whole[2:5])
        assert torch.equal(images[torch.tensor([[5, -1], [0, 0]])], whole[torch.tensor([[5, -1], [0, 0]])])
        mask = torch.tensor([True, False, False, True, True, False])
        assert torch.equal(images[mask], whole[mask]) and torch.equal(images[3], whole[3])
        assert torch.equal(torch.stack(list(images)), whole)
        with pytest.raises(IndexError):
            images[torch.tensor([6])]
        with pytest.raises(IndexError):
            images[mask[:3]]


@pytest.mark.parametrize("most", [None, 8])
def test_a_bank_of_parts_is_cut_from_a_pool_of_parts(tmp_path: Path, most: int | None) -> None:
    one, many = write(tmp_path / "one.h5", None), write(tmp_path / "pool.h5", 10)
    chosen = torch.tensor([2, 3, 9, 10, 11, 30, 31, 40, 41, 42, 50])
    write_bank(tmp_path / "a.h5", one, chosen, chosen * 2, ATTRIBUTES)
    write_bank(tmp_path / "b.h5", many, chosen, chosen * 2, ATTRIBUTES, rows_per_file=most)
    a, b = read_bank(tmp_path / "a.h5"), read_bank(tmp_path / "b.h5")
    assert all(torch.equal(vars(a)[name], vars(b)[name]) for name in vars(a))
    assert (tmp_path / "b.h5").is_dir() == (most is not None)
    if most is None:
        assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_writer_reads_back_over_all_files(tmp_path: Path) -> None:
    def read(writer: BankWriter) -> list[Tensor]:
        writer.append(rows(25))
        asked = torch.tensor([24, 0, 8, 7, 7])
        return [writer.read(name, part) for name in ("images", "asked", "ratio") for part in (asked, asked[:0])]

    with (
        pytest.raises(RuntimeError, match="left without close"),
        BankWriter(tmp_path / "a", (2, 4, 4), 3, torch.int64, spread=True) as one,
    ):
        wanted = read(one)
    with (
        pytest.raises(RuntimeError, match="left without close"),
        pool_writer(tmp_path / "b", (2, 4, 4), 3, torch.int64, spread=True, rows_per_file=8) as many,
    ):
        found = read(many)
    assert all(torch.equal(a, b) and a.shape == b.shape for a, b in zip(wanted, found, strict=True))
    assert list(tmp_path.iterdir()) == [], "nothing is left of a writer that was not closed"


def test_one_form_takes_the_place_of_the_other(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    for most in (None, 8, 20, None):
        write(path, most)
        assert len(read_pool_scores(path)["asked"]) == NUM
        assert path.is_dir() == (most is not None)
    assert [p.name for p in tmp_path.iterdir()] == ["pool.h5"]


def test_a_writing_that_fails_leaves_the_former_pool(tmp_path: Path) -> None:
    path = write(tmp_path / "pool.h5", 8)
    with pytest.raises(KeyError), pool_writer(path, (2, 4, 4), 3, torch.int64, spread=True, rows_per_file=8) as writer:
        writer.append(rows(20))
        raise KeyError
    assert len(read_pool_scores(path)["asked"]) == NUM and [p.name for p in tmp_path.iterdir()] == ["pool.h5"]


def cut(path: Path) -> None:
    with h5py.File(path / "00002-of-00008.h5", "r+") as file:
        for name in file:
            values = file[name][:-1]
            del file[name]
            file[name] = values


def foreign(path: Path) -> None:
    other = write(path.with_name("other.h5"), 8, {"teacher": "another"})
    shutil.copy(other / "00003-of-00008.h5", path / "00003-of-00008.h5")


def swap(path: Path) -> None:
    (path / "00001-of-00008.h5").rename(path / "x")
    (path / "00002-of-00008.h5").rename(path / "00001-of-00008.h5")
    (path / "x").rename(path / "00002-of-00008.h5")


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: (path / "00003-of-00008.h5").unlink(), "lacks 00003-of-00008.h5"),
    (
        lambda path: shutil.copy(path / "00000-of-00008.h5", path / "00008-of-00008.h5"),
        "holds 00008-of-00008.h5, which is no",
    ),
    (lambda path: shutil.copy(path / "00000-of-00008.h5", path / "00000-of-00009.h5"), "a set of 8 and of one of 9"),
    (lambda path: (path / "notes").touch(), "holds notes, which is no part"),
    (lambda path: [part.unlink() for part in path.iterdir()], "holds no files"),
    (foreign, "00003-of-00008.h5 is a part of another file"),
    (swap, "00001-of-00008.h5 is a part of another file"),
    (cut, "00003-of-00008.h5 is a part of another file"),
]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_a_part_that_does_not_fit_is_named(tmp_path: Path, number: int) -> None:
    breaks, said = BROKEN[number]
    path = write(tmp_path / "pool.h5", 8)
    breaks(path)
    for read in (read_pool_scores, read_attributes, lambda p: read_pool_images(p, torch.tensor([3]))):
        with pytest.raises(ValueError, match=f"{said}.*run the stage that writes it again"):
            read(path)
