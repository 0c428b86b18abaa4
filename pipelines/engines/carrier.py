"""How files reach a worker that does not see this machine's folders, by digest: Ray's object store, or an address of fsspec.

What arrives is checked against its SHA-256 before it gets its name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cgankd.config import ConfigError
from pipelines.engines.card import Refused
from pipelines.engines.freight import Item
from pipelines.files.digests import file_digest
from pipelines.files.writing import replacing
from pipelines.tracking.masks import masked

CHUNK = 2**22
SHARED = "CGANKD_SHARED"
BY_RAY = "ray"


@dataclass(frozen=True)
class Sent:
    """A result on its way back: what file it is, and its bytes where they travel with it."""

    item: Item
    data: bytes | None = None


class Carrier(Protocol):
    """A way for files between machines. It is sent to the workers itself."""

    def put(self, items: Mapping[str, Path]) -> None:
        """Make files ready for whoever asks for their digest."""

    def write(self, digest: str, target: Path) -> None:
        """Write the file of a digest, unchecked, to a path."""

    def send(self, item: Item, path: Path) -> Sent:
        """Send a result, which lies at `path`, to the machine that sent the job."""

    def cure(self, digest: str) -> str:
        """What to do where the file of a digest arrived with other bytes, before the same command is given again."""


@dataclass
class ByRay:
    """Ray's object store."""

    refs: dict[str, Any] = field(default_factory=dict)

    def put(self, items: Mapping[str, Path]) -> None:
        """Once a digest; they stay in the store as long as this machine's command."""
        import ray

        for digest, path in items.items():
            if digest not in self.refs:
                self.refs[digest] = ray.put(path.read_bytes())

    def write(self, digest: str, target: Path) -> None:
        """From the store of this node, where Ray brings it once."""
        import ray

        target.write_bytes(ray.get(self.refs[digest]))

    def send(self, item: Item, path: Path) -> Sent:
        """With the answer of the task."""
        return Sent(item, path.read_bytes())

    def cure(self, digest: str) -> str:
        """Nothing stays in the store when the command ends."""
        return "look at the network, the memory and the disks of both machines"


@dataclass(frozen=True)
class ByAddress:
    """A folder or bucket that both sides reach, such as file:///mnt/shared or s3://bucket/folder; files lie there by digest."""

    url: str

    def _open(self) -> tuple[Any, str]:
        import fsspec

        try:
            fs, top = fsspec.core.url_to_fs(self.url)
            return fs, str(top).rstrip("/")
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{SHARED} is {masked(self.url)}, which cannot be opened: {error}") from error

    def put(self, items: Mapping[str, Path]) -> None:
        """What is there in its full size is not sent again."""
        fs, top = self._open()
        for digest, path in items.items():
            self._upload(fs, f"{top}/{digest}", path)

    def _upload(self, fs: Any, target: str, path: Path) -> None:
        try:
            if fs.exists(target) and fs.size(target) == path.stat().st_size:
                return
            if "file" not in protocols(fs):
                fs.put_file(str(path), target)  # object stores show a file when it is whole
                return
            fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            part = f"{target}.{uuid.uuid4().hex}.tmp"
            fs.put_file(str(path), part)
            fs.mv(part, target)
        except OSError as error:
            why = error.strerror or str(error) or type(error).__name__
            raise ConfigError(f"{SHARED} {masked(self.url)} does not take files ({why})") from error

    def write(self, digest: str, target: Path) -> None:
        """A copy on this node."""
        fs, top = self._open()
        try:
            fs.get_file(f"{top}/{digest}", str(target))
        except OSError as error:
            why = error.strerror or str(error) or type(error).__name__
            raise ConfigError(f"{SHARED} {masked(self.url)} does not give the file {digest[:12]} ({why})") from error

    def send(self, item: Item, path: Path) -> Sent:
        """By its digest, as inputs are."""
        self.put({item.digest: path})
        return Sent(item)

    def cure(self, digest: str) -> str:
        """A file there that is damaged has its size still, and is not sent again before it is deleted."""
        fs, top = self._open()
        place = top if "file" in protocols(fs) else masked(self.url.rstrip("/"))
        return f"delete {place}/{digest}, which is damaged"


def protocols(fs: Any) -> tuple[str, ...]:
    """The names of a file system of fsspec, which has one or several."""
    return tuple(fs.protocol) if isinstance(fs.protocol, tuple | list) else (fs.protocol,)


def carrier() -> tuple[Carrier, bool]:
    """The carrier that CGANKD_SHARED asks for, and whether nodes that see this machine's folder need none. Raises ConfigError."""
    value = os.environ.get(SHARED, "")
    if value in ("", BY_RAY):
        return ByRay(), value == ""
    if "://" not in value:
        raise ConfigError(
            f"the environment variable {SHARED} must be ray or an address such as file:///mnt/shared or s3://bucket/folder,"
            f" but is {value!r}"
        )
    return ByAddress(value), False


def fetched(item: Item, by: Carrier, cache: Path, node: str) -> Path:
    """The file in a node's cache, fetched unless it is there. Raises Refused where other bytes arrive than were sent."""
    target = cache / item.digest
    if not target.exists() or file_digest(target) != item.digest:
        try:
            arrive(item, target, by, node)
        except Refused:
            raise
        except ConfigError as error:
            raise ConfigError(f"on {node}: {error}; `cgankd doctor` shows which nodes it reaches") from error
    return target


def arrive(item: Item, target: Path, by: Carrier, node: str, data: bytes | None = None) -> None:
    """Give what comes by a carrier, or with `data`, its name, whole and checked. Raises Refused on other bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target, item.size, synced=False) as temporary:
        if data is None:
            by.write(item.digest, temporary)
        else:
            temporary.write_bytes(data)
        if not same(temporary, item):
            raise Refused(
                f"{item.path.name} reached {node} with other bytes than were sent: their SHA-256 is not {item.digest[:12]};"
                f" {by.cure(item.digest)}, then give the same command"
            )


def same(path: Path, item: Item) -> bool:
    """Whether a file has the size and the digest, read anew."""
    if path.stat().st_size != item.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == item.digest


def link(source: Path, target: Path) -> None:
    """Another name for a file of the cache, or a copy where the system has no second names."""
    if target.exists() and target.samefile(source):
        return  # a new name would change what the system says of the file, and it would be read again
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
