"""A feature network of the user's own, such as Inception weights, from a TorchScript or exported-program file."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.config import ConfigError
from cgankd.data.pixels import to_signed, to_unit
from cgankd.data.regular import IS_CODE, MAX_PROGRAM, check_program_file, check_regular

SIZE = 299
"""Height and width Inception expects, in pixels."""
PIXELS: dict[str, Callable[[Tensor], Tensor]] = {
    "bytes": lambda images: images.float(),
    "unit": to_unit,
    "signed": to_signed,
}
"""Scales of pixels: 0 to 255, 0 to 1, -1 to 1."""


def load_network(path: Path, say: Callable[[str], None] = lambda text: None) -> tuple[Callable[..., Any], bool]:
    """The network of a file, and whether its forward takes `return_features` (as NVIDIA's published file does).

    That it is a program, which runs with the user's rights, is a line for `say` before it is opened. Raises ConfigError
    where the file is missing or of another kind. Nothing is ever downloaded.
    """
    if not path.is_file():
        raise ConfigError(
            f"--inception: there is no file {path}; give a TorchScript or exported-program file of your own"
        )
    try:
        check_regular(path, MAX_PROGRAM)
        with zipfile.ZipFile(path) as archive:
            exported = any(name.endswith("archive_format") for name in archive.namelist())
        with path.open("rb") as file:
            check_program_file(file, path.stat().st_size)
        say(f"--inception: {path} {IS_CODE}")
        with warnings.catch_warnings():
            # torch deprecates TorchScript, in which the known Inception files still come.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            if exported:
                return torch.export.load(path).module(), False
            script: Any = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"--inception: {path} is no TorchScript or exported-program file ({reason})") from error
    script.eval()
    return script, "return_features" in [argument.name for argument in script.forward.schema.arguments]


def make_inception(
    path: Path, pixels: str, batch_size: int = 32, say: Callable[[str], None] = lambda text: None
) -> Callable[[Tensor], Tensor]:
    """uint8 images [B, C, H, W] to features [B, F]: three channels, 299 x 299 (bilinear), pixels on the scale named.

    That the file is a program is a line for `say` before it is opened. Raises ConfigError where the scale is unknown or the
    network does not turn such images into rows of features.
    """
    if pixels not in PIXELS:
        raise ConfigError(f"--inception-pixels must be one of {', '.join(PIXELS)}, but is {pixels!r}")
    network, asks = load_network(path, say)
    options = {"return_features": True} if asks else {}

    @torch.no_grad()
    def features(images_BCHW: Tensor) -> Tensor:
        parts = []
        for chunk in torch.split(images_BCHW, batch_size):
            colour = chunk.expand(-1, 3, -1, -1) if chunk.shape[1] == 1 else chunk
            large = F.interpolate(PIXELS[pixels](colour), size=(SIZE, SIZE), mode="bilinear", antialias=True)
            try:
                out = network(large, **options)
            except Exception as error:  # whatever a foreign network raises means that it does not fit
                reason = " ".join(str(error).split())[:160]
                wanted = f"it must take float images [B, 3, {SIZE}, {SIZE}] for any B"
                raise ConfigError(f"--inception: {path} cannot be run on images; {wanted} ({reason})") from error
            if not isinstance(out, Tensor) or out.ndim not in (2, 4) or len(out) != len(chunk):
                raise ConfigError(f"--inception: {path} must give features [B, F], one row an image")
            parts.append(out.float().flatten(1))
        return torch.cat(parts)

    return features
