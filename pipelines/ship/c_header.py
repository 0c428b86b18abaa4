"""The finished student as a C header, beside the whole-int8 file that `export` has written."""

from __future__ import annotations

from pathlib import Path

from cgankd.config import ConfigError
from pipelines.device.c_files import write_c
from pipelines.device.making import FILES, INT8
from pipelines.files.artifacts import file_digest, read_record
from pipelines.files.layout import understood
from pipelines.ship.devices import RECORD

FOLDER = "c"


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
    return write_c(path, out / FOLDER, arena=micro.get("arena") or 0, operators=[*(micro.get("operators") or {})])
