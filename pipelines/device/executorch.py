"""ExecuTorch files of a student: its layers by XNNPACK, in float32 or in int8."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipelines.device.forms import ENTRY, Record, Signature, Source, refused, sealed
from pipelines.device.quiet import need, quiet

IMAGE = Signature("uint8", "NCHW", "answer")


class Pixels(nn.Module):
    """The bytes of an image, uint8 [1, C, H, W], to answers [1, A]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Answers, float32."""
        answer: Tensor = self.model(pixels_BCHW.float())
        return answer


def write_executorch(source: Source, record: Record, images_NCHW: Tensor | None) -> bytes:
    """A .pte file with its record as the constant method `cgankd`; in int8 where there are images to take ranges from.

    Raises ConfigError where the package is missing, or it does not know an operator.
    """
    need("executorch")
    side, channels = source.info.image_size, source.info.channels
    example = (torch.zeros(1, channels, side, side, dtype=torch.uint8),)
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            module: nn.Module = Pixels(source.model).eval()
            if images_NCHW is not None:
                module = _int8(module, example, images_NCHW)
            graph = torch.export.export(module, example)
            lowered = to_edge_transform_and_lower(
                graph,
                partitioner=[XnnpackPartitioner()],
                constant_methods={ENTRY: record.encoded().decode()},
            )
            return sealed(bytes(lowered.to_executorch().buffer))
        except Exception as error:  # of torch.export, of the lowering
            raise refused(error, "ExecuTorch", source.net) from error


def _int8(module: nn.Module, example: tuple[Tensor], images_NCHW: Tensor) -> Any:
    """The module with its layers between roundings to int8, the ranges of activations being those on the images."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(module, example).module(), quantizer)
    for image_CHW in images_NCHW:
        prepared(image_CHW[None])
    return convert_pt2e(prepared)
