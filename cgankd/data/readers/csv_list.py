"""The source `csv`: a list of image paths with their labels, numbers or class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Account, Dataset
from cgankd.data.readers.group_splits import class_rows, scalar_rows
from cgankd.data.readers.groups import Grouping, by_cells, column_of, inside_paths, path_groups
from cgankd.data.readers.image_folder import LabelledFiles, joined, read_rows, without_broken
from cgankd.data.readers.label_text import (
    check_digits,
    class_names,
    label_number,
    number,
    wild,
)
from cgankd.data.readers.list_columns import Columns
from cgankd.data.readers.list_lines import NAMED, Entry, Listed, read_list
from cgankd.data.store.room import Room, in_memory
from cgankd.types import LogFn, silent


def list_groups(found: Listed, groups: str | None, root: Path) -> Grouping | None:
    """Which images of a list belong together, by `data.groups`; None where it is null. Raises ConfigError."""
    if groups is None:
        return None
    paths = [entry.path for entry in found.entries]
    if found.has_groups:
        return by_cells([entry.group for entry in found.entries], groups, paths)
    return path_groups(inside_paths(paths, root.parent), groups)


def load_csv_classes(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Lines `path,class name`; classes are the sorted names, splits are stratified by class.

    Raises ConfigError with the file and line at fault.
    """
    found, skipped = _kept(cfg, measured=False)
    labels, said = class_names([entry.label for entry in found.entries])
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ConfigError(f"data.root {cfg.root!r} names {len(names)} class; there must be at least two")
    number = {name: place for place, name in enumerate(names)}
    label_N = torch.tensor([number[text] for text in labels])
    rows, account = class_rows(label_N, None, names, cfg, seed, list_groups(found, cfg.groups, Path(cfg.root)))
    account = joined(skipped, account)
    files = LabelledFiles([entry.path for entry in found.entries], label_N, class_names=names, account=account)
    return _saying(read_rows(files, rows, cfg, log, room), [*found.said, *said])


def load_csv_scalars(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Lines `path,number`; splits are spread evenly over the sorted labels.

    Raises ConfigError with the file and line at fault.
    """
    found, skipped = _kept(cfg, measured=True)
    values = [label_number(entry.label, entry.where) for entry in found.entries]
    blurred = check_digits([entry.label for entry in found.entries], cfg.root)
    label_N = torch.tensor(values, dtype=torch.float32)
    rows, account = scalar_rows(label_N, cfg, seed, list_groups(found, cfg.groups, Path(cfg.root)))
    files = LabelledFiles([entry.path for entry in found.entries], label_N, account=joined(skipped, account))
    said = [*found.said, *blurred, *wild_labels(found.entries, values)]
    return _saying(read_rows(files, rows, cfg, log, room), said)


def _kept(cfg: DataConfig, *, measured: bool) -> tuple[Listed, Account]:
    """The lines to use, all of them unless `data.skip_broken`, and what to say of the others; `measured` labels are numbers."""
    columns = Columns(cfg.path_column, cfg.label_column, column_of(cfg.groups))
    found = read_list(cfg.root, columns=columns, skip_broken=cfg.skip_broken)
    if not cfg.skip_broken:
        return found, Account()
    wrong = found.skipped()
    if measured:
        wrong += [f"{entry.where}: {entry.label!r} is no finite number" for entry in unmeasured(found.entries)]
        found = replace(found, entries=[entry for entry in found.entries if number(entry.label) is not None])
    rows, broken = without_broken([entry.path for entry in found.entries], cfg)
    said = [f"{len(wrong)} lines skipped (data.skip_broken)", *wrong[:NAMED]] if wrong else []
    lines = Account({"lines_skipped": float(len(wrong))}, tuple(said))
    return replace(found, entries=[found.entries[row] for row in rows]), joined(lines, broken)


def unmeasured(entries: Sequence[Entry]) -> list[Entry]:
    """Lines whose label is no finite number."""
    return [entry for entry in entries if number(entry.label) is None]


def _saying(data: Dataset, lines: list[str]) -> Dataset:
    return replace(data, account=Account(data.account.counts, (*lines, *data.account.lines)))


def wild_labels(entries: Sequence[Entry], values: Sequence[float]) -> list[str]:
    """A line that names labels far from all others, with the range of those; nothing where there are none."""
    far, low, high = wild(values)
    if not far:
        return []
    named = "; ".join(
        f"{entries[place].where} has {values[place]:.9g} for {entries[place].path.name}" for place in far[:NAMED]
    )
    more = f"; and {len(far) - NAMED} more" if len(far) > NAMED else ""
    return [
        f"WARNING: far from all other labels, which run from {low:.9g} to {high:.9g}: {named}{more};"
        " correct or remove what is wrong"
    ]
