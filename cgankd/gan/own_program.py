"""A generator that is a program of the user's own, TorchScript or torch.export: called, checked, never trained.

A program is code: it is run with the rights of the user who names it.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable

import torch
from torch import Tensor

from cgankd.data.pixels import signed_to_u8
from cgankd.data.regular import check_program_file
from cgankd.types import Draw, ImageShape

Program = Callable[[Tensor, Tensor], Tensor]
"""z [B, Z] and label [B] (int64 classes or float32 scalars, raw units) to images [B, C, H, W] in [-1, 1]."""
SLACK = 1e-3
"""How far pixels may leave [-1, 1] by rounding."""


def load_program(blob: bytes, kind: str, source: str) -> Program:
    """The program in a file's bytes; `kind` is torchscript or export. Raises ValueError where it cannot be loaded."""
    try:
        # torch.export writes a page of log lines about a file that is no archive.
        if not zipfile.is_zipfile(io.BytesIO(blob)):
            raise ValueError("no archive of torch")
        check_program_file(io.BytesIO(blob), len(blob))
        with warnings.catch_warnings():
            # TorchScript files are read for as long as torch reads them.
            warnings.simplefilter("ignore")
            if kind == "export":
                program: Program = torch.export.load(io.BytesIO(blob)).module()
            else:
                program = torch.jit.load(io.BytesIO(blob), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except Exception as problem:  # both loaders raise many kinds; each means that the file is no program
        name = "torch.export program (.pt2)" if kind == "export" else "TorchScript file (.pt)"
        raise ValueError(f"cgan.file {source!r} cannot be read as a {name}: {_line(problem)}; save it again") from None
    return program


def make_program_draw(program: Program, *, z_dim: int, shape: ImageShape, batch_size: int = 256) -> Draw:
    """The program as draw(label_B, gen) -> uint8 [B, C, H, W]; z is standard normal, drawn at once for all labels."""

    def draw(label_B: Tensor, gen: torch.Generator) -> Tensor:
        z_BZ = torch.randn(len(label_B), z_dim, generator=gen)
        images_BCHW = torch.empty(len(label_B), shape.channels, shape.image_size, shape.image_size, dtype=torch.uint8)
        with torch.no_grad():
            for low in range(0, len(label_B), batch_size):
                part = slice(low, low + batch_size)
                images_BCHW[part] = signed_to_u8(program(z_BZ[part], label_B[part]))
        return images_BCHW

    return draw


def check_program(
    program: Program, label_K: Tensor, z_dim: int, shape: ImageShape, gen: torch.Generator, source: str
) -> Tensor:
    """Call the program for all labels [K] and for one, and look at what it gives; returns the images [K, C, H, W].

    Raises ValueError naming what is wrong: call, type, shape, channels, size, NaN, range, or chance beside z.
    """
    z_KZ = torch.randn(len(label_K), z_dim, generator=gen)
    where = f"cgan.file {source!r}"
    # Another number of labels than the first, as programs are easily exported for one batch size.
    for num in (1, len(label_K)):
        images = _call(program, z_KZ[:num], label_K[:num], where)
        _check_images(images, num, shape, where)
    with torch.no_grad():
        again = program(z_KZ, label_K)
    if not torch.allclose(images, again, atol=1e-3):
        raise ValueError(f"{where} gives other images for the same z and labels; draw all chance from z (eval mode)")
    return images


def _call(program: Program, z_BZ: Tensor, label_B: Tensor, where: str) -> Tensor:
    called = f"z float32 {list(z_BZ.shape)} and label {str(label_B.dtype).removeprefix('torch.')} [{len(label_B)}]"
    try:
        with torch.no_grad():
            images: object = program(z_BZ, label_B)
    except Exception as problem:  # whatever a program raises
        raise ValueError(
            f"{where} cannot be called with {called}: {_line(problem)}; it must take z [B, cgan.z_dim] and label [B]"
            " for any number B"
        ) from None
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = str(images.dtype) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"{where} must give one tensor of floats in [-1, 1], but gives {found}")
    return images


def _check_images(images: Tensor, num: int, shape: ImageShape, where: str) -> None:
    if images.ndim != 4 or len(images) != num:
        raise ValueError(f"{where} must give images [{num}, C, H, W] for {num} labels, but gives {list(images.shape)}")
    if images.shape[1] != shape.channels:
        raise ValueError(f"{where} gives {images.shape[1]} channels, but data.channels is {shape.channels}")
    size = shape.image_size
    if images.shape[2:] != (size, size):
        raise ValueError(f"{where} gives images of {list(images.shape[2:])} pixels, but data.image_size is {size}")
    if not bool(images.isfinite().all()):
        raise ValueError(f"{where} gives pixels that are NaN or infinite; repair the generator")
    low, high = float(images.min()), float(images.max())
    if low < -1 - SLACK or high > 1 + SLACK:
        raise ValueError(f"{where} gives pixels from {low:.3g} to {high:.3g}, but they must be in [-1, 1]; scale them")


def _line(problem: Exception) -> str:
    """The last line of an error that says something, at most 200 characters; TorchScript puts a trace before it."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[-1][:200]}" if lines else type(problem).__name__
