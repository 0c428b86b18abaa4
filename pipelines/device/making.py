"""The files of one student for the formats asked for, each with the margin of its own answers inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cgankd.measure.conformal import conformal_margin
from cgankd.types import Split
from pipelines.device import executorch, litert
from pipelines.device.forms import Form, Record, Signature, Source, with_margin
from pipelines.device.running import Micro, micro_of, open_form

FILES = {
    "litert-float32": "student-float32.tflite",
    "litert-dynamic-int8": "student-dynamic-int8.tflite",
    "litert-int8": "student-int8.tflite",
    "executorch-float32": "student-float32.pte",
    "executorch-int8": "student-int8.pte",
}
"""Form -> its file."""
INT8 = "litert-int8"
MICRO_IMAGES = 50
"""Images on which the interpreter for microcontrollers is compared with LiteRT's."""


@dataclass(frozen=True)
class Held:
    """Images that files are made with: those that set the ranges of int8 [N, C, H, W], validation, and the level of margins."""

    calibration: Tensor
    val: Split
    level: float


def make_forms(source: Source, formats: Sequence[str], held: Held, folder: Path) -> list[Form]:
    """Write the files of the formats named (litert, executorch) into a folder and open each.

    Raises ConfigError where a package is missing, or a converter does not know an operator of the net.
    """
    made = []
    if "litert" in formats:
        made += [_kept(name, sign, data, source, held, folder) for name, sign, data in _litert(source, held)]
    if "executorch" in formats:
        for name, images in (("executorch-float32", None), ("executorch-int8", held.calibration)):

            def write(record: Record, images: Tensor | None = images) -> bytes:
                return executorch.write_executorch(source, record, images)

            made.append(_kept(name, executorch.IMAGE, write, source, held, folder))
    return made


def int8_form(source: Source, held: Held, folder: Path) -> Form:
    """The whole-int8 LiteRT file alone."""
    levels = litert.convert(source, bare=_bare(source), levels=True)
    return _kept(INT8, *_int8(source, levels, held), source, held, folder)


Write = Callable[[Record], bytes]


def _litert(source: Source, held: Held) -> list[tuple[str, Signature, Write]]:
    float_file = litert.convert(source, bare=False, levels=False)
    levels = litert.convert(source, bare=_bare(source), levels=True)
    dynamic = litert.dynamic_int8(float_file)
    return [
        ("litert-float32", litert.FLOAT, lambda record: litert.with_record(float_file, record)),
        ("litert-dynamic-int8", litert.FLOAT, lambda record: litert.with_record(dynamic, record)),
        (INT8, *_int8(source, levels, held)),
    ]


def _int8(source: Source, levels: bytes, held: Held) -> tuple[Signature, Write]:
    data = litert.whole_int8(levels, held.calibration)
    return litert.OUTPUTS_INT8 if _bare(source) else litert.CLASSES_INT8, lambda rec: litert.with_record(data, rec)


def _bare(source: Source) -> bool:
    return not source.info.class_names


def _kept(name: str, signature: Signature, write: Write, source: Source, held: Held, folder: Path) -> Form:
    record = Record(name, signature, source.info, None, source.weights)
    folder.mkdir(exist_ok=True)
    path, data = folder / FILES[name], write(record)
    path.write_bytes(data)
    answers = open_form(path).run(held.val.images[:])
    margin = conformal_margin(source.answer.miss(answers, held.val.labels), held.level)
    path.write_bytes(with_margin(data, record, margin))
    return open_form(path)


@dataclass(frozen=True)
class Int8:
    """A whole-int8 student measured: its file, bytes of it and of its arena, and how to run it (answers to uint8 images)."""

    path: Path
    bytes: int
    micro: Micro
    run: Callable[[Tensor], Tensor]


def measure_int8(source: Source, calibration: Tensor, val: Split, folder: Path) -> Int8:
    """What a student weighs on a board. The first call of a process imports the converter; each converts in some seconds.

    Raises ConfigError as `make_forms` does.
    """
    form = int8_form(source, Held(calibration, val, 0.9), folder)
    return Int8(form.path, form.path.stat().st_size, micro_of(form.path, val.images[:MICRO_IMAGES]), form.run)
