"""Files that stages leave behind: weights with the config that rebuilds them, JSON, resume files and digests.

Every writer goes to a temporary name and renames, so a file under its final name is complete.
"""

from __future__ import annotations

import copy
import json
import math
import time
import zipfile
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cgankd.data.regular import NotPlain, check_folders, check_regular, read_json
from cgankd.data.store.writing import sync
from cgankd.fit.watch import named, not_finite
from cgankd.types import Diverged
from pipelines.files.digests import file_digest as file_digest
from pipelines.files.digests import fingerprint as fingerprint
from pipelines.files.digests import source_digest as source_digest
from pipelines.files.layout import missing
from pipelines.files.made import check_made, damaged, seal, unsealed
from pipelines.files.writing import SHORT_S, DiskError
from pipelines.files.writing import replacing as replacing

Say = Callable[[str], None]


def write_json(path: Path, values: object, *, sort_keys: bool = True, synced: bool = True) -> None:
    """Write JSON as `json_text` has it."""
    text = json_text(values, sort_keys=sort_keys)
    with replacing(path, len(text), synced=synced) as temporary:
        temporary.write_bytes(text)


def json_text(values: object, *, sort_keys: bool = True) -> bytes:
    """JSON, by default with sorted keys; numbers that are not finite become null, which JSON lacks words for."""
    return (json.dumps(_plain(values), indent=2, sort_keys=sort_keys, allow_nan=False) + "\n").encode()


def write_sealed_json(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Write a record that carries its own seal, as it goes where no record of digests does; returns what is written."""
    whole: dict[str, Any] = json.loads(json.dumps(_plain(values)))
    whole["seal"] = seal(whole)
    write_json(path, whole, sort_keys=False)
    return whole


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def config_path(path: Path) -> Path:
    """Where the config of a weights file lies: teacher.safetensors -> teacher.config.json."""
    return path.with_name(f"{path.stem}.config.json")


def save_weights(
    path: Path, module: nn.Module | Mapping[str, Tensor], config: Mapping[str, Any], *, synced: bool = True
) -> None:
    """Write weights as safetensors and, beside them, the config that rebuilds the net; both get their names when both are whole.

    Raises Diverged, and writes neither, where a number is not finite.
    """
    state = module.state_dict() if isinstance(module, nn.Module) else module
    if bad := not_finite(state):
        raise Diverged(f"{path.name} would hold numbers that are not finite ({named(bad)}); nothing was saved")
    tensors: dict[str, Tensor] = {}
    used: set[int] = set()
    for name, tensor in state.items():
        plain = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory; all others are not copied, for one may be a mapped file.
        place = plain.untyped_storage().data_ptr()
        tensors[name] = plain.clone() if place in used else plain
        used.add(place)
    text = json_text(config)
    with replacing(config_path(path), len(text), synced=synced) as temporary:
        temporary.write_bytes(text)
        if synced:
            sync(temporary)  # whatever may fail does before the weights are there
        write_tensors(path, tensors, synced=synced)


def write_tensors(
    path: Path, tensors: dict[str, Tensor], facts: dict[str, str] | None = None, *, synced: bool = True
) -> None:
    """Write tensors as safetensors, with facts in its head."""
    with replacing(path, num_bytes(tensors), synced=synced) as temporary:
        save_file(tensors, temporary, metadata=facts)


def num_bytes(values: object) -> int:
    """Bytes of all tensors in nested mappings and lists."""
    if isinstance(values, Tensor):
        return values.nbytes
    inside = values.values() if isinstance(values, Mapping) else values if isinstance(values, list | tuple) else ()
    return sum(map(num_bytes, inside))


def read_record(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """A JSON file that a stage or `cgankd export` left, which holds a mapping with these keys, without its seal.

    Raises ConfigError that names the file and the command that makes it, where it is missing, damaged or of other make.
    """
    if not path.exists():
        check_folders(path)
        raise missing(path)
    try:
        found = read_json(path)
    except ValueError as error:
        raise damaged(path, error) from error
    lacking = [key for key in keys if not isinstance(found, dict) or key not in found]
    if lacking or not isinstance(found, dict):
        raise damaged(path, f"it has no {lacking[0]!r}" if lacking else "it is no mapping")
    if not unsealed(found):
        raise damaged(path, "it is not as it was written")
    check_made(path)
    return found


def load_weights(path: Path, keys: Collection[str] = ()) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and config as save_weights left them, the config with these keys.

    Raises ConfigError when one is missing or damaged.
    """
    if not path.exists():
        check_folders(path)
        raise missing(path)
    config = read_record(config_path(path), keys)
    try:
        tensors = load_tensors(path)
    except (SafetensorError, NotPlain, OSError) as error:
        raise damaged(path, error) from error
    check_made(path)
    return tensors, config


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises SafetensorError where it is none, ConfigError where it is no file at all."""
    check_regular(path)
    try:
        return load_file(path)
    except (
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # a type that torch has not, a size beyond all sizes
        raise SafetensorError(f"{type(error).__name__}: {str(error)[:200]}") from error


class Kept(Protocol):
    """What a stage keeps for the case that it is killed."""

    def delete(self) -> None: ...


class ResumeFile:
    """Resume storage of one loop (cgankd.types.Checkpoint): trusted only under the fingerprint it was written with.

    `on_save` adds a companion (tensors, numbers, text) to each save and `on_load` gets it back with the step.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: str,
        say: Say = lambda text: None,
        on_save: Callable[[], object] = lambda: None,
        on_load: Callable[[int, Any], None] = lambda step, companion: None,
    ) -> None:
        self.path, self.fingerprint, self.say = path, fingerprint, say
        self.on_save, self.on_load = on_save, on_load
        self._failed = False
        self._begun_s = time.monotonic()

    def load(self) -> dict[str, object] | None:
        """The state last saved, or None for a fresh start; says which, and why."""
        if not self.path.exists():
            return None
        name = f"{self.path.parent.name}/{self.path.stem}"
        try:
            check_regular(self.path)
            with zipfile.ZipFile(self.path) as file:
                if (broken := file.testzip()) is not None:  # torch itself reads bytes that do not fit their checksum
                    raise ValueError(broken)
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            step, state, mark = int(found["step"]), found["state"], found["fingerprint"]
            companion = found["companion"]
        except Exception as error:  # torch raises a dozen kinds for a damaged file; each means the same here
            self.say(f"{name}: the saved progress cannot be read ({type(error).__name__}); starting afresh")
            return None
        if mark != self.fingerprint:
            self.say(f"{name}: settings, inputs or code changed since progress was saved; starting afresh")
            return None
        self.say(f"{name}: resuming at step {step}")
        self.on_load(step, companion)
        assert isinstance(state, dict)
        return state

    def save(self, step: int, state: dict[str, object]) -> None:
        """Keep the state of a loop after `step` steps; a disk that does not take it is said once and ends no training."""
        record = {"fingerprint": self.fingerprint, "step": step, "state": state, "companion": self.on_save()}
        try:
            old = time.monotonic() - self._begun_s > SHORT_S
            with replacing(self.path, num_bytes(record), synced=old) as temporary:
                torch.save(record, temporary)
            self._late.unlink(missing_ok=True)
        except (DiskError, PermissionError) as error:
            if not self._failed:
                self._failed = True
                self.say(f"warning: the progress of this training is not kept, and it goes on without: {error}")

    @property
    def between(self) -> ResumeFile:
        """Where a later state goes that is saved by the clock, until the next one by the steps."""
        late = copy.copy(self)
        late.path = self._late
        return late

    @property
    def _late(self) -> Path:
        return self.path.with_name(f"{self.path.stem}-late{self.path.suffix}")

    def delete(self) -> None:
        """Forget the progress; called when the stage that made it is done."""
        with suppress(OSError):  # a folder that became read-only: what is left is of the same run and does no harm
            self.path.unlink(missing_ok=True)
            self._late.unlink(missing_ok=True)


def delete_progress(folder: Path, pattern: str = "*.pt") -> None:
    """Forget the progress of trainings in a folder of which each is done or was replaced by a kept result.

    A kill between the keeping of a result and the end of its run leaves the progress there, and the next run, which
    takes the result, has no loop that would delete it.
    """
    for path in folder.glob(pattern):
        with suppress(OSError):
            path.unlink(missing_ok=True)
