"""The scores of a burn-in, kept beside the resume files: another rho, quantile or num_fakes needs no new draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cgankd.bank.selections import Columns
from cgankd.config import BankConfig
from cgankd.data.regular import check_regular
from cgankd.fit.device import Plan
from pipelines.files.artifacts import fingerprint, load_tensors, replacing, source_digest

NAMES = [field.name for field in dataclasses.fields(Columns)]


def burn_in_mark(cfg: BankConfig, plan: Plan, seed: int, digests: dict[str, str]) -> str:
    """Digest of all that the draws of a burn-in depend on: its size and labels, the networks, the code, the arithmetic."""
    facts = {
        name: getattr(cfg, name) for name in ("burn_in", "batch_size", "label_bin", "num_conditions", "bound_scope")
    }
    facts |= {"seed": seed, "torch": torch.__version__, "threads": torch.get_num_threads()}
    return fingerprint(facts | {"device": plan.device, "compile": plan.compile}, digests | {"code": source_digest()})


def kept_burn_in(path: Path, mark: str, draw: Callable[[], Columns], say: Callable[[str], None]) -> Columns:
    """The scores in a file under this mark, or those of `draw`, which are then kept there."""
    if path.exists():
        try:
            check_regular(path)
            with safe_open(path, "pt") as file:
                same = (file.metadata() or {}).get("mark") == mark
            if same:
                columns = Columns(**load_tensors(path))
                say(f"burn-in: {len(columns)} scored draws of an earlier run are used again")
                return columns
        except (SafetensorError, TypeError) as error:
            say(f"burn-in: {path.name} cannot be read ({type(error).__name__}); drawing again")
    columns = draw()
    with replacing(path) as temporary:
        found = {name: values.contiguous() for name in NAMES if (values := getattr(columns, name)) is not None}
        save_file(found, temporary, {"mark": mark})
    return columns
