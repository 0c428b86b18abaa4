"""The Ray cluster of this process: that of RAY_ADDRESS, or one of this machine alone that ends with the command."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from pipelines.engines.card import CODE
from pipelines.runtime.malloc import SWITCH, missing_settings
from pipelines.tracking.masks import masked

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the first error of a job is raised; those of the others would follow it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning in every worker without a device
}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's own switch, named after where it is the default, for servers that listen on 127.0.0.1 alone."""
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Where Ray looks for the token of a cluster, before the file in the home folder."""
ALL_BUT_CODE = ("/[!.]*", "/.?*", *(f"!/{name}{rest}" for name in CODE for rest in ("", "/**")), "__pycache__")
"""Patterns as in .gitignore; a plain `/*` is the folder itself to Ray, which then sends nothing."""
ASK_S = 20.0
"""How long a head may take to say whether it asks for a token."""
ASKS, OPEN, SILENT, UNKNOWN = "asks for a token", "open", "silent", "unknown"
"""What is known of a head before it is joined."""
LOOK_S, LOST_S = 5.0, 30.0
"""How often a run looks whether the head still answers, and after how long without an answer it is lost; Ray itself ends the
program after 60 seconds, without a word that a user understands."""
ROOT = Path(__file__).resolve().parents[2]


def connected(say: Callable[[str], None]) -> Any:
    """The module `ray`, joined to a cluster, which stays until this process ends. Raises ConfigError."""
    if find_spec("ray") is None:
        raise ConfigError("CGANKD_ENGINE is ray, but Ray is not installed; run pip install 'cgankd[ray]'")
    address = os.environ.get("RAY_ADDRESS", "")
    alone = address in ("", "local")
    for name, value in (QUIET | (LOOPBACK if alone else with_token(address))).items():
        os.environ.setdefault(name, value)
    ray: Any = import_module("ray")
    if ray.is_initialized():
        return ray
    with own_signals():
        try:
            ray.init(**(_of_this_machine() if alone else _joined(address)))
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
            where = "on this machine" if alone else f"at RAY_ADDRESS {masked(address)}"
            why = " ".join(masked(str(error)).split())[:300]
            token = "" if alone else ", give this machine its token (RAY_AUTH_TOKEN_PATH)"
            raise ConfigError(
                f"no Ray cluster answers {where} ({why}); start it{token}, or unset CGANKD_ENGINE"
            ) from error
    _silence()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    cores = sum(node["Resources"].get("CPU", 0.0) for node in nodes)
    where = "started on this machine, on loopback, until the command ends" if alone else f"at {masked(address)}"
    say(f"jobs run on Ray {ray.__version__} {where}: {len(nodes)} nodes, {cores:g} cores")
    return ray


def with_token(address: str) -> dict[str, str]:
    """What `ray start` does by itself, and `ray.init` of a given address does not: use the token that this machine has.

    Only where the cluster asks for one: a program with a token turns away nodes without, and each file it sends is then
    lost. Ray leaves a token in the home folder of whoever once started a cluster, so that having one says nothing.
    Raises ConfigError where nobody answers at the address, or a token is asked for and there is none or another.
    """
    token, source = own_token()
    found = head_says(address)
    if found == SILENT:
        raise ConfigError(
            f"no Ray cluster answers at RAY_ADDRESS {masked(address)} within {ASK_S:g} s; start it, or unset CGANKD_ENGINE"
        )
    if found == ASKS and not token:
        raise ConfigError(
            f"the Ray cluster at RAY_ADDRESS {masked(address)} asks for a token, and this machine has none; copy the head's"
            " ~/.ray/auth_token here, or name it in RAY_AUTH_TOKEN_PATH"
        )
    if found == ASKS and head_says(address, token) == ASKS:
        raise ConfigError(
            f"the Ray cluster at RAY_ADDRESS {masked(address)} refuses the token of {source}; put the head's ~/.ray/auth_token"
            " in its place"
        )
    return {"RAY_AUTH_MODE": "token"} if token and found != OPEN else {}


def own_token() -> tuple[str, str]:
    """The token of this machine, empty where it has none, and where it is from. Raises ConfigError on a file that is no token."""
    value, path = (os.environ.get(name, "") for name in TOKENS)
    if value:
        return value.strip(), TOKENS[0]
    home = Path.home() / ".ray" / "auth_token"
    if not path and not home.is_file():
        return "", ""
    source = f"{TOKENS[1]} {path}" if path else str(home)
    try:
        token = Path(path or home).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{source} cannot be read ({why}); name the file of the cluster's token") from error
    if not token:
        raise ConfigError(f"{source} is empty; name the file of the cluster's token")
    return token, source


def head_says(address: str, token: str = "", wait_s: float | None = None) -> str:
    """Whether the head at `host:port` asks for a token, is open, or is silent; UNKNOWN for an address of another form.

    With a token: OPEN where it is the right one. `auto` is the cluster that was last started on this machine.
    """
    if address == "auto":
        address = _last_started()
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return UNKNOWN
    import grpc  # comes with Ray

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        alive = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
        known = (("authorization", f"Bearer {token}"),) if token else None
        try:
            alive(b"", timeout=ASK_S if wait_s is None else wait_s, wait_for_ready=True, metadata=known)
        except grpc.RpcError as error:
            silent = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            if error.code() in silent:
                return SILENT
            return ASKS if error.code() == grpc.StatusCode.UNAUTHENTICATED else OPEN
    return OPEN


def _last_started() -> str:
    """The address that `ray start` leaves on a machine, empty without one."""
    try:
        top = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
        return (top / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


class HeadLost(ConfigError):
    """The head of the cluster no longer answers; nothing more can be asked of it."""


class Watch:
    """Looks now and then whether the head of this process's cluster still answers."""

    def __init__(self, ray: Any) -> None:
        client = os.environ.get("RAY_ADDRESS", "").startswith("ray://")  # behind it the head itself is not reached
        self.address = "" if client else str(ray.get_runtime_context().gcs_address)
        self.looked_s = self.answered_s = time.monotonic()

    def look(self) -> None:
        """Raise HeadLost where it has been silent for LOST_S; most calls do nothing."""
        if not self.address or time.monotonic() - self.looked_s < LOOK_S:
            return
        begun_s = time.monotonic()
        if head_says(self.address, wait_s=LOOK_S) != SILENT:
            self.answered_s = time.monotonic()
        elif begun_s - self.answered_s >= LOST_S:
            raise HeadLost(
                f"the head of the Ray cluster at {self.address} has not answered for {LOST_S:g} s; what is finished is kept:"
                " start the cluster again and give the same command"
            )
        self.looked_s = time.monotonic()


def _silence() -> None:
    """Keep the words of Ray's servers about a lost worker from the terminal: a line of ours says it, their logs have more."""
    worker: Any = import_module("ray._private.worker")
    if hasattr(worker, "print_to_stdstream"):  # with log_to_driver off nothing else goes this way
        worker.print_to_stdstream = lambda *data, **options: None


def _of_this_machine() -> dict[str, Any]:
    from pipelines.runtime.machine import available_cores  # imports torch

    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return {
        "address": "local",
        "num_cpus": available_cores(),
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": "error",
        "runtime_env": {"env_vars": allocator() | {"PYTHONPATH": path}},
    }


def _joined(address: str) -> dict[str, Any]:
    """Workers get the code of this machine, so that a node needs Ray, torch and the other packages alone."""
    return {
        "address": address,
        "log_to_driver": False,
        "logging_level": "error",
        "runtime_env": {"working_dir": str(ROOT), "excludes": list(ALL_BUT_CODE), "env_vars": allocator()},
    }


def allocator() -> dict[str, str]:
    """The settings of glibc's allocator for workers: they are read when a process starts, so local ones inherit them."""
    wanted = missing_settings({SWITCH: "off"} if os.environ.get(SWITCH) == "off" else {}, "glibc")
    return {name: os.environ.get(name, value) for name, value in wanted.items() if name != SWITCH}


@contextmanager
def own_signals() -> Iterator[None]:
    """Keep what this program does when it is asked to end: Ray puts handlers of its own in the place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


class Ear:
    """The actor that workers tell how far they are; one for all calls of a process, as each takes seconds to begin."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Any]] = {}

    def put(self, call: str, found: Any) -> None:
        """One thing that a job of a call tells."""
        self.waiting.setdefault(call, []).append(found)

    def take(self, call: str) -> list[Any]:
        """All that the jobs of a call told since the last time."""
        return self.waiting.pop(call, [])


_ears: dict[str, Any] = {}
"""Node and job of this process on its cluster -> its ear."""


def ear(ray: Any) -> Any:
    """The actor of this process; on its own node, so that a lost node does not take it along."""
    context = ray.get_runtime_context()
    key = f"{context.get_node_id()} {context.get_job_id()}"  # a new cluster counts its jobs anew
    if key not in _ears:
        at = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        here = at(context.get_node_id(), soft=False)  # soft is a wish, and Ray takes any node
        _ears.clear()
        made = ray.remote(Ear).options(num_cpus=0, scheduling_strategy=here).remote()
        ray.get(made.take.remote(""))  # what is told before it is there would go with the worker that told it
        _ears[key] = made
    return _ears[key]


def largest(ray: Any) -> dict[str, float]:
    """The most of each resource that one node has: "CPU", "GPU", "memory" in bytes."""
    found: dict[str, float] = {}
    for node in ray.nodes():
        if node["Alive"]:
            for name, amount in node["Resources"].items():
                found[name] = max(found.get(name, 0.0), amount)
    return found
