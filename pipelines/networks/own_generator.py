"""`cgan.file`: a generator of the user's own, taken whole into artifacts/cgan.safetensors; later stages need no other file.

A program is kept as its bytes, images as they are. The digest of the user's file is kept beside them: every stage that
draws compares it with the file, where that is still there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cgankd.config import CganConfig, ConfigError
from cgankd.data.readers.own_fakes import load_own_fakes
from cgankd.data.regular import IS_CODE, MAX_PROGRAM, read_bytes
from cgankd.data.store.stream import MemoryBudget
from cgankd.gan.own_images import ImageDraw
from cgankd.gan.own_program import Program, check_program, load_program, make_program_draw
from cgankd.labels.vicinity import ScalarVicinity
from cgankd.rng import generator
from cgankd.types import DatasetInfo, Draw, Split, Task, Vicinity
from pipelines.files.artifacts import file_digest
from pipelines.runtime.context import Context
from pipelines.runtime.scratch import image_room

KINDS = {
    ".pt": "torchscript",
    ".pth": "torchscript",
    ".ts": "torchscript",
    ".pt2": "export",
    ".h5": "images",
    ".hdf5": "images",
}
"""What the ending of a file says of it; a folder holds images."""


@dataclass(frozen=True)
class Own:
    """What artifacts/cgan.config.json keeps of the user's generator under `own`."""

    kind: str
    """torchscript, export or images."""
    file: str
    """cgan.file as it was given."""
    sha256: str
    """Digest of the file, or of all files in the folder."""
    radius: float
    """Farthest an image may be from the label it serves, raw units; 0 where labels match exactly."""


def take_in(
    ctx: Context, info: DatasetInfo, task: Task, vicinity: Vicinity, seed: int, memory: MemoryBudget
) -> tuple[Draw, dict[str, Tensor], Own]:
    """Read and check cgan.file; the generator as a function, what to save of it, and its record.

    Images that `memory` has no room for are decoded into a scratch file; later stages map the artifact.

    Raises ConfigError or ValueError in one sentence where it does not fit the data set.
    """
    cfg = ctx.cfg.cgan
    assert cfg.file is not None
    path = Path(cfg.file)
    own = Own(_kind(path), cfg.file, file_digest(path), _radius(cfg, vicinity))
    ctx.digests["cgan.file"] = own.sha256
    ctx.tracker.tags({"input.cgan.file": own.sha256[:12]})
    if own.kind == "images":
        gen, room = generator(seed, "order of own images"), image_room(ctx.path("resume/cgan/scratch"), memory)

        def order(num: int) -> Tensor:
            return torch.randperm(num, generator=gen)

        fakes = load_own_fakes(path, info, log=ctx.progress("images"), say=ctx.say, room=room, order=order)
        tensors = {"images": fakes.images[:], "labels": fakes.labels}
    else:
        ctx.say(f"cgan.file {cfg.file} {IS_CODE}")
        blob = read_bytes(path, MAX_PROGRAM)
        tensors = {"program": torch.frombuffer(bytearray(blob), dtype=torch.uint8)}
    draw = make_draw(tensors, own, cfg, info, task, reuse=True)
    # Tried on the labels that the bank will ask for.
    gen = generator(seed, "own generator")
    label_K = task.conditions(vicinity.targets(1000, gen))
    if own.kind == "images":
        found = _supply(_images(tensors, own, info, task, reuse=False), label_K)
    else:
        found = _range(check_program(_program(tensors, own), label_K, cfg.z_dim, info, gen, own.file))
    ctx.say(f"cgan.file {cfg.file}: {found}; no GAN is trained")
    # dvc.yaml names the curve of the GAN's losses as an output of this stage.
    ctx.curve_table("gan", {"loss_d": ([], []), "loss_g": ([], [])})
    return draw, tensors, own


def make_draw(
    tensors: Mapping[str, Tensor], own: Own, cfg: CganConfig, info: DatasetInfo, task: Task, *, reuse: bool
) -> Draw:
    """The generator that was taken in. Raises ConfigError where the user's file has changed since."""
    path = Path(own.file)
    if path.exists() and file_digest(path) != own.sha256:
        raise ConfigError(
            f"cgan.file {own.file!r} has changed since artifacts/cgan.safetensors was made of it; run `cgankd cgan` again"
            " (`dvc repro -s -f cgan`, then `dvc repro`, in a DVC project)"
        )
    if own.kind == "images":
        return _images(tensors, own, info, task, reuse=reuse)
    return make_program_draw(_program(tensors, own), z_dim=cfg.z_dim, shape=info)


def _images(tensors: Mapping[str, Tensor], own: Own, info: DatasetInfo, task: Task, *, reuse: bool) -> ImageDraw:
    """The user's images as a generator."""
    fakes = Split(tensors["images"], tensors["labels"])
    return ImageDraw(fakes, task.filter_groups, own.radius, reuse=reuse, source=own.file, period=info.label_period)


def _program(tensors: Mapping[str, Tensor], own: Own) -> Program:
    """The user's program from its bytes."""
    return load_program(tensors["program"].numpy().tobytes(), own.kind, own.file)


def _supply(draw: ImageDraw, label_K: Tensor) -> str:
    """How many images there are for each label asked for, in words."""
    counts = [len(draw.near(value)) for value in label_K.tolist()]
    return f"{len(draw.fakes)} images, {min(counts)} to {max(counts)} for each of {len(counts)} labels"


def _range(images_NCHW: Tensor) -> str:
    """Between what the pixels of a program lie, in words, with a hint where that is not [-1, 1]."""
    low, high = float(images_NCHW.min()), float(images_NCHW.max())
    hint = ", WARNING: none is below 0, so they may be scaled to [0, 1] instead of [-1, 1]" if low >= 0 else ""
    return f"a program whose pixels lie in {low:.2f} to {high:.2f}{hint}"


def _kind(path: Path) -> str:
    if not path.exists():
        raise ConfigError(
            f"cgan.file {str(path)!r} does not exist; name a program, a folder or an HDF5 file, or use null"
        )
    if path.is_dir():
        return "images"
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(KINDS)
        raise ConfigError(f"cgan.file {str(path)!r} must be a folder or end in one of {known}; rename or convert it")
    return kind


def _radius(cfg: CganConfig, vicinity: Vicinity) -> float:
    """How far a label may be off: the setting, else kappa; 0 where labels match exactly."""
    if not isinstance(vicinity, ScalarVicinity):
        return 0.0
    return cfg.file_radius or vicinity.kernel.kappa
