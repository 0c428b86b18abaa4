"""What a file needs on a microcontroller, by TensorFlow Lite Micro's interpreter: memory, operators, and the same answers."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.device.litert import operators, without
from pipelines.device.running import DidNotRun, run_apart

ARENA = re.compile(r"Arena allocation total (\d+) bytes")
ABSENT = re.compile(r"Didn't find op for builtin opcode '(\w+)'")


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
