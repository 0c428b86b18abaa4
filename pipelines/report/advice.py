"""What to do next: a few rules on what the stages measured, each with its numbers and the command to type.

Rules of thumb, not theorems. What they choose between arms is decided on validation; test numbers only say whether an
interval still holds zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cgankd.bank.short import percent
from cgankd.measure.places import places, places_of, with_ends
from pipelines.files.layout import STAGES
from pipelines.report.facts import Facts
from pipelines.report.stronger import stronger_teacher
from pipelines.ship.card import LICENCES

TEACHER_LEAD = 0.15
"""Share of the student's error that a teacher must take off to be worth distilling."""
ACCEPTANCE_LEAST = 0.3
M1_TO_BLAME = 0.1
"""Where M1 accepts less of a label that lacks fakes, it is the generator that is at fault, else the filter."""
FAKES_PER_REAL = 3.0
"""The gain grows steeply up to two or three times as many fakes as real images."""
SEEDS_MOST = 60


@dataclass(frozen=True)
class Advice:
    """One step: what to do, the numbers that say so, the command; `level` is problem, improve or confirm."""

    title: str
    why: str
    command: str
    level: str = "improve"


def advise(facts: Facts, label_error: float | None) -> list[Advice]:
    """Steps in the order to take them; `label_error` is that of all fakes drawn, in the unit of the headline."""
    rules: list[Callable[[], Iterator[Advice]]] = [
        lambda: missing_stages(facts),
        lambda: stale_stages(facts),
        lambda: health(facts),
        lambda: weak_teacher(facts),
        lambda: wrong_labels(facts, label_error),
        lambda: fakes_ran_out(facts),
        lambda: low_acceptance(facts),
        lambda: few_fakes(facts),
        lambda: idle_steps(facts),
        lambda: curves(facts),
        lambda: more_seeds(facts),
        lambda: audit(facts),
        lambda: confirm(facts),
        lambda: ship(facts),
    ]
    return [advice for rule in rules for advice in rule()]


def missing_stages(facts: Facts) -> Iterator[Advice]:
    """The pipeline is not through."""
    missing = [name for name in STAGES if facts.stages[name].metrics is None]
    if missing:
        yield Advice("Run the stages that are missing", f"Not run yet: {', '.join(missing)}.", "dvc repro", "problem")


def stale_stages(facts: Facts) -> Iterator[Advice]:
    """Results of other settings than those of params.yaml."""
    for name in STAGES:
        changed = facts.stages[name].changed
        if changed:
            why = f"{', '.join(changed[:4])} changed in params.yaml since {name} ran, so its results are of other settings."
            yield Advice(f"Run {name} again", why, "dvc repro", "problem")
            return


def health(facts: Facts) -> Iterator[Advice]:
    """Every check that failed, in its own words, which name the cure; the bank repeats those of earlier stages."""
    said = set()
    for name in STAGES:
        for mark, sentence in facts.stages[name].health:
            if mark != "ok" and sentence not in said:
                said.add(sentence)
                text = sentence[:1].upper() + sentence[1:] + "."
                yield Advice(f"Health check of {name}", text, f"cgankd show {name}", "problem")


def weak_teacher(facts: Facts) -> Iterator[Advice]:
    """A teacher hardly better than the best real-only student has little to give."""
    if facts.result is None:
        return
    teacher, name = float(facts.result["teacher_val"]), facts.result["best_real_arm"]
    student, unit = float(facts.result["arms"][name]["val_mean"]), facts.result["headline"]["unit"]
    if facts.result["headline"]["higher_is_better"] or student <= 0:
        return
    lead = (student - teacher) / student
    if lead < TEACHER_LEAD:
        dec = places([teacher, student])
        why = (
            f"On validation the teacher has {teacher:.{dec}f} {unit}, the best real-only student ({name})"
            f" {student:.{dec}f} {unit}: {100 * lead:.0f} % less error (at least {100 * TEACHER_LEAD:.0f} % is worth distilling)."
        )
        title, more, command = stronger_teacher(facts)
        yield Advice(title, f"{why} {more}".strip(), command)


def wrong_labels(facts: Facts, label_error: float | None) -> Iterator[Advice]:
    """Fakes that show their label worse than the student already knows it teach mistakes."""
    if facts.result is None or label_error is None or facts.result["headline"]["higher_is_better"]:
        return
    name, unit = facts.result["best_real_arm"], facts.result["headline"]["unit"]
    student = float(facts.result["arms"][name]["val_mean"])
    if label_error > student and facts.cfg.cgan.file is None:
        dec = places([student])
        why = (
            f"By the teacher the labels of the fakes drawn are off by {label_error:.{dec}f} {unit}, more than the validation"
            f" error of the best real-only student ({name}, {student:.{dec}f} {unit})."
        )
        yield Advice("Train the GAN longer", why, f"dvc exp run -S cgan.num_steps={2 * facts.cfg.cgan.num_steps}")


def fakes_ran_out(facts: Facts) -> Iterator[Advice]:
    """Labels whose fakes ran out, and what stood in the way: the source, M1 or M2."""
    names = ("labels", "have", "quota", "draws", "accepted_share", "passed_share", "source_ended")
    found = [facts.metric("bank", f"short.{name}") for name in names]
    if None in found:
        return
    labels, have, quota, draws, accepted, passed, ended = (value or 0.0 for value in found)
    factor = facts.cfg.bank.max_draws_factor
    why = f"{labels:.0f} label{'s lack' if labels > 1 else ' lacks'} fakes, the emptiest has {have:.0f} of {quota:.0f}"
    if ended:
        why += f": the source of fakes had {draws:.0f} images for it, of which {percent(passed)} pass."
        yield Advice("More images in the source of fakes", why, "cgankd show bank", "problem")
    elif accepted < M1_TO_BLAME and facts.cfg.cgan.file is not None:
        why += f" after {draws:.0f} draws: M1 accepts only {percent(accepted)} of them, so cgan.file is far from the data there."
        yield Advice("A source of fakes nearer to the training images", why, "cgankd show bank", "problem")
    elif accepted < M1_TO_BLAME:
        why += f" after {draws:.0f} draws: M1 accepts only {percent(accepted)} of them, so the GAN is far from the data there."
        yield Advice("A better GAN", why, f"dvc exp run -S cgan.num_steps={2 * facts.cfg.cgan.num_steps}", "problem")
    else:
        why += (
            f" after {draws:.0f} draws: M1 accepts {percent(accepted)} of them, but the teacher sees the label in few, as"
            f" {percent(passed)} pass the filter too."
        )
        yield Advice(
            "More draws, or a looser filter", why, f"dvc exp run -S bank.max_draws_factor={2 * factor:g}", "problem"
        )


def low_acceptance(facts: Facts) -> Iterator[Advice]:
    """M1 that throws most fakes away: the generator is far from the data."""
    share = facts.metric("bank", "subsample.acceptance")
    if share is not None and share < ACCEPTANCE_LEAST and facts.cfg.cgan.file is None:
        least = f"under {100 * ACCEPTANCE_LEAST:.0f} % is little"
        why = f"M1 accepts {100 * share:.0f} % of the draws ({least}): the GAN is far from the data."
        yield Advice("A better GAN", why, f"dvc exp run -S cgan.num_steps={2 * facts.cfg.cgan.num_steps}")


def few_fakes(facts: Facts) -> Iterator[Advice]:
    """Fewer fakes than a few times the real images leave gain on the table."""
    real = facts.metric("prepare", "num_train")
    if real is not None and facts.metric("bank", "draws") and facts.cfg.bank.num_fakes < FAKES_PER_REAL * real:
        want = int(FAKES_PER_REAL * real)
        have = f"{facts.cfg.bank.num_fakes} fakes for {real:.0f} real images"
        why = f"{have}; gains usually grow up to {FAKES_PER_REAL:g} times as many."
        yield Advice("More fakes", why, f"dvc exp run -S bank.num_fakes={want}")


def idle_steps(facts: Facts) -> Iterator[Advice]:
    """Raw fakes that do as well on validation as processed ones: M1 and M2 are not set right for them."""
    if facts.result is None or "raw" not in facts.result["arms"] or facts.result["headline"]["higher_is_better"]:
        return
    arms, unit = facts.result["arms"], facts.result["headline"]["unit"]
    processed = [n for n in ("subsample", "filter", "filter_only", "replace") if n in arms]
    if processed and all(arms["raw"]["val_mean"] <= arms[n]["val_mean"] for n in processed):
        best, dec = min(processed, key=lambda n: float(arms[n]["val_mean"])), places_of(facts.result)
        why = (
            f"On validation raw fakes have {arms['raw']['val_mean']:.{dec}f} {unit}, the best processed ones ({best})"
            f" {arms[best]['val_mean']:.{dec}f} {unit}; rho is {facts.cfg.bank.rho:g}. The search turns it and the other knobs"
            f" of search.space for the arm {facts.cfg.search.arm}."
        )
        ships = facts.result["chosen_arm"]
        if not filters(facts, ships):
            why += f" {ships}, which ships, does not filter: this pays only if a filtered arm comes out ahead of it."
        yield Advice("Search the settings of the filter", why, "cgankd search")


def filters(facts: Facts, name: str) -> bool:
    """Whether an arm takes filtered fakes; the arm that `student` adds with KD is named after the one it copies."""
    arms = facts.cfg.student.arms
    arm = arms.get(name) or arms.get(name.removesuffix("_kd"))
    return arm is not None and arm.filter


def curves(facts: Facts) -> Iterator[Advice]:
    """One rho and one number of fakes were tried."""
    if facts.result is None or not facts.result.get("best_bank_arm"):
        return
    bank = facts.cfg.bank
    why = (
        f"The bank was made with rho {bank.rho:g} and {bank.num_fakes} fakes; the curves show, on validation, what other"
        f" values gain for the arm {facts.cfg.search.arm}."
    )
    yield Advice("See whether other settings gain more", why, "cgankd search curves")


def more_seeds(facts: Facts) -> Iterator[Advice]:
    """An interval that holds zero: how many seeds would settle a gain of this size, if it is one."""
    for name, key, rival in undecided(facts.result):
        assert facts.result is not None
        arm, unit = facts.result["arms"][name], facts.result["headline"]["unit"]
        gain, half, n = float(arm[key]), float(arm[f"{key}_high"]) - float(arm[key]), facts.result["num_seeds"]
        need = math.ceil(n * (half / gain) ** 2) + 1 if gain > 0 else None
        ends = with_ends(arm, key, places_of(facts.result))
        size = f"{name} gains {ends} {unit} over {rival} with {n} seeds"
        if need is None or need > SEEDS_MOST:
            tail = "no gain to be seen" if need is None else f"about {need} seeds would be needed to prove it"
            yield Advice("Improve the bank before adding seeds", f"{size}: {tail}.", "cgankd show bank")
        else:
            seeds = ",".join(map(str, range(need)))
            why = f"{size}; if the gain is real, about {need} seeds would prove it."
            yield Advice("More seeds", why, f"dvc exp run -S 'student.seeds=[{seeds}]'")


def undecided(result: dict[str, Any] | None) -> Iterator[tuple[str, str, str]]:
    """(arm, key, rival) of the best bank arm where its interval over a rival holds zero: the harder rival only."""
    name = (result or {}).get("best_bank_arm")
    if not result or not name:
        return
    for key, rival in (("rival_gain", result["best_real_arm"]), ("gain", "real")):
        arm = result["arms"][name]
        if key in arm and arm[f"{key}_low"] <= 0 <= arm[f"{key}_high"]:
            yield name, key, rival
            return


def confirm(facts: Facts) -> Iterator[Advice]:
    """The intervals are over student seeds: another split is the next thing to doubt."""
    if facts.result is None or (facts.workdir / "metrics" / "repeat.json").exists():
        return
    why = "Intervals are over student seeds; one split, one teacher, one GAN and one bank stand behind them."
    yield Advice("Repeat it over draws", why, "cgankd repeat --draws 5", "confirm")


def audit(facts: Facts) -> Iterator[Advice]:
    """A bank may hold copies of training images, which only an audit shows."""
    found = facts.audit
    if facts.metric("bank", "draws") is None or not (facts.workdir / "artifacts" / "bank.h5").exists():
        return
    if found is None or not found.current:
        why = "metrics/audit.json is missing" if found is None else "metrics/audit.json is of another bank.h5"
        why += ": whether fakes are copies of training images, which leak private data, is not known."
        yield Advice("Audit the bank before you pass it on", why, "cgankd bank audit")
    elif found.alarms:
        names = ", ".join(found.alarms[:6]) + (f" and {len(found.alarms) - 6} more" if len(found.alarms) > 6 else "")
        why = f"{len(found.alarms)} of its {found.num} numbers are alarming: {names}. plots/audit has pictures."
        yield Advice("Look at the alarms of the audit", why, "cgankd bank audit", "problem")


def ship(facts: Facts) -> Iterator[Advice]:
    """The end of the road, once every stage stands by its results."""
    if facts.result is None or any(stage.state != "done" for stage in facts.stages.values()):
        return
    name = facts.result["chosen_arm"]
    if not facts.exported:
        why = f"ONNX and torch.export files of {name}, compared with it on real images, with size and latency."
        yield Advice("Export the student", why, "cgankd export", "confirm")
    why = f"{name} goes into MLflow's registry as champion, with a model card"
    known = LICENCES.get(facts.cfg.data.source)
    if known:
        yield Advice("Ship it", f"{why}; licence of its data: {known}.", "cgankd ship", "confirm")
    else:
        command = "cgankd ship --data-licence 'LICENCE OF YOUR IMAGES'"
        yield Advice("Ship it", f"{why}, which names the licence of your images.", command, "confirm")
