"""The pretrained members of `teacher.members: auto`: weights that a Python package carries, fine-tuned."""

from __future__ import annotations

from typing import Any

from cgankd.config.weights import PACKAGE, PACKAGED
from cgankd.types import DatasetInfo
from pipelines.networks.weights import installed

CLASSES: dict[str, Any] = {"input_size": 96, "num_steps": 400}
SCALARS: dict[str, Any] = {"input_size": 64, "num_steps": 900}
"""Labels that are numbers are learnt in more steps, which smaller images pay for."""
TUNING: dict[str, Any] = {
    **{"width": None, "batch_size": 64, "optimizer": "adamw", "learning_rate": 3e-3, "weight_decay": 0.05},
    **{"schedule": "onecycle", "milestones": ()},
    **{"tune": "all", "pretrained": False, "weights_digest": None, "mean": None, "std": None},
}
FEW, SMALL_BATCH = 500, 32
"""With fewer images of classes than this batches are smaller, so that a training takes half the time.

Hands with 100 images, error on 220 held out, one training each: 9.5 % by batches of 32, 9.1 and 10.0 % by batches of 64.
"""
TRAININGS = 2
"""How many members start from the packaged weights. They differ in their seed, that is in head, order and augmentation.

CIFAR-10 with 3,000 images, error on 3,000 images held out: one 18.8 %, beside a fresh net 18.5 %, two and the fresh net 16.8 %.
"""
MOVES = {"shift", "affine", "zoom", "crop", "resized_crop", "randaugment"}
"""Augmentations after which a thing lies elsewhere in the image."""


def packaged(info: DatasetInfo, num_train: int, device: str, augment: str) -> dict[str, Any] | None:
    """Settings of a teacher that starts from packaged weights of the smallest net; None where none are installed.

    Larger images than those it is shown here are not made smaller; `num_train` is how many images it learns from. On
    processors it computes in full precision, as depthwise convolutions have no fast bf16 kernel there. `augment` is that
    of the section: see `gentle`.
    """
    found = installed()
    if not found:
        return None
    own = CLASSES if info.class_names else SCALARS
    batch = {"batch_size": SMALL_BATCH} if info.class_names and num_train < FEW else {}
    size = {"input_size": max(own["input_size"], info.image_size)}
    precision = {"precision": "fp32"} if device == "cpu" else {}
    net = {"net": PACKAGED[found[0].removeprefix(PACKAGE)].net, "weights": found[0]}
    return TUNING | own | batch | size | precision | net | {"augment": gentle(augment)}


def gentle(augment: str) -> str:
    """Shifts where `augment` moves images at all, and flips where it flips: a net that starts from trained weights needs no more.

    CIFAR-10 with 3,000 images: 17.1 % on validation, where rotation and shear (at a third of the rate) gave 19.9 %.
    """
    names = set(augment.split("+"))
    return "+".join([*(["shift"] if names & MOVES else []), *(["flip"] if "flip" in names else [])]) or "none"
