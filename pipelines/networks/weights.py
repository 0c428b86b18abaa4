"""Weights that a training starts from: found in a Python package, a library or a file, checked, and put into the net."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgankd.config import ConfigError, FitConfig
from cgankd.config.nets import from_library
from cgankd.config.weights import PACKAGE, PACKAGED, Packaged
from cgankd.data.regular import read_json
from cgankd.fit.tuning import head_name, stuck
from cgankd.nets.predictors.external import classifiers, left_fresh, library_pixels
from cgankd.nets.predictors.zoo import Predictor
from cgankd.types import DatasetInfo
from pipelines.files.artifacts import file_digest
from pipelines.networks.predictor import build_predictor, check_channels, config_of
from pipelines.networks.state_dicts import check_finite, fitted_names, own_pixels, read_state

LEAST_SHARE = 0.5
"""Of the net's tensors without its last layer: weights that fill fewer are those of another net."""
HEAD_SD = 0.01
"""Of the numbers that a fresh last layer on trained features is drawn from."""
PLACES = "pos_embed"
"""Tensors of vision transformers that have a row for each patch, so that another size of images has others."""
COUNTERS = "num_batches_tracked"
"""Tensors that only an average without momentum reads; older files lack them."""


@dataclass(frozen=True)
class Weights:
    """A file with trained weights, found and checked."""

    path: Path
    digest: str


def package_file(packaged: Packaged) -> Path | None:
    """Where the package's weights lie; None where it, or timm with the net for them, is not installed. Nothing is imported."""
    found = [importlib.util.find_spec(name) for name in (packaged.module, packaged.net.partition(":")[0])]
    if found[0] is None or found[1] is None:
        return None
    tops = found[0].submodule_search_locations or ()
    return next((path for top in tops if (path := Path(top) / packaged.file).is_file()), None)


def installed() -> tuple[str, ...]:
    """The packaged weights that are there, as `weights` names them, the smallest net first: `package:efficientnet-lite0`."""
    return tuple(PACKAGE + name for name, packaged in PACKAGED.items() if package_file(packaged) is not None)


def packaged_weights(name: str, packaged: Packaged) -> Weights:
    """The file that a package carries; `name` is the setting that asks for it. Raises ConfigError: missing, or another one."""
    path = package_file(packaged)
    if path is None:
        raise ConfigError(
            f"{name} needs the packages {packaged.package} and timm; run pip install 'cgankd[pretrained]'"
        )
    digest = file_digest(path)
    if digest != packaged.sha256:
        raise ConfigError(
            f"{name}: {path} is not the file that this name stands for, as its SHA-256 begins with {digest[:16]} and"
            f" not with {packaged.sha256[:16]}; run pip install --force-reinstall {packaged.package}=={packaged.version}"
        )
    return Weights(path, digest)


def find_weights(section: str, cfg: FitConfig, workdir: Path) -> Weights | None:
    """The file that `weights` names, or that the package named there carries; None for fresh weights and the library's.

    Raises ConfigError where it is missing, or is not the one of the digest.
    """
    if (packaged := cfg.packaged) is not None:
        return packaged_weights(f"{section}.weights {cfg.starts_from}", packaged)
    if cfg.weights_file is None:
        return None
    path = workdir / cfg.weights_file
    if not path.is_file():
        raise ConfigError(
            f"{section}.weights is {cfg.weights_file}, but there is no such file; correct the path, or write null, library"
            f" or package:NAME (NAME is one of {', '.join(PACKAGED)})"
        )
    digest = file_digest(path)
    if cfg.weights_digest is not None and not digest.startswith(cfg.weights_digest):
        raise ConfigError(
            f"{section}.weights {cfg.weights_file} is not the file of {section}.weights_digest: its SHA-256 begins with"
            f" {digest[:16]}; set {section}.weights_digest to that if the change is meant"
        )
    return Weights(path, digest)


def trained_from(workdir: Path, stage: str, source: str) -> set[str]:
    """SHA-256 of the weights called `source` that the net of a stage, or members of it, were trained from; none where not told.

    A teacher of members tells at its top of the heaviest one, and may be a member that starts from other weights than these.
    """
    try:
        made = read_json(workdir / "artifacts" / f"{stage}.config.json")
    except (OSError, ValueError):
        return set()
    members = made.get("members") if isinstance(made, dict) else None
    nets = [made, *(members if isinstance(members, list) else [])]
    told = [net for net in nets if isinstance(net, dict) and "weights_digest" in net]
    return {str(net["weights_digest"]) for net in told if net.get("weights", source) == source}


def start(
    section: str,
    cfg: FitConfig,
    info: DatasetInfo,
    num_outputs: int,
    found: Weights | None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Predictor, dict[str, Any]]:
    """The net of a section as its training starts, and the config that rebuilds it; `found` is of `find_weights`.

    Fresh weights are drawn from torch's global generator. What was loaded and what was not is one line for `say`.
    Raises ConfigError where the weights do not fit, ValueError where the net cannot be built.
    """
    check_channels(section, cfg, info)
    config, source = config_of(cfg), cfg.starts_from
    if source is None:
        return build_predictor(config, info, num_outputs), config
    name, pixels, state = f"{section}.weights {source}", None, dict[str, Tensor]()
    if found is not None:
        state = read_state(name, found.path)
        check_one_net(name, state)
        pixels = own_pixels(state)
    packaged = next((p for p in PACKAGED.values() if found and (p.sha256, p.net) == (found.digest, cfg.net)), None)
    if packaged is not None:  # by its path it is the same file
        pixels = [packaged.mean], [packaged.std]
    elif pixels is None and from_library(cfg.net):
        pixels = library_pixels(cfg.net)  # type: ignore[assignment]
    if pixels is not None and cfg.mean is None:
        config |= {"mean": on_channels(pixels[0], info.channels), "std": on_channels(pixels[1], info.channels)}
    net = build_predictor(config, info, num_outputs, pretrained=found is None)
    config["weights"] = source
    if found is None:
        taken = of_library(net.body, left_fresh(cfg.net, num_outputs, head_name(net.body)))
    else:
        config["weights_digest"] = found.digest
        if packaged is not None:
            state = in_order(name, state, net.body)
        heads = classifiers(cfg.net, head_name(net.body))
        taken = take(name, net.body, state, f"{section}.net {cfg.net}", heads)
    if still := stuck(net.body, taken.fresh, cfg.tune):
        raise ConfigError(
            f"{name} leaves {listed(still)} fresh, which {section}.tune {cfg.tune} would not train; set {section}.tune to all,"
            f" or {section}.net, width and input_size to those of the weights"
        )
    mean, std = ([f"{value:.3g}" for value in part.flatten().tolist()] for part in (net.mean, net.std))
    say(f"{name}: {taken.words}; pixels are normalised by mean {', '.join(mean)} and sd {', '.join(std)}")
    return net, config


def check_one_net(name: str, state: Mapping[str, Tensor]) -> None:
    """Raise ConfigError where a file holds all members of a teacher, as the stage `teacher` saves them."""
    parts = {key.split(".")[1] if key.startswith("members.") else None for key in state}
    if parts and None not in parts:
        raise ConfigError(
            f"{name} is a teacher of {len(parts)} members, and a training starts from one net; give the file of one of"
            " them, as artifacts/resume/members has them, or of a teacher without members"
        )


def on_channels(values: list[float] | tuple[float, ...], channels: int) -> list[float]:
    """Pixel statistics for so many channels: as they are, or their mean, as of a grey image in colour."""
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels


def in_order(name: str, state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """A state dict of the same net by another author, whose tensors come in the same order, under the names of the net."""
    wanted = body.state_dict()
    if len(state) != len(wanted):
        raise ConfigError(
            f"{name} has {len(state)} tensors where timm's net has {len(wanted)}; install timm at a version that"
            " pyproject.toml allows"
        )
    return dict(zip(wanted, state.values(), strict=True))


@torch.no_grad()
def draw_head(body: nn.Module) -> None:
    """A fresh last layer for trained features: N(0, HEAD_SD^2) and no bias, so that the first answers are near 0.

    What libraries draw may be far larger (uniform up to 1 / sqrt(O) in timm's EfficientNets, whose first loss on ten
    classes is 5 nats), and its gradients would spoil the features.
    """
    head = body.get_submodule(head_name(body))
    assert isinstance(head, nn.Linear | nn.Conv2d)
    nn.init.normal_(head.weight, std=HEAD_SD)
    if head.bias is not None:
        nn.init.zeros_(head.bias)


def fitted_stem(value: Tensor, channels: int) -> Tensor:
    """The weights [O, C, H, W] of a first convolution for another number of channels.

    Of colours to grey their sum, of grey to colours an equal share each: what it says of a grey image stays the same.
    """
    if value.shape[1] == channels:
        return value
    if channels == 1:
        return value.sum(1, keepdim=True)
    return value.repeat(1, channels, 1, 1) / channels if value.shape[1] == 1 else value


@dataclass(frozen=True)
class Taken:
    """What became of trained weights: tensors of the net that were and were not loaded, and those of the file left over."""

    loaded: int
    of: int
    fresh: list[str]
    idle: list[str] | None
    """None where the library did the loading and does not say."""

    @property
    def words(self) -> str:
        """For the log."""
        rest = "" if self.idle is None else f", in the file and not used: {listed(self.idle)}"
        return f"{self.loaded} of {self.of} tensors loaded, fresh: {listed(self.fresh)}{rest}"


def of_library(body: nn.Module, left: tuple[str, ...]) -> Taken:
    """What a library loaded into a net: all but the layers `left`; a last layer among them is drawn anew."""
    wanted = body.state_dict()
    fresh = [key for key in wanted if key.rpartition(".")[0] in left]
    if head_name(body) in left:
        draw_head(body)
    return Taken(len(wanted) - len(fresh), len(wanted), fresh, None)


def take(name: str, body: nn.Module, state: dict[str, Tensor], net: str, heads: tuple[str, ...]) -> Taken:
    """Put the tensors of a state dict that fit into a net, whose layers `heads` may have other numbers of outputs.

    Raises ConfigError where they fill less than LEAST_SHARE of it, these not counted, are of other shapes below them
    (first convolution and places of patches aside), or are not finite.
    """
    wanted, head = body.state_dict(), head_name(body)
    given = fitted_names(name, state, body)
    stem = next((f"{n}.weight" for n, m in body.named_modules() if isinstance(m, nn.Conv2d)), "")
    taken: dict[str, Tensor] = {}
    for key, value in given.items():
        if key in wanted:
            value = fitted_stem(value, wanted[key].shape[1]) if key == stem and value.ndim == 4 else value
            if value.shape == wanted[key].shape:
                check_finite(name, key, value)
                taken[key] = value
    below = [key for key in wanted if key.rpartition(".")[0] not in heads and not key.endswith(COUNTERS)]
    fitting = [key for key in below if key in taken]
    if len(fitting) < LEAST_SHARE * len(below):
        raise ConfigError(
            f"{name} fits {len(fitting)} of the {len(below)} tensors of {net} below its last layer (first that does not:"
            f" {next(key for key in below if key not in taken)}; first in the file: {next(iter(state), 'none')}); name the"
            " net and the width that the weights were saved from, or weights of this net"
        )
    if odd := next((key for key in below if key in given and key not in (*taken, stem) and PLACES not in key), None):
        has, there = (tuple(each[odd].shape) for each in (wanted, given))
        raise ConfigError(
            f"{name} has {there} in {odd.removeprefix('net.')} where {net} has {has}, so it is of another net; name the net,"
            " width and input_size that the weights were saved from, or weights of this net"
        )
    body.load_state_dict({**wanted, **taken})
    if f"{head}.weight" not in taken:
        draw_head(body)
    fresh = [key for key in wanted if key not in taken and not key.endswith(COUNTERS)]
    idle = [key for key in given if key not in taken and key not in fresh and not key.endswith(COUNTERS)]
    return Taken(len(taken), len(wanted), fresh, idle)


def listed(keys: list[str]) -> str:
    """The first names of a list and how many more there are."""
    if not keys:
        return "none"
    return ", ".join(key.removeprefix("net.") for key in keys[:3]) + (
        f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    )
