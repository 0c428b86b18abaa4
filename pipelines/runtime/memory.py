"""Memory that this process and its workers may use: what the machine has free, its container and `ulimit` allow.

Imports no torch, which may itself not fit.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cgankd.config.settings import ConfigError
from cgankd.fit.room import NoRoom, lacking, out_of_memory

NO_LIMIT = 2.0**60
"""A control group of the first kind writes a number near 2^63 where it has no limit."""
LEAST_BYTES = 5e8
"""Importing torch takes 0.52 GB (2.14 with CUDA's libraries, 2026-11)."""
MARGIN_BYTES = 512 * 2**20
"""Address space beyond what torch maps that a stage is left with, at least."""
SHARE = 0.9
"""Of what is free, so much is planned with."""
CANNOT_BEGIN = 78
"""Exit code of a worker that has no room for its libraries."""
PROBE = "import resource, sys; kind, size = int(sys.argv[1]), int(sys.argv[2]); " + (
    "resource.setrlimit(kind, (size, size)); import torch; torch.ones(256, 256) @ torch.ones(256, 256)"
)


@dataclass(frozen=True)
class Limit:
    """Something that bounds memory: its name, and the bytes it still leaves."""

    name: str
    left: float
    size: float = float("inf")
    """All that it allows, in bytes."""


def control_groups(root: Path = Path("/")) -> list[Limit]:
    """What the control groups of this process, and those around them, still leave; files in memory count as free."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[Limit] = []
    tops: tuple[str, ...]
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            tops, names = ("", "unified"), ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            tops, names = ("memory",), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        for top in tops:
            mount = root / "sys/fs/cgroup" / top
            folder = mount / path.strip("/")
            # In a container the path may be that of the host: what is mounted is then the container's own group.
            for place in {mount, folder, *(p for p in folder.parents if p.is_relative_to(mount))}:
                if (limit := _left(place, *names)) is not None:
                    found.append(limit)
    return found


def _left(folder: Path, most: str, used: str, cached: str) -> Limit | None:
    try:
        size, now = float((folder / most).read_text()), float((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no group, or "max"
        return None
    if size >= NO_LIMIT:
        return None
    return Limit(
        f"its control group (container) allows {size / 1e9:.2g} GB", size - now + float(stat.get(cached, 0)), size
    )


def machine(root: Path = Path("/")) -> list[Limit]:
    """What the machine has free for new programs; nothing where the system does not say."""
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024.0
                return [Limit(f"{free / 1e9:.2g} GB are free on this machine", free)]
    except OSError:
        pass
    return []


def own_limits(root: Path = Path("/")) -> list[Limit]:
    """What `ulimit` leaves to this process alone: address space (-v) and data (-d)."""
    try:
        import resource
    except ImportError:  # no such limits on this system
        return []
    sizes: dict[str, float] = {}
    try:
        for line in (root / "proc/self/status").read_text().splitlines():
            if line.startswith(("VmSize:", "VmData:")):
                sizes[line[:6]] = int(line.split()[1]) * 1024.0
    except OSError:
        pass
    found = []
    for kind, letter, size in ((resource.RLIMIT_AS, "v", "VmSize"), (resource.RLIMIT_DATA, "d", "VmData")):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            found.append(Limit(f"`ulimit -{letter}` allows {soft / 1e9:.2g} GB", soft - sizes.get(size, 0.0)))
    return found


def tightest(limits: Sequence[Limit]) -> Limit | None:
    """The limit that leaves least; None without any."""
    return min(limits, key=lambda limit: limit.left, default=None)


def sizes() -> list[float]:
    """Bytes that each control group of this process allows in all."""
    return [limit.size for limit in control_groups()]


def shared_room() -> Limit | None:
    """What all processes started from here may use together."""
    return tightest([*machine(), *control_groups()])


def what_is_left() -> str:
    """The memory that is left to this process, in words."""
    found = tightest([*machine(), *control_groups(), *own_limits()])
    if found is None:
        return "the system does not say how much is free"
    return f"{max(0.0, found.left) / 1e9:.2g} GB are left ({found.name})"


def that_fit(wanted: int, need_bytes: float, what: str, say: Callable[[str], None]) -> int:
    """How many of `wanted` processes that need so much each fit side by side, at least one; fewer are said with the reason.

    `what` is what they do: "students".
    """
    room = shared_room()
    if room is None or wanted <= 1:
        return wanted
    fit = max(1, min(wanted, int(SHARE * room.left / need_bytes)))
    if fit < wanted:
        say(
            f"{fit} in place of {wanted} {what} at a time: each needs about {need_bytes / 1e9:.2g} GB of memory, and"
            f" {max(0.0, room.left) / 1e9:.2g} GB are left ({room.name}); no number depends on it"
        )
    return fit


def death_in_words(code: int) -> str:
    """Why a process ended, by its exit code: "was killed by the system (signal 9, as happens where memory runs out)"."""
    if code == CANNOT_BEGIN:
        return "had no room to load its libraries"
    if code in (-signal.SIGKILL, -signal.SIGABRT):
        what = "killed by the system or by hand" if code == -signal.SIGKILL else "ended"
        return f"was {what} ({signal.Signals(-code).name}, as happens where memory runs out)"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was ended by {name}"
    return f"ended with exit code {code}"


def check_start() -> None:
    """Refuse to begin where not even torch fits: a broken import, an abort or a bare kill would follow.

    Raises NoRoom. Where `ulimit` sets a bound, a child tries to import torch with 0.5 GB less.
    """
    groups = tightest(control_groups())
    if groups is not None and groups.left < LEAST_BYTES:
        raise NoRoom(
            f"{max(0.0, groups.left) / 1e9:.2g} GB of memory are left to this program ({groups.name}), but torch alone needs"
            f" {LEAST_BYTES / 1e9:.2g} GB; allow more, or end what runs beside it"
        )
    for limit, (kind, size) in zip(own_limits(), _bounds(), strict=True):
        tried = size - MARGIN_BYTES
        command = [sys.executable, "-c", PROBE, str(kind), str(tried)]
        if tried <= 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            raise NoRoom(
                f"torch cannot be loaded with room for work: {limit.name} of memory to a program, of which torch's libraries"
                " alone may take some 4 GB with CUDA; raise it (`ulimit -v unlimited`, `ulimit -d unlimited`)"
            )


def _bounds() -> list[tuple[int, int]]:
    try:
        import resource
    except ImportError:
        return []
    bounds = ((kind, resource.getrlimit(kind)[0]) for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return [(kind, soft) for kind, soft in bounds if soft != resource.RLIM_INFINITY]


def in_words(
    error: BaseException, cure: str = "end what runs beside it, or lower the batch_size settings"
) -> str | None:
    """The sentence for an error that says that memory is gone; None for any other error. A NoRoom has its own."""
    if isinstance(error, NoRoom) or not out_of_memory(error):
        return None
    return f"memory ran out: {lacking(error)}, and {what_is_left()}; {cure}"


@contextmanager
def naming(settings: str) -> Iterator[None]:
    """Turn an error that says that memory is gone into a NoRoom that names the settings to lower."""
    try:
        yield
    except Exception as error:
        if (text := in_words(error, f"lower {settings}, or end what runs beside it")) is None:
            raise
        raise NoRoom(text) from error


def of_memory(code: int) -> bool:
    """Whether a process with this exit code may have died for want of memory."""
    return code in (CANNOT_BEGIN, -signal.SIGKILL, -signal.SIGABRT)


def workers_alone(code: int, need_bytes: float | None) -> ConfigError:
    """The error for a worker that died although it ran alone; a NoRoom where that may be for want of memory."""
    kept = "what is finished is kept, and the same command goes on"
    if not of_memory(code):
        who = "somebody or something ended it" if code == -signal.SIGTERM else "what it said of that stands above"
        return ConfigError(f"a worker process {death_in_words(code)} before its work was done; {who}; {kept}")
    need = f"it needs about {need_bytes / 1e9:.2g} GB, and " if need_bytes else ""
    return NoRoom(
        f"a worker process {death_in_words(code)} although it ran alone: {need}{what_is_left()}; give it more memory, or lower"
        f" batch_size or data.memory_budget_gb; {kept}"
    )
