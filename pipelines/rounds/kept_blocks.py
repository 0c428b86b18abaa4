"""Scored blocks of fakes that survive a kill of the stage `bank`, in artifacts/resume/bank/blocks until the stage is done.

A block is a function of its key and of the nets (cgankd.bank.scores), so that one from a file is the one that would be drawn.
They are written some seconds' worth at a time: a stage that ends within those writes nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cgankd.bank.scores import Scores
from cgankd.config import ConfigError
from cgankd.data.regular import check_regular
from cgankd.fit.loop import Pace
from pipelines.files.artifacts import Say, load_tensors, replacing

SAVE_EVERY_S = 10.0
"""Seconds of drawing between two files, and so what a kill costs."""
MOST_BYTES = 2**27
"""Blocks that wait for a file take no more memory. Where more come in before the next file is due, they are drawn anew after a
kill: that happens only where drawing is about as fast as writing."""


class KeptBlocks:
    """Blocks in a folder under a mark of all that they depend on beside their keys; those under another mark are deleted.

    Files that are damaged are said and drawn again. With `whole` all blocks are kept, however fast they come, and one that
    cannot be written ends the run.
    """

    def __init__(self, folder: Path, mark: str, say: Say, *, whole: bool = False) -> None:
        self.folder, self.mark, self.say, self.whole = folder, mark, say, whole
        self._waiting: dict[str, Scores] = {}
        self._waiting_bytes, self._pace, self._keeps = 0, Pace(), True
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._open: tuple[Path, Mapping[str, Tensor]] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.files():
            self._places |= self._read_header(path)
        if self._places:
            say(f"bank: {len(self)} scored fakes of a run that was cut short are used again")

    def __len__(self) -> int:
        """Fakes in the files."""
        return sum(length for _, _, length in self._places.values())

    def files(self) -> list[Path]:
        """The files of the folder."""
        return sorted(self.folder.glob("*.safetensors"))

    def find(self, key: str) -> Scores | None:
        """The block of an earlier run; None where it is not there whole."""
        if key not in self._places:
            return None
        path, start, length = self._places[key]
        columns = self._columns(path)
        if columns is None:
            return None
        return Scores(**{name: values[start : start + length].clone() for name, values in columns.items()}, shard=0)

    def keep(self, key: str, scores: Scores) -> None:
        """Remember a block, and now and then write those that wait; where that fails, it is said and nothing more is kept."""
        if not self._keeps:
            return
        self._waiting[key] = scores
        self._waiting_bytes += sum(values.nbytes for values in scores.parts().values())
        if self.whole:
            if self._pace.due(SAVE_EVERY_S) or self._waiting_bytes > MOST_BYTES:
                self._write()
        elif self._pace.due(SAVE_EVERY_S):
            try:
                self._write()
            except (ConfigError, OSError, SafetensorError) as error:
                self._keeps = False
                self._forget()
                self.say(
                    f"warning: scored fakes cannot be kept ({error}); drawing goes on, a kill would begin it again"
                )
        elif self._waiting_bytes > MOST_BYTES:
            self._forget()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            self._write()

    def delete(self) -> None:
        """Forget all blocks; called when the stage is done."""
        self._forget()
        self._places, self._open = {}, None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _forget(self) -> None:
        self._waiting, self._waiting_bytes = {}, 0

    def _write(self) -> None:
        since_s = time.monotonic()
        blocks = [scores.parts() for scores in self._waiting.values()]
        columns = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
        facts = {
            "mark": self.mark,
            "blocks": json.dumps([[key, len(scores)] for key, scores in self._waiting.items()]),
        }
        facts["digest"] = digest_of(columns, facts)
        number = max([int(path.stem) for path in self.files() if path.stem.isdigit()], default=0)
        with replacing(self.folder / f"{number + 1:06d}.safetensors") as temporary:
            save_file(columns, temporary, facts)
        self._forget()
        self._pace.saved(since_s)

    def _read_header(self, path: Path) -> dict[str, tuple[Path, int, int]]:
        """Key -> place of each block of a file; of another mark or damaged it is deleted."""
        try:
            check_regular(path)
            with safe_open(path, "pt") as file:
                facts = file.metadata() or {}
            if facts.get("mark") != self.mark:
                path.unlink()
                return {}
            start, places = 0, {}
            for key, length in json.loads(facts["blocks"]):
                places[str(key)] = (path, start, int(length))
                start += int(length)
            return places
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            self._drop(path, type(error).__name__)
            return {}

    def _columns(self, path: Path) -> Mapping[str, Tensor] | None:
        """All columns of a file, checked against their digest; blocks are asked for in the order they were written in."""
        if self._open is None or self._open[0] != path:
            try:
                with safe_open(path, "pt") as file:
                    facts = file.metadata() or {}
                columns = load_tensors(path)
            except (SafetensorError, OSError, ConfigError) as error:
                self._drop(path, type(error).__name__)
                return None
            if facts.get("digest") != digest_of(columns, facts):
                self._drop(path, "other bytes than were written")
                return None
            self._open = path, columns
        return self._open[1]

    def _drop(self, path: Path, why: str) -> None:
        self.say(f"bank: {path.name} of the scored fakes cannot be used ({why}); they are drawn again")
        path.unlink(missing_ok=True)
        self._places = {key: place for key, place in self._places.items() if place[0] != path}


def digest_of(columns: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """SHA-256 of columns, each with its name, type and sizes, and of the facts in the head but their digest."""
    rest = sorted((name, value) for name, value in facts.items() if name != "digest")
    digest = hashlib.sha256(json.dumps(rest).encode())
    for name, values in sorted(columns.items()):
        digest.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        digest.update(values.contiguous().view(torch.uint8).numpy().data if values.numel() else b"")
    return digest.hexdigest()
