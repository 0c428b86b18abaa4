"""Where the networks of both sides run."""

from __future__ import annotations

from cgankd.fit.device import this_machine


def place() -> str:
    """The CUDA device where one is there, else the processor."""
    return this_machine().device
