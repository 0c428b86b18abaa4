"""One training by the ranks that Ray Train places: `python -m pipelines.engines.ray_train RANKS STAGE [OPTIONS]`.

What torchrun does on hosts that are named to it, on a Ray cluster (RAY_ADDRESS) or on this machine. Every rank is `cgankd STAGE`
in a process of its own beside a worker of Ray Train; the work folder must be seen under the same path on every node.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from cgankd.config import ConfigError
from pipelines.engines import cluster
from pipelines.engines.on_ray import LOOK_EVERY_S, SETTINGS
from pipelines.engines.remote import Teller, node_name
from pipelines.locks.ranks import SHARED
from pipelines.runtime.bonds import ask_system, like_ctrl_c
from pipelines.runtime.machine import make_plan, set_threads

ENDED_S = 20.0
"""How long a rank may take to end when it is asked to."""


def train(folder: Path, words: list[str], ranks: int, console: Console) -> None:
    """Run a stage on so many ranks; what they say goes to the console. Raises ConfigError where one fails."""

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    set_threads()
    gpu = make_plan().device == "cuda"
    cores = int(os.environ.get("CGANKD_THREADS") or 1)  # one a rank, as torchrun has it
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    ray = cluster.connected(say)
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ConfigError(f"Ray Train cannot be loaded ({error}); run pip install 'ray[train]'") from error
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    with cluster.in_words(ray):
        room, nodes = cluster.largest(ray), ray.nodes()
    total = sum(node["Resources"].get("GPU" if gpu else "CPU", 0.0) for node in nodes if node["Alive"])
    if cores > room.get("CPU", 0.0) or total < ranks * (1 if gpu else cores):
        what = "CUDA devices" if gpu else f"cores (CGANKD_THREADS is {cores})"
        raise ConfigError(
            f"{ranks} ranks need {ranks * (1 if gpu else cores)} {what}, and the cluster has {total:g}; lower RANKS"
        )
    with cluster.in_words(ray):
        ear, call = cluster.ear(ray), uuid.uuid4().hex
    sent = {name: value for name in SETTINGS if (value := os.environ.get(name))}
    config = {
        "folder": str(folder),
        "words": words,
        "ear": (ear, call),
        "settings": sent | {"CGANKD_THREADS": str(cores)},
    }
    done = threading.Event()
    hearing = threading.Thread(target=_hear, args=(ray, ear, call, say, done), daemon=True)
    hearing.start()
    with tempfile.TemporaryDirectory(prefix="cgankd-train-") as results:
        trainer = TorchTrainer(
            rank_of_stage,
            torch_config=TorchConfig(backend="gloo"),  # of the workers, whose ranks meet by themselves
            train_loop_config=config,
            scaling_config=ScalingConfig(
                num_workers=ranks, use_gpu=gpu, resources_per_worker={"CPU": cores} | ({"GPU": 1} if gpu else {})
            ),
            run_config=RunConfig(name="cgankd", storage_path=results, failure_config=FailureConfig(max_failures=0)),
        )
        stopped: list[int] = []
        trainer._register_sigint_handler = partial(_stop_by, trainer._register_sigint_handler, stopped)
        try:
            trainer.fit()
        except (Exception, SystemExit) as error:  # Ray wraps what a rank raised in kinds of its own
            if stopped:
                raise KeyboardInterrupt from error
            failed = getattr(error, "worker_failures", None) or {}
            why = next((str(one) for _, one in sorted(failed.items())), "") or str(error) or type(error).__name__
            raise ConfigError(" ".join(why.split())[:400]) from error
        finally:
            like_ctrl_c()
            done.set()
            hearing.join()


def _stop_by(register: Callable[[Any], None], stopped: list[int], controller: Any) -> None:
    """Let Ray end the ranks at Ctrl-C as it does, at SIGTERM likewise, and note that they were asked to."""
    register(controller)
    theirs = signal.getsignal(signal.SIGINT)
    assert callable(theirs)

    def handler(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        theirs(number, frame)

    signal.signal(signal.SIGINT, handler)
    like_ctrl_c(handler)


def _hear(ray: Any, ear: Any, call: str, say: Any, done: threading.Event) -> None:
    last = False
    while not last:
        last = done.wait(LOOK_EVERY_S)
        try:
            found = ray.get(ear.take.remote(call))
        except ray.exceptions.RayError:  # the cluster is gone, which the run itself says
            return
        for line in found:
            say(line)


def rank_of_stage(config: dict[str, Any]) -> None:
    """On a worker of Ray Train: one rank of the stage, to its end. Raises RuntimeError where it fails."""
    from ray import train, util
    from ray.train.collective import broadcast_from_rank_zero

    here, folder = train.get_context(), Path(config["folder"])
    if not (folder / "params.yaml").is_file():
        raise RuntimeError(
            f"{node_name()} does not see {folder}; one training needs a work folder that every node sees"
        )
    meeting = (util.get_node_ip_address(), free_port()) if here.get_world_rank() == 0 else None
    host, port = broadcast_from_rank_zero(meeting)
    own = {"RANK": here.get_world_rank(), "WORLD_SIZE": here.get_world_size(), "LOCAL_RANK": here.get_local_rank()}
    own |= {"LOCAL_WORLD_SIZE": here.get_local_world_size(), "MASTER_ADDR": host, "MASTER_PORT": port}
    environment = os.environ | config["settings"] | {name: str(value) for name, value in own.items()}
    environment |= {"CGANKD_ENGINE": "local", "OMP_NUM_THREADS": config["settings"]["CGANKD_THREADS"]}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(cluster.ROOT), os.environ.get("PYTHONPATH"))))
    teller, last = Teller(config["ear"]), ""
    process = subprocess.Popen(
        [sys.executable, "-m", "cgankd", *config["words"]],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=partial(ask_system, signal.SIGTERM),  # it ends with the worker of Ray
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            last = line.strip() or last
            if own["RANK"] == 0 and not last.startswith("error: "):  # errors are told by the end of the run
                teller.put(line.rstrip("\n"))
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(ENDED_S)
            except subprocess.TimeoutExpired:
                process.kill()
    if teller.last is not None:
        teller.finish()
    if code := process.wait():
        raise RuntimeError(f"rank {own['RANK']} on {node_name()} {ended(code, last)}")


def ended(code: int, last: str) -> str:
    """How a rank ended, by its exit code and its last line."""
    if code < 0:
        return f"was ended by signal {-code}; progress is kept, the same command goes on"
    return f"ended with {code}: {error_of(last)}"


def error_of(line: str) -> str:
    """The sentence of an error, without the word and the rank that stand before it."""
    return re.sub(r"^error( \(rank \d+\))?: ", "", line)[:300]


def free_port() -> int:
    """A port of this node that nobody has."""
    with closing(socket.socket()) as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def main() -> None:
    """The command line; exit code 2 and one sentence where a rank fails."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.engines.ray_train", description=__doc__)
    parser.add_argument("ranks", type=int)
    parser.add_argument("stage", choices=SHARED)
    asked, rest = parser.parse_known_args()
    if asked.ranks < 1:
        parser.error(f"RANKS must be 1 or more, but is {asked.ranks}")
    like_ctrl_c()
    try:
        train(Path.cwd(), [asked.stage, *rest], asked.ranks, Console())
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("stopped; progress is kept, the same command goes on\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
