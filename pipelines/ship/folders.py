"""The finished student in a folder of its own beside what `export` has written: a page for browsers, a C header."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cgankd.config import ConfigError
from pipelines.device.c_files import write_c
from pipelines.device.making import FILES, INT8
from pipelines.device.web import Page, write_web
from pipelines.files.artifacts import file_digest, read_record
from pipelines.files.layout import understood
from pipelines.files.params import load_config
from pipelines.ship.devices import RECORD
from pipelines.ship.release import model_name
from pipelines.ship.saved import load_finished

PAGE, HEADER = "web", "c"


def write_page(
    workdir: Path, out: Path, *, level: float, runtime: Path | None = None, enlarge: bool = False
) -> list[Path]:
    """Write OUT/web/ for OUT/student.onnx, which `export` has written for the student of this work folder; returns its files.

    `runtime` is onnxruntime-web as the user names it, and `enlarge` as in `predict`. Raises ConfigError where student.onnx is
    missing or of another student, or onnxruntime-web is not at hand.
    """
    onnx, record = out / "student.onnx", out / "export.json"
    if not onnx.is_file() or not record.is_file():
        raise ConfigError(
            f"{onnx} and its export.json are missing, which the page needs; run `cgankd export --to onnx,web`"
        )
    finished = load_finished(workdir, level)
    digests = read_record(record, ("files", "weights"))
    weights = file_digest(workdir / "artifacts" / "student.safetensors")
    with understood(str(record), "cgankd export"):
        own = digests["weights"] == weights and digests["files"].get(onnx.name) == file_digest(onnx)
    if not own:
        raise ConfigError(f"{onnx} is of another student than artifacts/ holds; run `cgankd export --to onnx,web`")
    headline, config = finished.result["headline"], finished.student.config
    info = replace(finished.student.info, enlarge=enlarge or finished.student.info.enlarge)
    page = Page(
        title=model_name(load_config(workdir / "params.yaml").tracking.preset, None),
        info=info,
        margin=finished.margin,
        no_margin=f"none: there are too few validation images for a level of {100 * level:g} %",
        kicker=f"Student of {info.source}",
        facts=((headline["name"].capitalize(), f"{config['test']:.4g} {headline['unit']}".strip()),),
    )
    return write_web(onnx, out / PAGE, page, workdir=workdir, runtime=runtime)


def write_header(workdir: Path, out: Path) -> list[Path]:
    """Write OUT/c/student.h and its example for OUT/student-int8.tflite, which `export` has written for the student of this work
    folder; returns the two.

    Raises ConfigError where that file is missing, of another student, loses more than was allowed, or was not run by the
    interpreter for microcontrollers.
    """
    path, record = out / FILES[INT8], out / RECORD
    if not path.is_file() or not record.is_file():
        raise ConfigError(
            f"{path} and its {RECORD} are missing, which the header needs; run `cgankd export --to litert,c`"
        )
    values = read_record(record, ("forms", "weights"))
    with understood(str(record), "cgankd export"):
        row = next((dict(row) for row in values["forms"] if row["file"] == path.name), None)
    own = values["weights"] == file_digest(workdir / "artifacts" / "student.safetensors")
    if not own or row is None or row.get("sha256") != file_digest(path):
        raise ConfigError(f"{path} is of another student than artifacts/ holds; run `cgankd export --to litert,c`")
    if not row.get("holds"):
        raise ConfigError(
            f"{path} loses more than was allowed at its export, so no header is written for it; --recover of `cgankd export` may"
            " help, or a larger --tolerance"
        )
    micro = row.get("micro") or {}
    return write_c(path, out / HEADER, arena=micro.get("arena") or 0, operators=[*(micro.get("operators") or {})])
