"""Trained GANs in artifacts/resume/gans: one whose settings, inputs and code come again is not trained again.

A GAN costs more than all other stages together, and `cgan` depends on the teacher even where its numbers do not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgankd.config import ConfigError
from cgankd.fit.course import Setback
from cgankd.fit.device import Plan, is_bf16
from cgankd.types import LogFn
from pipelines.files.artifacts import config_path, fingerprint, load_weights, save_weights, source_digest
from pipelines.files.kept_runs import prune, read_sealed, write_sealed

CODE = (
    *("cgankd/config", "cgankd/data", "cgankd/nets", "cgankd/fit", "cgankd/labels", "cgankd/gan"),
    *("cgankd/measure/health.py", "cgankd/types.py", "cgankd/rng.py", "pipelines/stages/cgan.py"),
    *(f"pipelines/networks/{name}.py" for name in ("guides", "kept_gan", "own_generator", "predictor")),
    *("pipelines/networks/state_dicts.py", "pipelines/networks/weights.py", "pipelines/runtime/machine.py"),
)
"""What the numbers of the stage depend on, as dvc.yaml has it."""


@dataclass(frozen=True)
class Trained:
    """A trained GAN: generator and label embedding, and what the training said."""

    tensors: Mapping[str, Tensor]
    metrics: dict[str, float]
    curves: dict[str, list[Any]]
    """Name of each loop -> rows (step, values)."""
    setbacks: dict[str, Setback] = field(default_factory=dict)
    """Those of the loops that had one."""


@dataclass(frozen=True)
class KeptGan:
    """The place of one GAN; its name is the fingerprint of all that the GAN depends on, so what lies there can be trusted."""

    path: Path

    def load(self) -> Trained | None:
        """The GAN; None where it is not there whole."""
        record = read_sealed(self._record, ("metrics", "curves"))
        if record is None:
            return None
        try:
            tensors = load_weights(self.path)[0]
        except ConfigError:
            return None
        curves = {name: [[step, dict(values)] for step, values in rows] for name, rows in record["curves"].items()}
        setbacks = {name: Setback(**values) for name, values in record.get("setbacks", {}).items()}
        return Trained(tensors, record["metrics"], curves, setbacks)

    def save(self, trained: Trained) -> None:
        """Keep it; the record comes last, and with it, it is whole."""
        # Values as pairs, whose order is that of the columns: a mapping would be sorted.
        curves = {name: [[step, [*values.items()]] for step, values in rows] for name, rows in trained.curves.items()}
        values: dict[str, Any] = {"metrics": trained.metrics, "curves": curves}
        if trained.setbacks:
            values["setbacks"] = {name: vars(found) for name, found in trained.setbacks.items()}
        save_weights(self.path, trained.tensors, {})
        write_sealed(self._record, values, [self.path, config_path(self.path)])

    @property
    def _record(self) -> Path:
        return self.path.with_suffix(".json")

    def used(self) -> None:
        """Note that it was used, and make room: others go, longest unused first, where they fill too much."""
        if self.path.exists():  # a full disk may not have taken it
            self.path.touch()
        prune(self.path.parent, [self.path.stem], time.time())


def kept_gan(
    folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, str], precision: str, plan: Plan
) -> KeptGan:
    """Where the GAN of these settings lies, trained on files with these digests by this code on this machine."""
    facts: dict[str, str] = {
        "code": source_digest(*CODE),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
    }
    facts |= {"device": plan.device, "compile": plan.compile, "bf16": str(is_bf16(precision, plan.device))}
    folder.mkdir(parents=True, exist_ok=True)
    return KeptGan(folder / f"{fingerprint(settings, {**inputs, **facts})}.safetensors")


def replay(rows: Sequence[Any], log: LogFn) -> None:
    """Report the rows of a finished loop as if it ran."""
    for step, values in rows:
        log(int(step), values, int(rows[-1][0]))
