"""The one place that chooses arithmetic by what the machine has: device, bf16, memory layout, compilation."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cgankd.fit.ranks import ranks, spread
from cgankd.types import Outputs

CompileMode = Literal["off", "auto", "on"]

COMPILE_FROM_FLOP = {"cpu": 2e14, "cuda": 5e15}
"""Work of a loop from which `auto` compiles: on a processor some two minutes at 1.4 TFLOP/s, against 5 to 27 s a net to
compile; on a CUDA device a minute or two at 50 TFLOP/s, against 10 to 60 s."""

CUDA_GRAPHS: dict[str, Any] = {"triton.cudagraphs": True}
"""Compiled for a CUDA device, a net is replayed as one graph for each batch size: small ones are bound by starting kernels.

A replay may overwrite the results of earlier ones: whatever outlives `Plan.step` is copied.
"""


@dataclass(frozen=True)
class Machine:
    """What there is to compute with; `bf16`: units that make it faster than fp32; `compiler`: torch.compile can run."""

    device: str
    name: str
    bf16: bool
    compiler: bool


def this_machine() -> Machine:
    """The CUDA device where one is there, else the processor."""
    if torch.cuda.is_available():
        return Machine("cuda", torch.cuda.get_device_name(0), cuda_has_bf16(), has_compiler())
    return processor()


def processor() -> Machine:
    """The processor, whatever else is there."""
    units = "AMX" if torch.cpu._is_amx_tile_supported() else "bf16 units" if has_bf16_units() else "no bf16 units"
    return Machine("cpu", f"processor with {units}", has_bf16_units(), has_compiler())


def cuda_has_bf16() -> bool:
    """True where the CUDA device has units for bf16; older ones only emulate it, slower than fp32."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def has_compiler() -> bool:
    """True where torch.compile finds a C++ compiler."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def ignore(text: str) -> None:
    """A listener that keeps nothing."""


@dataclass(frozen=True)
class Plan:
    """How a run computes: where, and whether networks are compiled. It changes speed and the last bits, not the method.

    `auto` compiles only where a loop is long enough to pay for it (COMPILE_FROM_FLOP); precision is a setting of each
    section, since results may depend on it.
    """

    device: str = "cpu"
    compile: CompileMode = "off"
    say: Callable[[str], None] = ignore

    def pays(self, flop: float) -> bool:
        """Whether a loop of so many floating-point operations is worth a compilation."""
        return self.compile == "on" or (self.compile == "auto" and flop >= COMPILE_FROM_FLOP[self.device])

    def step(self) -> None:
        """Say that a step begins: what compiled networks returned before, gradients too, is not looked at any more."""
        if self.device == "cuda" and self.compile != "off":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def compiled(
        self,
        net: nn.Module,
        name: str,
        example: tuple[Any, ...],
        *,
        images: int,
        passes: float = 1.0,
        graphs: bool = True,
    ) -> Callable[..., Any]:
        """The net, compiled where that pays and no other ranks train with this one; `example` is one batch, a tensor first;
        `images` is how many the loop will see.

        `passes` is the work of one use in forward passes: 1 for inference, 3 for training. `graphs`: replayed as a CUDA
        graph, where results may be overwritten as CUDA_GRAPHS says.
        """
        if self.compile == "off" or ranks().size > 1:
            return net
        flop = passes * images * forward_flop(net, *example) / len(example[0])
        if not self.pays(flop):
            return net
        self.say(f"{name}: {flop / 1e12:.0f} TFLOP ahead, so it is compiled first (5 to 30 s; CGANKD_COMPILE=off: not)")
        # Its method, not the object: a compiled module has a length and is asked for it where `or` asks whether it is true.
        compiled: Any = (
            torch.compile(net, options=CUDA_GRAPHS) if graphs and self.device == "cuda" else torch.compile(net)
        )
        run: Callable[..., Any] = compiled.__call__
        return run

    def inference(
        self, net: nn.Module, name: str, example: tuple[Any, ...], *, images: int, batch_size: int
    ) -> Callable[..., Any]:
        """`compiled` for one forward pass of batches of up to so many rows; those of a graph are filled up to it."""
        run = self.compiled(net, name, example, images=images)
        return run if run is net or self.device == "cpu" else partial(filled_up, run, batch_size)


def filled_up(run: Callable[..., Any], size: int, *args: Any) -> Any:
    """run(*args) with each tensor's rows filled up to `size` by copies of the first one, and the results cut back."""
    num = len(args[0])
    if num == size:
        return run(*args)
    found = run(*(torch.cat([x, x[:1].expand(size - num, *x.shape[1:])]) if isinstance(x, Tensor) else x for x in args))
    if isinstance(found, Tensor):
        return found[:num]
    return tuple(None if part is None else part[:num] for part in found)


PLAIN = Plan()
"""The processor, nothing compiled: equal bits on equal machines."""


@torch.no_grad()
def forward_flop(net: nn.Module, *example: Any) -> int:
    """Floating-point operations of one forward pass in evaluation mode (two for each multiply-add); the net is unchanged."""
    was_training = net.training
    net.eval()
    with FlopCounterMode(display=False) as counter:
        net(*example)
    net.train(was_training)
    return int(counter.get_total_flops())


def has_bf16_units() -> bool:
    """True where the CPU has bf16 dot products (AVX-512 BF16 or AMX), so that bf16 is faster than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def is_bf16(precision: str, device: str = "cpu") -> bool:
    """What "auto", "fp32" or "bf16" comes to: auto means bf16 where the device has units for it."""
    if precision == "auto":
        return has_bf16_units() if device == "cpu" else cuda_has_bf16()
    return precision == "bf16"


def autocast(precision: str, device: str = "cpu") -> AbstractContextManager[object]:
    """Autocast context for "auto", "fp32" or "bf16"."""
    return torch.autocast(device, torch.bfloat16) if is_bf16(precision, device) else contextlib.nullcontext()


def device_of(net: nn.Module) -> str:
    """Where a net takes its input: its buffers first, as weights inside a program stay behind; the processor for none."""
    return next((part.device.type for part in itertools.chain(net.buffers(), net.parameters())), "cpu")


def channels_last(net: nn.Module) -> nn.Module:
    """The net with channels-last weights, the faster layout for convolutions, in bf16 above all."""
    return net.to(memory_format=torch.channels_last)


class Forward:
    """A net as an objective runs it: its forward pass in the precision of the training, its results in float32.

    `images` are to come, each for `passes` forward passes of work (3 = training), by which `plan` decides whether to
    compile; features are taken uncompiled.
    """

    def __init__(
        self,
        net: nn.Module,
        precision: str,
        plan: Plan = PLAIN,
        images: int = 0,
        passes: float = 3.0,
        graphs: bool = True,
    ) -> None:
        self.net, self.precision, self.plan, self.images, self.passes = net, precision, plan, images, passes
        self.graphs = graphs
        self.run: Callable[..., Any] | None = None

    def pred(self, unit_BCHW: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] to outputs [B, O]."""
        with autocast(self.precision, self.plan.device):
            x_BCHW = unit_BCHW.contiguous(memory_format=torch.channels_last)
            if self.run is None:
                images, passes, graphs = self.images, self.passes, self.graphs
                self.run = spread(
                    self.plan.compiled(self.net, "predictor", (x_BCHW,), images=images, passes=passes, graphs=graphs)
                )
            out_BO: Tensor = self.run(x_BCHW)
        return out_BO.float()

    def outputs(self, unit_BCHW: Tensor) -> Outputs:
        """Images [B, C, H, W] in [0, 1] to outputs with the features that KD losses compare."""
        with autocast(self.precision, self.plan.device):
            run: Any = self.net.outputs
            out: Outputs = spread(run)(unit_BCHW.contiguous(memory_format=torch.channels_last))
        pooled = None if out.pooled is None else out.pooled.float()
        stages = tuple(stage.float() for stage in out.stages)
        return Outputs(out.pred.float(), pooled, stages, tuple(part.float() for part in out.preacts), out.head)
