"""Streamed images beside the tensor they stand for."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cgankd.data.batches import Mixture, chunks
from cgankd.data.dataset import make_dataset, pixel_stats
from cgankd.data.store import stream as store_stream
from cgankd.data.store.banks import BankWriter, PoolRows, read_pool_images, read_pool_stream, write_bank
from cgankd.data.store.datasets import read_split, write_dataset
from cgankd.data.store.stream import MemoryBudget, StreamedImages
from cgankd.rng import generator
from cgankd.types import Split
from tests.data.builders import data_config

NUM = 50


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of four rows, and a cache of three of them, so that fifty images have many."""
    monkeypatch.setattr(store_stream, "SLAB_BYTES", 4 * 256)
    monkeypatch.setattr(store_stream, "CACHE_BYTES", 3 * 4 * 256)
    monkeypatch.setattr(store_stream, "DENSE", 2)


def split(num: int, name: str) -> Split:
    gen = generator("stream", name)
    images = torch.randint(0, 256, (num, 1, 16, 16), generator=gen, dtype=torch.uint8)
    return Split(images, torch.arange(num) % 2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream") / "dataset.h5"
    splits = {"train": split(NUM, "train"), "val": split(12, "val"), "test": split(12, "test")}
    write_dataset(path, make_dataset(data_config(), splits, label_unit="", class_names=("a", "b")))
    return path


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, fakes = tmp_path_factory.mktemp("pool") / "pool.h5", split(NUM, "fakes")
    column = torch.arange(float(NUM))
    with BankWriter(path, (1, 16, 16), 3, torch.int64) as writer:
        for row in torch.split(torch.arange(NUM), 7):
            outputs = column[row, None].half().expand(-1, 3)
            values = (fakes.labels[row], fakes.labels[row], column[row], column[row], outputs, column[row])
            writer.append(PoolRows(fakes.images[row], *values, torch.zeros(len(row), dtype=torch.int32)))
        writer.close({})
    return path


def both(dataset: Path) -> tuple[Tensor, StreamedImages]:
    held, streamed = read_split(dataset, "train").images, read_split(dataset, "train", MemoryBudget(0)).images
    assert isinstance(held, Tensor) and isinstance(streamed, StreamedImages)
    return held, streamed


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.lists(st.integers(-NUM, NUM - 1), max_size=80).map(lambda v: torch.tensor(v, dtype=torch.int64)),
        st.lists(st.booleans(), min_size=NUM, max_size=NUM).map(torch.tensor),
        st.builds(slice, st.none() | st.integers(-60, 60), st.none() | st.integers(-60, 60), st.integers(1, 7)),
    )
)
def test_any_index_gives_what_a_tensor_gives(dataset: Path, rows: Tensor | slice) -> None:
    held, streamed = both(dataset)
    for _ in range(2):  # the second time partly from the cache
        found = streamed[rows]
        assert torch.equal(found, held[rows]) and found.dtype == torch.uint8
    assert sum(slab.nbytes for slab in streamed._slabs.values()) <= store_stream.CACHE_BYTES


def test_shape_matrix_index_single_row_and_iteration(dataset: Path) -> None:
    held, streamed = both(dataset)
    assert (streamed.shape, streamed.dtype, streamed.ndim, len(streamed)) == (held.shape, held.dtype, 4, NUM)
    grid = torch.tensor([[3, 1], [-1, 3]])
    assert torch.equal(streamed[grid], held[grid])
    assert torch.equal(streamed[7], held[7]) and torch.equal(torch.stack(list(streamed)), held)
    assert torch.equal(torch.cat(list(chunks(streamed, 8))), held)
    assert [len(c) for c in chunks(streamed[:0], 8)] == [len(c) for c in torch.split(held[:0], 8)]
    assert pixel_stats(streamed) == pixel_stats(held)


@pytest.mark.parametrize("rows", [torch.tensor([NUM]), torch.tensor([-NUM - 1]), NUM, torch.ones(3, dtype=torch.bool)])
def test_a_row_that_is_not_there_is_an_index_error(dataset: Path, rows: Tensor | int) -> None:
    with pytest.raises(IndexError, match="do not lie in|does not fit"):
        both(dataset)[1][rows]


def test_it_travels_to_other_processes_without_its_file(dataset: Path) -> None:
    held, streamed = both(dataset)
    assert torch.equal(streamed[:4], held[:4]) and streamed._slabs
    copy = pickle.loads(pickle.dumps(streamed))
    assert not copy._slabs and torch.equal(copy[:], held)


def test_a_forked_process_opens_the_file_anew(dataset: Path) -> None:
    held, streamed = both(dataset)
    assert torch.equal(streamed[:9], held[:9])
    streamed._process += 1  # as it is for a forked child, whose process number is another
    before = streamed._images
    assert torch.equal(streamed[:9], held[:9]) and streamed._images is not before


def test_a_set_is_held_while_the_budget_lasts(dataset: Path, pool: Path) -> None:
    memory = MemoryBudget(NUM * 256 + 100)
    assert isinstance(read_split(dataset, "train", memory).images, Tensor) and memory.left == 100
    assert isinstance(read_split(dataset, "val", memory).images, StreamedImages) and memory.left == 100
    assert isinstance(read_pool_stream(pool, torch.arange(3), memory), StreamedImages)
    assert isinstance(read_pool_stream(pool, torch.arange(3)), Tensor)


def test_rows_of_a_pool_are_streamed_in_their_order(pool: Path) -> None:
    rows = torch.tensor([40, 2, 2, 17, 0])
    streamed = read_pool_stream(pool, rows, MemoryBudget(0))
    assert torch.equal(streamed[:], read_pool_images(pool, rows)) and torch.equal(
        streamed[:], split(NUM, "fakes").images[rows]
    )


@pytest.mark.parametrize("share", [None, 0.5])
def test_batches_are_the_same_streamed_or_not(dataset: Path, pool: Path, share: float | None) -> None:
    rows = torch.arange(5, 45)
    labels = torch.zeros(len(rows), dtype=torch.int64)
    mixtures = [
        Mixture(
            read_split(dataset, "train", MemoryBudget(size)),
            Split(read_pool_stream(pool, rows, MemoryBudget(size)), labels),
            real_share=share,
            batch_size=16,
            seed=3,
        )
        for size in (0, 1e9)
    ]
    for step in (0, 1, 9):
        streamed, held = (mixture.batch(step) for mixture in mixtures)
        assert torch.equal(streamed.images_BCHW, held.images_BCHW) and torch.equal(streamed.labels_B, held.labels_B)


def test_a_streamed_data_set_is_written_as_the_one_in_memory(dataset: Path, tmp_path: Path) -> None:
    splits = {name: read_split(dataset, name, MemoryBudget(0)) for name in ("train", "val", "test")}
    write_dataset(tmp_path / "again.h5", make_dataset(data_config(), splits, label_unit="", class_names=("a", "b")))
    assert (tmp_path / "again.h5").read_bytes() == dataset.read_bytes()


def test_a_bank_is_copied_slab_by_slab(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = store_stream.np.empty

    def empty(shape: tuple[int, ...], dtype: type) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        read.append(shape[0])
        return real(shape, dtype)

    monkeypatch.setattr("cgankd.data.store.banks.SLAB_ROWS", 5)
    monkeypatch.setattr("cgankd.data.store.files.np.empty", empty)
    rows = torch.arange(1, NUM, 2)
    write_bank(tmp_path / "bank.h5", pool, rows, torch.zeros(len(rows), dtype=torch.int64), {})
    assert read and max(read) == 5


@pytest.mark.parametrize(
    "layout",
    [{}, {"chunks": (6, 1, 16, 16)}, {"chunks": (6, 1, 8, 16)}, {"chunks": (6, 1, 16, 16), "compression": "gzip"}],
)
@pytest.mark.parametrize("userblock", [0, 512])
def test_single_rows_of_any_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: dict[str, object], userblock: int
) -> None:
    held = split(NUM, "layout").images
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=userblock) as file:
        file["before"] = np.arange(100)
        file.create_dataset("images", data=held.numpy(), **layout)
    monkeypatch.setattr(store_stream, "SLAB_BYTES", 2**20)
    monkeypatch.setattr(store_stream, "DENSE", 1)  # a slab only where all of its rows are wanted
    streamed = StreamedImages(tmp_path / "x.h5", np.arange(NUM))
    rows = torch.tensor([49, 0, 6, 5, 48])
    assert torch.equal(streamed[rows], held[rows]) and not streamed._slabs
