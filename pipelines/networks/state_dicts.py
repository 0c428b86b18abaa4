"""State dicts in files: read without unpickling, and their tensors by the names that they have in a net of this package."""

from __future__ import annotations

import mmap
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from cgankd.config import ConfigError
from cgankd.config.settings import shortened
from cgankd.data.regular import open_regular
from cgankd.nets.predictors.external import External
from pipelines.files.artifacts import load_tensors

HEADS = ("fc", "linear", "classifier", "classifier.0", "head.fc")
"""Names that the last layer of a net has elsewhere; here it is `head`."""
WRAPPERS = (
    "module.",
    "_orig_mod.",
    "body.",
    "model.",
    "net.",
    "backbone.",
    "encoder.",
    "network.",
    "student.",
    "teacher.",
)
"""Prefixes that parallel training, compiling, training frameworks and this package put before the names of a net."""
INSIDE = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema")
"""Where a checkpoint keeps the state dict, beside epochs and optimisers; a running mean counts where it is the only one."""
CURE = "give a .safetensors file or a state dict saved by torch.save"


def read_state(name: str, path: Path, cure: str = CURE) -> dict[str, Tensor]:
    """The tensors of a state dict, from safetensors or from torch.save without anything but tensors and numbers.

    Raises ConfigError with this cure where the file is no such thing.
    """
    if path.suffix == ".safetensors":
        try:
            return load_tensors(path)
        except SafetensorError as error:
            raise ConfigError(f"{name} is not a safetensors file or is damaged; {cure}") from error
    try:
        check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (ConfigError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # torch raises a dozen kinds for a file that is no good; each means the same here
        raise ConfigError(
            f"{name} cannot be read as weights, or holds more than tensors and numbers; {cure}"
        ) from error
    for _ in INSIDE:  # not for ever, as a mapping in a file may hold itself
        if isinstance(found, Mapping):
            found = next((found[key] for key in INSIDE if isinstance(found.get(key), Mapping)), found)
    if not isinstance(found, Mapping):
        raise ConfigError(f"{name} holds no state dict; {cure}")
    if any(isinstance(value, Tensor) for value in found.values()):  # an epoch or a version beside the tensors
        found = {key: value for key, value in found.items() if not isinstance(value, int | float | str)}
    if other := ", ".join(str(key) for key, value in found.items() if not isinstance(value, Tensor)):
        raise ConfigError(f"{name} holds no state dict, but {shortened(other, 100)}; {cure}")
    for key, value in found.items():
        if not _is_whole(value):
            raise ConfigError(
                f"{name}: {shortened(str(key), 100)} is no plain tensor whose numbers are in the file; {cure}"
            )
    return {str(key): value for key, value in found.items()}


def check_archive(path: Path) -> None:
    """Raise ValueError where a file of torch.save would unpack to more than it is, or build anything but tensors.

    torch.save packs nothing, so that a packed member is a bomb; a bytearray of any length is a few bytes of a pickle.
    """
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"bytearray\n") >= 0:
            raise ValueError("it asks for a bytearray")
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("its members are packed")
            if sum(member.file_size for member in members) > len(data):
                raise ValueError("its members are larger than it is")


def _is_whole(value: Tensor) -> bool:
    """Whether a tensor is a plain one, each number of which lies in its storage: one number can pose as a terabyte."""
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def own_pixels(state: dict[str, Tensor]) -> tuple[list[float], list[float]] | None:
    """Mean and sd a channel that this package saved with a net, taken out of the state dict; None where there are none."""
    own = [state.pop(key) for key in ("mean", "std") if key in state and state[key].ndim == 3]
    return (own[0].flatten().tolist(), own[1].flatten().tolist()) if len(own) == 2 else None


def check_finite(name: str, key: str, value: Tensor) -> None:
    """Raise ConfigError unless the numbers of a tensor are finite."""
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ConfigError(f"{name} holds numbers that are not finite, first in {key}; give a file of a sound run")


def fitted_names(name: str, state: Mapping[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """The tensors of a state dict by the names that they have in a net; those it does not know keep their own.

    Raises ConfigError where two of them become one name, or are not of the kind of numbers that the net has there.
    """
    wanted = body.state_dict()
    found: dict[str, Tensor] = {}
    came: dict[str, str] = {}
    for key, value in state.items():
        new = renamed(key, wanted, body)
        if new in found:
            raise ConfigError(
                f"{name} holds two nets, as {came[new]} and {key} are both {new} here; give a file of the one that is meant"
            )
        if new in wanted and not value.is_floating_point():
            if value.is_complex() or wanted[new].is_floating_point():
                kind = str(value.dtype).removeprefix("torch.")
                raise ConfigError(f"{name} has numbers of type {kind} in {key}; give weights that are not quantised")
        elif new in wanted and not wanted[new].is_floating_point():  # a mean over all entries made counts fractions
            check_finite(name, key, value)
            value = value.round().to(wanted[new].dtype)
        found[new], came[new] = value, key
    return found


def renamed(key: str, wanted: Mapping[str, Tensor], body: nn.Module) -> str:
    """The name that a tensor of the file has in the net; the same where the net has none like it."""
    inner = "net." if isinstance(body, External) else ""
    given = key

    def known(key: str) -> bool:
        return key in wanted or f"{inner}{key}" in wanted

    while any(key.startswith(wrapper) for wrapper in WRAPPERS) and not known(key):
        key = key[key.index(".") + 1 :]
    if known(key):
        return key if key in wanted else f"{inner}{key}"
    layer, _, leaf = key.rpartition(".")
    return f"head.{leaf}" if layer in HEADS and f"head.{leaf}" in wanted else given
