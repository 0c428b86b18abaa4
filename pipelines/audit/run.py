"""`cgankd bank audit`: is the bank near real images, varied, rightly labelled, and free of training images?

No stage of the pipeline: nothing is chosen by these numbers, and no later stage reads them. Training and validation
images only. Bank images and features are memory-mapped scratch files, so memory does not grow with the bank.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from cgankd.config import ConfigError
from cgankd.data.batches import chunks
from cgankd.data.store.banks import read_attributes, read_pool_images, read_pool_scores
from cgankd.data.store.datasets import read_info, read_split
from cgankd.labels.circle import is_whole
from cgankd.labels.task import make_task
from cgankd.measure.features import make_features
from cgankd.measure.findings import Finding, flat
from cgankd.rng import derive
from cgankd.types import DatasetInfo, Images, Split, Task
from pipelines.audit.images import (
    Closeness,
    bound_findings,
    closeness,
    copy_findings,
    duplicate_findings,
    label_findings,
    variety_findings,
)
from pipelines.audit.natural import natural_findings
from pipelines.audit.numbers import Sets, Space, by_label, by_label_findings, fidelity_findings
from pipelines.files.artifacts import file_digest
from pipelines.files.made_with import changed_since
from pipelines.networks.predictor import load_predictor
from pipelines.pictures import audit as pictures_audit
from pipelines.pictures import stages as pictures
from pipelines.runtime.context import Context
from pipelines.runtime.machine import image_memory
from pipelines.runtime.scratch import mapped

LEAST = 10
"""Fewest images on any side: below, no number of an audit means anything."""
READ = 1024
"""Fakes read and passed through the networks at a time."""
SHOWN_PAIRS = 24


def run(ctx: Context, extra: Callable[[Tensor], Tensor] | None = None) -> None:
    """Measure artifacts/bank.h5 against the training and validation images; nothing but reports is written.

    `extra` is a feature network of the user's own.
    """
    dataset, teacher_path, bank_path = ctx.inputs("dataset.h5", "teacher.safetensors", "bank.h5")
    if changed := changed_since(ctx.workdir, "bank.h5", ctx.cfg):
        ctx.say(f"warning: {changed}")
    info = read_info(dataset)
    task = make_task(info, ctx.cfg)
    check_origin(bank_path, dataset, teacher_path)
    memory = image_memory(ctx.cfg.data)
    val, train = read_split(dataset, "val", memory), read_split(dataset, "train", memory)
    scores = read_pool_scores(bank_path, but=("teacher_output",))
    if "labels" not in scores or "asked" not in scores:
        raise ConfigError("artifacts/bank.h5 has no labels, so it is no bank of cgankd; run `cgankd bank` again")
    check_sizes({"training images": len(train), "validation images": len(val), "fakes": len(scores["labels"])})

    teacher = make_features(load_predictor(teacher_path, info, task)[0])
    images, features, outputs, more = read_bank(ctx, bank_path, len(scores["labels"]), info, teacher, extra)
    window = sliding_window(info, task, ctx.cfg.bank.label_bin)
    sets = Sets(
        task,
        train,
        val,
        Split(images, scores["labels"]),
        scores["asked"],
        window,
        derive(ctx.seed, "audit"),
        info.label_period,
    )
    (train_NF, _), (val_NF, val_BO) = teacher(train.images), teacher(val.images)
    # The kernel of KID has a scale of its own, near which Inception features lie; those of a teacher may be anywhere.
    scale = train_NF.square().mean().sqrt().clamp(min=1e-12)
    features /= scale
    spaces = [Space("teacher", "teacher features (not Inception's; RMS 1)", train_NF / scale, val_NF / scale, features)]
    if extra is not None and more is not None:
        spaces.append(
            Space(
                "inception", "the features of --inception", whole(extra, train.images), whole(extra, val.images), more
            )
        )

    found: list[Finding] = []
    for space in spaces:
        found += fidelity_findings(sets, space) + label_distances(ctx, sets, space, info)
    close = closeness(sets, spaces[0], ctx.progress("nearest training images"))
    found += label_findings(sets, (outputs, val_BO), task.headline.unit)
    found += natural_findings(sets) + variety_findings(sets, close)
    found += copy_findings(close) + duplicate_findings(sets, close)
    gap = next(f.value for f in found if f.name == "tv_at_least.teacher")
    error = next(f.value for f in found if f.name == "teacher_error")
    span = None if window is None else largest_miss(info)
    found += bound_findings(sets, gap, span, error, acceptance_rate(bank_path))

    counts = {"num_train": len(train), "num_val": len(val), "num_bank": len(sets.bank), "equal_size": sets.equal_size}
    ctx.metrics({name: float(n) for name, n in counts.items()} | flat(found))
    show_pairs(ctx, sets, close)
    ctx.picture(
        "labels",
        pictures.label_marginal(train.labels, scores["labels"], unit=info.label_unit, class_names=info.class_names),
    )
    report(ctx, found, counts)


def whole(features: Callable[[Tensor], Tensor], images: Images) -> Tensor:
    """Features of a whole set, READ images at a time."""
    return torch.cat([features(chunk) for chunk in chunks(images, READ)])


def check_origin(bank: Path, dataset: Path, teacher: Path) -> None:
    """Raise ConfigError where the bank says that it was made from another data set or teacher."""
    made_from = read_attributes(bank)
    for name, path in (("dataset", dataset), ("teacher", teacher)):
        if name in made_from and made_from[name] != file_digest(path):
            raise ConfigError(f"artifacts/bank.h5 was made from another artifacts/{path.name}; run `cgankd bank` again")


def check_sizes(counts: dict[str, int]) -> None:
    """Raise ConfigError where a set is too small for any number to mean something."""
    for name, count in counts.items():
        if count < LEAST:
            raise ConfigError(f"there are only {count} {name}; an audit needs at least {LEAST}, so make more of them")


def read_bank(
    ctx: Context,
    path: Path,
    count: int,
    info: DatasetInfo,
    teacher: Callable[[Tensor], tuple[Tensor, Tensor]],
    extra: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Images, teacher features, teacher outputs and features of a network of the user's own, in one pass over the bank."""
    folder, log = ctx.path("resume/audit/scratch").parent, ctx.progress("fakes")
    images = mapped(folder / "images", (count, info.channels, info.image_size, info.image_size), torch.uint8)
    features: Tensor | None = None
    outputs: Tensor | None = None
    more: Tensor | None = None
    for row in torch.split(torch.arange(count), READ):
        images[row] = image = read_pool_images(path, row)
        feature, out = teacher(image)
        if features is None or outputs is None:
            outputs = mapped(folder / "outputs", (count, out.shape[1]), torch.float32)
            features = mapped(folder / "features", (count, feature.shape[1]), torch.float32)
        features[row] = feature
        outputs[row] = out
        if extra is not None:
            other = extra(image)
            if more is None:
                more = mapped(folder / "more", (count, other.shape[1]), torch.float32)
            more[row] = other
        log(int(row[-1]) + 1, {}, count)
    assert features is not None and outputs is not None
    return images, features, outputs, more


def sliding_window(info: DatasetInfo, task: Task, label_bin: float | None) -> tuple[Tensor, float] | None:
    """Centres a quarter of a label bin apart and half a bin as radius, in raw units; None where labels are classes.

    On a whole circle the windows go all the way round it.
    """
    if not task.label_dtype.is_floating_point or label_bin is None:
        return None
    radius = min(label_bin, info.label_max - info.label_min) / 2
    if is_whole(info.label_min, info.label_max, info.label_period):
        around = max(2, round((info.label_max - info.label_min) / (radius / 2)))
        return torch.linspace(info.label_min, info.label_max, around + 1)[:-1], radius
    steps = max(1, round((info.label_max - info.label_min - 2 * radius) / (radius / 2)))
    return torch.linspace(info.label_min + radius, info.label_max - radius, steps + 1), radius


def largest_miss(info: DatasetInfo) -> float:
    """How far a scalar answer can be off in raw units: the label range, on a circle at most half a turn."""
    span = info.label_max - info.label_min
    return span if info.label_period is None else min(span, info.label_period / 2)


def label_distances(ctx: Context, sets: Sets, space: Space, info: DatasetInfo) -> list[Finding]:
    """Intra-label and sliding-window distances, with their picture."""
    binned, sliding = by_label(sets, space)
    found = by_label_findings(sets, space, binned, "intra_label", "within a class or label bin")
    title = f"Distance to validation images at each label, {space.says}"
    if sets.window is None:
        panels, names, axis = binned, info.class_names, "class"
    else:
        width = 2 * sets.window[1]
        found += by_label_findings(sets, space, sliding, "sliding", f"in windows {width:g} {info.label_unit} wide")
        panels, names, axis = sliding, None, f"middle of the window ({info.label_unit})"
    shown = {measure.upper(): series for measure, series in panels.items()}
    ctx.picture(f"by_label_{space.name}", pictures_audit.distance_by_label(shown, names, axis, title))
    return found


def acceptance_rate(bank: Path) -> float | None:
    """Share of draws that passed the bank's own selection, from the pool it was cut from; None where that is not there."""
    made, pool = read_attributes(bank), bank.with_name("pool.h5")
    if not pool.exists():
        return None
    noted = read_attributes(pool)
    if any(noted.get(name) != made.get(name) for name in ("config", "dataset", "teacher", "cgan", "ratio")):
        return None
    value = noted.get(f"report.{made.get('selection')}.acceptance")
    return None if value is None else float(value)


def show_pairs(ctx: Context, sets: Sets, close: Closeness) -> None:
    """The fakes closest to a training image beside it, by shifted pixels and by features, and all the distances."""
    side = close.bank
    pixels = f"a copy is alarming at {close.copy_limit:.3g} or less"
    features = f"suspicious under {close.feature_limit:.3g}, the 1st percentile between training images"
    for name, distance, index, real, limit in (
        ("pixels", side.shifted.distance, side.shifted.index, close.closest_real_pixel, pixels),
        ("features", side.feature.distance, side.feature.index, close.closest_real_feature, features),
    ):
        row = torch.argsort(distance, stable=True)[:SHOWN_PAIRS]
        captions = [f"{i} / {index[i]}\n{distance[i]:.3g}" for i in row.tolist()]
        title = (
            f"Closest by {name}: a fake (left) and the training image nearest to it (right). Under each: row of the"
            f" fake / row of the training image, and their distance. The closest two real images are {real:.3g} apart;"
            f" {limit}."
        )
        figure = pictures_audit.closest_pairs(sets.bank.images[row], sets.train.images[index[row]], captions, title)
        ctx.picture(f"closest_{name}", figure)
    groups = {"validation images": close.val.pixel.distance, "fakes": side.pixel.distance}
    groups["training images, each left out"] = close.real_pixel
    title = "Are fakes closer to training images than real images are? (pixels, RMS 0 to 1)"
    ctx.picture("nearest_pixels", pictures_audit.nearest_histogram(groups, close.pixel_limit, title))


def report(ctx: Context, found: list[Finding], counts: dict[str, int]) -> None:
    """The table, and a line for each alarm."""
    table = Table(box=box.SIMPLE_HEAD, title="Audit of artifacts/bank.h5", title_style="bold", padding=(0, 1, 0, 0))
    table.add_column("number", no_wrap=True)
    table.add_column("bank", justify="right", no_wrap=True)
    table.add_column("real", justify="right", no_wrap=True)
    table.add_column("what it says")
    for f in found:
        real = "" if f.reference is None else f"{f.reference:.3g}"
        style = "bold red" if f.alarm else ""
        table.add_row(f"{'! ' if f.alarm else ''}{f.name}", f"{f.value:.3g}", real, f.says, style=style)
    sizes = "{num_bank} fakes, {num_train} training and {num_val} validation images".format(**counts)
    table.caption = f"{sizes}; real: the same number for real images (training against validation); ! is alarming"
    ctx.show(table)
    alarms = [f for f in found if f.alarm]
    for f in alarms:
        ctx.say(f"ALARM: {f.name} is {f.value:.3g}, {f.alarm}: {f.says}")
    ctx.say(
        f"alarms: {len(alarms)} of {len(found)} numbers; pictures are in plots/audit, numbers in metrics/audit.json"
        " (commit it with the other metrics)"
    )
