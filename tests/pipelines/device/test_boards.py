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


@pytest.mark.parametrize(
    ("size", "arena", "missing", "said"),
    [
        (100, 50, (), "fits"),
        (101, 50, (), "1 bytes of flash too little"),
        (100, 51, (), "1 bytes of RAM too little"),
        (1100, 1050, (), "1,000 bytes of flash too little; 1,000 bytes of RAM too little"),
        (100, None, ("ATAN2",), "no operator ATAN2"),
        (100, None, (), "the arena is not known"),
    ],
)
def test_what_is_missing_is_said(size: int, arena: int | None, missing: tuple[str, ...], said: str) -> None:
    assert verdict(Board("b", "", 100, 50, ""), size, arena, missing) == said
