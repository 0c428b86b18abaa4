"""The teacher's outputs on un-augmented images, computed once for a teacher and a set of images and kept in a file.

Only student.teacher_view `clean` reads them. The files lie in artifacts/resume/teacher under a fingerprint of teacher,
images, precision and code; the first worker that needs one computes it, the others wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from cgankd.data.batches import chunks
from cgankd.data.store.banks import read_attributes, read_pool_scores
from cgankd.distill.table import TeacherTable, pack
from cgankd.types import Images, PredictFn
from pipelines.files.artifacts import fingerprint
from pipelines.files.kept_runs import keep_tensors, kept_tensors

CHUNK = 512
"""Images a pass, as `make_predict` has it: the bits of a convolution may depend on the size of its batch."""


def end_to_end(first: Images, second: Images | None) -> Iterator[Tensor]:
    """Two sets of images laid end to end, CHUNK at a time, across the border too."""
    if second is None:
        yield from chunks(first, CHUNK)
        return
    edge = len(first)
    for start in range(0, edge + len(second), CHUNK):
        end = start + CHUNK
        if end <= edge:
            yield first[start:end]
        else:
            yield torch.cat([first[min(start, edge) : edge], second[max(0, start - edge) : end - edge]])


def cached_table(
    folder: Path, facts: dict[str, str], predict: PredictFn, images: Iterator[Tensor], precision: str, num_outputs: int
) -> TeacherTable:
    """The table kept under the fingerprint of `facts`, or a new one of `images`, kept for the next; safe side by side.

    `facts` name all that the outputs depend on. A damaged file is made again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = fingerprint({"precision": precision, "torch": torch.__version__}, facts)
    path = folder / f"{key}.safetensors"
    with FileLock(folder / f"{key}.lock"):
        found = kept_tensors(path)
        if found is None:
            parts = [pack(predict(chunk), precision) for chunk in images]
            found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            keep_tensors(path, found)  # on a full disk each worker computes them for itself
            found = kept_tensors(path) or found  # paged in from the file where it is there
    return TeacherTable(found, num_outputs)


def table_of_pool(pool: Path, rows: Tensor, teacher: str, precision: str) -> TeacherTable | None:
    """The outputs that the bank stage kept in float16, for the rows of an arm.

    None where the pool was scored by a teacher of another digest, or in full precision, which the pool does not have.
    """
    if precision == "full" or read_attributes(pool).get("teacher") != teacher:
        return None
    out_MO = read_pool_scores(pool)["teacher_output"][rows]
    parts = [pack(out_BO, precision) for out_BO in torch.split(out_MO, CHUNK)]
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return TeacherTable(columns, out_MO.shape[1])
