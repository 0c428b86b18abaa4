from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cgankd.data.dataset import Dataset, make_dataset
from cgankd.data.store import banks as store
from cgankd.data.store import files as store_files
from cgankd.data.store.banks import (
    BankWriter,
    PoolRows,
    read_attributes,
    read_bank,
    read_pool_images,
    read_pool_scores,
    write_bank,
)
from cgankd.data.store.datasets import read_class_counts, read_info, read_split, write_dataset
from cgankd.rng import generator
from cgankd.types import Split
from tests.data.builders import data_config
from tests.pipelines.finished import made_data


def pixels(num: int, key: str, channels: int = 1) -> Tensor:
    return torch.randint(256, (num, channels, 16, 16), dtype=torch.uint8, generator=generator(key, num))


def class_data() -> Dataset:
    splits = {name: Split(pixels(n, name), torch.arange(n) % 3) for name, n in (("train", 7), ("val", 3), ("test", 5))}
    return make_dataset(
        data_config(), splits, label_unit="", class_names=("Katze", "\u00e9l\u00e9phant", "c"), notes={"x": 1.0}
    )


def scalar_data() -> Dataset:
    splits = {
        name: Split(pixels(n, name, 3), torch.linspace(0.5, 9.5, n))
        for name, n in (("train", 7), ("val", 3), ("test", 5))
    }
    cfg = data_config(task="scalar", val_per_label=None, num_val=3, channels=3, label_min=0.0, label_max=10.0)
    return make_dataset(cfg, splits, label_unit="years")


@pytest.mark.parametrize("data", [class_data(), scalar_data()], ids=["class", "scalar"])
def test_data_set_round_trip(tmp_path: Path, data: Dataset) -> None:
    path = tmp_path / "new" / "dataset.h5"
    write_dataset(path, data)
    assert read_info(path) == data.info
    for name, split in data.splits().items():
        back = read_split(path, name)
        assert torch.equal(back.images, split.images) and torch.equal(back.labels, split.labels)
        assert back.labels.dtype == split.labels.dtype
    assert [p.name for p in path.parent.iterdir()] == ["dataset.h5"]


def test_file_layout_is_the_one_that_others_rely_on(tmp_path: Path) -> None:
    write_dataset(tmp_path / "c.h5", class_data())
    write_dataset(tmp_path / "s.h5", scalar_data())
    with h5py.File(tmp_path / "c.h5") as file:
        assert {name: (item.dtype, item.shape) for name, item in file.items()} == {
            "images": (np.uint8, (15, 1, 16, 16)),
            "labels": (np.int64, (15,)),
            "split": (np.uint8, (15,)),
        }
        assert file["split"][...].tolist() == [0] * 7 + [1] * 3 + [2] * 5
        assert file.attrs["num_classes"] == 3 and file.attrs["task"] == "class" and file.attrs["source"] == "digits"
    attributes = read_attributes(tmp_path / "s.h5")
    assert (attributes["label_min"], attributes["label_max"], attributes["label_unit"]) == (0.0, 10.0, "years")


def test_equal_data_gives_equal_bytes(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a.h5", class_data())
    time.sleep(1.1)  # Longer than the resolution of HDF5's time stamps.
    write_dataset(tmp_path / "b.h5", class_data())
    fill_pool(tmp_path / "pa.h5", 30)
    fill_pool(tmp_path / "pb.h5", 30)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert (tmp_path / "pa.h5").read_bytes() == (tmp_path / "pb.h5").read_bytes()


def fill_pool(path: Path, num: int, chunk: int = 7) -> dict[str, Tensor]:
    gen = generator("pool", num)
    columns = {
        "images": pixels(num, "pool"),
        "asked": torch.randint(3, (num,), generator=gen),
        "predicted": torch.randint(3, (num,), generator=gen),
        "ratio": torch.rand(num, generator=gen),
        "teacher_error": torch.rand(num, generator=gen),
        "teacher_output": torch.randn(num, 3, generator=gen).half(),
        "uniform": torch.rand(num, generator=gen),
        "shard": torch.arange(num, dtype=torch.int32) // chunk,
    }
    with BankWriter(path, (1, 16, 16), 3, torch.int64) as writer:
        for start in range(0, num, chunk):
            writer.append(PoolRows(**{name: values[start : start + chunk] for name, values in columns.items()}))
        columns["in_raw"] = torch.rand(len(writer), generator=gen) < 0.5
        writer.set_columns({"in_raw": columns["in_raw"]})
        writer.close({"config": "{}", "accepted": 3, "share": 0.25})
    return columns


def test_pool_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    columns = fill_pool(path, 30)
    scores = read_pool_scores(path)
    assert set(scores) == set(columns) - {"images"}
    for name, values in scores.items():
        assert values.dtype == columns[name].dtype and torch.equal(values, columns[name]), name
    assert read_attributes(path) == {"config": "{}", "accepted": 3, "share": 0.25}


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.integers(0, 29), max_size=50), slab=st.sampled_from([1, 4, 2048]))
def test_images_come_in_the_order_asked(tmp_path_factory: pytest.TempPathFactory, rows: list[int], slab: int) -> None:
    path = tmp_path_factory.getbasetemp() / "ordered.h5"
    columns = fill_pool(path, 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SLAB_ROWS", slab)
        index = torch.tensor(rows, dtype=torch.int64)
        assert torch.equal(read_pool_images(path, index), columns["images"][index])


def test_bank_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SLAB_ROWS", 5)
    pool, bank = tmp_path / "pool.h5", tmp_path / "bank.h5"
    columns = fill_pool(pool, 30)
    rows = torch.tensor([28, 1, 2, 17, 9, 10, 11, 3])
    labels = columns["predicted"][rows]
    write_bank(bank, pool, rows, labels, {"selection": "filter"})
    back = read_bank(bank)
    assert torch.equal(back.labels, labels)
    for name in ("images", "asked", "ratio", "teacher_error", "teacher_output"):
        assert torch.equal(getattr(back, name), columns[name][rows]), name
    with h5py.File(bank) as file:
        expected = {"images", "asked", "labels", "ratio", "teacher_error", "teacher_output", "shard"}
        assert set(file) == expected
    assert read_attributes(bank) == {"selection": "filter"}


def test_an_interrupted_writer_leaves_no_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    with pytest.raises(KeyboardInterrupt), BankWriter(path, (1, 16, 16), 3, torch.int64):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    columns = fill_pool(path, 8)
    with pytest.raises(AssertionError), BankWriter(path, (1, 16, 16), 3, torch.int64) as writer:
        two = {name: columns[name][:2] for name in columns if name not in ("in_raw", "images")}
        writer.append(PoolRows(images=pixels(3, "x"), **two))
    with pytest.raises(RuntimeError, match="left without close"), BankWriter(path, (1, 16, 16), 3, torch.int64):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["pool.h5"]
    assert torch.equal(read_pool_scores(path)["asked"], columns["asked"])


def test_missing_truncated_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "dataset.h5"
    with pytest.raises(ValueError, match="dataset.h5 does not exist"):
        read_info(path)
    path.write_text("not HDF5")
    with pytest.raises(ValueError, match="dataset.h5 is no whole HDF5 file"):
        read_info(path)
    write_dataset(path, class_data())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="dataset.h5 is no whole HDF5 file"):
        read_split(path, "train")
    fill_pool(path, 8)
    with pytest.raises(ValueError, match="attribute 'task' is missing"):
        read_info(path)
    with pytest.raises(ValueError, match="dataset 'split' is missing|dataset 'labels' is missing"):
        read_split(path, "train")
    with pytest.raises(ValueError, match="dataset labels is missing"):
        read_bank(path)


def soft_link(file: h5py.File, folder: Path) -> None:
    file["extra"] = h5py.SoftLink("/images")


def external_link(file: h5py.File, folder: Path) -> None:
    file["extra"] = h5py.ExternalLink(str(folder / "other.h5"), "images")


def external_storage(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(b"x" * 100)
    file.create_dataset("extra", (100,), np.uint8, external=[(str(folder / "secret"), 0, 100)])


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((4,), np.uint8)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "images", (4,))
    file.create_virtual_dataset("extra", layout)


def objects(file: h5py.File, folder: Path) -> None:
    file.create_dataset("extra", (2,), h5py.string_dtype())


def group(file: h5py.File, folder: Path) -> None:
    file.create_group("extra")


def huge(file: h5py.File, folder: Path) -> None:
    file.create_dataset("extra", (10**10,), np.uint8, chunks=(1024,))


def hollow(file: h5py.File, folder: Path) -> None:
    file.create_dataset("extra", (100,), np.uint8)


def half_hollow(file: h5py.File, folder: Path) -> None:
    file.create_dataset("extra", (64,), np.uint8, chunks=(8,))[:40] = 1


def hollow_packed(file: h5py.File, folder: Path) -> None:
    file.create_dataset("extra", (64,), np.uint8, chunks=(8,), compression="gzip")[:40] = 1


def bomb(file: h5py.File, folder: Path) -> None:
    file.create_dataset("extra", data=np.zeros(2**27, np.uint8), chunks=(2**22,), compression="gzip")


def packed(file: h5py.File, folder: Path) -> None:
    file.create_dataset("extra", data=np.zeros(100), compression="lzf")


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (soft_link, "is a link"),
        (external_link, "is a link"),
        (external_storage, "another file"),
        (virtual, "another file"),
        (objects, "only arrays of numbers"),
        (group, "is a group"),
        (huge, "claims 10000000000 bytes"),
        (packed, "filter"),
        (hollow, "claims 100 bytes .* holds 0 bytes of it"),
        (half_hollow, "claims 64 bytes .* holds 40 bytes of it"),
        (hollow_packed, "has only 5 of its 8 chunks"),
        (bomb, "claims 134217728 bytes"),
    ],
)
def test_hostile_files_are_refused_before_reading(tmp_path: Path, attack: object, words: str) -> None:
    path = tmp_path / "dataset.h5"
    write_dataset(path, class_data())
    read_info(path)
    with h5py.File(path, "a") as file:
        attack(file, tmp_path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=f"dataset.h5: dataset 'extra'.*{words}"):
        read_info(path)


def test_a_damaged_list_of_names_is_named_where_a_name_is_looked_up(tmp_path: Path) -> None:
    """The names lie in a tree, which says that it has none, and a heap, whose free room has no size."""
    path = tmp_path / "pool.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((3, 1, 8, 8), np.uint8)
    data = bytearray(path.read_bytes())
    data[(tree := data.index(b"TREE")) + 6 : tree + 8] = bytes(2)
    heap = data.index(b"HEAP") + 8
    _, free, place = (int.from_bytes(data[heap + 8 * i : heap + 8 * i + 8], "little") for i in range(3))
    data[place + free : place + free + 16] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"pool.h5 cannot be read \(.*\); run the stage that writes it again"):
        read_pool_scores(path)


def test_an_error_of_the_code_around_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "dataset.h5"
    write_dataset(path, class_data())
    for error in (RuntimeError("cannot read an object"), KeyError("images"), OSError(5, "cannot read", "other.h5")):
        with pytest.raises(type(error)) as raised, store_files.opening(path):
            raise error
        assert raised.value is error


def test_whole_packed_and_empty_datasets_are_read(tmp_path: Path) -> None:
    path = tmp_path / "dataset.h5"
    write_dataset(path, class_data())
    with h5py.File(path, "a") as file:
        images = file["images"][...]
        del file["images"]
        file.create_dataset("images", data=images, chunks=(4, 1, 16, 16), compression="gzip", fletcher32=True)
        file.create_dataset("empty", (0, 3), np.uint8)
        file.create_dataset("blank", data=np.zeros(2**20, np.uint8), compression="gzip")
    split = read_split(path, "train")
    assert torch.equal(split.images, class_data().train.images)
    data = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        place = file["images"].id.get_chunk_info(0)
    data[place.byte_offset + place.size // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"dataset.h5: dataset 'images' cannot be read .*; write the file again"):
        read_split(path, "train")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("images", np.zeros((15, 1, 16, 16), np.float32)),
        ("images", np.zeros((15, 16, 16), np.uint8)),
        ("labels", np.zeros((15, 1), np.int64)),
        ("labels", np.zeros(15, bool)),
        ("labels", np.zeros(14, np.int64)),
        ("split", np.zeros(15, np.int16)),
    ],
)
def test_wrong_types_and_shapes_name_file_and_dataset(tmp_path: Path, name: str, values: np.ndarray) -> None:
    path = tmp_path / "dataset.h5"
    write_dataset(path, class_data())
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = values
    with pytest.raises(ValueError, match=f"dataset.h5: dataset '{name}'"):
        read_split(path, "train")


def test_the_circle_of_labels_is_kept_where_there_is_one(tmp_path: Path) -> None:
    labels = torch.tensor([0.0, 90.0, 350.0])
    splits = {name: Split(torch.zeros(3, 1, 16, 16, dtype=torch.uint8), labels) for name in ("train", "val", "test")}
    for period in (360.0, None):
        cfg = data_config(task="scalar", source="csv", val_per_label=None, num_val=3, label_period=period)
        data, path = make_dataset(cfg, splits, label_unit="degrees"), tmp_path / f"{period}.h5"
        write_dataset(path, data)
        assert read_info(path) == data.info and data.info.label_period == period
        with h5py.File(path) as file:
            assert ("label_period" in file.attrs) == (period is not None) == ("label_answer" in file.attrs)
    # A file of an earlier version, whose nets answered with the label itself.
    with h5py.File(tmp_path / "360.0.h5", "a") as file:
        assert file.attrs["label_answer"] == "circle"
        del file.attrs["label_answer"]
    assert read_info(tmp_path / "360.0.h5").label_answer == "scalar"
    with h5py.File(tmp_path / "360.0.h5", "a") as file:
        file.attrs["label_answer"] = "square"
    with pytest.raises(ValueError, match="label_answer 'square'"):
        read_info(tmp_path / "360.0.h5")


@given(rows=st.integers(1, 40), most=st.integers(1, 20), size=st.integers(1, 5000), chunk=st.integers(0, 15))
def test_slabs_are_bounded_and_of_whole_chunks(
    tmp_path_factory: pytest.TempPathFactory, rows: int, most: int, size: int, chunk: int
) -> None:
    """Neither more rows nor more bytes than allowed, unless one chunk has more; and the rows are those asked for."""
    images, path = pixels(rows, "slabs").numpy(), tmp_path_factory.mktemp("slabs") / "set.h5"
    order = np.random.default_rng(rows).permutation(rows)
    chunk = min(chunk, rows)
    with pytest.MonkeyPatch.context() as patch, h5py.File(path, "w") as file:
        patch.setattr(store_files, "SLAB_ROWS", most)
        patch.setattr(store_files, "SLAB_BYTES", size)
        item = file.create_dataset("images", data=images, chunks=(chunk, 1, 16, 16) if chunk else None)
        out, seen = np.zeros_like(images), []
        for places, part in store_files.slabs(item, order):
            out[places] = part
            seen.append(len(part))
        bound = store_files.slab_rows(item)
    assert (out == images[order]).all() and max(seen) <= bound
    assert bound <= max(chunk, 1, min(most, size // 256)) and bound % max(chunk, 1) == 0
    assert len(seen) == -(-rows // bound), "the file is gone through once"


@pytest.mark.parametrize("label", [3, -1, 2**50])
def test_a_label_beyond_the_classes_is_refused(label: int, tmp_path: Path) -> None:
    """Who counts labels makes a place for each number up to the largest."""
    write_dataset(tmp_path / "x.h5", made_data(False))
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["labels"][0] = label
    for read in (lambda path: read_split(path, "train"), lambda path: read_class_counts(path, 3)):
        with pytest.raises(ValueError, match="none of its 3 classes"):
            read(tmp_path / "x.h5")
