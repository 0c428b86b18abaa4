"""Whether a run has what it needs beside settings: memory, cores, disk, nodes of a cluster, a net that guides the GAN."""

from __future__ import annotations

import math
import os
import shutil
import time
import uuid
from dataclasses import replace
from pathlib import Path

from cgankd.config import CganConfig, ConfigError, DataConfig
from cgankd.config.data import REST
from cgankd.data.dataset import gaps
from cgankd.data.readers.unlabelled import find_unlabelled
from cgankd.data.store.datasets import read_class_counts, read_info, read_split
from cgankd.data.store.stream import MemoryBudget
from cgankd.measure.twins import copy_sentences
from pipelines.engines.choice import engine_name
from pipelines.files.params import load_config
from pipelines.files.runs import read_metrics
from pipelines.project.finding import Finding
from pipelines.runtime.machine import image_memory, make_plan, side_by_side, total_memory_bytes

LEAST_DISK_GB, NO_DISK_GB = 2.0, 0.2
KIND = ("class", "classes")


def look_at_images(workdir: Path) -> list[Finding]:
    """The memory budget, where it comes from, and what the data set takes of it, and the images without labels; nothing where
    params.yaml is wrong."""
    try:
        cfg = load_config(workdir / "params.yaml")
    except ConfigError:
        return []
    budget = image_memory(cfg.data).left
    origin = "set by data.memory_budget_gb"
    if cfg.data.memory_budget_gb is None:
        origin = f"a quarter of {total_memory_bytes() / 1e9:.1f} GB, as data.memory_budget_gb is null"
    fit = _fit(workdir / "artifacts/dataset.h5", cfg.data, cfg.student.workers, budget)
    text = f"up to {budget / 1e9:.4g} GB in memory ({origin}); {fit}"
    about = (*look_at_unlabelled(workdir, cfg.data), *_labels(workdir / "artifacts/dataset.h5"), *_copies(workdir))
    return [Finding("images", "ok", text), *about]


def look_at_unlabelled(workdir: Path, cfg: DataConfig) -> list[Finding]:
    """Images without labels must be there, and be such that `prepare` can take them; they are counted, and none is decoded."""
    if cfg.unlabelled is None or cfg.unlabelled == REST:
        return []
    # As they are from the project's folder, wherever this is called from.
    there = replace(cfg, unlabelled=str(workdir / cfg.unlabelled), root=str(workdir / cfg.root))
    try:
        num = find_unlabelled(there)
    except ConfigError as error:
        text, _, cure = str(error).partition("; ")
        return [
            Finding("data.unlabelled", "problem", text.removeprefix("data.unlabelled "), cure or "correct the setting")
        ]
    most = (
        "" if cfg.num_unlabelled is None else f", of which at most {cfg.num_unlabelled} are used (data.num_unlabelled)"
    )
    return [Finding("data.unlabelled", "ok", f"{cfg.unlabelled} has {num} images without labels{most}")]


def _copies(workdir: Path) -> list[Finding]:
    """A warning where `prepare` found copies of training images in validation or test; nothing before it."""
    try:
        numbers = read_metrics(workdir / "metrics" / "prepare.json", "cgankd prepare") or {}
    except ConfigError as error:
        return [Finding("metrics/prepare.json", "warning", str(error), "do so")]
    cure = "keep what belongs together in one split with data.groups, see docs/howto/groups.md"
    return [Finding("copies", "warning", sentence, cure) for sentence in copy_sentences(numbers)]


def _labels(path: Path) -> list[Finding]:
    """A warning for each kind of class that has too few images to be judged; nothing before `prepare`."""
    try:
        names = read_info(path).class_names
        counts = read_class_counts(path, len(names)) if names else {}
    except ValueError:
        return []
    if not names:
        return []
    cure = "add images of them, or see docs/howto/imbalance.md"
    return [Finding("labels", "warning", gap, cure) for gap in gaps(names, counts, KIND)]


def _fit(path: Path, cfg: DataConfig, workers: int | None, budget: float) -> str:
    """Whether the images that stages train and validate on fit, in words; labels and splits alone are read."""
    try:
        info = read_info(path)
        if (info.source, info.image_size, info.channels) != (cfg.source, cfg.image_size, cfg.channels):
            return "artifacts/dataset.h5 is of another data set, so whether they fit shows after `prepare`"
        # Nothing of a budget of zero is taken, so no image is read.
        splits = read_split(path, "train", MemoryBudget(0)), read_split(path, "val", MemoryBudget(0))
    except ValueError:
        return "whether they fit shows once `prepare` has made artifacts/dataset.h5"
    size = sum(math.prod(split.images.shape) for split in splits)
    workers = workers or side_by_side(make_plan().device)
    found = f"the training and validation images, {size / 1e9:.2g} GB,"
    if size > budget:
        return (
            f"{found} do not fit, so they are read from artifacts/dataset.h5 when needed: slower, with the same numbers"
        )
    if size > budget / workers:
        return f"{found} fit, but not in the share of each of {workers} student workers, which read them when needed"
    return f"{found} fit"


def look_at_cores() -> Finding:
    """Whether other work holds the cores; half a second is looked at."""
    from pipelines.runtime.held import between, free_cores, sample
    from pipelines.runtime.machine import available_cores

    first = sample()
    time.sleep(0.5)
    held, cores = between(first, sample()), available_cores()
    text = f"other work uses {held.others:.1f} of {cores}"
    if held.others < 0.3 * cores:
        return Finding("cores", "ok", text)
    cure = f"wait for it, or set CGANKD_THREADS={free_cores(held, cores)}, and student.workers to the same"
    return Finding("cores", "warning", f"{text}: a run on all of them is far slower than its share", cure)


def look_at_disk(workdir: Path) -> list[Finding]:
    """Room on the disk and leave to write."""
    free = shutil.disk_usage(workdir).free / 1e9
    text = f"{free:.1f} GB free at {workdir}"
    if not os.access(workdir, os.W_OK):
        return [Finding("disk", "problem", f"{workdir} cannot be written to", "work in a folder of your own")]
    if free < NO_DISK_GB:
        return [Finding("disk", "problem", text, "free some space; `dvc gc -w` drops cached data no longer in use")]
    if free < LEAST_DISK_GB:
        return [Finding("disk", "warning", text, "`dvc gc -w` drops cached data no longer in use")]
    return [Finding("disk", "ok", text)]


def look_at_cluster(workdir: Path) -> list[Finding]:
    """Nothing unless CGANKD_ENGINE is ray; a node that would refuse jobs is a problem."""
    try:
        if engine_name() == "local":
            return []
        return _nodes(workdir)
    except ConfigError as error:
        return [Finding("cluster", "problem", str(error), "correct that, or unset CGANKD_ENGINE")]


def _nodes(workdir: Path) -> list[Finding]:
    from pipelines.engines.card import card_of
    from pipelines.engines.carrier import carrier
    from pipelines.engines.remote import Mark
    from pipelines.engines.survey import Look, survey

    words, (by, may_see) = uuid.uuid4().hex, carrier()
    mark = Mark(workdir / "artifacts" / f".seen-{words[:8]}", words)
    mark.path.parent.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    try:
        mark.path.write_text(words, encoding="utf-8")
        looks: list[Look] = survey(mark, by, said.append)
    finally:
        mark.path.unlink(missing_ok=True)
    card = card_of("cpu")
    found = [Finding("cluster", "ok", line) for line in said]
    for look in looks:
        how = (
            "sees this folder" if look.sees and may_see else f"gets files by {os.environ.get('CGANKD_SHARED') or 'ray'}"
        )
        torch, code = (look.card.torch, look.card.code[:12]) if look.card else ("?", "?")
        text = f"{look.node}: {look.resources}; Python {look.python}, torch {torch}, code {code}; {how}"
        try:
            if look.card is None:
                raise ConfigError(look.error)
            look.card.check(card, look.node)
        except ConfigError as error:
            found.append(
                Finding("cluster", "problem", f"{text}; {error}", "make its machine like this one, or remove it")
            )
            continue
        if look.error:
            found.append(
                Finding("cluster", "problem", f"{text}; {look.error}", "correct CGANKD_SHARED on all machines")
            )
        else:
            found.append(Finding("cluster", "ok", text))
    return found


def look_at_features(cfg: CganConfig) -> list[Finding]:
    """The packaged net whose features guide the GAN must be there, and be the one that it is said to be."""
    if cfg.features is None or cfg.file is not None:
        return []
    from pipelines.networks.guides import find_features

    try:
        found = find_features(cfg)
    except ConfigError as error:
        return [Finding("cgan.features", "problem", str(error), "do so, or set it to null")]
    assert found is not None, "it names some"
    return [Finding("cgan.features", "ok", f"{cfg.features}, SHA-256 {found.digest[:16]}")]
