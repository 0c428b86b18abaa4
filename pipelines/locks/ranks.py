"""One stage run by several processes that torchrun starts: the group they meet in, and one writer in the work folder.

The first rank works in the folder. Each other one works in artifacts/resume/ranks/<rank>: what the folder held when all met,
as links, so that it reads the same files and takes the same turns, and what it writes itself, which is nobody's result.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event

from cgankd.config import ConfigError

SHARED = ("teacher", "cgan", "ratio", "student")
"""The stages whose trainings are shared by ranks."""
WAIT_S = 600.0
"""How long a rank waits for another one that neither answers nor ends; one that ends is seen at once."""
OWN = ("artifacts", "metrics", "plots")
"""Folders that every rank has for itself."""
MET = Event()
"""Set once this process sets out to meet the other ranks."""
LOST = ("Connection closed by peer", "Connection reset", "Timed out waiting", "gloo", "NCCL", "Broken pipe", "Socket")
"""Words of an error of the group."""


class RankLost(ConfigError):
    """Another rank of the training ended, or answers no more."""


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or what does as it does, started several processes of which this is one."""
    size = environment.get("WORLD_SIZE", "")
    named = all(name in environment for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"))
    return named and size.isdigit() and int(size) > 1


def check_shared(command: str) -> None:
    """Raise ConfigError where a command's work is not shared by ranks."""
    if command not in SHARED:
        cure = "; its fakes can be shared by `cgankd bank --shards`" if command == "bank" else ""
        raise ConfigError(
            f"`cgankd {command}` does not run under torchrun, which is for {', '.join(SHARED)}; give it without{cure}"
        )


@contextmanager
def among_ranks(stage: str, workdir: Path, device: str) -> Iterator[Path]:
    """Meet the other ranks; the folder that this one works in.

    Raises ConfigError where the stage is not shared, RankLost where another rank ended.
    """
    check_shared(stage)
    MET.set()
    import torch
    from torch import distributed as dist

    rank = int(os.environ["RANK"])
    cuda = device == "cuda"
    if cuda:
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"torchrun starts more processes on this machine than its {torch.cuda.device_count()} CUDA devices; lower"
                " --nproc_per_node, or set CGANKD_DEVICE=cpu"
            )
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=WAIT_S))
        folder = workdir if rank == 0 else _linked(workdir, rank)
        dist.barrier()  # nobody writes before all have seen what is there
        try:
            yield folder
        finally:
            if rank:
                shutil.rmtree(folder, ignore_errors=True)
    except RuntimeError as error:
        if not any(word in str(error) for word in LOST):
            raise
        raise RankLost(
            f"another rank of this training ended or answers no more ({str(error).splitlines()[0][:200]}); its own error says"
            " why. Progress is kept: the same command goes on, on any number of ranks"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _linked(workdir: Path, rank: int) -> Path:
    """A folder that shows what the work folder holds."""
    folder = workdir / "artifacts" / "resume" / "ranks" / str(rank)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in workdir.iterdir():
        if path.name not in OWN:
            (folder / path.name).symlink_to(path)
    for part in OWN:
        (folder / part).mkdir()
    skip = {folder.parent, workdir / "artifacts" / "logs", workdir / "artifacts" / "shards"}
    _link_files(workdir / "artifacts", folder / "artifacts", skip)
    return folder


def _link_files(source: Path, target: Path, skip: set[Path]) -> None:
    for path in source.iterdir() if source.is_dir() else ():
        if path in skip or path.suffix in (".lock", ".tmp"):
            continue
        if path.is_dir() and not path.is_symlink():
            (target / path.name).mkdir()
            _link_files(path, target / path.name, skip)
        else:
            (target / path.name).symlink_to(path)
