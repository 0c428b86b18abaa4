"""Step cost of every KD loss relative to plain training: the nets and batch of the preset digits-distillers."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgankd.config import Config, to_dict
from cgankd.config_distill import arm_label
from cgankd.data.augment import augment
from cgankd.data.batches import Mixture
from cgankd.distill.engine import early_phases
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import fit_predictor
from cgankd.rng import generator, seed_all
from cgankd.task import make_task
from cgankd.types import DatasetInfo, PredictFn, Split
from pipelines.artifacts import save_weights
from pipelines.distil_arm import distilled_run, train_phases
from pipelines.machine import set_threads
from pipelines.networks import build_predictor
from pipelines.params import load_config

TITLE = "A step of the student with each KD loss: nets, batch and arms of the preset digits-distillers"
PRESET = Path(__file__).parent.parent / "pipelines" / "presets" / "digits-distillers.yaml"
STEPS, QUICK_STEPS = 40, 3
WARMUP = 5
NUM_REAL, NUM_FAKES = 50, 4000
INFO = DatasetInfo("class", "random", "", 1, 16, (0.5,), (0.25,), tuple(map(str, range(10))))


def images(name: str, num: int) -> Split:
    """Random grey images of 10 classes: a step costs the same whatever they show."""
    shape = (num, 1, INFO.image_size, INFO.image_size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator("pixels", name))
    return Split(pixels, torch.arange(num) % len(INFO.class_names))


def no_table(predict: PredictFn) -> Any:
    """The teacher sees the augmented image, so there is nothing to look up."""
    raise AssertionError("teacher_view is augmented")


def losses(cfg: Config) -> dict[str, str | None]:
    """Label of each KD loss -> the bank arm of the preset that takes it; the plain one first."""
    arms = {name: arm for name, arm in cfg.student.arms.items() if arm.bank and arm.kd}
    found: dict[str, str | None] = {"plain": None}
    return found | {str(arm_label(to_dict(cfg.student), to_dict(arm))): name for name, arm in arms.items()}


def cost(cfg: Config, arm: str | None, teacher: Path, steps: int) -> dict[str, float]:
    """Median seconds of a step, and seconds of the phases before it for each step of the student's own training."""
    task = make_task(INFO, cfg)
    student = replace(cfg.student if arm is None else cfg.student.for_arm(cfg.student.arms[arm]), num_steps=steps)
    data = Mixture(
        images("real", NUM_REAL), images("fake", NUM_FAKES), real_share=student.real_share,
        batch_size=student.batch_size, seed=0,
    )  # fmt: skip
    seed_all(0, "distillers")
    config = {"net": student.net, "width": student.width, "precision": student.precision}
    net = build_predictor(config, INFO, task.num_outputs)
    objective, batch_of, before = Plain(task), data.batch, 0.0
    if arm is not None:
        run = distilled_run(net, config, teacher, INFO, task, data, student, 0, no_table)
        if early_phases(run.objective, net):
            start = time.perf_counter()
            train_phases(run, net, data, student.augment, student, 0)
            before = (time.perf_counter() - start) / steps
        objective, batch_of = run.objective, run.batch_of  # type: ignore[assignment]
    stamps = [time.perf_counter()]

    def plain_view(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
        return augment(unit_BCHW, student.augment, gen)

    # A loop of fewer than 50 steps logs each of them.
    fit_predictor(
        net, objective, batch_of, plain_view, student, seed=0,
        log=lambda step, values, total: stamps.append(time.perf_counter()),
    )  # fmt: skip
    spans = [after - first for first, after in zip(stamps, stamps[1:], strict=False)]
    return {"step_s": statistics.median(spans[min(WARMUP, steps - 1) :]), "phases_s": before}


def compare(quick: bool) -> dict[str, Any]:
    """A row for plain training and one for each KD loss of the preset."""
    cfg = load_config(PRESET)
    steps = QUICK_STEPS if quick else STEPS
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        teacher = Path(folder) / "teacher.safetensors"
        config = {"net": cfg.teacher.net, "width": cfg.teacher.width, "precision": cfg.teacher.precision}
        seed_all(0, "distillers teacher")
        net = build_predictor(config, INFO, len(INFO.class_names))
        save_weights(teacher, net, config | {"info": to_dict(INFO)})
        for label, arm in losses(cfg).items():
            rows.append({"name": label} | cost(cfg, arm, teacher, steps))
    for row in rows:
        row["ratio"] = row["step_s"] / rows[0]["step_s"]
    return {"name": "distillers", "title": TITLE, "quick": quick, "rows": rows, "num_steps": cfg.student.num_steps}


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown; `phases` is what trainings before the student's own add to each of its steps."""
    lines = ["| KD loss | ms a step | relative to plain | phases before, ms a step |", "|---|---|---|---|"]
    for row in found["rows"]:
        lines.append(
            f"| {row['name']} | {1000 * row['step_s']:.2f} | {row['ratio']:.2f} | {1000 * row['phases_s']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps: shows that it runs, not how fast")
    options = parser.parse_args()
    set_threads()
    print(table(compare(options.quick)))
