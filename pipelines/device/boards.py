"""Common boards with the memory that their makers state, and whether a file fits on one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cgankd.config import ConfigError
from cgankd.config.settings import nearest

KB = 1024
RUNTIME_BYTES = 16 * KB
RUNTIME_SOURCE = (
    "its makers' figure for the core of the runtime on a Cortex-M3, without operators"
    " (https://www.tensorflow.org/lite/microcontrollers)"
)
TIGHT_FLASH, TIGHT_RAM = 32 * KB, 8 * KB
"""With less left it is tight: operators and program take flash, stack and buffers RAM. A choice of ours, not a measurement."""


@dataclass(frozen=True)
class Board:
    """Flash and RAM in bytes, and where that is stated."""

    name: str
    chip: str
    flash: int
    ram: int
    source: str


BOARDS = {
    board.name: board
    for board in (
        Board(
            "bluepill",
            "STM32F103C8",
            64 * KB,
            20 * KB,
            "ST, STM32F103x8 data sheet DS5319, https://www.st.com/resource/en/datasheet/stm32f103c8.pdf",
        ),
        Board(
            "nucleo-l432kc",
            "STM32L432KC",
            256 * KB,
            64 * KB,
            "ST, STM32L432KB/KC data sheet DS11451, https://www.st.com/resource/en/datasheet/stm32l432kc.pdf",
        ),
        Board(
            "microbit-v2",
            "nRF52833",
            512 * KB,
            128 * KB,
            "Micro:bit Educational Foundation, hardware, https://tech.microbit.org/hardware/",
        ),
        Board(
            "nano-33-ble",
            "nRF52840",
            1024 * KB,
            256 * KB,
            "Arduino, Nano 33 BLE data sheet ABX00030, https://docs.arduino.cc/resources/datasheets/ABX00030-datasheet.pdf",
        ),
        Board(
            "pico",
            "RP2040",
            2048 * KB,
            264 * KB,
            "Raspberry Pi, Pico data sheet, https://datasheets.raspberrypi.com/pico/pico-datasheet.pdf",
        ),
        Board(
            "pico-2",
            "RP2350",
            4096 * KB,
            520 * KB,
            "Raspberry Pi, Pico 2 data sheet, https://datasheets.raspberrypi.com/pico/pico-2-datasheet.pdf",
        ),
        Board(
            "esp32-devkitc",
            "ESP32-WROOM-32E with 4 MB",
            4096 * KB,
            520 * KB,
            "Espressif, ESP32-WROOM-32E data sheet,"
            " https://www.espressif.com/sites/default/files/documentation/esp32-wroom-32e_esp32-wroom-32ue_datasheet_en.pdf",
        ),
        Board(
            "nucleo-f746zg",
            "STM32F746ZG",
            1024 * KB,
            320 * KB,
            "ST, STM32F745xx/F746xx data sheet DS10916, https://www.st.com/resource/en/datasheet/stm32f746zg.pdf",
        ),
    )
}
"""Small to large. RAM is all of the chip's; what a program and its radio take of it is not known here."""


def board_of(text: str) -> Board:
    """A board by name, or flash=BYTES,ram=BYTES with k or M for 1024 and its square. Raises ConfigError."""
    if "=" not in text:
        if text in BOARDS:
            return BOARDS[text]
        raise ConfigError(
            f"--board {text} is not known; name one of {', '.join(BOARDS)}, or say flash=1M,ram=256k{nearest(text, BOARDS)}"
        )
    sizes: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"(flash|ram)=(\d+)([kM]?)B?", part.strip())
        if match is None or match[1] in sizes:
            raise ConfigError(f"--board {text} must be a name or flash=BYTES,ram=BYTES, such as flash=1M,ram=256k")
        sizes[match[1]] = int(match[2]) * {"": 1, "k": KB, "M": KB * KB}[match[3]]
    if set(sizes) != {"flash", "ram"}:
        raise ConfigError(f"--board {text} must say both flash and ram, such as flash=1M,ram=256k")
    return Board(text, "", sizes["flash"], sizes["ram"], "as given")


def verdict(board: Board, size: int, arena: int | None, missing: tuple[str, ...]) -> str:
    """Whether a file of so many bytes with so large an arena fits, and the sums: `fits`, `tight`, or `does not fit` and why.

    Flash is the file and the core of the runtime, RAM the arena; operators, stack and program must go into what is left.
    """
    lacks = []
    if missing:
        lacks.append(f"no operator {', '.join(missing)}")
    flash, ram = board.flash - size - RUNTIME_BYTES, None if arena is None else board.ram - arena
    if flash < 0:
        lacks.append(f"{-flash:,} bytes of flash too little")
    if ram is None and not missing:
        lacks.append("the arena is not known")
    elif ram is not None and ram < 0:
        lacks.append(f"{-ram:,} bytes of RAM too little")
    sums = f"flash {size:,} + {RUNTIME_BYTES:,} of {board.flash:,} bytes"
    sums += "" if arena is None else f", RAM {arena:,} of {board.ram:,} bytes"
    if lacks:
        return f"does not fit: {'; '.join(lacks)} ({sums})"
    assert ram is not None, "an arena that is not known does not fit"
    narrow = [
        f"{left:,} bytes of {what}"
        for what, left, least in (("flash", flash, TIGHT_FLASH), ("RAM", ram, TIGHT_RAM))
        if left < least
    ]
    return f"tight: {' and '.join(narrow)} left ({sums})" if narrow else f"fits ({sums})"
