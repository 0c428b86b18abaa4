"""The chosen student into the model registry, with a model card of all that stands behind it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cgankd.config import ConfigError
from cgankd.data.regular import read_json
from pipelines.files.artifacts import file_digest, fingerprint
from pipelines.files.made_with import settings_behind
from pipelines.files.params import load_config, write_text
from pipelines.ship.card import lineage, model_card
from pipelines.ship.registry import Registered, Release, register
from pipelines.ship.saved import PARITY_IMAGES, load_finished, parity_images
from pipelines.tracking.moved import check_place

CARD = "model_card.md"


@dataclass(frozen=True)
class Shipped:
    """What `ship` did: the model's name, where its card is, and the version in the registry."""

    name: str
    card: Path
    registered: Registered


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
    record = workdir / "artifacts" / "export" / "export.json"
    exported = read_json(record) if record.exists() else None
    if exported and exported["weights"] != origin.digests["student"]:
        exported = None  # of an earlier student
    card = workdir / "artifacts" / CARD
    write_text(card, model_card(name, finished, origin, exported))
    identity = {"digests": origin.digests, "licence": origin.licence, "level": level, "name": name}
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
    )
    images = parity_images(finished.dataset)[:PARITY_IMAGES]
    return Shipped(name, card, register(workdir, cfg.tracking.experiment, student, release, images, promote=promote))
