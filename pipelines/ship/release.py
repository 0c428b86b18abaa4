"""The chosen student into the model registry, with a model card of all that stands behind it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from pipelines.files.artifacts import file_digest, fingerprint
from pipelines.files.made_with import settings_behind
from pipelines.files.params import load_config, write_text
from pipelines.ship.card import lineage, model_card
from pipelines.ship.exported import FOLDER, exported_of
from pipelines.ship.registry import Registered, Release, register
from pipelines.ship.saved import PARITY_IMAGES, load_finished, parity_images
from pipelines.tracking.moved import check_place

CARD = "model_card.md"


@dataclass(frozen=True)
class Shipped:
    """What `ship` did: the model's name, where its card is, the version in the registry, the exported files that went with it,
    those left out as they do not hold, and those that no record of this student tells of.
    """

    name: str
    card: Path
    registered: Registered
    files: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()


def model_name(preset: str, name: str | None) -> str:
    """The name asked for, or that of the preset with -student. Raises ConfigError on a name the registry cannot hold."""
    name = name or f"{preset}-student"
    if not re.fullmatch(r"[\w.\- ]{1,200}", name):
        raise ConfigError(f"--name must be made of letters, digits, '-', '_', '.' and blanks, but is {name!r}")
    return name


def ship(workdir: Path, *, name: str | None, licence: str | None, level: float, promote: bool) -> Shipped:
    """Register artifacts/student.safetensors, the one that `evaluate` chose, and write artifacts/model_card.md.

    Raises ConfigError where an artifact is missing or does not belong to the others, or MLflow does not answer.
    """
    cfg = load_config(workdir / "params.yaml")
    name = model_name(cfg.tracking.preset, name)
    check_place(workdir, cfg.tracking.experiment)
    finished = load_finished(workdir, level)
    student = finished.student
    origin = lineage(workdir, student, licence, root=cfg.data.root, seed=cfg.seed)
    exported = exported_of(workdir, origin.digests["student"])
    card = workdir / "artifacts" / CARD
    write_text(card, model_card(name, finished, origin, exported))
    identity: dict[str, Any] = {"digests": origin.digests, "licence": origin.licence, "level": level, "name": name}
    root = workdir / "artifacts" / FOLDER
    files = {path.relative_to(root).as_posix(): path for path in exported.files}
    if files:
        identity["files"] = {name: exported.files[path] for name, path in files.items()}
    release = Release(
        name=name,
        card=card,
        tags=origin.digests
        | {"arm": student.config["arm"], "seed": str(student.config["seed"]), "data_licence": origin.licence}
        | {"fakes": str(origin.fakes), "real": str(origin.real["training"])},
        settings=settings_behind(workdir, "student.safetensors"),
        metrics={"validation": student.config["val"], "test": student.config["test"]},
        fingerprint=fingerprint(identity, {"evaluate": file_digest(workdir / "metrics" / "evaluate.json")}),
        validation=student.config["val"],
        higher_is_better=finished.result["headline"]["higher_is_better"],
        files=files,
    )
    images = parity_images(finished.dataset)[:PARITY_IMAGES]
    made = register(workdir, cfg.tracking.experiment, student, release, images, promote=promote)
    shown = dict.fromkeys(f"{name.split('/')[0]}/" if "/" in name else name for name in files)
    return Shipped(name, card, made, tuple(shown), exported.left_out, exported.unlisted)
