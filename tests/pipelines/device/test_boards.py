"""The boards and what is said of a file on one."""

from __future__ import annotations

import pytest

from cgankd.config import ConfigError
from pipelines.device.boards import BOARDS, Board, board_of, verdict


def test_boards_have_their_makers_numbers() -> None:
    """From the data sheets that `source` names, in kilobytes of 1024."""
    known = {
        "bluepill": (64, 20),
        "nucleo-l432kc": (256, 64),
        "microbit-v2": (512, 128),
        "nano-33-ble": (1024, 256),
        "pico": (2048, 264),
        "pico-2": (4096, 520),
        "esp32-devkitc": (4096, 520),
        "nucleo-f746zg": (1024, 320),
    }
    assert {name: (board.flash / 1024, board.ram / 1024) for name, board in BOARDS.items()} == known
    assert all("https://" in board.source for board in BOARDS.values())


@pytest.mark.parametrize(
    ("text", "flash", "ram"),
    [("flash=64k,ram=32k", 65536, 32768), ("ram=1000,flash=1M", 2**20, 1000), ("flash=1MB, ram=256kB", 2**20, 2**18)],
)
def test_a_board_may_be_said_in_bytes(text: str, flash: int, ram: int) -> None:
    board = board_of(text)
    assert (board.flash, board.ram) == (flash, ram)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pic", "did you mean 'pico'"),
        ("flash=64k", "both flash and ram"),
        ("flash=64k,flash=2k", "such as flash=1M"),
        ("flash=-1,ram=2", "such as flash=1M"),
        ("size=3", "such as flash=1M"),
    ],
)
def test_a_board_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        board_of(text)


CORE = 16384
"""Bytes of the runtime's core, which lie in flash beside the file."""


@pytest.mark.parametrize(
    ("size", "arena", "missing", "said"),
    [
        (100_000 - CORE - 32768, 50_000 - 8192, (), "fits ("),
        (100_001 - CORE - 32768, 50_000 - 8192, (), "tight: 32,767 bytes of flash left ("),
        (100_000 - CORE, 50_000, (), "tight: 0 bytes of flash and 0 bytes of RAM left ("),
        (100_001 - CORE, 50_000, (), "does not fit: 1 bytes of flash too little ("),
        (100, 41_809, (), "tight: 8,191 bytes of RAM left ("),
        (100, 50_001, (), "does not fit: 1 bytes of RAM too little ("),
        (101_000, 51_000, (), "does not fit: 17,384 bytes of flash too little; 1,000 bytes of RAM too little ("),
        (100, None, ("ATAN2",), "does not fit: no operator ATAN2 ("),
        (100, None, (), "does not fit: the arena is not known ("),
    ],
)
def test_what_is_missing_is_said(size: int, arena: int | None, missing: tuple[str, ...], said: str) -> None:
    text = verdict(Board("b", "", 100_000, 50_000, ""), size, arena, missing)
    assert text.startswith(said) and f"flash {size:,} + 16,384 of 100,000 bytes" in text
    assert "RAM" not in text if arena is None else f"RAM {arena:,} of 50,000 bytes" in text
