"""A teacher that is a program: a TorchScript file or a torch.export archive, which needs none of the code it came from."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cgankd.data.regular import check_program_file
from cgankd.types import Outputs

Kind = Literal["torchscript", "torch.export"]


def kind_of(data: bytes) -> Kind | None:
    """What kind of program a file is, by the names inside; None for anything else."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # names in no alphabet, versions of nobody
        return None
    if any(name.endswith("models/model.json") for name in names):
        return "torch.export"
    if any(name.endswith("/constants.pkl") for name in names):
        return "torchscript"
    return None


def open_program(data: bytes) -> nn.Module:
    """The module in the bytes of a file. Raises ValueError where there is none, or it is damaged."""
    kind = kind_of(data)
    if kind is None:
        raise ValueError("it is neither a TorchScript file nor a torch.export archive")
    try:
        check_program_file(io.BytesIO(data), len(data))
        with quiet():
            if kind == "torch.export":
                module: nn.Module = torch.export.load(io.BytesIO(data)).module()
            else:
                module = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except Exception as error:  # a damaged archive fails in many ways; each means the same here
        raise ValueError(f"it is a damaged {kind} file ({type(error).__name__})") from error
    return module


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Torch warns that TorchScript is going away, and logs a traceback of its own before it raises."""
    logger = logging.getLogger("torch.export")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


class Program(nn.Module):
    """A program as a frozen body: outputs [B, O] in float32, in the unit of the task, and no features.

    The label y of a scalar program becomes u = (y - shift) / scale, and with a `period` (the length of the labels' circle in
    units of u) the pair (cos, sin) of 2 pi u / period; a program that gives such pairs itself is taken as it is. Its
    weights are those of the file, which is kept whole as the uint8 tensor `program`: so the module's state is complete, and
    its file needs no other file. It runs on the processor wherever its images are: constants and devices written into a
    program do not move with it.
    """

    program: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, program: Tensor, shift: float = 0.0, scale: float = 1.0, period: float | None = None) -> None:
        super().__init__()
        self.period = period
        assert program.dtype == torch.uint8 and program.ndim == 1, "the bytes of a file"
        self.register_buffer("program", program)
        self.register_buffer("shift", torch.tensor(float(shift)))
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.inner = open_program(program.numpy().tobytes())
        for weight in self.inner.parameters():  # a ScriptModule has no requires_grad_ of its own
            weight.requires_grad_(False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images as the program wants them to outputs [B, O] on their device; float32 whatever the autocast."""
        with torch.autocast("cpu", enabled=False):
            here = x_BCHW.device.type == "cpu"
            out: Tensor = self.inner((x_BCHW if here else x_BCHW.cpu()).float().contiguous()).float()
            out_BO = self.in_units(out[:, None] if out.ndim == 1 else out)
            return out_BO if here else out_BO.to(x_BCHW.device)

    def in_units(self, out_BO: Tensor) -> Tensor:
        """The program's answers in the unit of the task."""
        if self.period is not None and out_BO.ndim == 2 and out_BO.shape[1] == 2:
            return out_BO
        unit_BO = (out_BO - self.shift) / self.scale
        if self.period is None or unit_BO.shape[1:] != (1,):
            return unit_BO
        angle_B1 = unit_BO * (2 * math.pi / self.period)
        return torch.cat([angle_B1.cos(), angle_B1.sin()], dim=1)

    def outputs(self, x_BCHW: Tensor) -> Outputs:
        """What the program says; its inside is not open to a KD loss."""
        return Outputs(self(x_BCHW))

    def _apply(self, fn: Any, recurse: bool = True) -> Program:
        """Nothing: it stays on the processor in its own types."""
        return self

    def train(self, mode: bool = True) -> Program:
        """Do nothing to the program, which has one mode, that of its file."""
        self.training = mode
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The file's bytes and the unit; the weights are in the bytes already."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        prefix = str(kwargs.get("prefix", ""))
        for key in [key for key in state if key.startswith(f"{prefix}inner.")]:
            del state[key]
        return state
