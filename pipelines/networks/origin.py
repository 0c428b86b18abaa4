"""Whether an artifact was made from the data set at hand, and by a version of the program that this one understands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cgankd.config import ConfigError, to_dict
from cgankd.types import DatasetInfo
from pipelines.files.layout import inside, maker


def check_origin(config: dict[str, Any], info: DatasetInfo, path: Path) -> None:
    """Raise ConfigError when the weights were made from another data set."""
    if config["info"] != json.loads(json.dumps(to_dict(info))):
        stage = path.name.split(".")[0].split("-")[0]
        raise ConfigError(
            f"{path.name} was made from another data set than artifacts/dataset.h5; run `cgankd {stage}` again"
        )


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Raise ConfigError, with the command that makes the file again, where what it says cannot be built into nets."""
    try:
        yield
    except (ConfigError, torch.OutOfMemoryError):
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError, AssertionError) as error:
        text = " ".join(str(error).split())
        if "allocate" in text:  # of memory, which is no fault of the file
            raise
        raise ConfigError(
            f"{path} does not fit the config.json beside it or is of another version of cgankd"
            f" ({type(error).__name__}: {text[:120]}); run `{maker(str(inside(path)))}` again"
        ) from error
