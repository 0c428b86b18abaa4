"""What a stage will write, counted before it begins, and whether there is room and a place for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from cgankd.config import Config, ConfigError, FitConfig, to_dict
from cgankd.config.members import AUTO
from cgankd.data.store.parts import NAME
from cgankd.nets.autoencoders import make_extractor
from cgankd.nets.gans.zoo import make_generator
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.nets.ratio_mlp import RatioMLP
from pipelines.files.layout import OUTPUTS
from pipelines.files.made import made_by
from pipelines.files.writing import AGAIN, OWN_FOLDER, free_bytes, in_the_way, size_text

COPIES = 3
"""A training keeps weights and what the optimiser adds to them; the former state lies there while the next is written."""
NUM_DIGITS = 1797
"""Images of the data set that comes with scikit-learn."""
KEPT = {"teacher": ("members",), "cgan": ("gans",), "search": ("student",), "sizes": ("student",)}
"""Folders in artifacts/resume that a stage uses beside its own."""
FILES = (".json", ".jsonl", ".lock", ".pt", ".safetensors", ".npy", ".txt", ".png", ".csv")
"""Endings of files, and of no folder, that a work folder keeps for the program itself."""
SMALL = 2**20
"""Logs, metrics and pictures of a stage."""


def will_write(stage: str, cfg: Config, workdir: Path) -> int:
    """About how many bytes a stage writes at least, by its settings; what only its inputs tell is left out."""
    known: dict[str, Callable[[], int]] = {
        "prepare": lambda: _images(cfg) or _size(workdir / "artifacts" / "dataset.h5"),
        "teacher": lambda: (1 + COPIES) * _net(cfg, cfg.teacher) * _members(cfg),
        "cgan": lambda: 2 * (1 + COPIES) * _generator(cfg) if cfg.cgan.file is None else 0,
        "ratio": lambda: (1 + COPIES) * _ratio(cfg),
        "bank": lambda: (cfg.bank.num_fakes + _draws(cfg)) * _row(cfg),
        "student": lambda: _students(cfg),
        "evaluate": lambda: _net(cfg, cfg.student),
    }
    return SMALL + (known[stage]() if stage in known else 0)


def check_room(stage: str, cfg: Config, workdir: Path) -> None:
    """Raise ConfigError where a stage cannot write what it will, before it begins: no room, no leave, a file in the way."""
    check_places(stage, workdir)
    needed, free = will_write(stage, cfg, workdir), free_bytes(workdir / "artifacts")
    if free is not None and needed > free:
        raise ConfigError(
            f"`cgankd {stage}` will write about {size_text(needed)} in {workdir / 'artifacts'}, but {size_text(free)} are free"
            f" there; make room {AGAIN}"
        )


def check_places(stage: str, workdir: Path) -> None:
    """Raise ConfigError where a file lies in place of a folder that the stage needs, or the other way round."""
    for folder in (
        *(f"artifacts/{name}" for name in ("", "resume", f"resume/{stage}", "resume/made", "logs", "digests")),
        "metrics",
    ):
        _check_folder(workdir / folder)
    _check_folder(workdir / "plots" / stage)
    for name in made_by(stage):
        path = workdir / name
        if not path.suffix:
            _check_folder(path)
        elif not is_parts(path):
            _check_file(path)
    for path in folders_for_files(workdir, stage):
        _check_file(path)


def folders_for_files(workdir: Path, stage: str) -> Iterator[Path]:
    """Folders with the name of a file, where a stage keeps files that nobody names."""
    artifacts = workdir / "artifacts"
    yield from (path for path in sorted((artifacts / "resume").glob("*.lock")) if path.is_dir())
    tops = [artifacts / "resume" / name for name in (stage, *KEPT.get(stage, ()))]
    for top in (*tops, artifacts / stage, artifacts / "digests", artifacts / "logs", workdir / "plots" / stage):
        for place, names, _ in os.walk(top):
            yield from (Path(place, name) for name in sorted(names) if name.endswith(FILES))


def is_parts(path: Path) -> bool:
    """Whether a folder is a pool or bank in several files (bank.rows_per_file)."""
    return path.is_dir() and path.name in OUTPUTS["bank"] and all(NAME.fullmatch(part.name) for part in path.iterdir())


def _check_file(path: Path) -> None:
    if (text := in_the_way(path)) is not None:
        raise ConfigError(text)


def _check_folder(path: Path) -> None:
    there = next(p for p in (path, *path.parents) if p.exists())
    if not there.is_dir():
        raise ConfigError(f"{there} is a file, but a folder is needed there; move it away {AGAIN}")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"{there} cannot be written to; {OWN_FOLDER}")


def estimates(cfg: Config, workdir: Path, stages: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Each stage with about what it writes."""
    for stage in stages:
        yield stage, will_write(stage, cfg, workdir)


def _row(cfg: Config) -> int:
    """Bytes of an image at rest."""
    return cfg.data.channels * cfg.data.image_size**2


def _images(cfg: Config) -> int:
    """Bytes of a data set whose size the settings tell; 0 for others."""
    if cfg.data.source == "digits":
        return NUM_DIGITS * _row(cfg)
    return sum(count or 0 for count in (cfg.data.num_train, cfg.data.num_val, cfg.data.num_test)) * _row(cfg)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _members(cfg: Config) -> int:
    members = cfg.teacher.members
    return 1 if members is None else 2 if members == AUTO else members if isinstance(members, int) else len(members)


def _net(cfg: Config, section: FitConfig) -> int:
    """Bytes of a teacher or student, without making its numbers; 0 for one from a file or package."""
    if getattr(section, "file", None) is not None or section.starts_from is not None or ":" in section.net:
        return 0
    shape = NetShape(10, cfg.data.channels, cfg.data.image_size)
    pixels = [0.5] * cfg.data.channels
    return _on_meta(
        lambda: make_predictor(section.net, shape, width=section.width, mean=pixels, std=pixels, input_size=None)
    )


def _generator(cfg: Config) -> int:
    return _on_meta(lambda: make_generator(cfg.cgan, cfg.data.channels, cfg.data.image_size))


def _ratio(cfg: Config) -> int:
    """Bytes of the extractor and of the ratio network; of a teacher as extractor its own, as its features are not known."""
    given, channels, size = cfg.ratio, cfg.data.channels, cfg.data.image_size
    if given.extractor == "teacher":
        return _net(cfg, cfg.teacher)
    width = given.feature_width or channels * size**2
    features = _on_meta(lambda: make_extractor(to_dict(given), channels, size, 10))
    return features + _on_meta(lambda: RatioMLP(cfg.cgan.embed_dim, width, given.hidden, given.dropout))


def _draws(cfg: Config) -> int:
    """Fakes in the pool, which keeps all that are drawn: at least so many that the filter leaves num_fakes of them.

    How many the ratio turns away is known only once it is there.
    """
    bank = cfg.bank
    filters = bank.filter or any(arm.bank and arm.filter for arm in cfg.student.arms.values())
    return round(bank.num_fakes / bank.rho) if filters and bank.refill else bank.num_fakes


def _on_meta(make: Callable[[], nn.Module]) -> int:
    """Bytes of a net that is not made; 0 where it cannot be told, as the stage itself says what is wrong with it."""
    state = torch.random.get_rng_state()
    try:
        with torch.device("meta"):
            return sum(t.nbytes for t in make().state_dict().values())
    except (ConfigError, ValueError, RuntimeError, ImportError):  # a net without an operator on `meta` among them
        return 0
    finally:
        torch.random.set_rng_state(state)


def _students(cfg: Config) -> int:
    """All runs, kept and copied, and the stored views."""
    student = cfg.student
    runs = len(student.seeds) * (len(student.arms) * (1 + len(student.step_factors)))
    files = runs * (2 if student.keep_best else 1)
    return 2 * files * _net(cfg, student) + student.num_views * _row(cfg)
