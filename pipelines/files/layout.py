"""What lies where in a work folder: the stages, the sections they read, the files they leave, and who makes a missing one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cgankd.config import Config, ConfigError
from cgankd.data.regular import NotPlain, shown

STAGES = ("prepare", "teacher", "cgan", "ratio", "bank", "student", "evaluate")
MAKERS = {
    "dataset": "prepare",
    "unlabelled": "prepare",
    "teacher": "teacher",
    "cgan": "cgan",
    "ratio": "ratio",
    "pool": "bank",
    "bank": "bank",
    "students": "student",
    "student": "evaluate",
}
EXPORTED = ("export.json", "device.json", "folders.json")
"""What `cgankd export` writes beside its files, wherever they lie."""
OUTPUTS = {
    "prepare": ("dataset.h5", "unlabelled.h5", "unlabelled.csv"),
    "teacher": ("teacher.safetensors",),
    "cgan": ("cgan.safetensors",),
    "ratio": ("ratio.safetensors",),
    "bank": ("pool.h5", "bank.h5"),
    "student": ("students",),
    "evaluate": ("student.safetensors",),
}
"""The files that each stage leaves in artifacts/."""
WEIGHTS = ("safetensors", "config.json")
"""Endings of the two files that a net is kept in."""
INPUTS = {
    "prepare": (),
    "teacher": ("dataset.h5",),
    "cgan": ("dataset.h5", *(f"teacher.{ending}" for ending in WEIGHTS)),
    "ratio": ("dataset.h5", *(f"{net}.{ending}" for net in ("teacher", "cgan") for ending in WEIGHTS)),
    "bank": (
        *("dataset.h5", "unlabelled.h5"),
        *(f"{net}.{ending}" for net in ("teacher", "cgan", "ratio") for ending in WEIGHTS),
    ),
    "student": ("dataset.h5", "teacher.safetensors", "teacher.config.json", "pool.h5"),
    "evaluate": ("dataset.h5", "teacher.safetensors", "teacher.config.json", "students"),
}
"""The files in artifacts/ that each stage reads, as dvc.yaml has them."""
SECTIONS = {
    "prepare": ("seed", "data"),
    "teacher": ("seed", "teacher"),
    "cgan": ("seed", "cgan"),
    "ratio": ("seed", "ratio", "bank.label_bin"),
    "bank": ("seed", "bank", "student.arms"),
    "student": ("seed", "student", "evaluate", "bank.label_bin"),
    "evaluate": ("evaluate", "bank.label_bin"),
}
"""The settings each stage reads, as dvc.yaml has them."""
BESIDE_STAGES = ("audit", "repeat", "sizes")
"""Runs that leave metrics, pictures and an MLflow run as a stage does, but are no part of the pipeline."""


def reads_teacher(cfg: Config, stage: str) -> bool:
    """Whether a stage looks at the teacher under these settings; in dvc.yaml each depends on it that may."""
    if stage == "ratio":
        return cfg.ratio.extractor == "teacher"
    if stage == "cgan":
        return cfg.cgan.file is None and cfg.cgan.teacher_weight > 0
    return "teacher.safetensors" in INPUTS[stage]


def within(key: str, sections: Iterable[str]) -> bool:
    """Whether a dotted setting lies in one of these sections, as bank.rho does in bank."""
    return any(f"{key}.".startswith(f"{section}.") for section in sections)


def maker(name: str) -> str:
    """The command that makes an artifact: "teacher.safetensors" -> "cgankd teacher"."""
    if Path(name).name in EXPORTED:
        return "cgankd export"
    first = Path(name).parts[0].split(".")[0]
    return f"cgankd {MAKERS[first]}" if first in MAKERS else "cgankd run"


def inside(path: Path) -> Path:
    """The path below artifacts/, the innermost where there are several, or the name alone of a file elsewhere."""
    tops = [number for number, part in enumerate(path.parts) if part == "artifacts"]
    return Path(*path.parts[tops[-1] + 1 :]) if tops else Path(path.name)


UNPLACED = ("artifacts", "resume", "made")
"""The folder of a work folder in which the new files of a stage lie until all of them take their places."""


def unplaced(workdir: Path, stage: str) -> Path:
    """The folder in which whole new files of a stage wait for their places; with .tmp behind its name they are being written."""
    return workdir.joinpath(*UNPLACED, stage)


def in_place(path: Path) -> Path:
    """Where a new file of a stage is going to be; any other path as it is."""
    for number in range(len(path.parts) - len(UNPLACED)):
        if path.parts[number : number + len(UNPLACED)] == UNPLACED:
            return Path(*path.parts[:number], *path.parts[number + len(UNPLACED) + 1 :])
    return path


def missing(path: Path) -> ConfigError:
    """The error for an artifact that is not there, naming the stage that makes it."""
    return ConfigError(f"{Path('artifacts', inside(path))} is missing; run `{maker(str(inside(path)))}` first")


def made_again(path: Path) -> str | None:
    """What puts a file of a work folder in its place again, in words; None for any other file."""
    if path.name == "params.yaml":
        return "bring the file back or run `cgankd use PRESET`"
    folder, name = next(
        ((f, path.absolute().relative_to(f)) for f in path.absolute().parents if _is_work(f)), (None, path)
    )
    if folder is None or name.parts[0] not in ("artifacts", "metrics") or len(name.parts) == 1:
        return None
    if name.parts[0] == "metrics":
        known = len(name.parts) == 2 and name.suffix == ".json" and name.stem in (*STAGES, *BESIDE_STAGES)
        return f"run `cgankd {'bank audit' if name.stem == 'audit' else name.stem}`" if known else None
    name = Path(*name.parts[1:])
    return f"run `{maker(str(name))}`" if name.name in EXPORTED or name.parts[0].split(".")[0] in MAKERS else AGAIN


def _is_work(folder: Path) -> bool:
    return os.path.lexists(folder / "params.yaml")


AGAIN = "give the same command"


def in_its_place(error: NotPlain) -> str:
    """What is said where something else lies in the place of a file; whoever named a file of no work folder names another."""
    cure = made_again(error.path)
    return str(error) if cure is None else f"{shown(error.path)} {error.what}; move it away, then {cure}"


@contextmanager
def understood(file: str, command: str) -> Iterator[None]:
    """Raise ConfigError that names a file and the command that makes it where what it holds has another shape."""
    try:
        yield
    except ConfigError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError) as error:
        raise ConfigError(
            f"{file} is damaged or of another version of cgankd ({type(error).__name__}: {str(error)[:120]}); run"
            f" `{command}` again"
        ) from error
