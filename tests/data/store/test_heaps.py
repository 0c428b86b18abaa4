"""Heaps of texts in HDF5 files: sound ones pass, and those that HDF5 itself would read for ever are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from cgankd.data.store.files import get_attributes, opening
from cgankd.data.store.heaps import HEADER, MARK, check_heaps

READ = """
import h5py, sys
from pathlib import Path
from cgankd.data.store.files import get_attributes, opening
with h5py.File(sys.argv[1]) as file:
    try:
        get_attributes(Path(sys.argv[1]), file)
    except ValueError as error:
        print(error)
"""


@pytest.fixture()
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for number, length in enumerate((0, 1, 7, 8, 9, 300, 5000)):
            file.attrs[f"a{number}"] = "x" * length
    return path


def objects(data: bytes) -> list[tuple[int, int, int]]:
    """Place, index and size of every object of every heap."""
    found, start = [], data.find(MARK)
    while start >= 0:
        place, end = start + HEADER, start + int.from_bytes(data[start + 8 : start + 16], "little")
        while end - place >= HEADER:
            index, size = (int.from_bytes(data[place + a : place + b], "little") for a, b in ((0, 2), (8, 16)))
            found.append((place, index, size))
            place += size if index == 0 else HEADER + (size + 7) // 8 * 8
        start = data.find(MARK, start + 1)
    return found


def test_sound_heaps_pass(path: Path) -> None:
    check_heaps(path)
    with h5py.File(path) as file:
        assert [len(str(value)) for value in get_attributes(path, file).values()] == [0, 1, 7, 8, 9, 300, 5000]
    assert len(objects(path.read_bytes())) >= 8


def test_a_size_that_leads_nowhere_is_refused(path: Path) -> None:
    good, tried = path.read_bytes(), 0
    for place, index, _ in objects(good):
        for wrong in (0, 15, 2**40, 2**64 - 1):
            if index == 0 or wrong > 15:
                data = bytearray(good)
                data[place + 8 : place + 16] = wrong.to_bytes(8, "little")
                path.write_bytes(data + bytes(tried % 2))  # another size: a file is not looked at twice
                with pytest.raises(RuntimeError, match="a heap of texts is damaged"):
                    check_heaps(path)
                tried += 1
    assert tried > 15


@pytest.mark.parametrize("passed_over", [bytes(3), b"\0\0?"])
def test_free_room_of_no_size_does_not_hang(passed_over: bytes, path: Path) -> None:
    """HDF5 goes round for ever on such a file, also where three bytes of the heap's header are not zero as they should be, so
    that it is read in a process of its own."""
    good = path.read_bytes()
    data = bytearray(good.replace(b"GCOL\x01\0\0\0", b"GCOL\x01" + passed_over))
    place = objects(good)[2][0]
    data[place : place + HEADER] = bytes(HEADER)
    path.write_bytes(data)
    done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "a heap of texts is damaged" in done.stdout, done.stderr


def test_pixels_that_begin_as_a_heap_does_are_no_heap(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["images"] = np.frombuffer(b"1234" + MARK + b"\xff" * 27, np.uint8)
    check_heaps(path)


def test_a_type_that_hdf5_itself_crashes_on_is_refused_unread(tmp_path: Path) -> None:
    """One byte turns a text into a list of any length, whose parts HDF5 takes for addresses."""
    path = tmp_path / "type.h5"
    with h5py.File(path, "w") as file:
        file.attrs["task"] = "class"
    data = bytearray(path.read_bytes())
    text = b"\x19\x01\x01\x00\x10\x00\x00\x00"  # the message of a text of any length in UTF-8
    assert data.count(text) == 1
    data[data.index(text) + 1] = 0xBE
    path.write_bytes(data)
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True)
    assert done.returncode == 0 and "attribute 'task' is no number or UTF-8 text" in done.stdout, done.stderr


def test_attributes_are_single_numbers_and_texts(tmp_path: Path) -> None:
    for value in ([1, 2], True):
        path = tmp_path / "other.h5"
        with h5py.File(path, "w") as file:
            file.attrs["x"] = value
        with h5py.File(path) as file, pytest.raises(ValueError, match="attribute 'x' is no number or UTF-8 text"):
            get_attributes(path, file)


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_text_longer_than_the_file_is_refused_before_room_is_made_for_it(version: str, tmp_path: Path) -> None:
    """HDF5 would take four gigabytes for it and then see that they are not there."""
    path = tmp_path / "long.h5"
    with h5py.File(path, "w", libver=version) as file:
        file.attrs["source"] = "digits"
        file.attrs["notes"] = ""
        file.attrs["number"] = 3
    with h5py.File(path) as file:
        assert get_attributes(path, file) == {"source": "digits", "notes": "", "number": 3}
    data = path.read_bytes()
    own = (6).to_bytes(4, "little") + data.index(MARK[:4]).to_bytes(8, "little")
    assert data.count(own) == 1
    path.write_bytes(data.replace(own, (2**32 - 1).to_bytes(4, "little") + own[4:]))
    code = READ + "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    said, most_mb = done.stdout.splitlines()
    assert "cannot be read" in said and ("the text of 'source' is longer" in said or version == "latest"), said
    assert int(most_mb) < 2500


def test_a_number_of_a_size_that_numpy_has_not_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.h5"
    with h5py.File(path, "w") as file:
        file["labels"] = np.zeros(3, np.float32)
    data = bytearray(path.read_bytes())
    at = data.index(b"\x11\x20\x1f\x00\x04\x00\x00\x00")  # the message of a float of four bytes
    data[at + 8 + 6] = 200  # bits of its exponent
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is no whole HDF5 file|only arrays of numbers"), opening(path):
        pytest.fail("it was let in")
    with h5py.File(path, "w") as file:
        file.attrs["label_max"] = np.float32(3)
    data = bytearray(path.read_bytes())
    data[data.index(b"\x11\x20\x1f\x00\x04\x00\x00\x00") + 8 + 6] = 200
    path.write_bytes(data)
    with h5py.File(path) as file, pytest.raises(ValueError, match="an attribute cannot be read"):
        get_attributes(path, file)


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "name.h5"
    with h5py.File(path, "w") as file:
        file.attrs["source"] = "digits"
    path.write_bytes(path.read_bytes().replace(b"source", b"sour\xff\xff"))
    with h5py.File(path) as file, pytest.raises(ValueError, match="is no number or UTF-8 text"):
        get_attributes(path, file)
