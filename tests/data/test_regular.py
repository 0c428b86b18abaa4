"""Archives of programs that say more than they hold are seen before torch opens them."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest

from cgankd.data.regular import check_program_file
from cgankd.nets.predictors.program import open_program
from tests.fuzz import corpus


def rewritten(data: bytes, name: str, content: bytes, packed: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with another content of one member, its sums right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        for member in old.infolist():
            own = member.filename.endswith(name)
            kind = packed if own else member.compress_type
            new.writestr(member.filename, content if own else old.read(member), compress_type=kind)
    return stream.getvalue()


def check(data: bytes) -> None:
    check_program_file(io.BytesIO(data), len(data))


def test_sound_programs_pass() -> None:
    for data in (*corpus.programs(), *corpus.exported()):
        check(data)
        open_program(data)


def test_a_program_that_lies_is_refused() -> None:
    (data,) = corpus.programs()
    text = b"\x80\x02X" + struct.pack("<I", 2**31 - 1) + b"short."
    packed = rewritten(data, "version", bytes(2**23), zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        raw = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    place = data.index(raw) + len(raw) // 2
    torn = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    for lie, why in (
        (rewritten(data, "data.pkl", text), "expected 2147483647 bytes"),
        (packed, "far larger than it is"),
        (torn, "Bad CRC-32"),
    ):
        with pytest.raises((ValueError, zipfile.BadZipFile), match=why):
            check(lie)
        with pytest.raises(ValueError, match="it is a damaged torchscript file"):
            open_program(lie)
