"""Labels for new images: by the student of this folder, by an exported ONNX or torch.export file, or by a served model."""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich import box
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from cgankd.config import ConfigError
from cgankd.config.settings import from_dict
from cgankd.data.readers.image_files import read_images
from cgankd.data.readers.walk import left_out_lines, walk
from cgankd.data.regular import parse_json, read_json
from cgankd.data.store.datasets import read_info, read_split
from cgankd.export import open_onnx, open_torch_export
from cgankd.labels.answers import Answer, Margin, Reading, make_answer
from cgankd.measure.conformal import images_needed
from cgankd.types import DatasetInfo, silent
from pipelines.device.forms import OPENED_BY
from pipelines.device.running import open_form
from pipelines.files.artifacts import config_path, read_record
from pipelines.ship.door import images_a_request
from pipelines.ship.exported import check_listed
from pipelines.ship.saved import dataset_of, load_package, validation_margin
from pipelines.ship.trust import check_own, is_program

BATCH = 256
LEVEL = 0.9
"""Of regions, where none is asked for."""
SERVER_WAIT_S = 60.0
NO_MARGIN = "no regions: when this file was exported there were too few validation images for its --level"
MAX_REPLY = 2**26
"""Bytes of the largest answer of a server that is read."""
OPENERS = {".onnx": open_onnx, ".pt2": open_torch_export}
"""How the files that `cgankd export` writes for a server are opened; those for devices carry their own record."""


@dataclass(frozen=True)
class Predictor:
    """Images [B, C, H, W] to answers [B, A], with what is needed to read images and answers.

    `no_margin` says why there is no margin, where there is none.
    """

    run: Callable[[Tensor], Tensor]
    info: DatasetInfo
    answer: Answer
    margin: Margin | None
    no_margin: str = ""


@dataclass(frozen=True)
class Labelled:
    """One file: its reading, or why it has none."""

    path: Path
    reading: Reading | None
    error: str = ""


def open_predictor(
    workdir: Path, model: Path | None, level: float | None, server: str | None = None, *, trust: bool = False
) -> Predictor:
    """The student of this folder, or any other .safetensors, .onnx, .pt2, .tflite or .pte file; `server` answers in its place.

    The margin of an exported file is the one inside it or in the export.json beside it, whose level is the only one that
    `level` may be; else it is taken from the validation images of this folder, at LEVEL where `level` is None, and there is
    none where they are not at hand. Raises ConfigError where a file is missing or no good, or is a program of somebody
    else's, unless `trust`.
    """
    path = model or workdir / "artifacts" / "student.safetensors"
    if path.suffix in OPENERS:
        found = _at_level(_open_exported(workdir, path, trust), path, level)
    elif path.suffix in OPENED_BY:
        found = _at_level(_open_device(workdir, path), path, level)
    else:
        level = LEVEL if level is None else level
        if model is not None:
            _check_named(model)
        if is_program(read_record(config_path(path)) if path.is_file() else {}):
            check_own(workdir, path, trust=trust)
        package = load_package(path)
        margin, why = None, "no regions: they come from the validation images in artifacts/dataset.h5, which is missing"
        if (workdir / "artifacts" / "dataset.h5").exists():
            dataset = dataset_of(workdir, package.info)
            margin, why = validation_margin(package, dataset, level), ""
            if margin is None:
                why = (
                    f"no regions: a level of {100 * level:g} % needs {images_needed(level)} validation images, and there"
                    f" are {len(read_split(dataset, 'val').labels)}; lower --level"
                )
        found = Predictor(package.model.run, package.info, package.answer, margin, why)
    return found if server is None else replace(found, run=lambda images: ask_server(server, images))


def _at_level(found: Predictor, path: Path, level: float | None) -> Predictor:
    """Raise ConfigError where an exported file has regions of another level than asked for; it holds no scores to make some."""
    held = None if found.margin is None else found.margin.level
    if level is not None and level != held:
        regions = "no regions" if held is None else f"regions at a level of {held:g} and no other"
        raise ConfigError(
            f"--level {level:g} is not in {path}, which holds {regions}; leave --level out, or export the student again with"
            f" --level {level:g}"
        )
    return found


def with_rules(predictor: Predictor, square: str | None, enlarge: bool) -> Predictor:
    """The predictor with other rules for image files than those kept with its model. Raises ConfigError."""
    if square is not None and square not in ("crop", "pad", "stretch"):
        raise ConfigError(f"--square must be crop, pad or stretch, but is {square!r}")
    info = predictor.info
    info = replace(info, fit=square or info.fit, enlarge=enlarge or info.enlarge)
    return replace(predictor, info=info)


def _check_named(path: Path) -> None:
    """Raise ConfigError unless a file named by the user is weights with their config; no stage makes those there."""
    if path.suffix != ".safetensors":
        raise ConfigError(f"--model {path} is no model; name a .safetensors, .onnx, .pt2, .tflite or .pte file")
    for part in (path, config_path(path)):
        if not part.is_file():
            raise ConfigError(
                f"{part} is missing; --model needs a .safetensors file of a student or teacher and, beside it,"
                f" {config_path(path).name}"
            )


def _open_exported(workdir: Path, path: Path, trust: bool) -> Predictor:
    record = path.with_name("export.json")
    for part in (path, record):
        if not part.is_file():
            raise ConfigError(f"{part} is missing; `cgankd export` writes {path.name} and its export.json together")
    if path.suffix == ".pt2":
        _check_program(workdir, path, record, trust)
    values = read_record(record, ("info", "margin"))
    check_listed(path, values)
    try:
        info = from_dict(DatasetInfo, values["info"], "info.")
        margin = from_dict(Margin, values["margin"], "margin.") if values["margin"] else None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{record} is damaged ({error}); run `cgankd export` again") from error
    return Predictor(OPENERS[path.suffix](path), info, make_answer(info), margin, "" if margin else NO_MARGIN)


def _check_program(workdir: Path, path: Path, record: Path, trust: bool) -> None:
    """Raise ConfigError where a program is not this project's own; one that its export.json tells of otherwise is damaged."""
    try:
        check_own(workdir, path, trust=trust)
    except ConfigError:
        told = None
        with contextlib.suppress(OSError, ValueError):
            told = read_json(record)
        if isinstance(told, dict) and isinstance(told.get("files"), dict) and path.name in told["files"]:
            check_listed(path, told)
        raise


def _open_device(workdir: Path, path: Path) -> Predictor:
    form = open_form(path)
    record, dataset = form.record, workdir / "artifacts" / "dataset.h5"
    if dataset.exists() and read_info(dataset) != record.info:
        raise ConfigError(
            f"{path} is of another project: its labels come from another data set than artifacts/dataset.h5; run this outside"
            " of this folder, or export the student of this one"
        )
    return Predictor(form.run, record.info, make_answer(record.info), record.margin, "" if record.margin else NO_MARGIN)


def ask_server(address: str, images_BCHW: Tensor) -> Tensor:
    """Answers [B, A] of the server at http://host:port, in requests as large as it takes.

    Raises ConfigError where it does not answer.
    """
    url = address.rstrip("/").removesuffix("/invocations") + "/invocations"
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--server must be an address such as http://127.0.0.1:5001, but is {address!r}")
    parts = torch.split(images_BCHW, images_a_request(tuple(images_BCHW.shape[1:])))
    return torch.cat([_asked(url, part) for part in parts])


def _asked(url: str, images_BCHW: Tensor) -> Tensor:
    """The answers to one request, which is sent once more where the server was ended while it answered."""
    body = json.dumps({"inputs": images_BCHW.tolist()}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    for last in (False, True):
        try:
            with urllib.request.urlopen(request, timeout=SERVER_WAIT_S) as reply:
                found = parse_json(reply.read(MAX_REPLY).decode())
                return torch.tensor(found["predictions"], dtype=torch.float32).reshape(len(images_BCHW), -1)
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace")
            raise ConfigError(f"{url} answered {error.code}: {said}; is another model served there?") from error
        except (OSError, http.client.HTTPException) as error:
            lost = isinstance(getattr(error, "reason", error), ConnectionResetError | http.client.HTTPException)
            if last or not lost:
                raise ConfigError(f"{url} does not answer ({error}); start it with `cgankd serve`") from error
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            text = f"{type(error).__name__}: {str(error)[:200]}"
            raise ConfigError(
                f"{url} does not answer with predictions ({text}); is another model served there?"
            ) from error
    raise AssertionError("either answered or raised")


def image_files(target: Path) -> list[Path]:
    """The image, or all images of a folder and its sub-folders in order. Raises ConfigError where there are none."""
    if target.is_dir():
        files = walk(target).images
        if not files:
            raise ConfigError(f"{target} has no images that can be read, such as .png or .jpg")
        return files
    if not target.is_file():
        raise ConfigError(f"{target} does not exist; name an image or a folder of images")
    return [target]


def left_out(target: Path) -> list[str]:
    """What `image_files` does not give of a folder and why; nothing is said of hidden files."""
    entries = walk(target).left if target.is_dir() else []
    return left_out_lines([entry for entry in entries if not entry.hidden], target)


def label_files(predictor: Predictor, files: list[Path]) -> list[Labelled]:
    """Every file with its reading, in the order given; one that cannot be read costs no other its label."""
    labelled: list[Labelled] = []
    for start in range(0, len(files), BATCH):
        part = files[start : start + BATCH]
        images, errors = [], {}
        for path in part:
            try:
                images.append(read_images([path], predictor.info, silent)[0])
            except ConfigError as error:
                errors[path] = str(error)
        answers = predictor.run(torch.cat(images)) if images else torch.empty(0, predictor.answer.num_answers)
        readings = iter(predictor.answer.read(answers, predictor.margin))
        for path in part:
            labelled.append(Labelled(path, None, errors[path]) if path in errors else Labelled(path, next(readings)))
    return labelled


def as_csv(labelled: list[Labelled], margin: Margin | None) -> str:
    """Lines path,label,confidence,region,error; a region is a JSON list of the names of classes, or low..high.

    Of labels that go round low may be the larger number: 355..5 are the angles from 355 up to 360 and from 0 up to 5.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["path", "label", "confidence", "region", "error"])
    for entry in labelled:
        label, confidence, region = reading_cells(entry.reading) if entry.reading else ("", "", "")
        if entry.reading and isinstance(entry.reading.label, str) and margin is not None:
            region = json.dumps(list(entry.reading.region), ensure_ascii=False)
        writer.writerow([str(entry.path), label, confidence, region, entry.error])
    return stream.getvalue()


def reading_cells(reading: Reading) -> tuple[str, str, str]:
    """Label, confidence and region as text."""

    def text(value: str | float) -> str:
        return value if isinstance(value, str) else f"{value:.6g}"

    ends = [text(value) for value in reading.region]
    numbers = bool(reading.region) and isinstance(reading.region[0], float)
    confidence = "" if reading.confidence is None else f"{reading.confidence:.4f}"
    return text(reading.label), confidence, "..".join(ends) if numbers else ", ".join(ends)


def labels_table(labelled: list[Labelled], margin: Margin | None) -> Table:
    """Predictions for the terminal, without the images that could not be read."""
    level = [f"at {100 * margin.level:g} % ({margin.num} validation images)"] if margin else []
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for name in ("image", "label", "confidence", *level):
        table.add_column(name, overflow="fold", justify="left" if name == "image" else "right")
    for entry in labelled:
        if entry.reading is not None:
            label, confidence, region = reading_cells(entry.reading)
            if entry.reading.seam is not None:
                region += f" (over {entry.reading.seam:g})"
            table.add_row(
                *map(escape, (str(entry.path), label, confidence, *([region or "none fits"] if margin else [])))
            )
    return table
