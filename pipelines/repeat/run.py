"""All draws in turn, and metrics/repeat.json: the table over draws with its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cgankd.config import Config, ConfigError, to_dict
from cgankd.config.settings import LARGEST
from cgankd.measure import draws as measure
from cgankd.measure.verdict import Choice
from cgankd.types import Headline
from pipelines.engines.choice import engine_name, executor
from pipelines.engines.executor import Hear
from pipelines.engines.local import Crew
from pipelines.files.artifacts import fingerprint, source_digest
from pipelines.files.layout import STAGES
from pipelines.files.params import flatten
from pipelines.files.pinned import changed_code
from pipelines.networks.named_files import beside
from pipelines.pictures import stages as pictures
from pipelines.project.repository import is_up_to_date
from pipelines.repeat.jobs import Turn, do_draw
from pipelines.repeat.one_draw import CODE, Draw, adopt, is_done, key_of, make_draw, run_draw
from pipelines.repeat.own_files import watched_by_dvc
from pipelines.repeat.table import render
from pipelines.runtime.context import Context
from pipelines.stages.scores import by_headline
from pipelines.tracking.names import repeat_names

LEAST, MOST = 2, 1000


def seeds_of(cfg: Config, num: int, first: int | None) -> list[int]:
    """The seeds of the draws: that of params.yaml and those after it, or from `first` on. Raises ConfigError."""
    if not LEAST <= num <= MOST:
        raise ConfigError(f"--draws must be from {LEAST} (an interval needs them) to {MOST}, but is {num}")
    start = cfg.seed if first is None else first
    if start + num - 1 > LARGEST:
        name = "seed" if first is None else "--first-seed"
        raise ConfigError(f"{name} must be at most {LARGEST - num + 1}, so that {num} seeds fit, but is {start}")
    return list(range(start, start + num))


def work_of(cfg: Config, seeds: Sequence[int]) -> str:
    """Digest of what a repeat works on: settings, seeds and code. One that was stopped goes on in its tracked run."""
    facts = {"settings": flatten(to_dict(cfg)), "seeds": list(seeds), "code": source_digest(*CODE)}
    return fingerprint(facts, {})


def run(ctx: Context, num: int, first: int | None = None, *, changed: bool = False) -> None:
    """Run every draw that is not done and write what holds over them; `changed` tells of settings laid over params.yaml.

    Raises as the stages do; what is finished by then is kept.
    """
    cfg = beside(ctx.cfg, ctx.workdir)
    device = {"threads": torch.get_num_threads(), "device": ctx.plan.device, "compile": ctx.plan.compile}
    draws = [make_draw(cfg, seed, ctx.workdir) for seed in seeds_of(cfg, num, first)]
    ctx.say(f"{num} draws, seeds {draws[0].seed} to {draws[-1].seed}, in artifacts/repeat")
    for draw in draws:
        mine = draw.seed == ctx.cfg.seed and not changed and not _begun(draw, device)
        if mine and made_by_dvc(ctx.cfg, ctx.workdir):
            adopt(draw, ctx.workdir, device)
            ctx.say(f"draw {draw.seed}: that of params.yaml, made before by dvc repro; taken over")
    found = summary(ctx.cfg, draws, results_of(ctx, draws, device))
    ctx.write_json("repeat", found)
    ctx.tracker.metrics(repeat_names(found))
    ctx.tracker.verdict(found["verdict"])
    ctx.picture("gains", pictures.gains_over_draws(found))
    ctx.show(render(found))


def results_of(ctx: Context, draws: Sequence[Draw], device: dict[str, Any]) -> list[dict[str, Any]]:
    """Run what is not done of the draws and return metrics/evaluate.json of each, in their order.

    On a cluster draws run side by side, each as on a machine of its own; the images are prepared here, where they lie.
    """
    with Turn(ctx, draws, device) as turn:
        numbers = range(len(draws))
        if engine_name() == "local":
            turn.here()
            jobs = [turn.job(number) for number in numbers]
        else:
            for number in numbers:
                run_draw(draws[number], turn.tracker(number), ctx.console, device, STAGES[:1])
            jobs = [turn.job(number) for number in numbers if not turn.kept(number)]
        crew = Crew(1, "draws", cores=device["threads"], gpus=float(device["device"] == "cuda"), whole=True)
        executor().map(do_draw, jobs, crew, Hear(ctx.say, told=turn.told, ended=turn.ended))
        return [turn.results[number] for number in numbers]


def made_by_dvc(cfg: Config, workdir: Path) -> bool:
    """Whether `dvc repro` made what lies in a work folder, of these images and files and with the code installed now.

    A project's dvc.yaml depends on code.json alone, so that after an upgrade DVC finds nothing changed.
    """
    return not changed_code(workdir) and watched_by_dvc(cfg, workdir) and is_up_to_date(workdir)


def _begun(draw: Draw, device: dict[str, Any]) -> bool:
    """Whether the draw's own data set is there, so that nothing need be taken over."""
    return is_done(draw, "prepare", key_of(draw, "prepare", device))


def summary(cfg: Config, draws: Sequence[Draw], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """metrics/repeat.json: what cgankd.measure.draws finds over the results, by the score that arms were chosen by."""
    judged = [by_headline(result) for result in results]
    headline = Headline(**judged[0]["headline"])
    units = [
        measure.Draw(
            seed=draw.seed,
            teacher=one["teacher"],
            test={name: arm["mean"] for name, arm in one["arms"].items()},
            val={name: arm["val_mean"] for name, arm in one["arms"].items()},
            uses_bank={name: arm["uses_bank"] for name, arm in one["arms"].items()},
            uses_unlabelled={name: arm.get("uses_unlabelled", False) for name, arm in one["arms"].items()},
            choice=Choice(
                chosen=one["chosen_arm"],
                best_bank=one["best_bank_arm"],
                best_real=one["best_real_arm"],
                best_unlabelled=one.get("best_unlabelled_arm"),
                best_both=one.get("best_both_arm"),
            ),
        )
        for draw, one in zip(draws, judged, strict=True)
    ]
    confidence = cfg.evaluate.confidence
    found = measure.over_draws(units, headline, confidence)
    first = judged[0]
    return {
        "headline": first["headline"],
        "confidence": confidence,
        "num_students": first["num_seeds"],
        "steps": first["steps"],
        "batch_size": first["batch_size"],
        "settings": {key: value for key, value in flatten(to_dict(cfg)).items() if key != "seed"},
        "verdict": measure.draws_verdict(found, headline, confidence),
    } | found
