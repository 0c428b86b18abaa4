"""Converters talk on both streams, from Python and from C++; here they do so into a file."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from cgankd.config import ConfigError


def need(*packages: str) -> None:
    """Raise ConfigError with the cure unless all packages are there."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be installed for this; run pip install 'cgankd[device]'")


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Keep what is written to the two streams, and warnings, from the terminal; the list holds the text at the end."""
    said: list[str] = []
    sys.stdout.flush()
    sys.stderr.flush()
    kept, level = [os.dup(1), os.dup(2)], logging.root.manager.disable
    with tempfile.TemporaryFile() as sink:
        try:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            logging.disable(logging.CRITICAL)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield said
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for own, stream in zip(kept, (1, 2), strict=True):
                os.dup2(own, stream)
                os.close(own)
            logging.disable(level)
            sink.seek(0)
            said.append(sink.read().decode(errors="replace"))
