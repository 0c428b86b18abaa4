"""The trainings of a teacher's members: one job each, resumable, kept when finished, and put together by validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgankd.config import Config, ConfigError, TeacherConfig, to_dict
from cgankd.config.members import member_name
from cgankd.fit.course import Setback
from cgankd.fit.device import CompileMode, Plan
from cgankd.fit.predictor import make_predict
from cgankd.labels.ensemble import Mean, best_or_all, make_mean
from cgankd.rng import derive
from cgankd.types import DatasetInfo, Split, Task
from pipelines.files.artifacts import (
    ResumeFile,
    config_path,
    delete_progress,
    file_digest,
    fingerprint,
    load_weights,
    save_weights,
    source_digest,
)
from pipelines.files.kept_runs import read_sealed, write_sealed
from pipelines.networks.predictor import ensemble_of, restore_predictor, training_bytes
from pipelines.networks.weights import Weights
from pipelines.runtime.curves import Curves

CODE = ("cgankd", "pipelines/networks", "pipelines/teachers", "pipelines/stages/teacher.py")
"""What the numbers of a member depend on."""


@dataclass(frozen=True)
class MemberJob:
    """All that the training of one member needs; `out` carries the fingerprint of it, so a finished file can be trusted."""

    number: int
    cfg: TeacherConfig
    weights: Weights | None
    """The file that its training starts from."""
    seed: int
    config: Config
    dataset: Path
    out: Path
    memory_bytes: float
    """What this training may fill with images at rest; changes no number."""
    compile: CompileMode = "off"
    device: str = "cpu"

    @property
    def section(self) -> str:
        """Where its settings stand."""
        return member_name(self.config.teacher.members, self.number)

    @property
    def record(self) -> Path:
        """The curve, written last."""
        return self.out.with_suffix(".json")

    def finished(self) -> bool:
        """Weights and curve are there as they were written; what is damaged counts for none."""
        return read_sealed(self.record, ("curve",)) is not None

    def curve(self) -> list[Any]:
        """Rows of the training's curve."""
        found = read_sealed(self.record, ("curve",))
        if found is None:
            raise ConfigError(f"{self.record} or a file of its run was damaged meanwhile; run `cgankd teacher` again")
        return list(found["curve"])

    def need_bytes(self, info: DatasetInfo, num_outputs: int) -> float:
        """Main memory that the training needs, about."""
        at_rest = min(self.dataset.stat().st_size, self.memory_bytes)
        return training_bytes(self.cfg, info, num_outputs, at_rest, self.device)

    def checkpoint(self, curves: Curves) -> ResumeFile:
        """Resume storage of the training, with its curves."""
        path = self.out.with_name(f"{self.out.stem}-train.resume")
        return ResumeFile(path, self.out.stem, lambda text: None, curves.dump, lambda step, rows: curves.restore(rows))

    def setback(self) -> Setback | None:
        """That of the finished training, if it had one."""
        found = (read_sealed(self.record) or {}).get("setback")
        return None if found is None else Setback(**found)

    def save(self, net: nn.Module, config: dict[str, Any], curves: Curves, setback: Setback | None) -> None:
        """Keep the finished training."""
        record: dict[str, Any] = {"curve": curves.dump()} | ({} if setback is None else {"setback": vars(setback)})
        save_weights(self.out, net, config)
        write_sealed(self.record, record, [self.out, config_path(self.out)])
        self.mark_used()

    def mark_used(self) -> None:
        """Note that the finished training was used, and forget how far it once was."""
        self.record.touch()
        delete_progress(self.out.parent, f"{self.out.stem}-*.resume")


def member_jobs(
    sections: Sequence[TeacherConfig],
    weights: Sequence[Weights | None],
    config: Config,
    dataset: Path,
    folder: Path,
    plan: Plan,
    memory_bytes: float,
) -> list[MemberJob]:
    """A job a section, kept in `folder`; the seeds differ, and the first is that of a teacher without members."""
    facts = {"data": file_digest(dataset), "code": source_digest(*CODE), "torch": torch.__version__}
    facts |= {"device": plan.device, "compile": plan.compile}
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for number, (section, start) in enumerate(zip(sections, weights, strict=True)):
        seed = config.seed if number == 0 else derive(config.seed, "member", number)
        key = fingerprint({"teacher": to_dict(section), "seed": seed, "start": start and start.digest}, facts)
        out = folder / f"{key}.safetensors"
        jobs.append(
            MemberJob(number, section, start, seed, config, dataset, out, memory_bytes, plan.compile, plan.device)
        )
    return jobs


@dataclass(frozen=True)
class Member:
    """A finished member: its net, the config that rebuilds it, and its outputs [N, O] on validation images."""

    net: nn.Module
    config: dict[str, Any]
    output_NO: Tensor
    weight: float = 0.0


def finished_members(jobs: Sequence[MemberJob], info: DatasetInfo, task: Task, val: Split, plan: Plan) -> list[Member]:
    """The members of finished jobs with their outputs on validation images."""
    found = []
    for job in jobs:
        weights, config = load_weights(job.out)
        net = restore_predictor(weights, config, info, task.num_outputs)
        found.append(Member(net, config, make_predict(net, job.cfg.precision, plan=plan)(val.images)))
        net.to("cpu")
    return found


def weighted(members: Sequence[Member], info: DatasetInfo, task: Task, val: Split, *, may_drop: bool) -> list[Member]:
    """The members with their weights; with `may_drop` the best one has all the weight where the mean is no better."""
    mean: Mean = make_mean(info)
    output_KNO = torch.stack([member.output_NO for member in members])
    weight_K = mean.weights(output_KNO, val.labels)
    if may_drop:
        weight_K = best_or_all(
            mean, output_KNO, val.labels, weight_K, lambda out_NO: float(task.score(out_NO, val.labels).mean())
        )
    return [replace(member, weight=float(w)) for member, w in zip(members, weight_K.tolist(), strict=True)]


def put_together(members: Sequence[Member], info: DatasetInfo) -> tuple[nn.Module, dict[str, Any]]:
    """The members with a weight as one net, and the config that rebuilds it: that of the heaviest, and those of all."""
    kept = [member for member in members if member.weight > 0]
    if len(kept) == 1:
        return kept[0].net, kept[0].config
    listed = [member.config | {"weight": member.weight} for member in kept]
    net = ensemble_of([member.net for member in kept], listed, info).eval().requires_grad_(False)
    # Members in full precision stay in it under any other, so that the whole has that of the rest.
    precision = next((own["precision"] for own in listed if own["precision"] != "fp32"), "fp32")
    return net, kept[net.heaviest].config | {"members": listed, "precision": precision}
