"""Images of the user's that belong together: whether a project can divide them as it is asked to, found before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cgankd.config import DataConfig
from cgankd.config.settings import from_dict
from cgankd.data.readers.group_splits import class_rows, scalar_rows
from cgankd.data.readers.groups import Grouping
from pipelines.files.params import parse, preset_text
from pipelines.project.own_data import OwnData

SEED = 0
"""That of the presets which `init` starts from."""


def divided(data: OwnData, preset: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """How many groups there are and how `prepare` will divide them, in words; nothing where there are none.

    `values` are the settings by dotted name that differ from the preset. Raises ConfigError as `prepare` would.
    """
    if data.grouping is None:
        return ()
    section = parse(preset_text(preset), preset)["data"]
    section |= {name.removeprefix("data."): value for name, value in values.items() if name.startswith("data.")}
    cfg = from_dict(DataConfig, section, "data.")
    if data.scalar:
        label_N = torch.tensor([float(label) for label in data.labels])
        return scalar_rows(label_N, cfg, SEED, data.grouping)[1].lines
    names = sorted(set(data.labels))
    label_N = torch.tensor([names.index(label) for label in data.labels])
    return class_rows(label_N, data.parts, names, cfg, SEED, data.grouping)[1].lines


def group_names(grouping: Grouping) -> list[str]:
    """A plain name for the group of each image, by which copies of them are told apart."""
    return [f"g{number:05d}" for number in grouping.number_N.tolist()]
