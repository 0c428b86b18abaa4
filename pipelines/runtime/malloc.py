"""glibc's allocator, set to keep large blocks: its default gives each one back and pays for the page faults again.

The settings are read when a program starts, so a stage starts itself anew with them, once, before torch is imported.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence

from cgankd.config.settings import ConfigError

SWITCH = "CGANKD_MALLOC"
"""off = leave the allocator alone; a restarted program finds its mark here."""
SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""Blocks under 4 GiB come from the heap, which is given back from 16 GiB free on and grows by 256 MiB."""
RESTARTED = "large-blocks"


def missing_settings(environment: Mapping[str, str], libc: str) -> dict[str, str]:
    """What to add to the environment before a restart; empty where none is due. The user's own settings stay.

    Raises ConfigError where CGANKD_MALLOC is neither off nor on.
    """
    switch = environment.get(SWITCH, "on")
    if switch not in ("on", "off", RESTARTED):
        raise ConfigError(f"the environment variable {SWITCH} must be off or on, but is {switch!r}")
    if switch != "on" or libc != "glibc":
        return {}
    wanted = {name: value for name, value in SETTINGS.items() if name not in environment}
    return wanted | {SWITCH: RESTARTED} if wanted else {}


def restart(
    stages: Sequence[str], argv: Sequence[str], execute: Callable[[str, list[str], dict[str, str]], object] = os.execve
) -> None:
    """Start this very command again with the settings where it runs one of the stages; otherwise return."""
    words = [word for word in argv if not word.startswith("-")]
    if not words or words[0] not in stages:
        return
    if new := missing_settings(os.environ, platform.libc_ver()[0]):
        execute(sys.executable, [sys.executable, *sys.orig_argv[1:]], dict(os.environ) | new)


def describe(environment: Mapping[str, str]) -> str:
    """The allocator of this process in words."""
    if platform.libc_ver()[0] != "glibc":
        return "default (no glibc)"
    return "large blocks kept" if all(name in environment for name in SETTINGS) else "default"
