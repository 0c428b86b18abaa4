"""Step cost of every KD loss relative to plain training: the nets and batch of the preset digits-distillers."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgankd.config import ArmConfig, Config, to_dict
from cgankd.config.distill import arm_label
from cgankd.data.augment import augment
from cgankd.data.batches import Mixture
from cgankd.distill.engine import early_phases
from cgankd.distill.methods import METHODS
from cgankd.fit.loop import Loop
from cgankd.fit.plain import Plain
from cgankd.fit.predictor import Feed, fit_predictor
from cgankd.labels.task import make_task
from cgankd.rng import generator, seed_all
from cgankd.types import DatasetInfo, PredictFn, Split
from pipelines.files.artifacts import save_weights
from pipelines.files.params import load_config
from pipelines.networks.predictor import build_predictor
from pipelines.runtime.machine import set_threads
from pipelines.students.distil_arm import Student, distilled_run, train_phases

TITLE = "A step of the student with each KD loss: nets, batch and arms of the preset digits-distillers"
PRESET = Path(__file__).parent.parent / "pipelines" / "presets" / "digits-distillers.yaml"
SCALAR_PRESET = PRESET.with_name("chairs.yaml")
STEPS, QUICK_STEPS = 40, 3
WARMUP = 5
NUM_REAL, NUM_FAKES = 50, 4000
INFO = DatasetInfo("class", "random", "", 1, 16, (0.5,), (0.25,), tuple(map(str, range(10))))
SCALAR_INFO = DatasetInfo("scalar", "random", "units", 1, 16, (0.5,), (0.25,), (), 0.0, 1.0)


@dataclass(frozen=True)
class Row:
    """What is timed: an arm with its KD loss (None = plain training), the labels, and whether the teacher is a convnet.

    Losses that read class maps want a teacher without a hidden layer after pooling, which plain-vgg has.
    """

    arm: ArmConfig | None = None
    scalar: bool = False
    convnet: bool = False


def images(name: str, num: int, scalar: bool = False) -> Split:
    """Random grey images of 10 classes, or of labels from 0 to 1: a step costs the same whatever they show."""
    shape = (num, 1, INFO.image_size, INFO.image_size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator("pixels", name))
    return Split(pixels, torch.linspace(0, 1, num) if scalar else torch.arange(num) % len(INFO.class_names))


def no_table(predict: PredictFn) -> Any:
    """The teacher sees the augmented image, so there is nothing to look up."""
    raise AssertionError("teacher_view is augmented")


def losses(cfg: Config) -> dict[str, Row]:
    """Label of each KD loss -> what is timed: the bank arms of the preset, then the methods it leaves out; plain first."""
    arms = [arm for arm in cfg.student.arms.values() if arm.bank and arm.kd]
    found = {"plain": Row()} | {str(arm_label(to_dict(cfg.student), to_dict(arm))): Row(arm) for arm in arms}
    left = [name for name in METHODS if name not in {arm.distiller for arm in arms}]
    for name in left:
        arm, maps = ArmConfig(bank=True, kd=True, distiller=name), METHODS[name].needs.teacher_head
        found[name] = Row(arm, scalar=not maps, convnet=maps)
    return found | {"plain, scalar labels": Row(scalar=True)}


def cost(cfg: Config, row: Row, teacher: Path, steps: int) -> dict[str, float]:
    """Median seconds of a step, and seconds of the phases before it for each step of the student's own training."""
    info, arm = SCALAR_INFO if row.scalar else INFO, row.arm
    task = make_task(info, load_config(SCALAR_PRESET) if row.scalar else cfg)
    settings = replace(cfg.student if arm is None else cfg.student.for_arm(arm), num_steps=steps)
    data = Mixture(
        images("real", NUM_REAL, row.scalar), images("fake", NUM_FAKES, row.scalar), real_share=settings.real_share,
        batch_size=settings.batch_size, seed=0,
    )  # fmt: skip
    seed_all(0, "distillers")
    config = {"net": settings.net, "width": settings.width, "precision": settings.precision}
    net = build_predictor(config, info, task.num_outputs)
    objective, batch_of, before = Plain(task), data.batch, 0.0

    def plain_view(unit_BCHW: Tensor, gen: torch.Generator) -> Tensor:
        return augment(unit_BCHW, settings.augment, gen)

    if arm is not None:
        student = Student(net, config, info, task, data, settings, 0)
        run = distilled_run(student, teacher, no_table)
        if early_phases(run.objective, net):
            start = time.perf_counter()
            train_phases(run, student, plain_view)
            before = (time.perf_counter() - start) / steps
        objective, batch_of = run.objective, run.batch_of  # type: ignore[assignment]
    stamps = [time.perf_counter()]

    # A loop of fewer than 50 steps logs each of them.
    fit_predictor(
        net, objective, Feed(batch_of, plain_view), settings,
        Loop(0, log=lambda step, values, total: stamps.append(time.perf_counter())),
    )  # fmt: skip
    spans = [after - first for first, after in zip(stamps, stamps[1:], strict=False)]
    return {"step_s": statistics.median(spans[min(WARMUP, steps - 1) :]), "phases_s": before}


def save_teacher(cfg: Config, row: Row, path: Path) -> None:
    """A teacher on random weights for the labels of a row."""
    info, net = SCALAR_INFO if row.scalar else INFO, "convnet" if row.convnet else cfg.teacher.net
    config = {"net": net, "width": cfg.teacher.width, "precision": cfg.teacher.precision}
    seed_all(0, "distillers teacher")
    made = build_predictor(config, info, 1 if row.scalar else len(info.class_names))
    save_weights(path, made, config | {"info": to_dict(info)})


def compare(quick: bool) -> dict[str, Any]:
    """A row for plain training and one for each KD loss; scalar ones are compared with plain training on scalar labels."""
    cfg = load_config(PRESET)
    steps = QUICK_STEPS if quick else STEPS
    rows: list[dict[str, Any]] = []
    chosen = losses(cfg)
    with tempfile.TemporaryDirectory() as folder:
        for label, row in chosen.items():
            teacher = Path(folder) / f"teacher-{row.scalar}-{row.convnet}.safetensors"
            if not teacher.exists():
                save_teacher(cfg, row, teacher)
            rows.append({"name": label} | cost(cfg, row, teacher, steps))
    plain = {chosen[found["name"]].scalar: found["step_s"] for found in rows if chosen[found["name"]].arm is None}
    for found in rows:
        found["ratio"] = found["step_s"] / plain[chosen[found["name"]].scalar]
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
