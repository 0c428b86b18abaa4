"""What runs on a node of the cluster: one job, after a look at the machine and at the job's files."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

from cgankd.config import ConfigError
from pipelines.engines.card import Card, Refused, card_of
from pipelines.engines.carrier import Carrier, Sent, fetched, link
from pipelines.engines.freight import Item, above, item_of, mirrored, writes
from pipelines.engines.local import telling
from pipelines.files.digests import file_digest

BEGAN, ASIDE_S = "began", 86_400.0
"""What a job tells first; and seconds after which the files of a node that is gone are deleted by the next one."""

HEARD_S = 60.0
"""How long a job that is done waits until what it told is heard."""


@dataclass(frozen=True)
class Mark:
    """A file with words that nobody else writes: who reads them sees the folder of the machine that sends the jobs."""

    path: Path
    words: str

    def seen(self) -> bool:
        """Whether this machine sees the folder."""
        try:
            return self.path.read_text(encoding="utf-8") == self.words
        except (OSError, ValueError):
            return False


@dataclass(frozen=True)
class Parcel:
    """One job as it is sent."""

    number: int
    do: Callable[[Any], list[str]]
    job: Any
    items: tuple[Item, ...]
    """What it reads."""
    card: Card
    device: str
    cores: int
    mark: Mark | None
    """None where even a node that sees the folder is to get the files."""
    carrier: Carrier | None
    """None until a node needs one."""
    ear: tuple[Any, str]
    """The actor that hears of progress, and by which name it knows the call that this job is of."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the project."""


@dataclass(frozen=True)
class Delivered:
    """What a job said, and its files where they did not go to their place by themselves."""

    lines: list[str]
    files: tuple[Sent, ...] = ()


@dataclass(frozen=True)
class Unseen:
    """A node that does not see the folder and was sent no files."""

    node: str


class Teller:
    """Hands what a job tells to the actor; the job waits for none of it before it is done."""

    def __init__(self, ear: tuple[Any, str]) -> None:
        self.ear, self.call = ear
        self.last: Any = None
        self.send: Callable[[], None] | None = None
        """Hands over the files that are worth having before the job is done, where there are any."""

    def put(self, found: Any) -> None:
        """Send it."""
        self.last = self.ear.put.remote(self.call, found)

    def finish(self) -> None:
        """Wait until all is heard, which comes in its order; a result must not overtake it."""
        import ray

        ray.wait([self.last], timeout=HEARD_S)


def run_parcel(parcel: Parcel) -> Delivered | Unseen:
    """Do one job on this node. Raises Refused where the machine or the files are not those that the job is meant for."""
    import torch

    node = node_name()
    os.environ.update(parcel.settings)
    # What a job itself fans out stays on its node.
    os.environ |= {"CGANKD_ENGINE": "local", "CGANKD_THREADS": str(parcel.cores)}
    card_of(parcel.device).check(parcel.card, node)
    teller = Teller(parcel.ear)
    teller.put((parcel.number, (BEGAN, node)))
    teller.finish()  # who is lost after this has begun
    torch.set_num_threads(parcel.cores)
    if parcel.mark is not None and parcel.mark.seen():
        check_in_place(parcel.items, node)
        with telling(teller, parcel.cores):
            lines = parcel.do(parcel.job)
        teller.finish()
        return Delivered(lines)
    if parcel.carrier is None:
        return Unseen(node)
    top = node_folder()
    for item in parcel.items:
        link(fetched(item, parcel.carrier, top / "files", node), mirrored(item.path, top / "tree"))
    job = mirrored(parcel.job, top / "tree")
    job.out.parent.mkdir(parents=True, exist_ok=True)
    if hasattr(job, "keeps"):
        teller.send = lambda: handed_over(job, parcel, top / "tree", teller)
    try:
        with telling(teller, parcel.cores):
            lines = parcel.do(job)
    finally:
        if teller.send is not None:  # also on the way out by Ctrl-C
            teller.send()
        teller.finish()
    return Delivered(lines, tuple(sent_back(job, parcel, top / "tree")))


def check_in_place(items: tuple[Item, ...], node: str) -> None:
    """Raise Refused where a file of the shared folder is another one on this node."""
    for item in items:
        try:
            found = file_digest(item.path)
        except OSError as error:
            raise Refused(f"{node} sees the shared folder, but not {item.path} ({error.strerror}) in it") from error
        if found != item.digest:
            raise Refused(
                f"{item.path} on {node} is another file than here: its SHA-256 begins with {found[:12]} and not with"
                f" {item.digest[:12]}; bring the folders to the same state, or set CGANKD_SHARED=ray"
            )


def sent_back(job: Any, parcel: Parcel, tree: Path) -> Iterator[Sent]:
    """The results under the paths that they get on the machine that sent the job; what came from there is not sent back."""
    assert parcel.carrier is not None
    for path in writes(job):
        found = item_of(path)
        item = Item(above(found.path, tree), found.digest, found.size)
        if item not in parcel.items:
            yield parcel.carrier.send(item, path)


def handed_over(job: Any, parcel: Parcel, tree: Path, teller: Teller) -> None:
    """Tell the machine that sent the job the files that it is to keep, whole as they are now."""
    assert parcel.carrier is not None
    for path in job.keeps():
        found = item_of(path)
        item = Item(above(found.path, tree), found.digest, found.size)
        teller.put((parcel.number, parcel.carrier.send(item, path)))


def node_name() -> str:
    """This node in words: its host and the beginning of Ray's id."""
    return f"{socket.gethostname()} (node {node_id()[:8]})"


def node_id() -> str:
    """Ray's id of the node that this process runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def node_folder() -> Path:
    """Where files of this node lie, for this user alone; those of nodes that were not used for a day are deleted."""
    top = Path(tempfile.gettempdir()).absolute() / f"cgankd-{os.getuid()}"
    top.mkdir(mode=0o700, exist_ok=True)
    found = top.lstat()
    if top.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"{top} is not a folder of this user alone; delete it, or set TMPDIR")
    own = top / node_id()
    own.mkdir(exist_ok=True)
    own.touch()
    for other in top.iterdir():
        with suppress(OSError):
            if other.stat().st_mtime < time.time() - ASIDE_S:
                rmtree(other)
    return own
