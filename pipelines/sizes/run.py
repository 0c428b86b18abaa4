"""`cgankd sizes` from the plan to metrics/sizes.json, pictures and the answer; the test split is not read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cgankd.data.store.datasets import read_split
from cgankd.fit.predictor import make_predict
from cgankd.labels.task import make_task
from cgankd.measure.front import best, enough, front
from cgankd.measure.groups import group_scores
from cgankd.measure.predictive import mean_sd, paired_gain
from cgankd.measure.verdict import best_arm
from cgankd.types import Headline
from pipelines.pictures.sizes import error_against
from pipelines.runtime.context import Context
from pipelines.runtime.machine import image_memory
from pipelines.ship.devices import CALIBRATION_IMAGES
from pipelines.ship.saved import load_package, net_words
from pipelines.sizes.costs import UNITS, Flash, Measured, axes_of, costs_of
from pipelines.sizes.plan import Size, Sizes, record_of, settings_of
from pipelines.sizes.students import Trained, Trainer
from pipelines.sizes.table import render
from pipelines.sizes.words import answer, candidates_of, fitting
from pipelines.tracking.names import child_name


@dataclass(frozen=True)
class Asked:
    """What the command was called with: trials of a search, and the most that a student may cost by axis (bytes, ram, ms)."""

    trials: int | None
    limits: Mapping[str, float]


def run(ctx: Context, plan: Sizes, asked: Asked, flash: Flash | None = None) -> None:
    """Train every size, measure it, and say which is needed; `flash` makes the file of a device where its packages are there.

    Raises as trainings do; what is finished by then is kept.
    """
    trainer = Trainer(ctx, plan)
    ctx.say(
        f"{len(plan.sizes)} sizes x {len(plan.arms)} arms ({', '.join(plan.arms)}) x {len(plan.seeds)} seeds, judged on"
        " validation images alone"
    )
    trained = trainer.train(plan.sizes)
    headline = trainer.runner.task.headline
    if asked.trials:
        found = searched(ctx, plan, trainer, trained, asked.trials)
        trained += trainer.train([size for size in found if size not in plan.sizes])
    images = read_split(trainer.runner.dataset, "train", image_memory(plan.cfg.data)).images[:CALIBRATION_IMAGES]
    rows = []
    for one in trained:
        rows.append(row_of(one, plan, headline, costs_of(_judged(one, headline)[1], images, flash)))
        if "remark" in rows[-1]:
            ctx.say(f"warning: {one.size}: {rows[-1]['remark']}")
    result = summary(plan, rows, headline)
    result["teacher"] = teacher_of(trainer, plan)
    result["dataset"] = ctx.digests["dataset.h5"]
    result["settings"] = settings_of(plan.cfg)
    result["verdict"] = answer(result)
    ctx.write_json("sizes", without_times(result))
    _track(ctx, result)
    for axis in result["costs"]:
        ctx.picture(f"error_against_{axis}", error_against(result, axis))
    ctx.show(render(result))
    if asked.limits:
        ctx.say(fitting(result, asked.limits)[1])


def without_times(result: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a result that comes out the same again."""
    kept = {name: {axis: v for axis, v in result[name].items() if axis != "ms"} for name in ("costs", "fronts")}
    kept["costs_are"] = {key: text for key, text in result["costs_are"].items() if key != "ms"}
    rows = [row | {"costs": {key: v for key, v in row["costs"].items() if key != "ms"}} for row in result["sizes"]]
    return dict(result) | kept | {"sizes": rows}


def searched(ctx: Context, plan: Sizes, trainer: Trainer, trained: list[Trained], num: int) -> list[Size]:
    """The sizes that trials of a study tried, each judged by the first arm."""
    from pipelines.sizes.trials import Goals, search

    arm = next(iter(plan.arms))

    def goals(one: Trained) -> Goals:
        return mean_sd(one.values[arm])[0], 4.0 * load_package(one.weights[arm][0]).num_parameters

    known = {one.size: goals(one) for one in trained}
    score = lambda size: goals(trainer.train([size], [arm])[0])  # noqa: E731
    return search(ctx, plan, num, known, score, trainer.runner.task.headline)


def _judged(one: Trained, headline: Headline) -> tuple[str, Any]:
    """The better arm of a size on validation, and its weights at the first seed."""
    name = best_arm(list(one.values), one.values, headline)
    return name, one.weights[name][0]


def row_of(one: Trained, plan: Sizes, headline: Headline, measured: Measured) -> dict[str, Any]:
    """One size as it stands in metrics/sizes.json."""
    arms = {}
    for name, values in one.values.items():
        mean, sd = mean_sd(values)
        arms[name] = {"val_mean": mean, "val_sd": sd, "val_values": values}
    judged, _ = _judged(one, headline)
    row: dict[str, Any] = {"name": str(one.size), "net": one.size.net, "width": one.size.width}
    row |= {"costs": dict(measured.costs), "arms": arms, "best_arm": judged, "val": arms[judged]["val_mean"]}
    device = measured.device
    if device is not None and device.loss is not None:
        # The file is of one seed; what it loses to that seed's student says more of the others than its own error does.
        row["int8"] = {"seed": plan.seeds[0], "val": device.validation, "loss": device.loss}
        row["int8_val"] = row["val"] + device.loss
    if device is not None and device.remark:
        row["remark"] = device.remark
    if len(plan.arms) == 2:
        first, rival = (one.values[name] for name in plan.arms)
        confidence = plan.cfg.evaluate.confidence
        gain = paired_gain(rival, first, higher_is_better=headline.higher_is_better, confidence=confidence)
        row |= {"gain": gain.gain, "gain_low": gain.low, "gain_high": gain.high}
    return row


def summary(plan: Sizes, rows: list[dict[str, Any]], headline: Headline) -> dict[str, Any]:
    """metrics/sizes.json but for the teacher, the answer and where it comes from."""
    costs, higher = axes_of([row["costs"] for row in rows]), headline.higher_is_better
    candidates = candidates_of(rows)
    fronts = {axis: front(candidates, key, higher_is_better=higher) for axis, key in costs.items()}
    size = costs["bytes"]
    confidence = plan.cfg.evaluate.confidence
    return {
        "headline": asdict(headline) | {"name": headline.name.replace("test", "validation")},
        "confidence": confidence,
        **record_of(plan),
        "own": str(plan.sizes[0]),
        "costs": costs,
        "costs_are": {key: UNITS[key] for key in costs.values()},
        "sizes": rows,
        "fronts": fronts,
        "best": best(candidates, size, higher_is_better=higher).name,
        "enough": enough(candidates, size, higher_is_better=higher, confidence=confidence).name,
    }


def teacher_of(trainer: Trainer, plan: Sizes) -> dict[str, Any]:
    """The teacher's score on the same validation images, and how large it is."""
    runner = trainer.runner
    val = read_split(runner.dataset, "val", image_memory(plan.cfg.data))
    predict = make_predict(runner.teacher_net, runner.teacher_config["precision"], plan=runner.ctx.plan)
    scores = group_scores(make_task(runner.info, plan.cfg), predict, val)
    parameters = sum(p.numel() for p in runner.teacher_net.parameters())
    return {
        "net": net_words(runner.teacher_config),
        "parameters": parameters,
        "val": scores.by(plan.cfg.evaluate.headline),
    }


def _track(ctx: Context, result: Mapping[str, Any]) -> None:
    """One child run a size, so that a chart over them shows error against cost; the answer as the verdict."""
    for row in result["sizes"]:
        values = {"net": row["net"], "width": row["width"], "best_arm": row["best_arm"]}
        child = ctx.tracker.child(f"size {row['name']}", values, {"group": child_name(ctx.tracker.name, row["net"])})
        child.metrics({f"val/{name}": arm["val_mean"] for name, arm in row["arms"].items()})
        child.metrics({f"val_sd/{name}": arm["val_sd"] for name, arm in row["arms"].items()})
        child.metrics(
            {f"cost/{name}": float(value) for name, value in row["costs"].items()} | {"result/val": row["val"]}
        )
        if "int8_val" in row:
            child.metrics({"result/int8_val": row["int8_val"]})
        child.close("FINISHED")
    ctx.tracker.metrics({"val/teacher": result["teacher"]["val"], "result/sizes": float(len(result["sizes"]))})
    ctx.tracker.verdict(result["verdict"])
    ctx.tracker.tags({"enough": result["enough"], "best": result["best"]})
