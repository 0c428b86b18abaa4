"""A teacher of the user's own from `teacher.file`: read, fitted to the task, and checked on real images before it is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgankd.config import ConfigError, TeacherConfig
from cgankd.data.pixels import to_unit
from cgankd.data.regular import IS_CODE, MAX_PROGRAM, read_bytes
from cgankd.nets.predictors.program import Program, kind_of
from cgankd.nets.predictors.staged import PositiveLinear
from cgankd.nets.predictors.zoo import Predictor
from cgankd.types import DatasetInfo, PredictFn, Split, Task
from pipelines.files.artifacts import file_digest
from pipelines.networks.predictor import answer_period, build_predictor, check_channels, config_of, plain_pixels
from pipelines.networks.state_dicts import check_finite, fitted_names, own_pixels, read_state

CURE = "give a .safetensors file, a state dict saved by torch.save, a TorchScript file or a torch.export program"
CHECKED = 32
"""Validation images a program is tried on."""


def find_file(cfg: TeacherConfig, workdir: Path) -> tuple[Path, str]:
    """Path and SHA-256 of teacher.file. Raises ConfigError where it is missing or not the one of teacher.file_digest."""
    assert cfg.file is not None
    path = workdir / cfg.file
    if not path.is_file():
        raise ConfigError(f"teacher.file is {cfg.file}, but there is no such file; correct the path, or set it to null")
    digest = file_digest(path)
    if cfg.file_digest is not None and not digest.startswith(cfg.file_digest):
        raise ConfigError(
            f"teacher.file {cfg.file} is not the file of teacher.file_digest: its SHA-256 begins with {digest[:16]};"
            " set teacher.file_digest to that if the change is meant"
        )
    return path, digest


def load_own_teacher(
    cfg: TeacherConfig,
    path: Path,
    info: DatasetInfo,
    task: Task,
    images_NCHW: Tensor,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Predictor, dict[str, Any]]:
    """The teacher in a file, frozen, and the config that rebuilds it; `images_NCHW` (uint8) try it.

    That a file is a program, which runs with the user's rights, is a line for `say` before it is opened.

    Raises ConfigError, in one sentence, where the file cannot be read, does not fit the net, or gives outputs that
    are not those of the task.
    """
    name = f"teacher.file {cfg.file}"
    check_channels("teacher", cfg, info)
    config = config_of(cfg)
    data = read_bytes(path, MAX_PROGRAM)
    shift, scale = 0.0, 1.0
    if cfg.output_unit == "raw":
        if not task.label_dtype.is_floating_point:
            raise ConfigError(
                "teacher.output_unit must be normalised for class labels (data.task is class), but is raw"
            )
        shift, scale = info.label_min, info.label_max - info.label_min
    if kind := kind_of(data):
        say(f"{name} {IS_CODE}")
        try:
            body = Program(torch.frombuffer(bytearray(data), dtype=torch.uint8), shift, scale, answer_period(info))
        except ValueError as error:
            raise ConfigError(f"{name} cannot be used: {error}; export it again") from error
        config["program"] = kind
        net = Predictor(body, *plain_pixels(config, info), cfg.input_size)
    else:
        net = from_state(name, read_state(name, path, CURE), config, info, task, (shift, scale))
    net.eval().requires_grad_(False)
    check_outputs(name, net, task, images_NCHW[:CHECKED])
    return net, config


def from_state(
    name: str,
    state: dict[str, Tensor],
    config: dict[str, Any],
    info: DatasetInfo,
    task: Task,
    unit: tuple[float, float],
) -> Predictor:
    """teacher.net with the weights of a state dict; a raw unit is taken into its last layer, so that outputs are normalised.

    A file that this package saved brings its own pixel statistics, which count unless teacher.mean is set.
    """
    own = own_pixels(state)
    if own is not None and "mean" not in config and len(own[0]) == info.channels:
        config |= {"mean": own[0], "std": own[1]}
    net = build_predictor(config, info, task.num_outputs)
    fill(name, net.body, state, str(config["net"]))
    shift, scale = unit
    if (shift, scale) != (0.0, 1.0) and answer_period(info) is None:  # cosine and sine have no unit
        probe = torch.zeros(1, info.channels, info.image_size, info.image_size)
        head = net.eval().outputs(probe).head
        bent = isinstance(head, PositiveLinear) and shift != 0.0  # a ReLU before the shift cannot be put after it
        if bent or not isinstance(head, nn.Linear) or head.bias is None:
            raise ConfigError(
                f"teacher.output_unit raw needs a net whose last layer is linear, and {config['net']} has none;"
                " export the teacher as a program instead"
            )
        with torch.no_grad():  # (w x + b - shift) / scale
            head.weight.div_(scale)
            head.bias.sub_(shift).div_(scale)
    return net


def fill(name: str, body: nn.Module, state: dict[str, Tensor], net: str) -> None:
    """Load a state dict into a net, whatever prefixes its names have. Raises ConfigError where it does not fit."""
    wanted = body.state_dict()
    given = fitted_names(name, state, body)
    for key in wanted:
        if key.endswith("num_batches_tracked"):  # older files lack these counters, which only training reads
            given.setdefault(key, wanted[key])
    missing, extra = [k for k in wanted if k not in given], [k for k in given if k not in wanted]
    if missing or extra:
        lacks = f"lacks {len(missing)} of its tensors (first {missing[0]})" if missing else ""
        has = f"has {len(extra)} that it does not know (first {extra[0]})" if extra else ""
        raise ConfigError(
            f"{name} does not fit teacher.net {net}: it {' and '.join(filter(None, (lacks, has)))};"
            " set teacher.net and teacher.width to the net it was saved from"
        )
    for key, value in given.items():
        if value.shape != wanted[key].shape:
            raise ConfigError(
                f"{name} does not fit teacher.net {net} on this data set: {key} is {list(value.shape)} in the file and"
                f" must be {list(wanted[key].shape)}; the number of classes or outputs (data.label_answer), the channels or"
                " the width differ"
            )
        check_finite(name, key, value)
    body.load_state_dict(given)


@torch.no_grad()
def check_outputs(name: str, net: Predictor, task: Task, images_NCHW: Tensor) -> None:
    """Raise ConfigError unless the outputs on real images are [B, O], numbers, finite, and B is free."""
    try:
        raw = net.body.inner if isinstance(net.body, Program) else None
        if isinstance(raw, nn.Module):
            given = raw(net.seen(to_unit(images_NCHW)))
            if not isinstance(given, Tensor) or not given.is_floating_point():
                what = f"tensor of {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
                raise ConfigError(f"{name} must give one tensor of floating-point numbers, but gives a {what}")
        parts = [net(to_unit(part)) for part in (images_NCHW, images_NCHW[:1])]
    except ConfigError:
        raise
    except Exception as error:  # whatever a program does with an input it was not made for
        shape = f"{list(images_NCHW.shape[1:])} with any number of images"
        text = str(error).strip().partition("\n")[0][:160]
        raise ConfigError(
            f"{name} does not take images of {shape} ({text}); export it for this size and a free batch size"
        ) from error
    for images, out in zip((images_NCHW, images_NCHW[:1]), parts, strict=True):
        if out.shape != (len(images), task.num_outputs):
            what = (
                "class scores"
                if task.num_classes
                else "value"
                if task.num_outputs == 1
                else "values (or one, the label)"
            )
            raise ConfigError(
                f"{name} must give {task.num_outputs} {what} an image, but gives the shape {list(out.shape)} for"
                f" {len(images)} images; use a teacher of this data set"
            )
        if not bool(torch.isfinite(out).all()):
            raise ConfigError(
                f"{name} gives numbers that are not finite on validation images; check teacher.mean and teacher.std"
            )


def other_unit(unit: str, info: DatasetInfo, task: Task, predict: PredictFn, val: Split) -> str | None:
    """One sentence where a scalar teacher would be four times as good on validation, were its output in the other unit."""
    if not task.label_dtype.is_floating_point or answer_period(info) is not None:
        return None  # of points of a circle nothing tells what the number was that they were made of
    out_BO = predict(val.images)
    span, low = info.label_max - info.label_min, info.label_min
    other, turned = ("normalised", out_BO * span + low) if unit == "raw" else ("raw", (out_BO - low) / span)
    now, then = (float(task.score(out, val.labels).mean()) for out in (out_BO, turned))
    if 4 * then >= now:
        return None
    name, means = task.headline.unit, f"set teacher.output_unit to {other}"
    return f"read as {unit} labels the teacher is {now:.3g} {name} off, as {other} ones {then:.3g}; if so, {means}"
