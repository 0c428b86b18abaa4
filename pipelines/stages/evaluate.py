"""Stage `evaluate`: the only reader of the test split; means, paired intervals, verdict and the student to ship."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch import nn

from cgankd.config.distill import arm_label, distiller_label
from cgankd.data.dataset import FEW, gaps
from cgankd.data.store.datasets import read_split
from cgankd.labels.task import make_task
from cgankd.measure.groups import Scores, group_counts
from cgankd.measure.longer import Judge
from cgankd.measure.predictive import mean_sd
from cgankd.measure.verdict import best_arm, choose, verdict
from cgankd.types import Headline, Task
from pipelines.files.artifacts import read_record
from pipelines.networks.distilled import load_student
from pipelines.networks.predictor import load_predictor
from pipelines.pictures import stages as pictures
from pipelines.runtime.context import Context
from pipelines.runtime.machine import image_memory
from pipelines.stages.same_data import info_of
from pipelines.stages.scores import NO_IMAGES, Scorer, by_headline, gains, mean_groups, summary
from pipelines.stages.table import render
from pipelines.tracking.names import evaluate_names

Runs = dict[str, list[Scores]]
"""Scores of each arm, one a seed."""


def run(ctx: Context) -> None:
    """Score every student on test; the arm to ship was settled by validation scores before the test split is read."""
    dataset, teacher_path, students, _ = ctx.inputs(
        "dataset.h5", "teacher.safetensors", "students", "students/runs.json"
    )
    runs = read_record(students / "runs.json", ("arms", "seeds", "settings", "teacher_val"))
    info = info_of(dataset, ctx.cfg.data)
    task, by = make_task(info, ctx.cfg), ctx.cfg.evaluate.headline
    uses_bank, unlabelled = (
        {name: bool(arm["switches"].get(switch)) for name, arm in runs["arms"].items()}
        for switch in ("bank", "unlabelled")
    )
    teacher = load_predictor(teacher_path, info, task)

    def score_arms(scorer: Scorer, title: str) -> Runs:
        log, total, done = ctx.progress(title), sum(len(arm["runs"]) for arm in runs["arms"].values()), 0
        found: Runs = {}
        for name, arm in runs["arms"].items():
            found[name] = []
            for run_ in arm["runs"]:
                found[name].append(scorer(*load_student(students / run_["file"], info, task)))
                done += 1
                log(done, {}, total)
        return found

    scorer = Scorer(task, read_split(dataset, "val", image_memory(ctx.cfg.data)), ctx.plan)
    val_scores, teacher_val = score_arms(scorer, "validation"), scorer(*teacher)
    # The mean is the one of the training, which a device may round otherwise than is done here.
    means = {name: [run["val"] for run in arm["runs"]] for name, arm in runs["arms"].items()}
    val = means if by == "mean" else {name: [one.balanced for one in of] for name, of in val_scores.items()}
    choice = choose(val, uses_bank, task.headline, unlabelled)

    scorer = Scorer(task, read_split(dataset, "test", image_memory(ctx.cfg.data)), ctx.plan)
    teacher_test = scorer(*teacher)
    test_scores = score_arms(scorer, "test")
    best: dict[str, dict[str, Any]] = {}
    for name, arm in runs["arms"].items():
        kept = [run_["best"] for run_ in arm["runs"] if "best" in run_]
        if kept:
            values = [scorer(*load_student(students / one["file"], info, task)).by(by) for one in kept]
            best[name] = _best(values, [one["step"] for one in kept])

    confidence = ctx.cfg.evaluate.confidence
    test = {name: [one.mean for one in of] for name, of in test_scores.items()}
    even = {name: [one.balanced for one in of] for name, of in test_scores.items()}
    even_val = {name: [one.balanced for one in of] for name, of in val_scores.items()}
    judged = (test, None) if by == "mean" else (even, test)
    said = verdict(choice, judged[0], task.headline, confidence, judged[1])
    train = read_split(dataset, "train", NO_IMAGES)
    counts = {"train": train.labels, "val": read_split(dataset, "val", NO_IMAGES).labels, "test": scorer.split.labels}
    groups = {name: group_counts(task, labels) for name, labels in counts.items()}
    result = {
        "headline": asdict(task.headline),
        "confidence": confidence,
        "num_seeds": len(runs["seeds"]),
        "seeds": runs["seeds"],
        "dataset": ctx.digests["dataset.h5"],
        "student": {key: runs["settings"][key] for key in ("net", "width", "protocol")}
        | {"distiller": distiller_label(runs["settings"])},
        "steps": runs["settings"]["num_steps"],
        "batch_size": runs["settings"]["batch_size"],
        "teacher": teacher_test.mean,
        "teacher_val": runs["teacher_val"],
        "arms": {
            name: summary(test[name], means[name])
            | {"uses_bank": uses_bank[name]}
            | ({"uses_unlabelled": True} if unlabelled[name] else {})
            | gains(name, test, choice, task.headline, confidence)
            | {"distiller": arm_label(runs["settings"], runs["arms"][name]["switches"])}
            | ({"best": best[name]} if name in best else {})
            | {
                "balanced": summary(even[name], even_val[name]) | gains(name, even, choice, task.headline, confidence),
                "groups": mean_groups(test_scores[name]),
                "val_groups": mean_groups(val_scores[name]),
            }
            for name in test
        },
        "chosen_arm": choice.chosen,
        "best_real_arm": choice.best_real,
        "best_bank_arm": choice.best_bank,
        **({"best_unlabelled_arm": choice.best_unlabelled} if choice.best_unlabelled else {}),
        **({"best_both_arm": choice.best_both} if choice.best_both else {}),
        "verdict": said + _unknown(task, groups),
        "chosen_by": by,
        "teacher_balanced": teacher_test.balanced,
        "teacher_val_balanced": teacher_val.balanced,
        "groups": {"kind": task.group_kind[0], "names": list(task.group_names)}
        | {f"num_{name}": found for name, found in groups.items()}
        | {"teacher": list(teacher_test.groups), "teacher_val": list(teacher_val.groups)},
    }
    place = _best_seed(val[choice.chosen], task.headline)
    shipped = test_scores[choice.chosen][place]
    result["shipped"] = {"seed": runs["seeds"][place], "mean": shipped.mean, "balanced": shipped.balanced}
    result["shipped"] |= {"groups": list(shipped.groups)}
    if any("longer" in arm for arm in runs["arms"].values()):
        judge = Judge(uses_bank, task.headline, confidence, unlabelled)
        scores = {1: (val, judged[0])} | longer_scores(
            runs["arms"], by, lambda run_: load_student(students / run_["file"], info, task), scorer
        )
        result["more_steps"] = judge.rows(scores)
    ctx.write_json("evaluate", result)
    ctx.tracker.metrics(evaluate_names(result))
    ctx.tracker.tags({"chosen_arm": choice.chosen})
    ctx.tracker.verdict(result["verdict"])
    _ship(ctx, runs, choice.chosen, place, shipped.mean)
    shown = by_headline(result)
    ctx.picture("arms", pictures.arms_with_intervals(shown))
    ctx.picture("gains", pictures.gains_with_intervals(shown))
    ctx.show(render(result))


def longer_scores(
    arms: dict[str, Any], by: str, load: Callable[[dict[str, Any]], tuple[nn.Module, Any]], scorer: Scorer
) -> dict[int, tuple[dict[str, list[float]], dict[str, list[float]]]]:
    """Factor of the steps -> validation and test scores of each arm, of the kind that arms are chosen by."""
    key, found = "val" if by == "mean" else "val_balanced", dict[int, tuple[dict[str, list[float]], ...]]()
    for name, arm in arms.items():
        for factor, runs in arm["longer"].items():
            val, test = found.setdefault(int(factor), ({}, {}))
            val[name] = [float(run[key]) for run in runs]
            test[name] = [scorer(*load(run)).by(by) for run in runs]
    return {factor: (val, test) for factor, (val, test) in found.items()}


def _unknown(task: Task, groups: dict[str, list[int]]) -> str:
    """What the verdict cannot know of single classes or label ranges, as sentences that follow it."""
    few = FEW if task.num_classes else 1
    return "".join(f" Note that {gap}." for gap in gaps(task.group_names, groups, task.group_kind, few))


def _best(values: list[float], steps: list[int]) -> dict[str, Any]:
    """Test scores of the weights of the best validation points, and at which steps those were."""
    mean, sd = mean_sd(values)
    return {"mean": mean, "sd": sd, "values": values, "steps": steps}


def _best_seed(val: list[float], headline: Headline) -> int:
    """Which run of an arm is its best on validation; the earlier one on a tie."""
    names = [str(place) for place in range(len(val))]
    return int(best_arm(names, {name: [score] for name, score in zip(names, val, strict=True)}, headline))


def _ship(ctx: Context, runs: dict[str, Any], chosen: str, place: int, test: float) -> None:
    """Copy the chosen arm's best seed on validation to artifacts/student.safetensors with all that rebuilds it."""
    run = runs["arms"][chosen]["runs"][place]
    weights, config = ctx.load_weights(f"students/{run['file']}")
    config |= {"arm": chosen, "seed": run["seed"], "val": run["val"], "test": test}
    assert math.isfinite(config["test"])
    ctx.save_weights("student", weights, config | {"settings": runs["settings"]})
    ctx.say(f"ship artifacts/student.safetensors: arm {chosen}, seed {run['seed']} (its best on validation)")
