"""The whole curve of the gain against one knob: rho of the filter, and the number of fakes M^g."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console

from cgankd.bank.build import EmptyBankError
from cgankd.config import BankConfig, ConfigError
from cgankd.measure.predictive import Gain, paired_gain
from cgankd.measure.verdict import describe
from pipelines.files.artifacts import write_json
from pipelines.pictures import search as pictures_search
from pipelines.search.best import pick, recording, save
from pipelines.search.config import SearchedConfig
from pipelines.search.margin import scores
from pipelines.search.run import Search, say
from pipelines.search.space import with_values
from pipelines.tracking.journal import Tracker


@dataclass(frozen=True)
class Control:
    """The same student without fakes, whom the arm is compared with: its validation score on each seed."""

    seeds: list[int]
    values: list[float]


def curves(search: Search, console: Console, number: int | None, num_seeds: int | None) -> None:
    """The gain of the arm over the same student without fakes, against rho and against M^g, all else as in a trial.

    Without a study, or with number -1, all else is as in params.yaml.
    """
    cfg = search.cfg
    if number != -1:
        cfg = with_values(cfg, pick(search.study(), number).params)
    seeds = list(cfg.student.seeds[:num_seeds]) if num_seeds else list(cfg.search.seeds)
    if len(seeds) < 2:
        raise ConfigError("a curve with intervals needs at least 2 seeds; name more by --seeds")
    arm = cfg.student.arms[cfg.search.arm]
    real_only = replace(arm, bank=False, subsample=False, filter=False, replace=False)
    control = Control(seeds, scores(search, cfg, seeds, real_only))
    grids: dict[str, list[float]] = {"bank.num_fakes": fakes_grid(cfg.bank)}
    if arm.filter:
        grids = {"bank.rho": sorted({*(round(0.1 * i, 1) for i in range(1, 11)), cfg.bank.rho})} | grids
    else:
        say(console, f"the arm {cfg.search.arm!r} does not filter, so there is no curve against bank.rho")
    record: dict[str, Any] = {"seeds": seeds, "control": control.values}
    with recording(search, console) as tracker:
        for key, grid in grids.items():
            points = curve_points(search, cfg, key, grid, control, console)
            record[key] = {str(x): asdict(gain) for x, gain in points.items()}
            tracker.curve(f"gain.{key}", [(round(1000 * x) if x <= 1 else int(x), g.gain) for x, g in points.items()])
            draw_curve(search, cfg.bank, key, points, tracker)
    write_json(search.workdir / "artifacts" / "search" / "curves.json", record, sort_keys=False)
    say(
        console,
        "plots/search/gain_rho.png and gain_num_fakes.png hold the curves, artifacts/search/curves.json the numbers",
    )


def fakes_grid(bank: BankConfig) -> list[float]:
    """Bank sizes from a sixteenth to twice the present one, but no fewer than ten fakes."""
    return [float(n) for n in sorted({max(10, round(bank.num_fakes * 2.0**power)) for power in range(-4, 2)})]


def curve_points(
    search: Search,
    cfg: SearchedConfig,
    key: str,
    grid: Sequence[float],
    control: Control,
    console: Console,
) -> dict[float, Gain]:
    """The gain at each value of one knob; a value that gives no bank is said and left out."""
    points = {}
    for x in grid:
        value = round(x) if key == "bank.num_fakes" else x
        try:
            found = scores(search, with_values(cfg, {key: value}), control.seeds)
        except EmptyBankError as error:
            say(console, f"{key} = {value}: no bank ({error})")
            continue
        higher, confidence = search.headline.higher_is_better, search.cfg.evaluate.confidence
        points[x] = paired_gain(control.values, found, higher_is_better=higher, confidence=confidence)
        say(console, f"{key} = {value:g}: gain {describe(points[x], search.headline.unit)}")
    return points


def draw_curve(search: Search, bank: BankConfig, key: str, points: dict[float, Gain], tracker: Tracker) -> None:
    """plots/search/gain_<knob>.png, the present value of the knob marked."""
    if not points:
        return
    current = float(bank.num_fakes if key == "bank.num_fakes" else bank.rho)
    what = "rho, share of fakes that the filter keeps" if key == "bank.rho" else "M^g, fakes in the bank"
    unit = "points" if search.headline.unit == "%" else search.headline.unit
    figure = pictures_search.gain_curve(
        points,
        current,
        (what, f"gain on validation ({unit})"),
        f"Gain of {search.cfg.search.arm!r} over the same student without fakes, seed by seed",
        confidence=search.cfg.evaluate.confidence,
        log=key == "bank.num_fakes",
    )
    save(search, tracker, f"gain_{key.removeprefix('bank.')}", figure)
