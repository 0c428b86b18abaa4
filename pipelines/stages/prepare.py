"""Stage `prepare`: read the source, split it, write artifacts/dataset.h5, the unlabelled images and a contact sheet."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping

import torch

from cgankd.config import ConfigError, DataConfig
from cgankd.config.data import GROUPED, REST
from cgankd.data.dataset import Dataset, class_counts, gaps
from cgankd.data.readers.class_words import by_class
from cgankd.data.readers.sources import load
from cgankd.data.readers.unlabelled import Unlabelled, find_unlabelled, read_rest, read_unlabelled
from cgankd.data.store.datasets import write_dataset
from cgankd.data.store.room import Room
from cgankd.data.store.unlabelled import write_unlabelled
from cgankd.measure.known import Known, known_images, repeats
from cgankd.measure.twins import WORDS, Copies, copies_across, copy_counts, copy_sentences
from pipelines.files.params import write_text
from pipelines.pictures import stages as pictures
from pipelines.pictures.style import label_texts
from pipelines.runtime.context import Context
from pipelines.runtime.machine import image_memory
from pipelines.runtime.scratch import image_room
from pipelines.stages.downloads import fetch

ALL_SHOWN, SHOWN, MOST_SHOWN = 60, 40, 120
"""Images on the contact sheet: all of so many, else about so many, and no more classes than that."""
COPIES_NAMED = 5
"""Copies across splits that one line names."""


def run(ctx: Context) -> None:
    """Read data.source with the splits of params.yaml; a second run renders nothing it has cached.

    Images that do not fit in the memory budget are decoded into a scratch file, so that each is decoded once.
    """
    find_unlabelled(ctx.cfg.data)  # before anything is fetched or decoded
    fetch(ctx.cfg.data, ctx.say)
    room = image_room(ctx.path("resume/prepare/scratch"), image_memory(ctx.cfg.data))
    dataset = load(ctx.cfg.data, ctx.seed, log=ctx.progress("images"), cache=ctx.path("cache"), room=room)
    counts = {"train": len(dataset.train), "val": len(dataset.val), "test": len(dataset.test)}
    ctx.say(
        f"{dataset.info.source}: {counts['train']} training, {counts['val']} validation and {counts['test']} test images"
        f" of {dataset.info.channels}x{dataset.info.image_size}x{dataset.info.image_size}"
    )
    for line in (*_taken(dataset), *dataset.account.lines):
        ctx.say(line)
    repeated = int(dataset.notes.get("images_repeated", 0))
    if repeated:
        ctx.say(f"{repeated} of the training images are repeats of others (data.replicate_to)")
    missing = int(dataset.notes.get("images_missing", 0))
    if missing:
        ctx.say(
            f"WARNING: data.root {ctx.cfg.data.root!r} has {missing:,} images fewer than the public data set; it is used as it is"
        )
    if dataset.info.class_names:
        for gap in gaps(dataset.info.class_names, class_counts(dataset), ("class", "classes")):
            ctx.say(f"WARNING: {gap}; docs/howto/imbalance.md says what helps")
    numbers = {f"num_{name}": float(count) for name, count in counts.items()}
    found = copies_across({name: split.images for name, split in dataset.splits().items()}, ctx.progress("copies"))
    numbers |= copy_counts(found)
    for line in about_copies(dataset, found, numbers, ctx.cfg.data):
        ctx.say(line)
    numbers |= take_unlabelled(ctx, dataset, room)
    write_dataset(ctx.new("dataset.h5"), dataset)
    ctx.metrics(numbers | dict(dataset.notes) | dict(dataset.account.counts))
    shown, texts, title = sheet(dataset)
    ctx.picture("contact", pictures.contact_sheet(dataset.train.images[shown], texts, title))


def take_unlabelled(ctx: Context, dataset: Dataset, room: Room) -> dict[str, float]:
    """artifacts/unlabelled.h5, empty where data.unlabelled is null, without what is labelled already; what was left out and
    why is a list in artifacts/unlabelled.csv. Returns numbers for metrics/prepare.json.

    Raises ConfigError where nothing is left.
    """
    cfg, log = ctx.cfg.data, ctx.progress("unlabelled")
    if cfg.unlabelled == REST:
        found = read_rest(cfg, ctx.seed, dataset.train.images, log=log, cache=ctx.path("cache"), room=room)
    else:
        found = read_unlabelled(cfg, ctx.seed, log=log, room=room)
    # The test images first: an image that is near several is said to be a copy of the one that matters most.
    sets = {name: dataset.splits()[name] for name in ("test", "val", "train")}
    known = known_images(found.images, {name: split.images for name, split in sets.items()}, ctx.progress("known"))
    again = repeats(found.images) & (known.part_U < 0)
    kept = ((known.part_U < 0) & ~again).nonzero()[:, 0]
    if ctx.cfg.data.unlabelled is not None and len(kept) == 0:
        raise ConfigError(
            f"data.unlabelled {ctx.cfg.data.unlabelled!r}: all {len(found)} images are copies of labelled ones; name others,"
            " or null"
        )
    write_unlabelled(ctx.new("unlabelled.h5"), found.images, kept)
    rows = list(left_out(dataset, found, known, again))
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("image", "why", "of"), *rows])
    write_text(ctx.new("unlabelled.csv"), table.getvalue())
    if ctx.cfg.data.unlabelled is None:
        return {}
    numbers = {"num_unlabelled": float(len(kept)), "unlabelled.repeats": float(again.sum())}
    ctx.say(f"{ctx.cfg.data.unlabelled}: {len(found)} unlabelled images, of which {len(kept)} are used")
    for line in found.account.lines:
        ctx.say(line)
    for part, name in enumerate(sets):
        of_part = known.part_U == part
        exact, near = (float((of_part & (known.exact_U == kind)).sum()) for kind in (True, False))
        numbers |= {f"unlabelled.exact_copies.{name}": exact, f"unlabelled.near_copies.{name}": near}
        if exact + near:
            firsts = [f"{row[0]} is {row[1]}: {row[2]}" for row in rows if row[1].endswith(f"of {WORDS[name]}")]
            firsts = firsts[:COPIES_NAMED]
            more = f"; and {exact + near - len(firsts):.0f} more" if exact + near > len(firsts) else ""
            ctx.say(
                f"left out: {exact:.0f} exact and {near:.0f} near copies of {WORDS[name]} images: {'; '.join(firsts)}{more}"
            )
    if again.any():
        ctx.say(f"left out: {int(again.sum())} unlabelled images that are there more than once")
    if rows:
        ctx.say("artifacts/unlabelled.csv names all that was left out")
    return numbers | {f"unlabelled.{name}": count for name, count in found.account.counts.items()}


def left_out(dataset: Dataset, found: Unlabelled, known: Known, again: torch.Tensor) -> Iterator[tuple[str, str, str]]:
    """For each unlabelled image that is not used its name, why, and the labelled image that it is a copy of."""
    for row in ((known.part_U >= 0) | again).nonzero()[:, 0].tolist():
        part = int(known.part_U[row])
        if part < 0:
            yield found.names[row], "a repeat", ""
            continue
        name = ("test", "val", "train")[part]
        kind = "a copy" if known.exact_U[row] else "a near copy"
        yield found.names[row], f"{kind} of {WORDS[name]}", named(dataset, name, int(known.row_U[row]))


def about_copies(
    dataset: Dataset, found: Mapping[tuple[str, str], Copies], numbers: Mapping[str, float], cfg: DataConfig
) -> Iterator[str]:
    """How many images have a copy in another split, with the first ones by name; a warning where data.groups can mend it."""
    grouping = cfg.source in GROUPED
    sentences = copy_sentences(numbers)
    if not sentences:
        yield "no exact or near copies across training, validation and test"
    for sentence in sentences:
        yield f"{'WARNING: ' if grouping else ''}{sentence}, so that errors measured on them flatter"
    for (among, of), copies in found.items():
        rows = (copies.row_B >= 0).nonzero()[:, 0].tolist()
        # The exact ones first, as they need no second look.
        rows.sort(key=lambda row: int(copies.exact_B[row]) < 0)
        pairs = [
            f"{named(dataset, of, row)} is {'a copy of' if copies.exact_B[row] >= 0 else 'near'}"
            f" {named(dataset, among, int(copies.row_B[row]))}"
            for row in rows[:COPIES_NAMED]
        ]
        if pairs:
            more = f"; and {len(rows) - COPIES_NAMED} more" if len(rows) > COPIES_NAMED else ""
            yield f"copies of {among} images in {of}: {'; '.join(pairs)}{more}"
    if sentences and grouping:
        cure = "data.groups keeps images that belong together in one split"
        if cfg.groups is not None:
            cure = (
                f"data.groups {cfg.groups} leaves images apart that look alike; larger groups would hold them together"
            )
        yield f"{cure} (docs/howto/groups.md)"


def named(dataset: Dataset, part: str, row: int) -> str:
    """An image by its file, or where it has none by its row in a split."""
    files = dataset.files.get(part)
    return files[row] if files else f"{part} image {row}"


def _taken(dataset: Dataset) -> Iterator[str]:
    """Images by class, or the ends of the labels."""
    labels = torch.cat([split.labels for split in dataset.splits().values()])
    names = dataset.info.class_names
    if names:
        yield f"images by class: {by_class(Counter(names[label] for label in labels.tolist()))}"
    else:
        yield f"labels from {float(labels.min()):g} to {float(labels.max()):g}"


def sheet(dataset: Dataset) -> tuple[torch.Tensor, list[str], str]:
    """Training images to show by label, with names and title: all of a few, else some of every class, or evenly spaced
    ones of a scalar.
    """
    labels, names = dataset.train.labels, dataset.info.class_names
    order = labels.argsort(stable=True)
    title = f"Training images of {dataset.info.source}, by label ({dataset.info.label_unit or 'class'})"
    if len(order) <= ALL_SHOWN:
        shown = order
    elif names:
        groups = [rows for rows in (order[labels[order] == label] for label in range(len(names))) if len(rows)]
        each = max(1, SHOWN // len(groups))
        shown = torch.cat([rows[spread(len(rows), each)] for rows in groups[:MOST_SHOWN]])
        if len(groups) > MOST_SHOWN:
            title += f"; the first {MOST_SHOWN} of {len(groups)} classes"
    else:
        shown = order[spread(len(order), SHOWN)]
    return shown, label_texts(labels[shown], names), title


def spread(count: int, num: int) -> torch.Tensor:
    """At most `num` of the places 0 to count - 1, evenly over all of them, both ends among them."""
    return torch.linspace(0, count - 1, min(num, count)).round().long()
