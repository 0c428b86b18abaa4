from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cgankd.data.readers.plain_pickle import PlainPickleError, read_plain_pickle
from tests.data.readers.test_cifar import array, mapping, members, text, whole

BATCH = mapping(
    {
        "batch_label": text("training batch 1 of 5"),
        "labels": members([whole(3), whole(700), b"N", b"\x88"]),
        "data": array(np.arange(30, dtype=np.uint8).reshape(5, 6)),
    }
)


def test_python_2_pickle_as_pickle_reads_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy 2 warns of the module name that numpy 1 wrote.
        want = pickle.loads(BATCH, encoding="latin1")
    found = read_plain_pickle(BATCH)
    assert isinstance(found, dict) and found.keys() == want.keys()
    assert np.array_equal(found["data"], want["data"]) and found["data"].dtype == np.uint8
    assert found["labels"] == want["labels"] == [3, 700, None, True]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=80, deadline=None)
@given(PLAIN)
def test_plain_data_as_pickle_reads_it(value: object) -> None:
    assert read_plain_pickle(pickle.dumps(value, protocol=2)) == value


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def test_nothing_is_run(tmp_path: Path) -> None:
    with pytest.raises(PlainPickleError, match=r"asks for 'posix.mkdir'"):
        read_plain_pickle(pickle.dumps({"data": Bomb(tmp_path / "run")}, protocol=2))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pickle.dumps({"a": 1}, protocol=4), "is of protocol 4"),
        (pickle.dumps({"a": 1.5}, protocol=2), "opcode BINFLOAT"),
        (pickle.dumps({"a": (1, 2)}, protocol=2), "keeps a tuple"),
        (pickle.dumps({1: 2}, protocol=2), "a key is a int"),
        (pickle.dumps({"a": {1}}, protocol=2), "asks for"),
        (pickle.dumps(os.path.join, protocol=2), "asks for 'posixpath.join'"),
        (b"\x80\x02cnumpy\nload\nU\x01a\x85R.", "asks for 'numpy.load'"),
        (b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.", "something else than uint8"),
        (b"\x80\x02cnumpy\nndarray\n.", "keeps a tuple, a name"),
        (b"\x80\x02cnumpy\nndarray\nK\x01\x85R.", "something else than uint8"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\n\x85R.", "something else than uint8"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85R.", "unfinished array"),
        (b"\x80\x02K\x01K\x02.", "leaves 2 objects"),
        (b"\x80\x02].b", None),
        (b"\x80\x02e.", "is broken"),
        (b"\x80\x02(K\x01\x86.", "a tuple lacks members"),
        (b"\x80\x02K\x01K\x02a.", "what is no list"),
        (b"\x80\x02]K\x01b.", "no array"),
        (b"\x80\x02h\x07.", "is broken"),
        (b"\x80\x02P1\n.", "opcode PERSID"),
        (b"\x80\x02cos\nsystem\n(K\x01o.", "asks for 'os.system'"),
        (b"(ios\nsystem\n.", "opcode INST"),
        (b"\x80\x02S'\\y'\n.", r"is broken \(invalid escape sequence"),
        (b"", "is broken"),
        (b"\x80\x02]", "is broken"),
        (BATCH[:-40], "is broken"),
        (BATCH.replace(b"J\x05\x00\x00\x00K\x06", b"J\x05\x00\x00\x7fK\x06"), "has 30 bytes"),
        (BATCH.replace(b"J\x05\x00\x00\x00K\x06", b"J\xfb\xff\xff\xffK\x06"), r"has the shape \(-5, 6\)"),
    ],
)
def test_everything_else_is_refused(data: bytes, words: str | None) -> None:
    if words is None:
        assert read_plain_pickle(data) == []  # What follows the end mark is not looked at.
        return
    with pytest.raises(PlainPickleError, match=words):
        read_plain_pickle(data)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(BATCH) - 1), st.integers(0, 255))
@example(86, 92)
def test_a_changed_byte_gives_plain_data_or_an_error(place: int, byte: int) -> None:
    changed = BATCH[:place] + bytes([byte]) + BATCH[place + 1 :]
    try:
        found = read_plain_pickle(changed)
    except PlainPickleError:
        return
    assert isinstance(found, dict | list | str | int | np.ndarray | None)
