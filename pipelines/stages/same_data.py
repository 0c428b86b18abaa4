"""Whether artifacts/dataset.h5 is the data set that params.yaml describes."""

from __future__ import annotations

from pathlib import Path

from cgankd.config import ConfigError, DataConfig
from cgankd.data.store.datasets import read_info
from cgankd.types import DatasetInfo


def info_of(dataset: Path, cfg: DataConfig) -> DatasetInfo:
    """What the data set says of itself. Raises ConfigError where its source or image shape is not that of the settings.

    Another kind of label is for `make_task` to refuse.
    """
    info = read_info(dataset)
    for name in ("source", "image_size", "channels") if info.kind == cfg.task else ():
        wanted, found = getattr(cfg, name), getattr(info, name)
        if wanted != found:
            raise ConfigError(
                f"data.{name} is {wanted}, but artifacts/dataset.h5 was made with {found}; run `cgankd prepare` again"
            )
    return info
