"""Pages for tests: a made graph, a made onnxruntime-web that answers by a known rule, and what the page says of its model."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgankd.export import ANSWER, PIXELS
from cgankd.types import DatasetInfo
from pipelines.device import web

FAKE = {
    "dist/ort.wasm.min.js": b"""globalThis.ort = {
      env: { wasm: {} },
      Tensor: class { constructor(type, data, shape) { Object.assign(this, { type, data, shape }); } },
      InferenceSession: { create: async () => ({ run: async ({ pixels }) => {
        globalThis.seen = Array.from(pixels.data);
        return { answer: { data: globalThis.answers(pixels.data) } };
      } }) },
    };
    globalThis.answers = (levels) => Float32Array.of(levels[0] / 255);""",
    "dist/ort-wasm-simd-threaded.mjs": b"export default 1;",
    "dist/ort-wasm-simd-threaded.wasm": b"\0asm",
}


def info_of(kind: str = "class", **changes: Any) -> DatasetInfo:
    """A data set of three classes, or of ages."""
    values: dict[str, Any] = {"channels": 3, "image_size": 8, "pixel_mean": (0.5,), "pixel_std": (0.2,)}
    values |= {"kind": kind, "source": "made", "label_unit": "" if kind == "class" else "years"}
    if kind == "class":
        values["class_names"] = ("ant", "bee", "cat")
    else:
        values |= {"label_min": 0.0, "label_max": 100.0}
    return DatasetInfo(**(values | changes))


def write_graph(path: Path, info: DatasetInfo, answers: int) -> Path:
    """An ONNX file of `answers` answers: a softmax of the levels times made weights, or one plain sum."""
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    size = info.channels * info.image_size**2
    weights = np.random.default_rng(0).normal(0, 0.002, (size, answers)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", [PIXELS], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["sum"]),
        helper.make_node("Softmax" if answers > 1 else "Identity", ["sum"], [ANSWER]),
    ]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(PIXELS, number, ["batch", info.channels, info.image_size, info.image_size])],
        [helper.make_tensor_value_info(ANSWER, number, ["batch", answers])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def fake_runtime(monkeypatch: pytest.MonkeyPatch, folder: Path, files: dict[str, bytes] | None = None) -> Path:
    """A made onnxruntime-web as npm packs it, which is pinned in place of the true one."""
    files = FAKE if files is None else files
    packed = folder / web.PACKED
    with tarfile.open(packed, "w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    pinned = tuple(web.Pinned(p.source, p.name, hashlib.sha256(files[p.source]).hexdigest()) for p in web.PINNED)
    monkeypatch.setattr(web, "PINNED", pinned)
    digest = hashlib.sha512(packed.read_bytes()).digest()
    monkeypatch.setattr(web, "INTEGRITY", base64.b64encode(digest).decode())
    return packed


def model_of(folder: Path) -> dict[str, Any]:
    """What the page in a folder knows of its model, as a browser reads it."""
    text = (folder / "index.html").read_text()
    start = text.index('<script type="application/json" id="model">')
    begin = text.index(">", start) + 1
    found: dict[str, Any] = json.loads(text[begin : text.index("</script>", begin)])
    return found
