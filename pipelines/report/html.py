"""`cgankd report`: one HTML file with everything inside, from what the stages left; what is not there yet is said."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from cgankd.measure.longer import in_words
from cgankd.measure.places import FEWEST, places, places_of
from cgankd.measure.twins import copy_sentences
from pipelines.files.layout import STAGES, understood
from pipelines.files.writing import file_meant, replacing
from pipelines.report.advice import advise
from pipelines.report.charts import Interval, Node, array_of, bars, difference_unit, histogram, intervals, pipeline
from pipelines.report.facts import Facts, StageFacts, gather
from pipelines.report.fakes import Fakes, LabelQuality, fake_sheets, label_text, quality, read_fakes, real_sheet
from pipelines.report.groups import draws_section, group_table, sizes_section
from pipelines.report.page import render_page
from pipelines.runtime.progress import duration_text
from pipelines.stages.scores import by_headline

EDGES = (
    ("prepare", "teacher"),
    ("prepare", "cgan"),
    ("cgan", "ratio"),
    ("teacher", "bank"),
    ("ratio", "bank"),
    ("bank", "student"),
    ("student", "evaluate"),
)
LABELS_SHOWN = 30
"""Rows of the table of labels: with more labels, those with the largest label error."""
BINS = 20
ERRORS_SHOWN = 0.95
"""Quantile of the teacher errors at which their histogram ends; they have a long tail."""


@dataclass(frozen=True)
class Histogram:
    """A chart with the names of its groups, and what it leaves out."""

    svg: Markup
    names: tuple[str, ...]
    said: str = ""


def write_report(workdir: Path, path: Path) -> Facts:
    """Write the report of a work folder and return the facts it rests on."""
    path = file_meant(path)
    facts = gather(workdir)
    fakes = read_fakes(workdir, facts.cfg)
    with replacing(path, named=True) as temporary:
        temporary.write_text(render_page("report.html", context(facts, fakes)), encoding="utf-8")
    return facts


def context(facts: Facts, fakes: Fakes | None) -> dict[str, Any]:
    """Everything that the template shows."""
    pool = facts.workdir / "artifacts" / "pool.h5"
    real = real_sheet(facts.workdir)
    labels = quality(fakes, pool) if fakes else []
    worst = sorted(labels, key=lambda one: -one.label_error)[:LABELS_SHOWN]
    label_error = float(fakes.label_error.mean()) if fakes else None
    judged = by_headline(facts.result) if facts.result else None
    with understood("metrics/repeat.json", "cgankd repeat"):
        draws = draws_section(facts.workdir, facts.cfg)
    with understood("metrics/sizes.json", "cgankd sizes"):
        sizes = sizes_section(facts.workdir, facts.cfg)
    ended = [stage.ended for stage in facts.stages.values() if stage.ended]
    return {
        "preset": facts.cfg.tracking.preset,
        "written": time.strftime("%Y-%m-%d %H:%M", time.localtime()),
        "ran": time.strftime("%Y-%m-%d %H:%M", time.localtime(max(ended) / 1000)) if ended else "",
        "result": facts.result,
        "dec": places_of(facts.result) if facts.result else FEWEST,
        "judged": judged,
        "groups": group_table(facts.result, LABELS_SHOWN) if facts.result else None,
        "more_steps": in_words(facts.result["more_steps"], facts.result["headline"]["unit"])
        if facts.result and "more_steps" in facts.result
        else "",
        "copies": copy_sentences(facts.stages["prepare"].metrics or {}),
        "missing": [name for name in STAGES if facts.stages[name].metrics is None],
        "stages": facts.stages,
        "pipeline": pipeline([node(facts, name) for name in STAGES], EDGES),
        "total": duration_text(sum(stage.seconds or 0.0 for stage in facts.stages.values())),
        "sheets": ([real] if real else []) + (fake_sheets(fakes, pool) if fakes else []),
        "ratio_chart": ratio_chart(facts, fakes) if fakes else None,
        "error_chart": error_chart(facts, fakes) if fakes else None,
        "marginal_chart": marginal_chart(fakes) if fakes and fakes.bank_labels is not None else None,
        "labels": [one for one in labels if one in worst],
        "num_labels": len(labels),
        "most": largest(labels),
        "label_error": label_error,
        "headline_unit": fakes.task.headline.unit if fakes else "",
        "arms_chart": arms_chart(judged) if judged else None,
        "gains_chart": gains_chart(judged) if judged else None,
        "draws": draws,
        "sizes": sizes,
        "health": health(facts),
        "lineage": facts.lineage,
        "advice": advise(replace(facts, result=judged), label_error),
    }


def health(facts: Facts) -> list[tuple[str, str, str]]:
    """(stage, mark, sentence) of every check; what the bank stage repeats is left out."""
    found: dict[str, tuple[str, str]] = {}
    for name in STAGES:
        for mark, sentence in facts.stages[name].health:
            found.setdefault(sentence, (name, mark))
    return [(name, mark, sentence) for sentence, (name, mark) in found.items()]


def largest(labels: list[LabelQuality]) -> dict[str, float]:
    """The largest value of each column of the table of labels, for the length of its bars."""
    names = ("label_error", "teacher_error", "ratio", "nearest_fake", "nearest_real")
    most = {name: max([float(getattr(one, name) or 0.0) for one in labels] + [1e-12]) for name in names}
    most["nearest_fake"] = most["nearest_real"] = max(most["nearest_fake"], most["nearest_real"])
    return most


def node(facts: Facts, name: str) -> Node:
    """A stage as a box: its time and its most telling number."""
    stage = facts.stages[name]
    return Node(
        name,
        (stage.time or ("not run yet" if stage.metrics is None else "time not kept"), number(facts, stage)),
        stage.state,
    )


def number(facts: Facts, stage: StageFacts) -> str:
    """The most telling number of a stage in a few words; empty where it has none."""
    metrics = stage.metrics
    if metrics is None:
        return ""
    unit = facts.result["headline"]["unit"] if facts.result else ""
    if stage.name == "evaluate":
        return f"ships {metrics['chosen_arm']}"
    if stage.name == "student":
        arms = [name for name in metrics if name.endswith(".val_mean")]
        return f"{len(arms)} arms x {len(facts.cfg.student.seeds)}"
    texts = {
        "prepare": ("num_train", "{:.0f} train images"),
        "teacher": ("val", f"val {{:.{places([metrics.get('val', 1.0)])}f}} {unit}"),
        "cgan": ("health.diversity", "diversity {:.2f}"),
        "ratio": ("ratio.mean_fake", "mean r {:.2f}"),
        "bank": ("draws", "{:,.0f} drawn"),
    }
    key, form = texts[stage.name]
    return form.format(metrics[key]).strip() if isinstance(metrics.get(key), int | float) else ""


def ratio_chart(facts: Facts, fakes: Fakes) -> Histogram:
    """Density ratios of fakes that M1 kept and dropped, with where real images stand."""
    ratio, dropped = fakes.scores["ratio"], fakes.fate.get("dropped by M1")
    groups = {"all fakes drawn": array_of(ratio)}
    if dropped is not None:
        groups = {
            "passed M1": array_of(ratio[fakes.scores["in_subsample"].bool()]),
            "dropped by M1": array_of(ratio[dropped]),
        }
    found = {
        "1: as likely real as fake": 1.0,
        "mean of validation images": facts.metric("ratio", "ratio.mean_val_real"),
    }
    marks = {name: value for name, value in found.items() if value is not None}
    axis = "density ratio r(x given y)"
    return Histogram(histogram(groups, axis, title="Density ratios", marks=marks), tuple(groups))


def error_chart(facts: Facts, fakes: Fakes) -> Histogram:
    """Teacher errors of fakes that M2 kept and dropped, with where real images stand."""
    error, dropped = fakes.scores["teacher_error"], fakes.fate.get("dropped by M2")
    groups = {"all fakes drawn": array_of(error)}
    if dropped is not None and "kept" in fakes.fate:
        groups = {"kept": array_of(error[fakes.fate["kept"]]), "dropped by M2": array_of(error[dropped])}
    val = facts.metric("bank", "teacher_error_val_mean")
    top = float(np.quantile(np.concatenate(list(groups.values())), ERRORS_SHOWN))
    # A mean of real images far beyond the fakes would flatten them: it is then said under the chart.
    near = val is not None and val <= 3 * top
    axis = "teacher error against the label asked"
    marks = {"mean of validation images": val} if val is not None and near else {}
    svg = histogram(groups, axis, title="Teacher errors", marks=marks, top_quantile=ERRORS_SHOWN)
    said = f"Validation images have a mean teacher error of {val:.3g}, right of all this." if val and not near else ""
    return Histogram(svg, tuple(groups), said)


def marginal_chart(fakes: Fakes) -> Markup:
    """How often each label (or bin) occurs in the training images and in the bank."""
    assert fakes.bank_labels is not None
    real, bank = fakes.train.labels.double(), fakes.bank_labels.double()
    if fakes.info.class_names:
        names = list(fakes.info.class_names)
        counts = [torch.bincount(values.long(), minlength=len(names)).double() for values in (real, bank)]
    else:
        low, high = fakes.info.label_min, fakes.info.label_max
        counts = [torch.histc(values, BINS, low, high) for values in (real, bank)]
        names = [label_text(fakes.info, low + (high - low) * (i + 0.5) / BINS).split()[0] for i in range(BINS)]
    shares = {n: (100 * c / c.sum()).tolist() for n, c in zip(("training images", "bank"), counts, strict=True)}
    unit = f" ({fakes.info.label_unit})" if fakes.info.label_unit else ""
    return bars(names, shares, f"label{unit}", "share of the set (%)", title="Labels of training images and bank")


def arms_chart(result: dict[str, Any]) -> Markup:
    """Test scores of every arm with the teacher's line."""
    headline = result["headline"]
    rows = [
        Interval.of_values(
            f"{name} (ships)" if name == result["chosen_arm"] else name,
            arm["values"],
            result["confidence"],
            colour=int(arm["uses_bank"]) + 2 * int(arm.get("uses_unlabelled", False)),
            strong=name == result["chosen_arm"],
        )
        for name, arm in result["arms"].items()
    ]
    better = "right" if headline["higher_is_better"] else "left"
    axis = f"{headline['name']} ({headline['unit']}), better to the {better}"
    return intervals(rows, axis, title="Test scores of every arm", mark=result["teacher"], mark_name="teacher")


def gains_chart(result: dict[str, Any]) -> Markup:
    """Paired gains over real and over the best real-only arm."""
    rows = []
    for name, arm in result["arms"].items():
        for key, rival, colour in (("gain", "real", 0), ("rival_gain", result["best_real_arm"], 1)):
            if key in arm and not (key == "rival_gain" and rival == "real"):
                strong = name == result["chosen_arm"]
                label = f"{name} over {rival}"
                rows.append(Interval(label, arm[key], arm[f"{key}_low"], arm[f"{key}_high"], (), colour, strong))
    axis = f"paired gain ({difference_unit(result['headline']['unit'])}), right of zero is better"
    return intervals(rows, axis, title="What each arm gains, seed by seed", mark=0.0)
