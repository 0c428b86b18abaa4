"""The Ray cluster of this process: that of RAY_ADDRESS, or one of this machine alone that ends with the command."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from pipelines.engines.card import CODE
from pipelines.engines.heads import LOOPBACK, on_loopback, with_token
from pipelines.runtime.malloc import SWITCH, missing_settings
from pipelines.tracking.masks import masked

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the first error of a job is raised; those of the others would follow it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning in every worker without a device
}
ALL_BUT_CODE = ("/[!.]*", "/.?*", *(f"!/{name}{rest}" for name in CODE for rest in ("", "/**")), "__pycache__")
"""Patterns as in .gitignore; a plain `/*` is the folder itself to Ray, which then sends nothing."""
RAYLET = {"LocalRayletDiedError"}
FAILURES = (
    (
        {"RuntimeEnvSetupError"},
        (
            "a node of the Ray cluster could not make the code of the jobs ready",
            "look at the disk and the network of that node (files runtime_env*.log in /tmp/ray/session_latest/logs)",
        ),
    ),
    (
        {"ObjectStoreFullError", "OutOfDiskError"},
        (
            "Ray's object store has no room for the files of the jobs",
            "give `ray start` more --object-store-memory or its disk more room, or name a folder in CGANKD_SHARED",
        ),
    ),
    (
        {"AuthenticationError"},
        (
            "the Ray cluster refuses the token of this machine",
            "put the head's ~/.ray/auth_token here",
        ),
    ),
    (
        {"RayActorError", "ActorUnschedulableError"},
        (
            "the process on this machine that hears of progress has ended",
            "look whether memory ran out on this machine (`ray status` shows its nodes)",
        ),
    ),
    (
        {"TaskUnschedulableError"},
        ("no node of the Ray cluster can take a job", "add a node with what the jobs need (`ray status` shows all)"),
    ),
)
"""Kinds of Ray's errors, what they come to and the cure."""
OTHER_FAILURE = ("the Ray cluster failed", "look at its nodes (`ray status`), start it again where one does not answer")
ROOT = Path(__file__).resolve().parents[2]


def connected(say: Callable[[str], None]) -> Any:
    """The module `ray`, joined to a cluster, which stays until this process ends. Raises ConfigError."""
    if find_spec("ray") is None:
        raise ConfigError("CGANKD_ENGINE is ray, but Ray is not installed; run pip install 'cgankd[ray]'")
    address = os.environ.get("RAY_ADDRESS", "")
    alone = address in ("", "local")
    for name, value in (QUIET | (LOOPBACK if alone else with_token(address) | on_loopback(address))).items():
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
    with in_words(ray):
        nodes = [node for node in ray.nodes() if node["Alive"]]
    cores = sum(node["Resources"].get("CPU", 0.0) for node in nodes)
    where = "started on this machine, on loopback, until the command ends" if alone else f"at {masked(address)}"
    say(f"jobs run on Ray {ray.__version__} {where}: {len(nodes)} nodes, {cores:g} cores")
    return ray


@contextmanager
def in_words(ray: Any) -> Iterator[None]:
    """Raise ConfigError for an error of the cluster itself; that of a job is raised as it is."""
    try:
        yield
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise ConfigError(sentence_of(error)) from error


def sentence_of(error: BaseException) -> str:
    """What failed on the cluster, what is kept, and what to do about it."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & RAYLET:
        alone = os.environ.get("RAY_ADDRESS", "") in ("", "local")
        return (
            "the raylet of this machine, the program by which it takes part in the Ray cluster, has ended; what is finished is"
            f" kept: {'' if alone else 'start Ray here again (`ray start`) and '}give the same command{' again' if alone else ''}"
        )
    what, cure = next((words for kinds, words in FAILURES if kinds & names), OTHER_FAILURE)
    why = " ".join(masked(str(error)).split())[:300].strip(" .")
    return f"{what} ({type(error).__name__}: {why}); what is finished is kept: {cure}, then give the same command"


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
