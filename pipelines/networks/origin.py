"""Whether an artifact was made from the data set at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError, to_dict
from cgankd.types import DatasetInfo


def check_origin(config: dict[str, Any], info: DatasetInfo, path: Path) -> None:
    """Raise ConfigError when the weights were made from another data set."""
    if config["info"] != json.loads(json.dumps(to_dict(info))):
        stage = path.name.split(".")[0].split("-")[0]
        raise ConfigError(
            f"{path.name} was made from another data set than artifacts/dataset.h5; run `cgankd {stage}` again"
        )
