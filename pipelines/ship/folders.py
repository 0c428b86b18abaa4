"""The finished student in a folder of its own beside what `export` has written: a page for browsers, a C header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cgankd.config import ConfigError
from pipelines.device.c_files import c_names, write_c
from pipelines.device.making import FILES, INT8
from pipelines.device.web import Page, check_own_files, check_page, write_web
from pipelines.files.artifacts import file_digest, read_record
from pipelines.files.layout import understood
from pipelines.files.params import load_config
from pipelines.ship.devices import RECORD
from pipelines.ship.exported import FOLDERS, check_unchanged, note_folder
from pipelines.ship.release import model_name
from pipelines.ship.saved import load_finished

PAGE, HEADER = FOLDERS


def check_folders(out: Path, formats: Sequence[str]) -> None:
    """Raise ConfigError that names a file which the folders of these formats in `out` hold and no export has written."""
    if PAGE in formats:
        check_page(out / PAGE)
    if HEADER in formats:
        check_own_files(out / HEADER, c_names())
    for name in FOLDERS:
        if name in formats:
            check_unchanged(out, name)


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
    check_folders(out, [PAGE])
    files = write_web(onnx, out / PAGE, page, workdir=workdir, runtime=runtime)
    note_folder(out, weights, PAGE, files, onnx)
    return files


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
    weights = file_digest(workdir / "artifacts" / "student.safetensors")
    if values["weights"] != weights:
        raise ConfigError(f"{path} is of another student than artifacts/ holds; run `cgankd export --to litert,c`")
    if row is None or row.get("sha256") != file_digest(path):
        why = f"is not in the {RECORD} beside it" if row is None else f"is not the file that its {RECORD} tells of"
        raise ConfigError(f"{path} {why}; run `cgankd export --to litert,c`")
    if not (row.get("micro") or {}).get("agrees", True):
        raise ConfigError(
            f"{path} answers otherwise under the interpreter for microcontrollers than under LiteRT, so no header is written for"
            " it; train another net, or take another format than c"
        )
    if not row.get("holds"):
        raise ConfigError(
            f"{path} loses more than was allowed at its export, so no header is written for it; --recover of `cgankd export` may"
            " help, or a larger --tolerance"
        )
    micro = row.get("micro") or {}
    check_folders(out, [HEADER])
    used = [*(micro.get("operators") or {})]
    files = write_c(path, out / HEADER, arena=micro.get("arena") or 0, operators=used)
    note_folder(out, weights, HEADER, files, path)
    return files
