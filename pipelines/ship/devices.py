"""`cgankd export --to litert,executorch`: the student's files for devices, made, run, measured, and what they lose."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cgankd.config import ConfigError, to_dict
from cgankd.config.settings import nearest
from cgankd.data.store.banks import read_attributes, read_bank
from cgankd.data.store.datasets import read_split
from cgankd.fit.predictor import make_predict
from cgankd.labels.task import make_task
from cgankd.types import Task
from pipelines.device.forms import Form, Source, reader
from pipelines.device.making import FILES, INT8, Held, int8_form, make_forms
from pipelines.device.measuring import Bench, Twin, float_twin, measured, on_board
from pipelines.device.recover import RATE_SHARES, Lessons, recovered
from pipelines.files.artifacts import file_digest, replacing, write_sealed_json
from pipelines.files.layout import understood
from pipelines.files.made import check_made
from pipelines.files.params import load_config
from pipelines.ship.export import check_numbers
from pipelines.ship.exported import FOLDERS, check_listed, former_rows, record_of
from pipelines.ship.saved import Finished, load_finished, net_words

RECORD = "device.json"
SERVER, DEVICE = ("onnx", "torch"), ("litert", "executorch")
"""Formats of `cgankd export`: those for a server, and those for a device."""
CALIBRATION_IMAGES = 300
"""Training images that set the ranges of int8."""
SERVER_FILES = ("student.onnx", "student-int8.onnx", "student.pt2")
SHARED = {"litert": ".tflite", "executorch": ".pte"}


def formats_of(text: str) -> list[str]:
    """The words of --to. Raises ConfigError on one that is no format."""
    words = list(dict.fromkeys(filter(None, (word.strip() for word in text.split(",")))))
    known = (*SERVER, *DEVICE, *FOLDERS)
    for word in words:
        if word not in known:
            raise ConfigError(f"--to {word} is no format; choose from {', '.join(known)}{nearest(word, known)}")
    if not words:
        raise ConfigError(f"--to names no format; choose from {', '.join(known)}")
    return words


@dataclass(frozen=True)
class Asked:
    """What was asked of `export` for devices: formats, level of margins, share that a file may lose, how often it is timed."""

    formats: Sequence[str]
    level: float
    tolerance: float
    repeats: int
    recover: int = 0
    """Steps of training on as int8 will compute; 0 = none."""


def export_devices(workdir: Path, out: Path, asked: Asked) -> dict[str, Any]:
    """Write the files of the device formats and device.json into `out`; returns what the last holds, and in `dropped` lines on
    files that it held before and does not now.

    Files for a server that are there from the same student are measured beside them, and files of formats that are not named
    keep their entries while they are as they were. Raises ConfigError where a package
    or an artifact is missing, or a converter does not know an operator; then nothing is written.
    """
    check_numbers(asked.tolerance, asked.repeats)
    cfg = load_config(workdir / "params.yaml")
    finished = load_finished(workdir, asked.level)
    student, path = finished.student, workdir / "artifacts" / "student.safetensors"
    source = Source(student.model, student.info, file_digest(path), net_words(student.config))
    held = Held(
        read_split(finished.dataset, "train").images[:CALIBRATION_IMAGES],
        read_split(finished.dataset, "val"),
        asked.level,
    )
    task = make_task(student.info, cfg)
    test = read_split(finished.dataset, "test")  # for the report alone; what holds is settled on validation
    bench = Bench(
        student.model,
        student.info,
        task,
        held.val,
        test,
        float(finished.result["confidence"]),
        asked.tolerance,
        asked.repeats,
    )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as place:
        forms = make_forms(source, asked.formats, held, Path(place))
        twin = float_twin(bench, path.stat().st_size)
        again: dict[str, Any] = {}
        if asked.recover:
            lessons = lessons_of(workdir, finished, task)
            others = recovered(source, lessons, cfg.student, seed=cfg.seed, steps=asked.recover)
            places = [Path(place) / f"recovered-{number}" for number in range(len(others))]
            tried = [int8_form(other, held, made) for other, made in zip(others, places, strict=True)]
            forms, again = _better(bench, twin, forms, tried)
            again["recover"] |= {"steps": asked.recover, "rate_shares": list(RATE_SHARES), "seed": cfg.seed}
        rows = [twin.row, *_server_rows(bench, twin, out, source.weights), *_rows(bench, twin, forms)]
        values = _values(finished, bench, source, rows, forms) | again
        for form in forms:
            with replacing(out / form.path.name) as temporary:
                shutil.copyfile(form.path, temporary)
    made = {form.path.name for form in forms}
    for name in FILES.values():
        if name not in made and (out / name).suffix in {SHARED[f] for f in asked.formats if f in SHARED}:
            (out / name).unlink(missing_ok=True)  # of an earlier export
    values, lines = _merged(out, values)
    values = write_sealed_json(out / RECORD, values)
    return values | {"dropped": list(lines)} if lines else values


def _merged(out: Path, values: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The record with what the former one tells of files that were not made now, and lines on what it no longer tells of."""
    same = {key: values[key] for key in ("headline", "confidence", "num_val", "num_test")}
    former = former_rows(out, values["weights"], {row["file"] for row in values["forms"]}, same)
    if former.values is None:
        return values, former.lines
    twin, *rows = values["forms"]
    order = [*SERVER_FILES, *FILES.values()]
    rows = sorted(
        [*rows, *former.rows], key=lambda row: order.index(row["file"]) if row["file"] in order else len(order)
    )
    names = {row["file"] for row in former.rows}
    whole = values | {"forms": [twin, *rows]}
    for key in ("inputs", "margins"):
        whole[key] = {n: v for n, v in former.values.get(key, {}).items() if n in names} | values[key]
    if FILES[INT8] in names and "recover" in former.values:
        whole["recover"] = former.values["recover"]
    return whole, former.lines


def _rows(bench: Bench, twin: Twin, forms: Sequence[Form]) -> list[dict[str, Any]]:
    rows = []
    for form in forms:
        decode = reader(form.record, lambda outputs: outputs)
        row = measured(bench, twin, form.name, form.path, decode)
        if form.name.startswith(INT8):  # a board has no use for floats
            row["micro"] = on_board(bench, form, decode)
            row["holds"] = row["holds"] and row["micro"].get("agrees", True)
        rows.append(row | {"sha256": file_digest(form.path)})
    return rows


def lessons_of(workdir: Path, finished: Finished, task: Task) -> Lessons:
    """Training images, the bank where there is one of this data set and teacher, and what the teacher says of both.

    Raises ConfigError where the bank is damaged or of others.
    """
    train, path, bank = read_split(finished.dataset, "train"), workdir / "artifacts" / "bank.h5", None
    teacher_path = workdir / "artifacts" / "teacher.safetensors"
    predict = make_predict(finished.teacher.model.net, finished.teacher.config["precision"])
    outputs = [predict(train.images)]
    if path.exists():
        check_made(path)
        attributes, wanted = read_attributes(path), {"dataset": finished.dataset, "teacher": teacher_path}
        for name, file in wanted.items():
            if attributes.get(name) != file_digest(file):
                raise ConfigError(f"artifacts/bank.h5 was made from another {name}; run `cgankd bank` again")
        fakes = read_bank(path)
        bank, outputs = fakes.split(), [*outputs, fakes.teacher_output.float()]
    return Lessons(train, bank, torch.cat(outputs), task)


def _better(
    bench: Bench, twin: Twin, forms: Sequence[Form], tried: Sequence[Form]
) -> tuple[list[Form], dict[str, Any]]:
    """The forms, the int8 one being that with the best validation score, and the rows of before and after for the record."""

    def val_score(form: Form) -> tuple[float, float]:
        answers = form.run(bench.val.images[:])
        parts = (bench.answer.score(answers, bench.val.labels), bench.answer.miss(answers, bench.val.labels))
        score, miss = (float(part.double().mean()) for part in parts)
        return score, miss  # of few validation images many have equal errors, and then how sure the answers are decides

    (before,) = (form for form in forms if form.name == INT8)
    scores = [val_score(form) for form in tried]
    after = tried[scores.index(min(scores))]
    kept = after if min(scores) < val_score(before) else before
    rows = _rows(bench, twin, [before, after])
    record = {
        "before": rows[0],
        "after": rows[1],
        "validations": [score for score, _ in scores],
        "kept": "after" if kept is after else "before",
    }
    return [kept if form is before else form for form in forms], {"recover": record}


def _server_rows(bench: Bench, twin: Twin, out: Path, weights: str) -> list[dict[str, Any]]:
    """The files of an export for servers that lies in the folder, where it is of this student."""
    values = record_of(out / "export.json", weights)
    if values is None:
        return []
    with understood(str(out / "export.json"), "cgankd export"):
        names = [name for name in SERVER_FILES if name in values["files"] and (out / name).is_file()]
    for name in names:
        check_listed(out / name, values)
    return [
        measured(bench, twin, name, out / name, lambda outputs: outputs) | {"sha256": file_digest(out / name)}
        for name in names
    ]


def _values(
    finished: Finished, bench: Bench, source: Source, rows: list[dict[str, Any]], forms: Sequence[Form]
) -> dict[str, Any]:
    return {
        "weights": source.weights,
        "info": to_dict(source.info),
        "headline": finished.result["headline"],
        "confidence": bench.confidence,
        "tolerance": bench.tolerance,
        "num_val": len(bench.val),
        "num_test": len(bench.test),
        "groups": {"kind": bench.task.group_kind[0], "names": list(bench.task.group_names)},
        "inputs": {form.path.name: asdict(form.record.signature) for form in forms},
        "margins": {form.path.name: asdict(m) if (m := form.record.margin) else None for form in forms},
        "forms": rows,
    }
