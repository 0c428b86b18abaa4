"""Files run here: in a process of their own to be measured, as a microcontroller would, or in this one to answer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cgankd.config import ConfigError
from pipelines.device import runtimes
from pipelines.device.forms import OPENED_BY, Form, read_record, reader
from pipelines.device.litert import check_shape, operators, without
from pipelines.device.quiet import need, quiet

ARENA = re.compile(r"Arena allocation total (\d+) bytes")
ABSENT = re.compile(r"Didn't find op for builtin opcode '(\w+)'")
TITLES = {"litert": "LiteRT", "executorch": "ExecuTorch"}
KIND_OF = {".tflite": "litert", ".pte": "executorch", ".onnx": "onnx", ".pt2": "torch"}


@dataclass(frozen=True)
class Ran:
    """What a file gave [N, O], and what its process took: the median of one image on one core, the peak of its memory, and
    what of that the file added to the runtime (None where the system does not tell); `said` is what the runtime wrote.
    """

    outputs: Tensor
    latency_ms: float
    peak_bytes: int | None
    added_bytes: int | None
    said: str


class DidNotRun(ConfigError):
    """A file that its runtime could not run; `said` is what the runtime wrote."""

    def __init__(self, path: Path, said: str) -> None:
        lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
        super().__init__(f"{path.name} cannot be run by its runtime: {lines[-1][:200] if lines else 'it said nothing'}")
        self.said = said


def run_apart(path: Path, images_NCHW: Tensor, *, repeats: int, kind: str | None = None) -> Ran:
    """Run a file on uint8 images in a process that does nothing else. Raises DidNotRun."""
    with tempfile.TemporaryDirectory(prefix="cgankd-run-") as place:
        folder = Path(place)
        np.save(folder / "images.npy", images_NCHW.numpy())
        names = [str(folder / name) for name in ("images.npy", "answers.npy", "facts.json")]
        command = [
            sys.executable,
            "-P",
            "-W",
            "ignore",
            "-m",
            "pipelines.device.runtimes",
            kind or KIND_OF[path.suffix],
            str(path),
        ]
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        done = subprocess.run([*command, *names, str(repeats)], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise DidNotRun(path, done.stderr or f"it ended with {done.returncode}")
        facts = json.loads((folder / "facts.json").read_text())
        outputs = torch.from_numpy(np.load(folder / "answers.npy"))
    peak, opened = facts["peak_bytes"], facts["opened_bytes"]
    added = None if peak is None or opened is None else max(0, peak - opened)
    return Ran(outputs, facts["latency_ms"], peak, added, done.stderr)


@dataclass(frozen=True)
class Micro:
    """A file under the interpreter for microcontrollers: bytes of its arena (with the pointers of this 64-bit machine, so a
    little more than on a board), its operators, those that the interpreter lacks, and the outputs [N, O] where it ran.
    """

    arena: int | None
    operators: tuple[str, ...]
    missing: tuple[str, ...]
    outputs: Tensor | None
    error: str = ""

    @property
    def runs(self) -> bool:
        """Whether the interpreter ran it."""
        return self.outputs is not None


def micro_of(path: Path, images_NCHW: Tensor) -> Micro:
    """Run a LiteRT file as a board would, in a process apart."""
    data = path.read_bytes()
    used, missing, said = tuple(operators(data)), list[str](), ""
    with tempfile.TemporaryDirectory(prefix="cgankd-micro-") as folder:
        asked = path
        while True:
            try:
                ran = run_apart(asked, images_NCHW, repeats=1, kind="micro")
            except DidNotRun as error:
                absent = ABSENT.search(error.said)
                said = said or str(error)
                if absent is None or absent[1] in missing:
                    return Micro(None, used, tuple(missing), None, said)
                missing.append(absent[1])  # and ask again without it, as only the first is named
                asked = Path(folder) / "rest.tflite"
                asked.write_bytes(without(data, missing))
                continue
            if missing:
                return Micro(None, used, tuple(missing), None, said)
            arena = ARENA.search(ran.said)
            return Micro(int(arena[1]) if arena else None, used, (), ran.outputs)


def as_json(micro: Micro) -> dict[str, Any]:
    """What stands in the record of an export."""
    return {
        "runs": micro.runs,
        "arena": micro.arena,
        "operators": {name: name not in micro.missing for name in micro.operators},
        "error": micro.error,
    }


def open_form(path: Path) -> Form:
    """A file of `cgankd export --to` in this process.

    Raises ConfigError where it is missing, damaged, of another program, or its runtime is missing or refuses it.
    """
    record, data = read_record(path)
    own, kind = record.form.split("-")[0], KIND_OF[path.suffix]
    if own != kind and own in TITLES:
        suffix = next(end for end, name in KIND_OF.items() if name == own)
        raise ConfigError(
            f"{path} is a file of {TITLES[own]}, not of {TITLES.get(kind, kind)} as its name says; let its name end in {suffix}"
        )
    need(OPENED_BY[path.suffix])
    with quiet():
        try:
            run = runtimes.opened(KIND_OF[path.suffix], data)
        except Exception as error:  # of a runtime in C++, which has kinds of its own
            raise ConfigError(f"{path} cannot be opened by its runtime; export it again") from error

    def outputs(images_NCHW: Tensor) -> Tensor:
        try:
            return torch.from_numpy(run(np.ascontiguousarray(images_NCHW.to(torch.uint8).numpy())))
        except runtimes.WrongInput as error:
            check_shape(path, error.found, record)
            raise

    outputs(torch.zeros(1, record.info.channels, record.info.image_size, record.info.image_size))
    return Form(record.form, path, reader(record, outputs), record)
