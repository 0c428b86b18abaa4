"""Small sound files of every kind that a reader takes, made anew each time; fuzzing begins with them."""

from __future__ import annotations

import io
import json
import pickle
import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from cgankd.data.store.banks import BankWriter, PoolRows, write_bank
from cgankd.data.store.datasets import write_dataset
from tests.conftest import ROOT
from tests.pipelines.finished import made_data

LEVELS = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)


def images() -> list[bytes]:
    """One of each format that is common, or decoded in Python."""
    forms = {
        **dict.fromkeys(("PNG", "JPEG", "BMP", "PPM", "WEBP", "ICO", "SGI", "DDS", "QOI", "PCX", "IM", "TGA"), "RGB"),
        **{"JPEG2000": "RGB", "GIF": "P", "TIFF": "RGB", "MSP": "1", "XBM": "1"},
    }
    Image.init()
    known = {form: mode for form, mode in forms.items() if form in Image.SAVE}  # QOI is written from Pillow 11.3 on
    found = [_image(Image.fromarray(LEVELS[:, :, :3]).convert(mode), form) for form, mode in known.items()]
    deep = Image.fromarray(LEVELS[:, :, 0].astype(np.uint16) * 257)
    found += [_image(deep, "PNG"), _image(deep, "TIFF"), _image(Image.fromarray(LEVELS), "PNG")]
    stream = io.BytesIO()
    frames = [Image.fromarray(LEVELS[:, :, number]) for number in range(3)]
    frames[0].save(stream, format="GIF", save_all=True, append_images=frames[1:])
    return [*found, stream.getvalue(), b"P3 2 2 255\n" + b"1 2 3 " * 4, b"P2 4 4 65535\n" + b"400 " * 16]


def _image(image: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=form)
    return stream.getvalue()


def lists() -> list[bytes]:
    """Lists over a.png, b.png and c.png in the kinds that programs write."""
    return [
        b"path,label\na.png,1\nb.png,2\nc.png,3\n",
        b"a.png;1,5\nb.png;2,5\nc.png;3,5\n",
        b"sep=|\nfile_name|label|group\na|x|1\nb|y|2\n",
        b'# remark\n"a.png" "x"\n"b.png" "y"\n',
        "image,label\na.png,\u00e9\n".encode("utf-16"),
        b'{"file_name": "a.png", "label": 1}\n{"file_name": "b.png", "label": {"a": [1]}}\n',
        b'[{"image": "a.png", "y": 1}, {"image": "b.png", "y": 2}]',
        b'{"a.png": 1, "b.png": 2}',
        b'{"path": ["a.png", "b.png"], "label": [1, 2]}',
        b"C:\\data\\a.png\t1\nC:\\data\\b.png\t2\n",
        b"a.png%20,1\nb.png?x=1,2\n",
    ]


def frames() -> list[bytes]:
    """data.txt of a drive."""
    return [b"a.png 1.5\nb.png -2,2018-01-01\nc.png 3\n" + b"".join(b"d%d.png %d\n" % (n, n) for n in range(6))]


@cache
def data_sets() -> list[bytes]:
    """artifacts/dataset.h5 of classes and of scalars."""
    with TemporaryDirectory() as folder:
        for scalar in (False, True):
            write_dataset(Path(folder) / f"{scalar}.h5", made_data(scalar))
        return [path.read_bytes() for path in sorted(Path(folder).iterdir())]


@cache
def banks() -> list[bytes]:
    """pool.h5 and bank.h5."""
    with TemporaryDirectory() as folder:
        pool, bank = Path(folder) / "pool.h5", Path(folder) / "bank.h5"
        number, label = torch.rand(6), torch.arange(6)
        rows = PoolRows(
            torch.zeros(6, 1, 8, 8, dtype=torch.uint8),
            label,
            label,
            number,
            number,
            torch.zeros(6, 3).half(),
            number,
            label.int(),
        )
        with BankWriter(pool, (1, 8, 8), 3, torch.int64) as writer:
            writer.append(rows)
            writer.close({"config": json.dumps({"rho": 0.8}), "seed": 3})
        write_bank(bank, pool, torch.arange(4), torch.arange(4), {"config": "{}"})
        return [pool.read_bytes(), bank.read_bytes()]


@cache
def hdf5_sets() -> list[bytes]:
    """The source hdf5, plain and packed."""
    found = []
    for packed in (None, "gzip"):
        stream = io.BytesIO()
        with h5py.File(stream, "w") as file:
            for part in ("train", "valid", "test"):
                images = np.tile(LEVELS[None, :, :, 0], (8, 1, 1, 1)).reshape(8, 1, 16, 16)
                file.create_dataset(f"images_{part}", data=images, compression=packed)
                file.create_dataset(f"labels_{part}", data=np.arange(8) % 2)
            file["images"], file["labels"] = file["images_train"], file["labels_train"]
        found.append(stream.getvalue())
    return found


def tensors() -> dict[str, Tensor]:
    """A state dict."""
    return {"head.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.zeros(2), "steps": torch.tensor(3)}


def safetensors() -> list[bytes]:
    """Weights, with and without a header of their own."""
    return [
        save(tensors()),
        save({"x": torch.zeros(0, 3)}, {"mark": "7"}),
        save({"x": torch.zeros(2, dtype=torch.bfloat16)}),
    ]


def torch_files() -> list[bytes]:
    """torch.save of a state dict, alone and in a checkpoint, in both of its formats."""
    found = []
    for values in (tensors(), {"state_dict": tensors(), "epoch": 3}):
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(values, stream, _use_new_zipfile_serialization=zipped)
            found.append(stream.getvalue())
    return found


@cache
def device_files() -> list[bytes]:
    """A file for a device as far as it is read before its runtime gets it: its sealed record, between other bytes."""
    from cgankd.labels.answers import Margin
    from pipelines.device.forms import Record, Signature, sealed

    record = Record(
        "litert-int8", Signature("int8", "NHWC", "answer"), made_data(False).info, Margin(0.9, 0.1, 40), "0" * 64
    )
    return [sealed(b"TFL3" + record.encoded() + bytes(64))]


def onnx_files() -> list[bytes]:
    """A linear layer under the names of an export."""
    import onnx
    from onnx import helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((256, 3), np.float32), "w")
    nodes = [helper.make_node("Flatten", ["pixels"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["answer"])]
    ends = [
        helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["batch", 1, 16, 16]),
        helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, ["batch", 3]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return [model.SerializeToString()]


@cache
def programs() -> list[bytes]:
    """A TorchScript file."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        torch.jit.save(torch.jit.trace(net, torch.zeros(1, 1, 2, 2)), stream)  # type: ignore[no-untyped-call]
    return [stream.getvalue()]


def exported() -> list[bytes]:
    """A torch.export program."""
    stream = io.BytesIO()
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 2, 2),)), stream)
    return [stream.getvalue()]


def params() -> list[bytes]:
    """Presets, and what YAML has beside them."""
    more = [
        b"a: &a [1, 2]\nb: [*a, *a]\nc: {<<: {x: 1}, y: 0x10}\n",
        b"? [a]\n: !!set {b}\n---\n",
        b'a: "\\u00e9"\nb: |\n  text\n',
    ]
    return [(ROOT / f"pipelines/presets/{name}.yaml").read_bytes() for name in ("digits", "utkface")] + more


def locks() -> list[bytes]:
    """dvc.lock, as far as it is read."""
    return [
        b"schema: '2.0'\nstages:\n  a:\n    deps:\n    - path: x\n      md5: 0\n    outs:\n    - path: y\n      md5: 1\n"
    ]


EVALUATED = json.dumps(
    {
        "headline": {"name": "accuracy", "unit": "%", "higher_is_better": True},
        "arms": {"real": {"values": [1.0, 2.0], "val_mean": 1.5, "uses_bank": False}},
        "teacher": 3.0,
        "confidence": 0.95,
        "steps": 3,
        "batch_size": 4,
        "chosen_arm": "real",
        "verdict": "none",
    }
)


def records() -> list[bytes]:
    """JSON that stages leave."""
    return [
        (ROOT / "metrics/evaluate.json").read_bytes(),
        EVALUATED.encode(),
        b'{"stages": {"teacher": "0123"}, "info": {}}',
        b"[1, 2, null, 1e5]",
    ]


def journals() -> list[bytes]:
    """Events of a run."""
    return [
        b'{"kind": "run", "run": "1", "root": "1"}\n{"kind": "metrics", "run": "1", "root": "1", "values": {"a": 1}}\n'
    ]


def pickles() -> list[bytes]:
    """Plain data in protocol 2, as the archives of CIFAR have it."""
    found = [pickle.dumps({"labels": [1, 2, 300, 10**12], "names": ["a", "b"], "x": None}, 2)]
    array = b"\x80\x02}q\x00U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85"
    array += b"U\x01b\x87Rq\x04(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06"
    array += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return [*found, array + b"\x89U\x04abcdtbs."]


def requests() -> list[bytes]:
    """A request of HTTP whole: headers, an empty line, the body."""
    image = [[[7] * 4] * 4]
    head = b"Host: localhost\nContent-Type: application/json\nContent-Length: 99\n\n"
    return [
        head + json.dumps({"inputs": [image, image]}).encode(),
        head.replace(b"json", b"json; charset=utf-8") + json.dumps({"instances": [image]}).encode(),
        b"Host: [::1]:5001\nOrigin: http://localhost:5001\nContent-Type: text/csv\n\n1,2\n",
    ]
