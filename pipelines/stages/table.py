"""The table at the end: arms, means over seeds, paired gains and the verdict, from metrics/evaluate.json."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cgankd.measure.longer import in_words
from cgankd.measure.places import places_of, with_ends
from cgankd.measure.verdict import LEAST_SEEDS, TOO_FEW
from pipelines.stages.scores import by_headline


def render(result: dict[str, Any]) -> Group:
    """A rich renderable of an evaluate.json dict; scores and gains are those that the arms were chosen by."""
    other, result = _other(result), by_headline(result)
    headline, arms = result["headline"], result["arms"]
    better = "higher" if headline["higher_is_better"] else "lower"
    level = f"{100 * result['confidence']:.0f} %"
    few = f", {TOO_FEW}" if result["num_seeds"] < LEAST_SEEDS else ""
    table = Table(
        title=f"{headline['name']} in {headline['unit']} ({better} is better)",
        caption=f"{result['num_seeds']} seeds{few}; every arm {result['steps']} steps of {result['batch_size']} images; gains"
        f" with {level} paired intervals",
        box=box.SIMPLE_HEAD,
        padding=0,  # the box has a space between columns already; the table fits 80 letters
        title_style="bold",
    )
    # Five columns fit 80 letters, so the best step takes the place of the second gain, which evaluate.json has too.
    with_best = any("best" in arm for arm in arms.values())
    table.add_column("", no_wrap=True)
    table.add_column("arm", overflow="fold")  # a long name takes two lines before a number is cut
    for name in ("val", "test", *(["best step"] if with_best else []), "gain over real"):
        table.add_column(name, justify="right", no_wrap=True)
    if not with_best:
        table.add_column("over best real-only", justify="right", no_wrap=True)
    dec = places_of(result)
    table.add_row("", "teacher", f"{result['teacher_val']:.{dec}f}", f"{result['teacher']:.{dec}f}", "", "")
    table.add_section()
    previous = (False, False)
    for name, arm in arms.items():
        family = (arm["uses_bank"], arm.get("uses_unlabelled", False))
        if any(family) and family != previous:
            table.add_section()
        previous = family
        mark = "*" if name == result["chosen_arm"] else "o" if name == result["best_real_arm"] else " "
        cells = [mark, name, f"{arm['val_mean']:.{dec}f}", f"{arm['mean']:.{dec}f}+-{arm['sd']:.{dec}f}"]
        gains = [_interval(arm, key, dec) for key in ("gain", *(() if with_best else ("rival_gain",)))]
        table.add_row(
            *cells,
            *([_best(arm, dec)] if with_best else []),
            *gains,
            style="bold green" if name == result["chosen_arm"] else "",
        )
    note = (
        "* ships, o best real-only arm: both by their mean on validation. The test split is only reported."
        " Gains are paired by seed, positive = better. Seeds vary the student alone: one data split, one teacher,"
        " one GAN, one bank."
    )
    if mixed := [name for name, arm in arms.items() if arm.get("uses_unlabelled")]:
        note += f" With unlabelled images: {', '.join(mixed)}."
    if with_best:
        note += " Best step: test with the weights of each seed's best validation point."
    if other:
        note += f" {other}"
    more = [longer_table(result)] if "more_steps" in result else []
    return Group(table, *more, Text(result["verdict"], style="bold"), Text(note, style="dim"))


def longer_table(result: dict[str, Any]) -> Group:
    """Test scores of the arms by number of steps, and what fakes gain at each."""
    rows, dec = result["more_steps"], places_of(result)
    table = Table(title="with more steps", box=box.SIMPLE_HEAD, padding=0, title_style="bold")
    table.add_column("arm", overflow="fold")
    for factor in rows:
        table.add_column(f"x {factor}", justify="right", no_wrap=True)
    for name in result["arms"]:
        cells = [row["arms"][name] for row in rows.values()]
        table.add_row(name, *(f"{cell['mean']:.{dec}f}+-{cell['sd']:.{dec}f}" for cell in cells))
    return Group(table, Text(in_words(rows, result["headline"]["unit"])))


def _other(result: dict[str, Any]) -> str:
    """Test scores of the kind that the arms were not chosen by, in a sentence; empty where an older result has one kind."""
    if "chosen_by" not in result:
        return ""
    by_mean, kind = result["chosen_by"] == "mean", result["groups"]["kind"]
    arms = {name: (arm["balanced"] if by_mean else arm)["mean"] for name, arm in result["arms"].items()}
    names = dict.fromkeys(("real", result["best_real_arm"], result["chosen_arm"]))
    numbers = ", ".join(f"{name} {arms[name]:.{places_of(result)}f}" for name in names)
    over = f"Balanced, with each {kind} counting alike," if by_mean else "Over all images"
    return f"{over} test is {numbers}."


def _interval(arm: dict[str, Any], key: str, decimals: int) -> str:
    return with_ends(arm, key, decimals, comma=",") if key in arm else ""


def _best(arm: dict[str, Any], decimals: int) -> str:
    best = arm.get("best")
    return f"{best['mean']:.{decimals}f}+-{best['sd']:.{decimals}f}" if best else ""
