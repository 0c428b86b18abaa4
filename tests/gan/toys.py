"""Two tiny data sets that a GAN of width 8 learns in a hundred steps, and a checkpoint in memory."""

from __future__ import annotations

import io

import torch

from cgankd.config import CganConfig, LabelInputConfig, VicinityConfig
from cgankd.labels.task import ClassTask, ScalarTask
from cgankd.rng import generator
from cgankd.types import DatasetInfo, Split

VICINITY = VicinityConfig(
    kind="soft",
    label_sigma=None,
    kappa=3.0,
    kappa_multiplier=2.0,
    gap_quantile=1.0,
    weight_floor=1e-3,
    draw="proportional",
)
CLASSES = DatasetInfo("class", "toy", "", 1, 16, (0.5,), (0.25,), class_names=("left", "right"))
SCALARS = DatasetInfo("scalar", "toy", "px", 1, 16, (0.5,), (0.25,), label_min=0.0, label_max=50.0)


def class_toy(num: int = 32) -> tuple[Split, ClassTask]:
    """A bright patch on the left or on the right, of random brightness and height."""
    gen = generator("class toy")
    images = torch.full((num, 1, 16, 16), 20, dtype=torch.uint8)
    labels = torch.arange(num) % 2
    for i, label in enumerate(labels.tolist()):
        top, bright = int(torch.randint(0, 6, (), generator=gen)), int(torch.randint(160, 250, (), generator=gen))
        images[i, :, top : top + 10, 8 * label + 1 : 8 * label + 7] = bright
    return Split(images, labels), ClassTask(CLASSES)


def scalar_toy(num: int = 64) -> tuple[Split, ScalarTask]:
    """A vertical bar whose place is the label (0 to 50), of random brightness."""
    gen = generator("scalar toy")
    labels = torch.linspace(0, 50, num)
    columns = torch.arange(16.0)
    profile_NW = torch.exp(-((columns - (2 + labels[:, None] * 12 / 50)) ** 2) / 4)
    bright = 150 + 100 * torch.rand(num, 1, 1, 1, generator=gen)
    images = (profile_NW[:, None, None, :] * bright).expand(num, 1, 16, 16)
    return Split(images.to(torch.uint8).contiguous(), labels), ScalarTask(SCALARS, VICINITY, 10.0, 20)


def gan_config(**changes: object) -> CganConfig:
    values: dict[str, object] = {
        "width": 8,
        "z_dim": 8,
        "embed_dim": 8,
        "num_steps": 150,
        "d_steps": 1,
        "batch_size": 16,
        "lr_g": 1e-3,
        "lr_d": 1e-3,
        "beta1": 0.0,
        "beta2": 0.99,
        "ema": 0.95,
        "ema_start": 0,
        "diffaugment": "translation,cutout",
        "cutout_share": 0.25,
        "diversity_weight": 3.0,
        "precision": "fp32",
        "vicinity": None,
        "label_input": None,
    }
    return CganConfig(**(values | changes))  # type: ignore[arg-type]


def label_input(**changes: object) -> LabelInputConfig:
    values: dict[str, object] = {
        "width": 8,
        "image_steps": 150,
        "label_steps": 400,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "noise": 0.2,
    }
    return LabelInputConfig(**(values | changes))  # type: ignore[arg-type]


class Killed(Exception):
    """Raised by Memory in place of a power cut."""


class Memory:
    """A checkpoint that stores as a file would and, on request, kills the run after its first save."""

    def __init__(self, kill: bool = False) -> None:
        self.blob: bytes | None = None
        self.kill = kill
        self.loads = 0

    def load(self) -> dict[str, object] | None:
        if self.blob is None:
            return None
        self.loads += 1
        state: dict[str, object] = torch.load(io.BytesIO(self.blob), weights_only=True)
        return state

    def save(self, step: int, state: dict[str, object]) -> None:
        assert state["step"] == step
        stream = io.BytesIO()
        torch.save(state, stream)
        self.blob = stream.getvalue()
        if self.kill:
            self.kill = False
            raise Killed
