"""A saved student or teacher as the model that users get, with its margin; what export, ship and predict share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgankd.config import ConfigError
from cgankd.config.settings import from_dict
from cgankd.config.weights import PACKAGE, PACKAGED
from cgankd.data.store.datasets import read_split
from cgankd.export import ShippedModel
from cgankd.labels.answers import Answer, Margin, make_answer
from cgankd.measure.conformal import conformal_margin
from cgankd.types import DatasetInfo
from pipelines.files.artifacts import load_weights
from pipelines.files.layout import missing
from pipelines.files.made import check_made, way_back
from pipelines.files.runs import read_metrics
from pipelines.networks.distilled import restore_student

PARITY = 1e-4
"""Largest difference allowed between two formats of one model, as a share of the range of its answers."""
PARITY_IMAGES = 100
"""Real images on which formats are compared, where the data set has as many."""
LEVEL = 0.9
"""Level of the margins that go with predictions, unless the user names another."""


@dataclass(frozen=True)
class Package:
    """A model ready for users, what its data set says, its answers, and the config saved with its weights."""

    model: ShippedModel
    info: DatasetInfo
    answer: Answer
    config: dict[str, Any]

    @property
    def num_parameters(self) -> int:
        """Trained numbers of the net."""
        return sum(p.numel() for p in self.model.parameters())


def net_words(config: dict[str, Any]) -> str:
    """A net as its config names it: "convnet, width 4", "resnet20 with modules of simkd", "a torch.export program"."""
    if "members" in config:
        return f"the mean of {len(config['members'])} nets ({'; '.join(map(net_words, config['members']))})"
    if "program" in config:
        return f"a {config['program']} program"
    words = str(config["net"]) if config["width"] is None else f"{config['net']}, width {config['width']}"
    if config.get("input_size") is not None:
        words += f", which sees images at {config['input_size']} px"
    if "weights" in config:
        words += f", trained on from the weights {config['weights']}{_licence(config['weights'])}"
    if "distilled" not in config:
        return words
    return f"{words} with modules of {'+'.join(part['name'] for part in config['distilled']['parts'])}"


def _licence(weights: str) -> str:
    """Of packaged weights their licence, in brackets."""
    packaged = PACKAGED.get(weights.removeprefix(PACKAGE))
    return f" (ImageNet, {packaged.license})" if packaged is not None and weights.startswith(PACKAGE) else ""


def load_package(path: Path) -> Package:
    """A student or teacher from its .safetensors and the config.json beside it, which need nothing else.

    Raises ConfigError where one of the two is missing or damaged.
    """
    weights, config = load_weights(path)
    if not {"info", "net", "width"} <= set(config):
        raise ConfigError(f"{path} is not a teacher or student; name artifacts/student.safetensors or a copy of it")
    try:
        info = from_dict(DatasetInfo, config["info"], "info.")
        answer = make_answer(info)
        net = restore_student(weights, config, info, answer.num_outputs)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as error:
        raise ConfigError(f"{path} does not fit the config.json beside it; copy both files together") from error
    model = ShippedModel(net, answer).eval().requires_grad_(False)
    return Package(model, info, answer, config)


def dataset_of(workdir: Path, info: DatasetInfo) -> Path:
    """artifacts/dataset.h5. Raises ConfigError where it is missing or is not the data set of the model."""
    from cgankd.data.store.datasets import read_info

    path = workdir / "artifacts" / "dataset.h5"
    if not path.exists():
        raise missing(path)
    check_made(path)
    if read_info(path) != info:
        raise ConfigError("the model was made from another data set than artifacts/dataset.h5; run all stages again")
    return path


@dataclass(frozen=True)
class Finished:
    """The student that `evaluate` chose with all that stands behind it: its teacher, the data set, its results
    (metrics/evaluate.json) and the margin of its answers.
    """

    student: Package
    teacher: Package
    dataset: Path
    result: dict[str, Any]
    margin: Margin | None


def load_finished(workdir: Path, level: float) -> Finished:
    """The student of a work folder, its margin at this level. Raises ConfigError where a file is missing or of another."""
    student = load_package(workdir / "artifacts" / "student.safetensors")
    teacher = load_package(workdir / "artifacts" / "teacher.safetensors")
    dataset = dataset_of(workdir, student.info)
    result = evaluation(workdir, student)
    return Finished(student, teacher, dataset, result, validation_margin(student, dataset, level))


def parity_images(dataset: Path) -> Tensor:
    """Real images [N, C, H, W] for comparing formats: validation, and training where that is fewer than 100."""
    images = read_split(dataset, "val").images[:]
    if len(images) < PARITY_IMAGES:
        images = torch.cat([images, read_split(dataset, "train").images[:PARITY_IMAGES]])
    return images[: max(PARITY_IMAGES, 2)]


def validation_margin(package: Package, dataset: Path, level: float) -> Margin | None:
    """Margin of the answers from the validation images; None where those are too few for the level.

    Arm and seed were chosen on the same images, so the coverage is a little optimistic. Raises ConfigError on a level
    outside (0, 1).
    """
    if not 0 < level < 1:
        raise ConfigError(f"--level must be between 0 and 1, but is {level:g}")
    val = read_split(dataset, "val")
    return conformal_margin(package.answer.miss(package.model.run(val.images[:]), val.labels), level)


def evaluation(workdir: Path, package: Package) -> dict[str, Any]:
    """metrics/evaluate.json. Raises ConfigError where it is missing, damaged or of another student than the package."""
    result = read_metrics(workdir / "metrics" / "evaluate.json", "cgankd evaluate")
    if result is None:
        raise ConfigError("metrics/evaluate.json is missing; run `cgankd evaluate` first")
    arm, chosen = package.config.get("arm"), result.get("chosen_arm")
    arms = result.get("arms")
    entry = arms.get(arm) if isinstance(arms, dict) else None
    values = entry.get("values") if isinstance(entry, dict) else None
    if not isinstance(values, list) or not isinstance(result.get("headline"), dict):
        back = way_back(workdir / "metrics" / "evaluate.json")
        raise ConfigError(f"metrics/evaluate.json is damaged (it has other entries); run `cgankd evaluate` again{back}")
    if arm != chosen or package.config.get("test") not in values:
        raise ConfigError(
            f"artifacts/student.safetensors (arm {arm}) is not the student of metrics/evaluate.json (arm {chosen});"
            " run `cgankd evaluate` again"
        )
    return result
