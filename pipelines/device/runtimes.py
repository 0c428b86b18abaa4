"""A file run by its own runtime on one thread; knows numpy and that runtime alone, so that a process has no more in memory.

As a program it does nothing but run one file: python -m pipelines.device.runtimes KIND FILE IMAGES.npy ANSWERS.npy FACTS.json
REPEATS. Then its peak memory is numpy's, the runtime's and the file's.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
RunArrays = Callable[[Images], NDArray[np.float32]]
"""Images uint8 [N, C, H, W] to what the file gives, float32 [N, O]."""


class WrongInput(ValueError):
    """A file takes no image of this size; `found` is the shape that it takes."""

    def __init__(self, found: tuple[int, ...]) -> None:
        super().__init__(f"an input of {'x'.join(map(str, found))}")
        self.found = found


def run_litert(data: bytes) -> RunArrays:
    """LiteRT's interpreter. Raises whatever the runtime does on a file that is no good, and WrongInput."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    shape = tuple(int(side) for side in taken["shape"])

    def one(image_HWC: NDArray[Any]) -> NDArray[Any]:
        interpreter.set_tensor(taken["index"], image_HWC[None])
        interpreter.invoke()
        out_O: NDArray[Any] = np.asarray(interpreter.get_tensor(given["index"]))[0]
        return out_O

    return _each(one, shape, np.dtype(taken["dtype"]), given["quantization"])


def run_micro(data: bytes) -> tuple[RunArrays, Any]:
    """The interpreter for microcontrollers, and the object that tells its memory. Raises as `run_litert` does."""
    from tflite_micro.python.tflite_micro import runtime

    # The heuristic of the package, ten times the file, is too small for a small file with large maps.
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=max(16 * len(data), 2**24))
    taken, given = interpreter.get_input_details(0), interpreter.get_output_details(0)
    quantization = given["quantization_parameters"]
    scales, points = quantization["scales"], quantization["zero_points"]
    rule = (float(scales[0]), int(points[0])) if len(scales) else (0.0, 0)

    def one(image_HWC: NDArray[Any]) -> NDArray[Any]:
        interpreter.set_input(image_HWC[None], 0)
        interpreter.invoke()
        out_O: NDArray[Any] = np.asarray(interpreter.get_output(0))[0].copy()
        return out_O

    return _each(one, tuple(int(side) for side in taken["shape"]), np.dtype(taken["dtype"]), rule), interpreter


def _each(
    one: Callable[[NDArray[Any]], NDArray[Any]], shape: tuple[int, ...], number: np.dtype[Any], rule: tuple[float, int]
) -> RunArrays:
    """Images one at a time: their bytes, or those less 128, in the order of LiteRT; outputs in real numbers."""

    def run(images_NCHW: Images) -> NDArray[np.float32]:
        if shape != (1, *images_NCHW.shape[2:], images_NCHW.shape[1]):
            raise WrongInput(shape)
        taken = np.ascontiguousarray(images_NCHW.transpose(0, 2, 3, 1))
        if number == np.int8:
            taken = (taken ^ np.uint8(0x80)).view(np.int8)
        out_NO = np.stack([one(image) for image in taken])
        scale, point = rule
        return out_NO.astype(np.float32) if scale == 0 else np.float32(scale) * (out_NO.astype(np.float32) - point)

    return run


def run_executorch(data: bytes) -> RunArrays:
    """ExecuTorch's runtime. Raises as `run_litert` does."""
    import torch
    from executorch.runtime import Runtime, Verification

    program = Runtime.get().load_program(data, verification=Verification.InternalConsistency)
    method = program.load_method("forward")
    if method is None:
        raise ValueError("it has no method forward")
    shape = tuple(method.metadata.input_tensor_meta(0).sizes())
    kept = (program, method)  # the method reads the program's memory, which goes with the program

    def run(images_NCHW: Images) -> NDArray[np.float32]:
        if shape != (1, *images_NCHW.shape[1:]):
            raise WrongInput(shape)
        outs = [kept[1].execute([image[None]])[0].clone() for image in torch.from_numpy(images_NCHW)]
        return np.asarray(torch.cat(outs).numpy(), dtype=np.float32)

    return run


def run_onnx(data: bytes) -> RunArrays:
    """ONNX Runtime on a file that takes float32 pixels 0..255."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images_NCHW: Images) -> NDArray[np.float32]:
        return np.asarray(session.run(None, {name: images_NCHW.astype(np.float32)})[0])

    return run


def run_torch(data: bytes) -> RunArrays:
    """torch.export on a file that takes float32 pixels 0..255."""
    import io

    import torch

    torch.set_num_threads(1)
    module = torch.export.load(io.BytesIO(data)).module()

    def run(images_NCHW: Images) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(images_NCHW).float()).numpy())

    return run


KINDS: dict[str, Callable[[bytes], RunArrays]] = {
    "litert": run_litert,
    "executorch": run_executorch,
    "onnx": run_onnx,
    "torch": run_torch,
}


def opened(kind: str, data: bytes) -> RunArrays:
    """A file of this kind, ready to run."""
    return KINDS[kind](data)


def memory() -> dict[str, int]:
    """Bytes in memory now and at the peak; empty where the system does not tell (it is Linux's /proc)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return {}
    text = status.read_text()
    found = {name: re.search(rf"{key}:\s+(\d+) kB", text) for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}
    return {name: 1024 * int(match[1]) for name, match in found.items() if match}


def main(kind: str, path: str, images: str, answers: str, facts: str, repeats: str) -> None:
    """Answers to all images, then the median time of one."""
    if hasattr(os, "sched_setaffinity"):  # ExecuTorch's pool of threads cannot be told its size from here
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    data, taken = Path(path).read_bytes(), np.load(images, mmap_mode="r")
    run, micro = run_micro(data) if kind == "micro" else (opened(kind, data), None)
    before = memory()
    parts = [run(np.array(taken[at : at + 64])) for at in range(0, len(taken), 64)]
    after = memory()
    one, times = np.array(taken[:1]), []
    for turn in range(-(int(repeats) // 10) - 1, int(repeats)):
        start_ns = time.perf_counter_ns()
        run(one)
        if turn >= 0:
            times.append(time.perf_counter_ns() - start_ns)
    np.save(answers, np.concatenate(parts))
    said = {"latency_ms": sorted(times)[len(times) // 2] / 1e6, "peak_bytes": after.get("peak")}
    said["opened_bytes"] = before.get("now")
    Path(facts).write_text(json.dumps(said))
    if micro is not None:
        micro.print_allocations()


if __name__ == "__main__":
    main(*sys.argv[1:])
