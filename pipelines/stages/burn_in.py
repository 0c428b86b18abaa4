"""The scores of a burn-in, kept beside the resume files: another rho, quantile or num_fakes needs no new draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from cgankd.bank.selections import Columns
from cgankd.config import BankConfig
from cgankd.fit.device import Plan
from pipelines.files.artifacts import fingerprint, load_tensors, source_digest, write_tensors
from pipelines.files.kept_runs import read_sealed, write_sealed
from pipelines.files.writing import DiskError
from pipelines.runtime.machine import arithmetic

NAMES = [field.name for field in dataclasses.fields(Columns)]


def burn_in_mark(cfg: BankConfig, plan: Plan, seed: int, digests: dict[str, str]) -> str:
    """Digest of all that the draws of a burn-in depend on: its size and labels, the networks, the code, the arithmetic."""
    facts = {
        name: getattr(cfg, name) for name in ("burn_in", "batch_size", "label_bin", "num_conditions", "bound_scope")
    }
    facts |= {"seed": seed, "torch": torch.__version__, "threads": torch.get_num_threads()}
    facts |= {"device": plan.device, "compile": plan.compile, "arithmetic": arithmetic(plan.device)}
    return fingerprint(facts, digests | {"code": source_digest()})


def kept_burn_in(path: Path, mark: str, draw: Callable[[], Columns], say: Callable[[str], None]) -> Columns:
    """The scores in a file under this mark, or those of `draw`, which are then kept there."""
    record = path.with_suffix(".json")
    if (kept := read_sealed(record, ("mark",))) is not None and kept["mark"] == mark:
        columns = Columns(**load_tensors(path))
        say(f"burn-in: {len(columns)} scored draws of an earlier run are used again")
        return columns
    if kept is None and path.exists():
        say(f"burn-in: {path.name} is not as it was written; drawing again")
    columns = draw()
    found = {name: values.contiguous() for name in NAMES if (values := getattr(columns, name)) is not None}
    try:
        write_tensors(path, found, {"mark": mark})
        write_sealed(record, {"mark": mark}, [path])
    except DiskError as error:
        say(f"warning: the scores of the burn-in are not kept: {error}")
    return columns
