"""All shards of a bank as jobs: worker processes of this machine, or nodes of a Ray cluster, draw them side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from cgankd.bank.shards import Part
from pipelines.engines.choice import engine_name, run_jobs, share_of
from pipelines.engines.executor import told_console
from pipelines.engines.local import Crew
from pipelines.files.layout import INPUTS, missing
from pipelines.files.params import load_config
from pipelines.rounds.shards import MANIFEST, check_beside, folder_of
from pipelines.runtime.machine import available_cores, make_plan, set_threads
from pipelines.runtime.opening import open_shard
from pipelines.stages.bank import run_shard

QUIET = ("computing on ", "ok: ")
"""How lines begin that are the same for every shard."""


@dataclass(frozen=True)
class ShardJob:
    """One shard, drawn from the artifacts of a work folder into its artifacts/shards."""

    number: int
    shards: int
    params: Path
    inputs: tuple[Path, ...]
    settings: tuple[str, ...]
    threads: int
    """Those of the join, which refuses blocks that another number of threads has rounded."""
    out: Path
    """The folder of the shard."""

    def reads(self) -> list[Path]:
        """The settings and the artifacts."""
        return [self.params, *self.inputs]

    def writes(self) -> list[Path]:
        """Its blocks, and the manifest last."""
        files = sorted(path for path in self.out.iterdir() if path.is_file() and path.name != MANIFEST)
        return [*files, self.out / MANIFEST]


def draw_shards(workdir: Path, shards: int, settings: Sequence[str], console: Console) -> None:
    """Draw all shards of a bank that are not there yet. Raises ConfigError as the stage does."""

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    def told(number: int, line: str) -> None:
        if not line.startswith(QUIET):  # the join says it once for all
            say(line if line.startswith("shard ") else f"shard {number} of {shards}: {line}")

    load_config(workdir / "params.yaml", settings)
    set_threads()
    device, threads, top = make_plan().device, torch.get_num_threads(), workdir / "artifacts"
    for name in INPUTS["bank"]:
        if not (top / name).exists():
            raise missing(top / name)
    check_beside(top / "shards", shards)
    params, inputs = workdir / "params.yaml", tuple(top / name for name in INPUTS["bank"])
    jobs = [
        ShardJob(n, shards, params, inputs, tuple(settings), threads, folder_of(top / "shards", Part(n, shards)))
        for n in range(shards)
    ]
    most = max(1, available_cores() // threads)
    if engine_name() == "local" and most == 1 and shards > 1:
        say(f"shards run one after the other, each on {threads} threads; CGANKD_THREADS=1 puts one on each core")
    crew = Crew(most, "shards", cores=threads, gpus=share_of(device))
    run_jobs(do_shard, jobs, crew, lambda done: say(f"{done} of {shards} shards"), say, told)


def do_shard(job: ShardJob) -> list[str]:
    """Draw one, in this process; what it says is told to the machine that asked for it."""
    os.environ["CGANKD_THREADS"] = str(job.threads)
    part, workdir = Part(job.number, job.shards), job.params.parent
    with open_shard("bank", (job.number, job.shards), job.settings, workdir, console=told_console(job.number)) as ctx:
        run_shard(ctx, part)
    return []
