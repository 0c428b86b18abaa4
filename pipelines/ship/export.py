"""The student as ONNX and torch.export files, compared on real images, with size and latency beside the teacher's."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from torch import Tensor

from cgankd.config import ConfigError, to_dict
from cgankd.data.store.datasets import read_split
from cgankd.export import (
    ANSWER,
    PIXELS,
    Run,
    median_ms,
    need_onnx,
    open_onnx,
    open_torch_export,
    program,
    worst_difference,
    write_int8,
    write_onnx,
    write_torch_export,
)
from cgankd.types import Split
from pipelines.files.artifacts import file_digest, replacing, write_sealed_json
from pipelines.ship.exported import brought_in_line
from pipelines.ship.saved import PARITY, Package, dataset_of, load_finished, parity_images
from pipelines.ship.trust import remember

FORMAT_OF = {".onnx": "onnx", ".pt2": "torch"}
"""Suffix -> the word of --to."""
CALIBRATION_IMAGES = 256
"""Training images that set the ranges of the int8 activations."""


@dataclass(frozen=True)
class Form:
    """One model in one arithmetic: bytes of its ONNX file, median milliseconds an image, headline on validation."""

    network: str
    arithmetic: str
    parameters: int
    bytes: int
    latency_ms: float
    validation: float
    holds: bool


@dataclass(frozen=True)
class Measuring:
    """How every form is measured: on which validation images, the images that set the ranges of int8, the share that
    int8 may be worse by, and how often it is timed.
    """

    val: Split
    calibration: Tensor
    tolerance: float
    repeats: int


def export(
    workdir: Path,
    out: Path,
    *,
    level: float,
    int8_tolerance: float,
    repeats: int,
    formats: Sequence[str] = ("onnx", "torch"),
) -> dict[str, Any]:
    """Write student.onnx, student.pt2, student-int8.onnx where int8 holds, and export.json; returns what the last holds, and in
    `dropped` lines on files of an earlier export that are gone.

    Files of formats that are not named are compared and not kept, and device.json no longer tells of them. int8 holds where its
    validation headline is at most `int8_tolerance` (a share) worse than that of fp32. Raises ConfigError where a file is missing
    or a format disagrees with the student by more than PARITY.
    """
    need_onnx()
    check_numbers(int8_tolerance, repeats)
    finished = load_finished(workdir, level)
    student, teacher, dataset = finished.student, finished.teacher, finished.dataset
    dataset_of(workdir, teacher.info)
    images = parity_images(dataset)
    calibration = read_split(dataset, "train").images[:CALIBRATION_IMAGES]
    how = Measuring(read_split(dataset, "val"), calibration, int8_tolerance, repeats)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as place:
        folder = Path(place)
        parity = _write(student, folder / "student.onnx", images)
        graph = folder / "student.pt2"
        write_torch_export(program(student.model, images[:2]), graph)
        parity["torch_export"] = worst_difference(
            open_torch_export(graph)(images), student.model.run(images), student.info.label_period
        )
        for name, worst in parity.items():
            _check_parity(name, worst, student.answer.scale)
        shown = {"student": student}
        if teacher.config.get("program") != "torchscript":  # which torch cannot turn into a graph for ONNX
            teacher_parity = _write(teacher, folder / "teacher.onnx", images)
            _check_parity("teacher ONNX", teacher_parity["onnx"], teacher.answer.scale)
            shown = {"teacher": teacher, "student": student}
        forms = []
        for name, package in shown.items():
            forms += _forms(name, package, folder, how)
        kept = ["student.onnx", "student.pt2"]
        if next(f for f in forms if f.network == "student" and f.arithmetic == "int8").holds:
            kept.append("student-int8.onnx")
        kept = [name for name in kept if FORMAT_OF[Path(name).suffix] in formats]
        gone = []
        for name in ("student.onnx", "student.pt2", "student-int8.onnx"):
            if (out / name).exists() and name not in kept:
                why = (
                    "does not hold"
                    if FORMAT_OF[Path(name).suffix] in formats
                    else "is of a format that --to does not name"
                )
                gone.append(f"deleted: {name} of an earlier export, which {why}")
            (out / name).unlink(missing_ok=True)
        for name in kept:
            with replacing(out / name) as temporary:
                shutil.copyfile(folder / name, temporary)
    info = student.info
    values = {
        "files": {name: file_digest(out / name) for name in kept},
        "weights": file_digest(workdir / "artifacts" / "student.safetensors"),
        "input": {
            "name": PIXELS,
            "type": "float32",
            "shape": ["batch", info.channels, info.image_size, info.image_size],
            "range": [0, 255],
        },
        "output": {"name": ANSWER, "type": "float32", "columns": list(student.answer.names)},
        "info": to_dict(info),
        "margin": asdict(finished.margin) if finished.margin else None,
        "headline": finished.result["headline"],
        "parity": {"images": len(images), "allowed": PARITY * student.answer.scale} | parity,
        "int8_tolerance": int8_tolerance,
        "models": [asdict(form) for form in forms],
    }
    values = write_sealed_json(out / "export.json", values)
    if "student.pt2" in kept:
        remember(workdir, file_digest(out / "student.pt2"), "student.pt2")
    lines = [*gone, *brought_in_line(out, values["weights"])]
    return values | {"dropped": lines} if lines else values


def check_numbers(tolerance: float, repeats: int) -> None:
    """Raise ConfigError where --tolerance is no finite share of zero or more, or --repeats is less than 1."""
    if not 0 <= tolerance < math.inf:
        raise ConfigError(f"--tolerance must be a finite number of zero or more, but is {tolerance:g}")
    if repeats < 1:
        raise ConfigError(f"--repeats must be at least 1, but is {repeats}")


def _write(package: Package, path: Path, images: Tensor) -> dict[str, float]:
    write_onnx(program(package.model, images[:2]), path)
    return {"onnx": worst_difference(open_onnx(path)(images), package.model.run(images), package.info.label_period)}


def _check_parity(name: str, worst: float, scale: float) -> None:
    if not worst <= PARITY * scale:  # NaN fails every comparison
        raise ConfigError(
            f"{name} differs from the network by {worst:.3g} on real images (allowed: {PARITY * scale:.3g}), so nothing"
            " was exported; try other versions of torch and onnxruntime"
        )


def _forms(name: str, package: Package, folder: Path, how: Measuring) -> list[Form]:
    """The network in fp32 and int8. Lower is better for every headline of this project's tasks."""
    fp32, int8 = folder / f"{name}.onnx", folder / f"{name}-int8.onnx"
    write_int8(fp32, int8, how.calibration)
    forms: list[Form] = []
    for arithmetic, path in (("fp32", fp32), ("int8", int8)):
        run: Run = open_onnx(path)
        score = float(package.answer.score(run(how.val.images[:]), how.val.labels).double().mean())
        holds = not forms or score <= forms[0].validation * (1 + how.tolerance)
        latency = median_ms(run, how.val.images[:1], repeats=how.repeats)
        forms.append(Form(name, arithmetic, package.num_parameters, path.stat().st_size, latency, score, holds))
    return forms


def drawback(int8: dict[str, Any], fp32: dict[str, Any]) -> str:
    """What int8 was meant to gain and did not, by the numbers measured; empty where it is smaller and faster."""
    larger, slower = int8["bytes"] >= fp32["bytes"], int8["latency_ms"] >= fp32["latency_ms"]
    if larger and slower:
        return "neither smaller nor faster"
    return "not smaller" if larger else "not faster" if slower else ""


def sizes_table(values: dict[str, Any]) -> Table:
    """Size, latency and validation headline of every form, from export.json."""
    unit = values["headline"]["unit"]
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for column in ("network", "ONNX", "weights", "KB", "ms", f"val ({unit})", ""):
        justify: JustifyMethod = "left" if column in ("network", "ONNX", "") else "right"
        table.add_column(column, justify=justify, no_wrap=column != "")
    base: dict[str, Any] = {}
    for row in values["models"]:
        first = row["arithmetic"] == "fp32"
        base = row if first else base
        note = "" if first else ("holds" if row["holds"] else "does not hold")
        if not first:
            note += f" ({row['validation'] - base['validation']:+.3g})"
            if row["holds"] and drawback(row, base):
                note += f", but {drawback(row, base)}"
        table.add_row(
            row["network"],
            row["arithmetic"],
            f"{row['parameters']:,}",
            f"{row['bytes'] / 1000:.1f}",
            f"{row['latency_ms']:.3f}",
            f"{row['validation']:.4g}",
            note,
        )
    return table


def times(ratio: float, gain: str, loss: str) -> str:
    """A ratio above one as so many times the gain, one below as so many times the loss: "0.0 times smaller" tells nothing."""
    return f"{ratio:.1f} times {gain}" if ratio >= 1 else f"{1 / ratio:.1f} times {loss}"


def remarks(values: dict[str, Any], shown: Path) -> list[str]:
    """What goes under the table: parity, how the columns were measured, what the files take and give."""
    parity, (*teachers, student, int8) = values["parity"], values["models"]
    against = (
        [
            f"student against teacher, fp32: {times(teachers[0]['bytes'] / student['bytes'], 'smaller', 'larger')},"
            f" {times(teachers[0]['latency_ms'] / student['latency_ms'], 'faster', 'slower')}"
        ]
        if teachers
        else ["the teacher is a TorchScript program, which has no ONNX form to compare with"]
    )
    names = values["output"]["columns"]
    few = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    lost = drawback(int8, student) if int8["holds"] else ""
    unused = [
        f"student-int8.onnx is {lost}: {int8['bytes'] / student['bytes']:.2f} times the size and"
        f" {int8['latency_ms'] / student['latency_ms']:.2f} times the time of student.onnx here"
        + ("; use student.onnx" if lost.startswith("neither") else "")
    ]
    return [
        f"largest difference to the student on {parity['images']} real images: ONNX {parity['onnx']:.1e},"
        f" torch.export {parity['torch_export']:.1e} (allowed {parity['allowed']:.1e})",
        *against,
        *(unused if lost else []),
        "ms: median for one image on one thread of ONNX Runtime, which is of this machine; int8 holds where validation is at most"
        f" {100 * values['int8_tolerance']:g} % worse than fp32",
        f"input: {values['input']['type']} [{', '.join(map(str, values['input']['shape']))}] at pixel levels 0 to 255;"
        f" output: {few}",
        "written: " + ", ".join(str(shown / name) for name in [*values["files"], "export.json"]),
        *values.get("dropped", ()),
    ]
