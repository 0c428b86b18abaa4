"""What the students of all sizes are on a board: each is made a whole-int8 LiteRT file, run on the validation images, and run by
the interpreter for boards.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from cgankd.config import Config
from cgankd.data.store.datasets import read_info, read_split
from cgankd.labels.task import make_task
from cgankd.measure.groups import Scores, balanced, group_means
from pipelines.device.forms import Source
from pipelines.device.making import measure_int8
from pipelines.files.artifacts import file_digest
from pipelines.ship.saved import load_package, net_words
from pipelines.sizes.costs import Flash, OnDevice

PACKAGES = ("litert_torch", "ai_edge_quantizer", "ai_edge_litert", "tflite_micro")
"""Without one of them no file for a board is made."""


def flash_of(dataset: Path, cfg: Config) -> Flash | None:
    """How students of a data set are measured for a board; None where the packages of the extra `device` are missing.

    The file is that of `cgankd export --to litert`, and its headline the one of evaluate.headline on all validation images.
    """
    if any(find_spec(name) is None for name in PACKAGES):
        return None
    val, task = read_split(dataset, "val"), make_task(read_info(dataset), cfg)

    def flash(weights: Path, images: Tensor) -> OnDevice:
        package = load_package(weights)

        def headline(answers: Tensor) -> float:
            score_N = package.answer.score(answers, val.labels).double()
            groups = group_means(score_N, task.filter_groups(val.labels), len(task.group_names))
            return Scores(float(score_N.mean()), balanced(groups), tuple(groups)).by(cfg.evaluate.headline)

        source = Source(package.model, package.info, file_digest(weights), net_words(package.config))
        with tempfile.TemporaryDirectory(prefix="cgankd-flash-") as folder:
            found = measure_int8(source, images, val, Path(folder))
            own = headline(found.run(val.images[:]))
        loss = own - headline(package.model.run(val.images[:]))
        arena = found.micro.arena if found.micro.runs else None
        remark = "" if found.micro.runs else f"no board runs its int8 file: {found.micro.error}"
        return OnDevice(found.bytes, arena, own, loss, remark)

    return flash
