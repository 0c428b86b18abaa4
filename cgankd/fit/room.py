"""Memory that is not there: how torch, numpy and the system say so, and the sentence for the user. Imports no torch."""

from __future__ import annotations

import re

from cgankd.config.settings import ConfigError

WORDS = (
    *("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "unable to allocate"),
    *("alloc_failed", "bad allocation", "bad_alloc", "failed to map segment", "can't start new thread"),
)
"""How an error says that memory is gone, in small letters."""
WANTED = (
    re.compile(r"tried to allocate (?P<num>[\d.]+) ?(?P<unit>bytes|[KMGT]i?B)", re.IGNORECASE),
    re.compile(r"unable to (?:allocate|mmap) (?P<num>[\d.]+) ?(?P<unit>bytes|[KMGT]i?B)", re.IGNORECASE),
)
"""How it says what was asked for."""
UNITS = {"b": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class NoRoom(ConfigError):
    """Memory ran out where nothing can be halved any more; the message says what was needed and what to lower."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is gone, of the processor's or of a device's."""
    if isinstance(error, MemoryError | NoRoom):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | ImportError | OSError) and any(word in text for word in WORDS)


def wanted_bytes(error: BaseException) -> float | None:
    """What the failed allocation asked for; None where the error does not say."""
    for pattern in WANTED:
        if found := pattern.search(str(error)):
            unit = found["unit"].lower()
            return float(found["num"]) * UNITS["b" if unit == "bytes" else unit.removesuffix("b")]
    return None


def lacking(error: BaseException) -> str:
    """What the failed allocation asked for, in words: "another 2.1 GB were needed"."""
    wanted = wanted_bytes(error)
    if wanted is None:
        return "there was no room for more"
    return (
        f"another {wanted / 1e9:.2g} GB were needed" if wanted >= 1e8 else f"another {wanted / 1e6:.2g} MB were needed"
    )
