"""What `cgankd export` left in artifacts/export/ of the very student that is shipped: files to go with it, and their numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from cgankd.measure.places import places
from pipelines.files.artifacts import file_digest, read_record, write_sealed_json
from pipelines.files.layout import EXPORTED, understood

FOLDER = "export"
SUFFIXES = (".onnx", ".pt2", ".tflite", ".pte")
FOLDERS = ("web", "c")
"""Formats of `cgankd export` that are folders, made of student.onnx or student-int8.tflite."""


@dataclass(frozen=True)
class Exported:
    """The records export.json and device.json (None where there is none of this student), the files that go into the registry
    with their SHA-256 (those of web/ and c/ among them), files and folders that do not hold and so do not go there, and those
    that no record of this student tells of.
    """

    server: dict[str, Any] | None = None
    device: dict[str, Any] | None = None
    files: dict[Path, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()


def exported_of(workdir: Path, weights: str) -> Exported:
    """What was exported from the student with these weights (SHA-256).

    Raises ConfigError where a file is not the one that its record tells of.
    """
    folder = workdir / "artifacts" / FOLDER
    server, device, folders = (record_of(folder / name, weights) for name in EXPORTED)
    with understood(f"artifacts/{FOLDER}/{EXPORTED[0]}", "cgankd export"):
        digests = {str(name): str(digest) for name, digest in server["files"].items()} if server else {}
    left_out, bad = [], set()
    with understood(f"artifacts/{FOLDER}/{EXPORTED[1]}", "cgankd export"):
        for row in device["forms"] if device else ():
            if row["file"] is None:
                continue
            if row["holds"]:
                digests[row["file"]] = row["sha256"]
            else:
                digests.pop(row["file"], None)
                left_out.append(row["file"])
                bad.add(row["sha256"])
    known = {*digests, *left_out}
    with understood(f"artifacts/{FOLDER}/{EXPORTED[2]}", "cgankd export"):
        for name, entry in folders["folders"].items() if folders else ():
            known.add(name)
            if bad & set(entry["of"].values()):
                left_out.append(f"{name}/")
                continue
            digests |= {f"{name}/{inner}": str(digest) for inner, digest in entry["files"].items()}
    files = {}
    for name, digest in digests.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"artifacts/{FOLDER} has a record of a file elsewhere, {name}; run `cgankd export` again")
        if not path.is_file() or file_digest(path) != digest:
            raise ConfigError(
                f"artifacts/{FOLDER}/{name} is missing or not the file that its record tells of; run `cgankd export` again"
            )
        files[path] = digest
    return Exported(server, device, files, tuple(left_out), tuple(unlisted(folder, known)))


def unlisted(folder: Path, known: Collection[str]) -> list[str]:
    """Names of files that an export may have written, and of its folders (with a stroke), which are not among `known`."""
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [path.name for path in there if path.suffix in SUFFIXES and path.is_file()]
    found += [f"{path.name}/" for path in there if path.name in FOLDERS and path.is_dir()]
    return [name for name in found if name.rstrip("/") not in known]


def record_of(path: Path, weights: str) -> dict[str, Any] | None:
    """A record of an export, export.json or device.json; None where there is none of the student with these weights.

    Raises ConfigError where it is damaged.
    """
    if not path.exists():
        return None
    values = read_record(path, ("weights",))
    return values if values["weights"] == weights else None


@dataclass(frozen=True)
class Former:
    """A device.json that lay there: its values (None where it is of another student or damaged), the rows of it whose files
    are still there as they were, and lines that name the files of the others.
    """

    values: dict[str, Any] | None
    rows: tuple[dict[str, Any], ...] = ()
    lines: tuple[str, ...] = ()


def former_rows(out: Path, weights: str, made: Collection[str] = (), same: Mapping[str, Any] | None = None) -> Former:
    """What device.json in `out` tells of files that are not among `made`; nothing is written.

    Rows measured under other values than those of `same` by key are not taken.
    """
    path = out / EXPORTED[1]
    if not path.exists():
        return Former(None)
    try:
        values = read_record(path, ("weights", "forms"))
        with understood(str(path), "cgankd export"):
            rows = [dict(row) for row in values["forms"] if row["file"] is not None and row["file"] not in made]
            names = {row["file"]: row["sha256"] for row in rows}
    except ConfigError as error:
        return Former(None, lines=(f"no file in {EXPORTED[1]} is taken: {error}",))
    there = {name for name, digest in names.items() if (out / name).is_file() and file_digest(out / name) == digest}
    own = values["weights"] == weights
    if own and same is not None and any(values.get(key) != value for key, value in same.items()):
        return Former(None, lines=_dropped("was measured on other images or otherwise", there))
    if not own:
        return Former(None, lines=_dropped("is of another student", [name for name in names if (out / name).exists()]))
    kept = tuple(
        row | {"tolerance": row.get("tolerance", values.get("tolerance"))} for row in rows if row["file"] in there
    )
    return Former(values, kept, _dropped("is gone or was changed since", [name for name in names if name not in there]))


def _dropped(why: str, names: Collection[str]) -> tuple[str, ...]:
    return tuple(f"{name} in {EXPORTED[1]} {why}, so it is not taken" for name in sorted(names))


def brought_in_line(out: Path, weights: str) -> tuple[str, ...]:
    """Take what is gone or changed out of device.json in `out`; returns lines that name it.

    One of another student, or a damaged one, stays as it is, for no reader takes it.
    """
    former, path = former_rows(out, weights), out / EXPORTED[1]
    if former.values is not None and former.lines:
        twins = [row for row in former.values["forms"] if row["file"] is None]
        names = {row["file"] for row in former.rows}
        values = dict(former.values) | {"forms": [*twins, *former.rows]}
        for key in ("inputs", "margins"):
            values[key] = {name: value for name, value in values.get(key, {}).items() if name in names}
        if names:
            write_sealed_json(path, values)
        else:
            path.unlink()
    return former.lines


def note_folder(out: Path, weights: str, name: str, files: Sequence[Path], of: Path) -> None:
    """Tell folders.json of the files of the folder `name` in `out`, made of the file `of` of the student with these weights.

    Other folders of the same student stay in it. Raises ConfigError where it is damaged.
    """
    path = out / EXPORTED[2]
    with understood(str(path), "cgankd export"):
        others = dict((record_of(path, weights) or {"folders": {}})["folders"])
    digests = {file.relative_to(out / name).as_posix(): file_digest(file) for file in sorted(files)}
    others[name] = {"of": {of.name: file_digest(of)}, "files": digests}
    write_sealed_json(path, {"weights": weights, "folders": others})


def check_unchanged(out: Path, name: str) -> None:
    """Raise ConfigError that names a file in the folder `name` whose bytes are not those that the export before has written.

    Without a record of the folder there is nothing to compare with.
    """
    path = out / EXPORTED[2]
    if not path.exists():
        return
    try:
        with understood(str(path), "cgankd export"):
            entry = dict(read_record(path, ("folders",))["folders"].get(name, {"files": {}}))
    except ConfigError as error:
        raise ConfigError(f"{path} is damaged; delete it, then give the same command") from error
    with understood(str(path), "cgankd export"):
        for inner, digest in entry["files"].items():
            file = out / name / inner
            if file.is_file() and file_digest(file) != digest:
                raise ConfigError(
                    f"{file} was changed since its export, and a new one would lose that; move it away, or name another"
                    " folder with --out"
                )


def check_listed(path: Path, values: Mapping[str, Any]) -> None:
    """Raise ConfigError where a file, whatever its name by now, is none of those that the export.json beside it tells of."""
    files = values.get("files")
    if not isinstance(files, dict):
        return
    digest = file_digest(path)
    if files.get(path.name, digest) != digest or digest not in files.values():
        raise ConfigError(
            f"{path} is damaged or of elsewhere: it is not the file that its export.json tells of; run `cgankd export` again,"
            " or copy both files together"
        )


def device_section(device: dict[str, Any]) -> str:
    """The files for devices on the model card."""
    headline, percent = device["headline"], f"{100 * device['confidence']:g} %"
    rows = device["forms"]
    dec = places([rows[0]["validation"], rows[0]["test"]])
    lines = [
        f"## Files for devices\n\n{headline['name']} in {headline['unit']}; {percent} intervals over {device['num_test']} test"
        " images. A file's loss is against the student, image by image. RAM is the arena of TensorFlow Lite Micro.\n",
        "| file | bytes | RAM | validation | test | loses | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        twin = row["file"] is None
        arena = (row.get("micro") or {}).get("arena")
        loss = "" if twin else f"{row['loss']:+.{dec}f} [{row['loss_low']:+.{dec}f}, {row['loss_high']:+.{dec}f}]"
        lines.append(
            f"| {'this student' if twin else row['file']} | {row['bytes']:,} | {f'{arena:,}' if arena else ''} |"
            f" {row['validation']:.{dec}f} | {row['test']:.{dec}f} [{row['test_low']:.{dec}f}, {row['test_high']:.{dec}f}] |"
            f" {loss} | {'' if row['holds'] else 'does not hold, left out'} |"
        )
    return "\n".join(lines) + "\n"
