"""Settings and pictures that the data tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cgankd.config import DataConfig

DEFAULTS: dict[str, Any] = {
    "task": "class",
    "source": "digits",
    "root": "unused",
    "image_size": 16,
    "channels": 1,
    "train_per_label": None,
    "num_train": None,
    "val_per_label": 2,
    "num_val": None,
    "test_share": None,
    "num_test": None,
    "label_min": None,
    "label_max": None,
}


def data_config(**changes: Any) -> DataConfig:
    """A DataConfig of the defaults above with some fields changed."""
    return DataConfig(**(DEFAULTS | changes))


def save_picture(path: Path, seed: int, *, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> None:
    """A random picture that can be told from others by its seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
