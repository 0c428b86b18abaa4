"""The source `image-folder`: one folder of images for each class, split here or split already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from cgankd.config import DataConfig
from cgankd.config.data import FOLDER
from cgankd.data.dataset import Account, Dataset, make_dataset
from cgankd.data.readers.class_folders import Listing, list_folder
from cgankd.data.readers.group_splits import class_rows
from cgankd.data.readers.groups import Grouping, by_folder, by_pattern, inside_paths
from cgankd.data.readers.image_files import done_lines, problems, read_images
from cgankd.data.readers.walk import left_out_lines
from cgankd.data.store.room import Room, in_memory
from cgankd.types import LogFn, Split, silent

MOST_SAID = 10
"""Files that are named one by one, of those skipped."""


def load_image_folder(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """root/<class>/*.png, or root/train/<class>/ with root/test/<class>/ and root/val/<class>/ where they exist.

    Classes are the sorted folder names. Without a test folder `test_share` of each class is set aside; without a
    validation folder `val_per_label` or `num_val` images are taken out of training. Raises ConfigError with the file
    or class at fault.
    """
    return read_listing(list_folder(cfg.root), cfg, seed, log, room)


def read_listing(listing: Listing, cfg: DataConfig, seed: int, log: LogFn, room: Room) -> Dataset:
    """Split what a listing names and decode it; the account says what was left out."""
    hidden = sum(entry.hidden for entry in listing.left)
    counts = {"files_ignored": float(len(listing.left) - hidden), "files_hidden": float(hidden)}
    account = Account(counts, (*left_out_lines(listing.left, Path(cfg.root)), *listing.lines))
    kept, skipped = without_broken(listing.paths, cfg)
    paths = [listing.paths[row] for row in kept]
    label_N = torch.tensor([listing.labels[row] for row in kept])
    groups = folder_groups(listing, cfg.groups, Path(cfg.root))
    groups = groups and groups.take(torch.tensor(kept))
    parts = [listing.parts[row] for row in kept]
    rows, divided = class_rows(label_N, parts, listing.class_names, cfg, seed, groups)
    account = joined(account, skipped, divided)
    files = LabelledFiles(paths, label_N, class_names=listing.class_names, notes=listing.notes, account=account)
    return read_rows(files, rows, cfg, log, room)


def folder_groups(listing: Listing, groups: str | None, root: Path) -> Grouping | None:
    """Which images of class folders belong together, by `data.groups`; None where it is null. Raises ConfigError.

    A sub-folder of the same name in several classes or splits is one group.
    """
    if groups is None:
        return None
    names = inside_paths(listing.paths, root)
    return by_folder(listing.within, names) if groups == FOLDER else by_pattern(names, groups)


def without_broken(paths: Sequence[Path], cfg: DataConfig) -> tuple[list[int], Account]:
    """Numbers of the files to use, all of them unless `data.skip_broken`, and what to say of the others."""
    if not cfg.skip_broken:
        return list(range(len(paths))), Account()
    wrong = problems(paths, cfg)
    said = [problem for problem in wrong if problem]
    lines = [f"{len(said)} files skipped (data.skip_broken)", *said[:MOST_SAID]] if said else []
    kept = [row for row, problem in enumerate(wrong) if not problem]
    return kept, Account({"files_skipped": float(len(said))}, tuple(lines))


def middle_squares(cfg: DataConfig) -> DataConfig:
    """The settings of a source whose images are of many sizes: the middle square of each, unless the user says otherwise."""
    return replace(cfg, fit="crop", enlarge=True) if cfg.fit == "refuse" else cfg


def joined(*accounts: Account) -> Account:
    """Several accounts as one."""
    counts = {name: count for account in accounts for name, count in account.counts.items()}
    return Account(counts, tuple(line for account in accounts for line in account.lines))


@dataclass(frozen=True)
class LabelledFiles:
    """Image files of a source with their labels [N], and what is to be said of them.

    `label_unit` is that of scalar labels, which have no class names; `account` says what was left out.
    """

    paths: list[Path]
    label_N: Tensor
    class_names: tuple[str, ...] = ()
    label_unit: str = "units"
    notes: Mapping[str, float] = field(default_factory=dict)
    account: Account = Account()


def read_rows(files: LabelledFiles, rows: dict[str, Tensor], cfg: DataConfig, log: LogFn, room: Room) -> Dataset:
    """Decode the images of the rows of each split, and only those, into a data set."""
    chosen = torch.cat(list(rows.values()))
    paths = [files.paths[row] for row in chosen.tolist()]
    images, counts = read_images(paths, cfg, log, room=room)
    labels = files.label_N[chosen]
    root = Path(cfg.root) if Path(cfg.root).is_dir() else Path(cfg.root).parent
    names = inside_paths(paths, root)
    splits, named, start = {}, {}, 0
    for name, part in rows.items():
        named[name] = names[start : start + len(part)]
        splits[name] = Split(images[start : start + len(part)], labels[start : start + len(part)])
        start += len(part)
    notes = {"images_resized": float(counts["images_resized"])} | dict(files.notes)
    unit = "" if files.class_names else files.label_unit
    data = make_dataset(cfg, splits, label_unit=unit, class_names=files.class_names, notes=notes)
    done, lines = done_lines(counts, len(paths))
    return replace(data, account=joined(files.account, data.account, Account(done, lines)), files=named)
