"""What an error is: a sentence meant for the user, or a defect to see whole."""

from __future__ import annotations

import dis
import re
from pathlib import Path

OURS = ("cgankd", "pipelines")
RAISE = dis.opmap["RAISE_VARARGS"]


def told_to_user(error: ValueError) -> bool:
    """A ValueError raised by this code is meant for the user; one from another package is a defect to see whole."""
    from cgankd.config import ConfigError

    if isinstance(error, ConfigError):
        return True
    if error.__cause__ is not None and type(error.__cause__).__name__ == "_RemoteTraceback":
        # Raised in a worker process: all that came back of its stack is this text.
        files = re.findall(r'File "([^"]+)"', str(error.__cause__))
        return bool(files) and bool(set(OURS) & set(Path(files[-1]).parent.parts[-3:]))
    return origin(error)[0].split(".")[0] in OURS


def said_on_purpose(error: ValueError) -> bool:
    """The error comes from a `raise` of this code, and not from the interpreter at work on it (a failed unpacking)."""
    module, by_raise = origin(error)
    return by_raise and module.split(".")[0] in OURS


def origin(error: BaseException) -> tuple[str, bool]:
    """The module that an error comes from, empty where it has no trace, and whether a `raise` statement made it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "", False
    by_raise = trace.tb_frame.f_code.co_code[trace.tb_lasti] == RAISE
    return str(trace.tb_frame.f_globals.get("__name__", "")), by_raise
