"""LiteRT (TensorFlow Lite) files of a student: float32, dynamic int8, and int8 from the first byte to the last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cgankd.config import ConfigError
from cgankd.export import ShippedModel
from cgankd.nets.predictors.zoo import Predictor
from pipelines.device.forms import ENTRY, Record, Signature, Source, refused, sealed
from pipelines.device.quiet import need, quiet

FLOAT = Signature("uint8", "NHWC", "answer")
"""The bytes of an image as users of LiteRT keep them, and the answer."""
CLASSES_INT8 = Signature("int8", "NHWC", "answer")
OUTPUTS_INT8 = Signature("int8", "NHWC", "outputs")
"""Of scalars: in 256 steps the net's own outputs say more than the label would, and an angle needs no operator for it."""
NO_RANGE = 1e-9
"""Outputs so small have steps that the runtimes refuse."""


class ImageBytes(nn.Module):
    """Pixels 0..255 [1, H, W, C] of any number type to answers [1, A] or, bare, to the net's outputs [1, O].

    (pixel / 255 - mean) / sd is one depthwise 1x1 convolution, which int8 does with a scale a channel and an exact bias.
    """

    def __init__(self, model: ShippedModel, *, bare: bool) -> None:
        super().__init__()
        self.model, self.bare = model, bare
        self.scale: nn.Conv2d | None = None
        if isinstance(model.net, Predictor) and model.net.input_size is None:
            std_C, mean_C = model.net.std[:, 0, 0], model.net.mean[:, 0, 0]
            self.scale = nn.Conv2d(len(std_C), len(std_C), 1, groups=len(std_C)).requires_grad_(False)
            self.scale.weight.copy_((1 / (255 * std_C))[:, None, None, None])
            assert self.scale.bias is not None
            self.scale.bias.copy_(-mean_C / std_C)

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """Answers or outputs, float32."""
        pixels = pixels_BHWC.permute(0, 3, 1, 2).float()
        net = self.model.net
        out = net(pixels / 255) if self.scale is None else net.body(self.scale(pixels))  # type: ignore[operator]
        return out if self.bare else self.model.answer(out)


def convert(source: Source, *, bare: bool, levels: bool) -> bytes:
    """A float LiteRT file; with `levels` it takes float32 pixels, which a quantizer then makes bytes of.

    Raises ConfigError where a package is missing, or the converter does not know an operator.
    """
    need("litert_torch")
    side, channels = source.info.image_size, source.info.channels
    example = torch.zeros(1, side, side, channels, dtype=torch.float32 if levels else torch.uint8)
    module = ImageBytes(source.model, bare=bare).eval()
    with quiet():
        import litert_torch

        try:
            return bytes(litert_torch.convert(module, (example,)).model_content())
        except Exception as error:  # of torch.export, of the lowering, of the C++ passes
            raise refused(error, "LiteRT", source.net) from error


def dynamic_int8(float_file: bytes) -> bytes:
    """Weights in int8 a channel; activations stay float32, and are rounded anew for each image.

    Raises ConfigError where the quantizer does not take the file, such as one of zeros alone.
    """
    return _quantized(float_file, None)


def whole_int8(levels_file: bytes, images_NCHW: Tensor) -> bytes:
    """All of a file with float32 pixels in int8, its input (pixel - 128) and its output too.

    The ranges of activations are those seen on the images; the input's is 0 to 255.
    Raises ConfigError where the outputs are 0 on all of them, or the quantizer does not take the file.
    """
    return _quantized(levels_file, images_NCHW)


def _quantized(float_file: bytes, images_NCHW: Tensor | None) -> bytes:
    need("ai_edge_quantizer")
    with quiet():
        from ai_edge_quantizer import quantizer, recipe

        chosen = recipe.dynamic_wi8_afp32() if images_NCHW is None else recipe.static_wi8_ai8()
        try:
            work = quantizer.Quantizer(float_file, chosen)
            ranges = None if images_NCHW is None else _ranges(float_file, work, images_NCHW)
            return bytes(work.quantize(ranges).quantized_model)
        except ConfigError:
            raise
        except (
            Exception
        ) as error:  # of the quantizer, such as a KeyError for a layer of zeros, which the file has not any more
            said = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"the student has no int8 form: the quantizer says {type(error).__name__}: {said}; look at the student's"
                " training, for weights that are all 0 do that, or leave litert out of --to"
            ) from error


def _ranges(levels_file: bytes, work: Any, images_NCHW: Tensor) -> dict[str, Any]:
    """Smallest and largest value of each tensor over the images."""
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(work.get_quantization_recipe())
    watcher = calibrator.Calibrator(levels_file, num_threads=1, qsv_update_func=min_max_update)
    model = _model(levels_file)
    (signature,) = model.signatureDefs
    (name,) = (taken.name.decode() for taken in signature.inputs)
    feed = [{name: image_CHW.permute(1, 2, 0)[None].float().numpy()} for image_CHW in images_NCHW]
    watcher.calibrate({signature.signatureKey.decode(): feed}, manager)
    found: dict[str, Any] = watcher.get_model_qsvs()
    graph = model.subgraphs[signature.subgraphIndex]
    entry = found[graph.tensors[graph.inputs[0]].name.decode()]
    entry["min"], entry["max"] = np.zeros_like(entry["min"]), np.full_like(entry["max"], 255)
    given = found[graph.tensors[graph.outputs[0]].name.decode()]
    if max(float(np.abs(given["min"]).max()), float(np.abs(given["max"]).max())) < NO_RANGE:
        raise ConfigError(
            f"the student's output is 0 for each of {len(feed)} training images, so that int8 has no range for it; look at its"
            " training"
        )
    return found


def _model(data: bytes) -> Any:
    """A file as the objects of its schema, which is in the runtime's package."""
    need("ai_edge_litert")
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:  # weights that lie behind the objects, as a writer may leave them
            buffer.data = np.frombuffer(data, dtype=np.uint8, count=buffer.size, offset=buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def with_record(data: bytes, record: Record) -> bytes:
    """The file with its record as a metadata entry, and without the names of inner tensors, which only cost room."""
    from ai_edge_litert import schema_py_generated as schema

    model = _model(data)
    for graph in model.subgraphs:
        outer = {*graph.inputs, *graph.outputs}
        for place, tensor in enumerate(graph.tensors):
            if place not in outer:
                tensor.name = b""
    model.description = b"cgankd"
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(record.encoded(), dtype=np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = ENTRY.encode(), len(model.buffers) - 1
    model.metadata = [e for e in model.metadata or [] if e.name == b"min_runtime_version"] + [entry]
    return sealed(_packed(model, len(data)))


def operators(data: bytes) -> list[str]:
    """Names of the operators of a file, each once, in the order of their first use."""
    model = _model(data)
    used = [_name(model, op) for graph in model.subgraphs for op in graph.operators]
    return list(dict.fromkeys(used))


def _name(model: Any, op: Any) -> str:
    from ai_edge_litert import schema_py_generated as schema

    code = model.operatorCodes[op.opcodeIndex]
    if code.customCode:
        return str(code.customCode.decode())
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    name: str = names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "unknown")
    return name


def without(data: bytes, names: Sequence[str]) -> bytes:
    """A file without some of its operators, which computes nothing of sense: to ask a runtime which others it knows."""
    model = _model(data)
    for graph in model.subgraphs:
        graph.operators = [op for op in graph.operators if _name(model, op) not in names]
    return _packed(model, len(data))


def _packed(model: Any, size: int) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(size + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def check_shape(path: Path, found: Sequence[int], record: Record) -> None:
    """Raise ConfigError where a file's input is not of the size that its record tells."""
    wanted = record.signature.shape(record.info)
    if tuple(found) != wanted:
        raise ConfigError(
            f"{path} takes an input of {'x'.join(map(str, found))}, not of {'x'.join(map(str, wanted))} as its record says;"
            " export it again"
        )
