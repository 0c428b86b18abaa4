"""Stored views in artifacts/resume/views, made once for all seeds and arms of equal data and mixing; the teacher's outputs on
them lie in artifacts/resume/teacher, in half precision.

The first worker that needs a file makes it, the others wait for it. A damaged file is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from cgankd.config import ArmConfig, StudentConfig
from cgankd.data.augment import augment
from cgankd.data.batches import GroupFn, Mixture, chunks
from cgankd.data.mix import Mixing
from cgankd.data.views import COLUMNS, ViewBatches, make_views
from cgankd.distill.table import TeacherTable, rows_of
from cgankd.rng import derive
from cgankd.types import PredictFn, Split, Task
from pipelines.files.artifacts import fingerprint
from pipelines.files.kept_runs import keep_tensors, kept_tensors
from pipelines.students.teacher_outputs import CHUNK, cached_table

PRECISION = "half"
"""Of the teacher's outputs on views; `student.teacher_cache` is that of its outputs on clean images."""
Tables = list[TeacherTable]
SETTINGS = ("mix", "mix_alpha", "mix_share", "mix_pairs", "views", "batch_size", "real_share")
"""Settings of the student section that views depend on, beside the plain augmentation and groups drawn equally often."""


@dataclass(frozen=True)
class Views:
    """The views of one student run with the digest of all that they depend on."""

    batches: ViewBatches
    key: str
    folder: Path
    """artifacts/resume/teacher"""
    facts: Mapping[str, str]
    num_outputs: int

    def lookup(self, predict: PredictFn, clean: Callable[[PredictFn], Tables]) -> Callable[[Tensor], Tensor]:
        """The teacher's outputs [B, O] on the rows [B] of a batch, computed once for all runs; `clean` are the tables of its
        outputs on real images and fakes."""
        images = chunks(self.batches.columns["images"], CHUNK)
        facts = {**self.facts, "views": self.key}
        table = cached_table(self.folder, facts, predict, images, PRECISION, self.num_outputs)
        if self.batches.rest is None:
            return lambda index_B: table.rows(index_B - self.batches.first)
        tables = [*clean(predict), table]
        return lambda index_B: rows_of(tables, index_B)


@dataclass(frozen=True)
class Source:
    """What batches are made of: real images and fakes, and which groups of labels come equally often."""

    train: Split
    bank: Split | None
    groups: GroupFn | None

    def mixture(self, cfg: StudentConfig, seed: int, batch_size: int | None = None) -> Mixture:
        """Batches as those of a training, or of another size."""
        size = cfg.batch_size if batch_size is None else batch_size
        return Mixture(self.train, self.bank, real_share=cfg.real_share, batch_size=size, seed=seed, groups=self.groups)

    def __len__(self) -> int:
        return len(self.train) + (0 if self.bank is None else len(self.bank))


def mixing_of(cfg: StudentConfig, task: Task, seed: int) -> Mixing | None:
    """How a training of these settings mixes its images; None where it does not."""
    return Mixing(cfg, cfg.mix_pairs, task.mixed_labels, seed) if cfg.mixes else None


def stored_views(
    resume: Path, source: Source, cfg: StudentConfig, task: Task, seeds: tuple[int, int], facts: Mapping[str, str]
) -> Views:
    """The views of a run from their file, or made and kept; `seeds` are those of the project and of the run.

    `facts` are digests of the data, the bank, the teacher and the code, by name.
    """
    folder, base = resume / "views", seeds[0]
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {name: getattr(cfg, name) for name in SETTINGS}
    settings |= {"augment": cfg.augment, "even": source.groups is not None, "seed": base, "torch": torch.__version__}
    key = fingerprint(settings, {name: digest for name, digest in facts.items() if name != "teacher"})
    path, columns = folder / f"{key}.safetensors", None
    with FileLock(folder / f"{key}.lock"):
        columns = _read(path)
        if columns is None:
            seed = derive(base, "views")
            look = partial(augmented, spec=cfg.augment)
            columns = make_views(source.mixture(cfg, seed), look, mixing_of(cfg, task, seed), cfg.num_views, seed)
            keep_tensors(path, columns)  # on a full disk each worker makes them for itself
            columns = _read(path) or columns  # paged in from the file where it is there
    num = min(cfg.batch_size, max(1, round(cfg.views_share * cfg.batch_size)))
    rest = source.mixture(cfg, seeds[1], cfg.batch_size - num) if num < cfg.batch_size else None
    labels = task.mixed_labels if cfg.mixes else None
    batches = ViewBatches(columns, labels, num, seeds[1], len(source), rest)
    return Views(batches, key, resume / "teacher", facts, task.num_outputs)


def augmented(unit_BCHW: Tensor, gen: torch.Generator, spec: str) -> Tensor:
    """`augment` with the spec last."""
    return augment(unit_BCHW, spec, gen)


def view_facts(facts: Mapping[str, str], arm: ArmConfig) -> dict[str, str]:
    """Digests that the views of an arm depend on: those of the bank only where it has fakes."""
    return {name: digest for name, digest in facts.items() if arm.bank or name != "bank"}


def _read(path: Path) -> dict[str, Tensor] | None:
    found = kept_tensors(path)
    return found if found is not None and set(found) == set(COLUMNS) else None
