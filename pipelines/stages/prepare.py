"""Stage `prepare`: read the source, split it, write artifacts/dataset.h5 and a contact sheet."""

from __future__ import annotations

from cgankd.data.dataset import class_counts, gaps
from cgankd.data.readers.sources import load
from cgankd.data.store.datasets import write_dataset
from pipelines.pictures import stages as pictures
from pipelines.runtime.context import Context
from pipelines.runtime.machine import image_memory
from pipelines.runtime.scratch import image_room
from pipelines.stages.downloads import fetch


def run(ctx: Context) -> None:
    """Read data.source with the splits of params.yaml; a second run renders nothing it has cached.

    Images that do not fit in the memory budget are decoded into a scratch file, so that each is decoded once.
    """
    fetch(ctx.cfg.data, ctx.say)
    room = image_room(ctx.path("resume/prepare/scratch"), image_memory(ctx.cfg.data))
    dataset = load(ctx.cfg.data, ctx.seed, log=ctx.progress("images"), cache=ctx.path("cache"), room=room)
    write_dataset(ctx.path("dataset.h5"), dataset)
    counts = {"train": len(dataset.train), "val": len(dataset.val), "test": len(dataset.test)}
    ctx.say(
        f"{dataset.info.source}: {counts['train']} training, {counts['val']} validation and {counts['test']} test images"
        f" of {dataset.info.channels}x{dataset.info.image_size}x{dataset.info.image_size}"
    )
    missing = int(dataset.notes.get("images_missing", 0))
    if missing:
        ctx.say(
            f"WARNING: data.root {ctx.cfg.data.root!r} has {missing:,} images fewer than the public data set; it is used as it is"
        )
    if dataset.info.class_names:
        for gap in gaps(dataset.info.class_names, class_counts(dataset), ("class", "classes")):
            ctx.say(f"WARNING: {gap}; docs/howto/imbalance.md says what helps")
    ctx.metrics({f"num_{name}": float(count) for name, count in counts.items()} | dict(dataset.notes))
    labels = dataset.train.labels
    order = labels.argsort(stable=True)
    shown = order[:: max(1, len(order) // 40)][:40] if len(order) > 60 else order
    sheet = pictures.contact_sheet(
        dataset.train.images[shown],
        [f"{value:.4g}" for value in labels[shown].tolist()],
        f"Training images of {dataset.info.source}, by label ({dataset.info.label_unit or 'class'})",
    )
    ctx.picture("contact", sheet)
