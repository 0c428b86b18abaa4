"""A trained net as a file that needs none of this code: torch.export, ONNX, ONNX in int8; parity and latency.

Every format holds one and the same module: float32 pixels [B, C, H, W] at the levels 0..255 in, answers [B, A] out
(class probabilities, or the label in raw units). Normalisation and the reading of the outputs are inside.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgankd.config import ConfigError
from cgankd.data.pixels import levels_to_unit
from cgankd.data.regular import MAX_PROGRAM, check_program_file, check_regular, read_bytes
from cgankd.labels.answers import Answer
from cgankd.labels.circle import wrapped

PIXELS, ANSWER = "pixels", "answer"
"""Names of the input and the output in every format."""
Run = Callable[[Tensor], Tensor]
"""Images [B, C, H, W], uint8 or float levels, to answers [B, A]."""
CALIBRATION_BATCH = 32
MAX_ONNX = 2**31 - 1
"""Bytes of the largest ONNX file, which is what its format can hold."""
LAYERS = ("Conv", "Gemm", "MatMul")
"""ONNX operators that have weights."""


class ShippedModel(nn.Module):
    """A predictor with its answer: float32 pixels at 0..255 [B, C, H, W] to answers [B, A]."""

    def __init__(self, net: nn.Module, answer: Answer) -> None:
        super().__init__()
        self.net, self.answer = net, answer

    def forward(self, pixels: Tensor) -> Tensor:
        """Answers [B, A] in float32."""
        return self.answer(self.net(levels_to_unit(pixels)))

    @torch.no_grad()
    def run(self, images_BCHW: Tensor) -> Tensor:
        """Answers [B, A] to images of any number type, in batches that bound the memory."""
        return torch.cat([self(chunk.float()) for chunk in torch.split(images_BCHW, 512)])


def need_onnx() -> None:
    """Raise ConfigError with the cure unless the ONNX packages are there."""
    import importlib.util

    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be installed for this; run pip install 'cgankd[export]'")


def program(model: ShippedModel, images_BCHW: Tensor) -> torch.export.ExportedProgram:
    """The graph of a model with a free batch size; `images_BCHW` gives the other sizes, with B of at least 2."""
    assert len(images_BCHW) >= 2, "a batch of one would fix the batch size"
    shapes = {PIXELS: {0: torch.export.Dim("batch")}}
    return torch.export.export(model.eval(), (images_BCHW.float(),), dynamic_shapes=shapes)


def write_torch_export(graph: torch.export.ExportedProgram, path: Path) -> None:
    """Write a .pt2 file for torch.export.load."""
    torch.export.save(graph, path)


def write_onnx(graph: torch.export.ExportedProgram, path: Path) -> None:
    """Write one ONNX file with its weights inside. Raises ConfigError where the ONNX packages are missing."""
    need_onnx()
    torch.onnx.export(
        graph,
        (),
        str(path),
        input_names=[PIXELS],
        output_names=[ANSWER],
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def write_int8(source: Path, target: Path, images_NCHW: Tensor) -> None:
    """Static int8 of an ONNX file: weights a channel, activations from real training images; the last layer stays fp32.

    An 8-bit last layer would round a scalar answer to 1/255 of its range. Raises ConfigError where packages are missing.
    """
    need_onnx()
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):  # type: ignore[misc]
        """Batches of images in the form the quantizer asks for."""

        def __init__(self) -> None:
            self.rest: Iterator[Tensor] = iter(torch.split(images_NCHW, CALIBRATION_BATCH))

        def get_next(self) -> dict[str, Any] | None:
            chunk = next(self.rest, None)
            return None if chunk is None else {PIXELS: chunk.float().numpy()}

    prepared = target.with_suffix(".prepared")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    layers = [node.name for node in onnx.load(str(prepared)).graph.node if node.op_type in LAYERS]
    quantize_static(
        str(prepared),
        str(target),
        Images(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(LAYERS),
        nodes_to_exclude=layers[-1:],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


def open_onnx(path: Path) -> Run:
    """An ONNX file on one thread of ONNX Runtime, which reads no other file.

    Raises ConfigError where it is no ONNX file, keeps numbers in other files, cannot answer, or a package is missing.
    """
    need_onnx()
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong with a file is said below, in a sentence
    data = read_bytes(path, MAX_ONNX)
    try:
        model = onnx.load_model_from_string(data)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors_of(model)):
            raise ConfigError(f"{path} keeps numbers in other files, which are not read; run `cgankd export` again")
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except ConfigError:
        raise
    except Exception as error:  # the runtime raises a dozen kinds of its own for a file that is no good
        raise ConfigError(f"{path} cannot be opened as an ONNX file; run `cgankd export` again") from error

    def run(images_BCHW: Tensor) -> Tensor:
        try:
            parts = [session.run([ANSWER], {PIXELS: c.float().numpy()})[0] for c in torch.split(images_BCHW, 512)]
            return torch.cat([torch.from_numpy(part) for part in parts])
        except Exception as error:  # of the runtime again: other names or sizes, and whatever a graph does
            raise ConfigError(f"{path} does not answer as a file of `cgankd export` does; run that again") from error

    return run


def tensors_of(message: Any) -> Iterator[Any]:
    """Every tensor in an ONNX model, graph, function or node, however deep."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                if field.message_type.name == "TensorProto":
                    yield part
                else:
                    yield from tensors_of(part)


def open_torch_export(path: Path) -> Run:
    """A .pt2 file of `write_torch_export`. Raises ConfigError where it is none."""
    check_regular(path, MAX_PROGRAM)
    try:
        if not zipfile.is_zipfile(path):  # torch would log a traceback of its own
            raise ValueError("no archive")
        with path.open("rb") as file:
            check_program_file(file, path.stat().st_size)
        module = torch.export.load(path).module()
    except Exception as error:  # a damaged archive fails in many ways; each means the same here
        raise ConfigError(f"{path} cannot be opened as a torch.export file; run `cgankd export` again") from error

    @torch.no_grad()
    def run(images_BCHW: Tensor) -> Tensor:
        try:
            return torch.cat([module(chunk.float()) for chunk in torch.split(images_BCHW, 512)])
        except Exception as error:  # of a graph for other sizes, or for one number of images, and whatever it does
            if isinstance(error, MemoryError) or "memory" in str(error):
                raise
            raise ConfigError(
                f"{path} does not answer as a file of `cgankd export` does, which takes {list(images_BCHW.shape[1:])} for any"
                " number of images; run that again"
            ) from error

    return run


def worst_difference(left_BA: Tensor, right_BA: Tensor, period: float | None = None) -> float:
    """Largest absolute difference between two sets of answers, the short way round a circle of this length."""
    return float(wrapped(left_BA.double() - right_BA.double(), period).abs().max())


def median_ms(run: Run, images_BCHW: Tensor, *, repeats: int) -> float:
    """Median wall time of one call in milliseconds, after a tenth as many unmeasured calls."""
    times = []
    for turn in range(-(repeats // 10) - 1, repeats):
        start_ns = time.perf_counter_ns()
        run(images_BCHW)
        if turn >= 0:
            times.append(time.perf_counter_ns() - start_ns)
    return sorted(times)[len(times) // 2] / 1e6
