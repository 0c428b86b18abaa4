"""The model card: what a student is, what it was made from, how good it is and where it should not be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cgankd.bank.build import selection_name
from cgankd.config import ConfigError
from cgankd.config.distill import arm_label
from cgankd.data.regular import parse_json
from cgankd.data.store.banks import of_fakes, read_attributes, read_pool_scores
from cgankd.data.store.datasets import read_split
from cgankd.data.store.stream import MemoryBudget
from cgankd.labels.answers import Margin
from cgankd.measure.places import places, places_of, with_ends
from cgankd.measure.predictive import mean_interval
from cgankd.measure.twins import copy_sentences
from cgankd.types import DatasetInfo
from pipelines.files.artifacts import file_digest, read_record
from pipelines.files.layout import missing, understood
from pipelines.files.made import check_made
from pipelines.files.runs import read_metrics
from pipelines.ship.exported import Exported, device_section
from pipelines.ship.saved import Finished, Package, net_words

LICENCES = {
    "digits": "CC BY 4.0 (E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning"
    " Repository; the copy in scikit-learn)",
    "hands": "Apache-2.0 (A. Mavi, Sign Language Digits Dataset, arXiv 2011.08927; reduced to 32x32 pixels)",
    "chairs": "MIT (the images are made by the code of this project)",
}
"""Licence of each embedded source; of anything else only the user knows it."""
NOT_STATED = "not stated; state it with `cgankd ship --data-licence TEXT`"


@dataclass(frozen=True)
class Lineage:
    """Where a student's images came from; `fakes` and `drawn` are zero for a student of real images alone."""

    source: str
    root: str
    licence: str
    real: dict[str, int]
    fakes: int
    drawn: int
    switches: dict[str, Any]
    rho: float | None
    seed: int
    digests: dict[str, str]
    groups: int | None = None
    """Groups of images that were never divided between the splits."""
    copies: tuple[str, ...] = ()
    """What to say of copies across the splits."""
    unlabelled: int = 0
    """Unlabelled images that were trained on with the teacher's answers."""


def lineage(workdir: Path, student: Package, licence: str | None, *, root: str, seed: int) -> Lineage:
    """Counts and digests read off the artifacts, beside data.root, the seed and the licence that only the user knows.

    Raises ConfigError where an artifact is missing or they do not belong together.
    """
    folder = workdir / "artifacts"
    dataset, pool = folder / "dataset.h5", folder / "pool.h5"
    files = {"student": folder / "student.safetensors", "teacher": folder / "teacher.safetensors", "dataset": dataset}
    digests = {name: file_digest(path) for name, path in files.items()}
    runs = read_record(folder / "students" / "runs.json")
    with understood("artifacts/students/runs.json", "cgankd student"):
        switches = dict(runs["arms"][student.config["arm"]]["switches"])
        selection = selection_name(switches["subsample"], switches["filter"])
        needs_pool = switches["bank"] or switches.get("unlabelled")
    of_pool = _OfPool()
    if needs_pool:
        if not pool.exists():
            raise missing(pool)
        check_made(pool)
        attributes = read_attributes(pool)
        if any(attributes.get(name) != digests[name] for name in ("dataset", "teacher")):
            raise ConfigError("artifacts/pool.h5 was made from another data set or teacher; run all stages again")
        with understood("artifacts/pool.h5", "cgankd bank"):
            of_pool = _of_pool(pool, attributes, selection, switches)
    real = {
        "training": len(read_split(dataset, "train", MemoryBudget(0))),
        "validation": len(read_split(dataset, "val", MemoryBudget(0))),
    }
    # Counted by `prepare`: nothing but `evaluate` opens the test split.
    prepared = read_metrics(workdir / "metrics" / "prepare.json", "cgankd prepare")
    if prepared is None:
        raise ConfigError("metrics/prepare.json is missing; run `cgankd prepare` first")
    with understood("metrics/prepare.json", "cgankd prepare"):
        real["test"] = int(prepared["num_test"])
        groups = int(prepared["groups"]) if "groups" in prepared else None
    return Lineage(
        source=student.info.source,
        root=root,
        licence=licence or LICENCES.get(student.info.source, NOT_STATED),
        real=real,
        fakes=of_pool.fakes,
        drawn=of_pool.drawn,
        switches=switches,
        rho=of_pool.rho,
        seed=seed,
        digests=digests | of_pool.digests,
        groups=groups,
        copies=tuple(copy_sentences(prepared)),
        unlabelled=of_pool.unlabelled,
    )


@dataclass(frozen=True)
class _OfPool:
    """What the pool adds to the lineage of a student with fakes or unlabelled images."""

    fakes: int = 0
    drawn: int = 0
    unlabelled: int = 0
    rho: float | None = None
    digests: dict[str, str] = field(default_factory=dict)


def _of_pool(pool: Path, attributes: Mapping[str, Any], selection: str, switches: Mapping[str, Any]) -> _OfPool:
    scores, fakes, unlabelled = read_pool_scores(pool), (0, 0), 0
    digests = {"pool": file_digest(pool)}
    if switches["bank"]:
        fakes = fakes_of(scores, selection, hard=bool(switches.get("hard")))
        digests |= {"cgan": str(attributes["cgan"])}
    if switches.get("unlabelled"):
        unlabelled = int(scores[f"unlabelled_{selection}"].sum())
        digests |= {"unlabelled": str(attributes["unlabelled"])}
    rho = float(parse_json(str(attributes["config"]))["rho"]) if switches["filter"] else None
    return _OfPool(*fakes, unlabelled, rho, digests)


def fakes_of(scores: Mapping[str, Tensor], selection: str, *, hard: bool) -> tuple[int, int]:
    """Fakes of a selection and those they were chosen from; with `hard` those of later rounds are among them."""
    plain = of_fakes(scores)
    if hard:
        return int(scores[f"in_hard_{selection}"].sum()), int((scores["round"] > 0).sum())
    return int(plain[f"in_{selection}"].sum()), len(plain["asked"])


def model_card(name: str, finished: Finished, origin: Lineage, exported: Exported | None) -> str:
    """Markdown, the same text for the same artifacts (and, where an export is at hand, its latencies)."""
    student, shown = finished.student, exported or Exported()
    parts = [f"# {name}\n", _use(student, finished.margin), _origin(student, finished.teacher, origin)]
    with understood("metrics/evaluate.json", "cgankd evaluate"):
        parts.append(_results(student, finished.result))
    with understood("artifacts/export/export.json", "cgankd export"):
        parts.append(_formats(shown.server) if shown.server else "")
    with understood("artifacts/export/device.json", "cgankd export"):
        parts.append(device_section(shown.device) if shown.device else "")
    parts.append(_limits(origin))
    return "\n".join(part for part in parts if part)


def _use(student: Package, margin: Margin | None) -> str:
    info, names = student.info, ", ".join(student.answer.names)
    colour = "grey" if info.channels == 1 else "colour"
    size = info.image_size
    text = (
        f"An image network of {student.num_parameters:,} parameters ({net_words(student.config)}),"
        f" distilled by cGAN-KD (arXiv 2104.03164).\n\n"
        f"- **In:** float32 `[batch, {info.channels}, {size}, {size}]`, {colour} pixels at the levels 0 to 255;"
        f" normalisation is inside. {image_rules(info)}\n"
        f"- **Out:** float32 `[batch, {student.answer.num_answers}]`: {names}"
    )
    text += (
        " (probabilities).\n"
        if info.class_names
        else f", from {info.label_min:g} to {info.label_max:g}{_round(info)}.\n"
    )
    if margin is None:
        return text + "- **Confidence:** no margin; there are too few validation images for its level.\n"
    what = "every class whose probability is at least" if info.class_names else "the answer plus or minus"
    bound = 1 - margin.width if info.class_names else margin.width
    return text + (
        f"- **Confidence:** a split-conformal region at {100 * margin.level:g} %: {what} {bound:.4g}"
        f" {info.label_unit}".rstrip()
        + f" (from {margin.num} validation images, on which the student was also chosen: a little optimistic).\n"
    )


def _round(info: DatasetInfo) -> str:
    """Of labels that go round, after which length."""
    return "" if info.label_period is None else f"; it goes round, so that labels {info.label_period:g} apart are one"


def image_rules(info: DatasetInfo) -> str:
    """What was done to the image files, and has to be done to new ones; `cgankd predict` does it."""
    said = {
        "refuse": "Images must be square.",
        "crop": "Of an image that is not square the middle square is used.",
        "pad": "An image that is not square is padded to a square with"
        f" {info.pad_colour or 'the mean colour of its edge'}.",
        "stretch": "An image that is not square is stretched to a square, out of proportion.",
    }[info.fit]
    said += " Larger images are averaged down to that size"
    said += ", smaller ones enlarged (bicubic)." if info.enlarge else "; smaller ones are not taken."
    if info.background != DatasetInfo.background:
        said += f" Transparent parts are laid on {info.background}."
    if info.pixel_range is not None:
        low, high = info.pixel_range
        said += f" Values of grey images of more than 8 bits from {low:g} to {high:g} become 0 to 255."
    return said


def _origin(student: Package, teacher: Package, origin: Lineage) -> str:
    real = ", ".join(f"{count:,} {name}" for name, count in origin.real.items())
    on = [name for name in ("hard", "subsample", "filter", "replace") if origin.switches.get(name)]
    if origin.fakes:
        fakes = f"{origin.fakes:,} fakes out of {origin.drawn:,} scored draws of the conditional GAN; "
        fakes += f"processing: {', '.join(on) or 'none (raw)'}"
        fakes += f"; rho = {origin.rho:g}" if origin.rho is not None else ""
    else:
        fakes = "none" if origin.unlabelled else "none: this student was trained on real images alone"
    settings = student.config["settings"]
    loss = arm_label(settings, origin.switches)
    rows = [
        ("real images", f"{real} from `{origin.source}` (`{origin.root}`){_grouped(origin)}"),
        ("fake images", fakes),
        *([("unlabelled images", _unlabelled(origin, on))] if origin.unlabelled else []),
        ("licence of the data", origin.licence),
        (
            "teacher",
            f"{net_words(teacher.config)}, {teacher.num_parameters:,} parameters"
            f"{f'; KD loss {loss}' if loss else '; no KD loss'}",
        ),
        (
            "training",
            f"arm `{student.config['arm']}`, {settings['num_steps']} steps of {settings['batch_size']} images",
        ),
        (
            "seeds",
            f"{origin.seed} for data, teacher, GAN and bank; students {settings['seeds']}; this one is"
            f" {student.config['seed']}, best of its arm on validation",
        ),
        ("SHA-256", ", ".join(f"{name} `{digest[:12]}`" for name, digest in origin.digests.items())),
    ]
    return "## Lineage\n\n| | |\n|---|---|\n" + "".join(f"| {key} | {value} |\n" for key, value in rows)


def _unlabelled(origin: Lineage, on: list[str]) -> str:
    chosen = f"; chosen by: {', '.join(name for name in on if name != 'replace')}" if on else ""
    return f"{origin.unlabelled:,} real images with the teacher's answers as labels{chosen}"


def _grouped(origin: Lineage) -> str:
    return "" if origin.groups is None else f", in {origin.groups:,} groups that no split divides"


def _results(student: Package, result: dict[str, Any]) -> str:
    headline, level = result["headline"], result["confidence"]
    percent = f"{100 * level:g} %"
    dec = places_of(result)
    lines = [
        f"## Results\n\n{headline['name']} in {headline['unit']},"
        f" {'higher' if headline['higher_is_better'] else 'lower'} is better; {percent} intervals over"
        f" {result['num_seeds']} student seeds.\n",
        f"| | validation | test | test, mean of the arm [{percent}] | gain over `real` [{percent}] |",
        "|---|---|---|---|---|",
        f"| **this student** | {student.config['val']:.{dec}f} | {student.config['test']:.{dec}f} | | |",
        f"| teacher | {result['teacher_val']:.{dec}f} | {result['teacher']:.{dec}f} | | |",
    ]
    shown = dict.fromkeys([result["chosen_arm"], "real", result["best_real_arm"]])
    for name in shown:
        arm = result["arms"][name]
        mean, low, high = mean_interval(arm["values"], level)
        gain = with_ends(arm, "gain", dec) if "gain" in arm else ""
        of_arm = f"{mean:.{dec}f} [{low:.{dec}f}, {high:.{dec}f}]"
        lines.append(f"| arm `{name}` | {arm['val_mean']:.{dec}f} | | {of_arm} | {gain} |")
    return "\n".join(lines) + f"\n\n{result['verdict']}\n"


def _formats(exported: dict[str, Any]) -> str:
    unit = exported["headline"]["unit"]
    lines = [f"## Size and speed\n\n| ONNX | KB | ms an image, one thread | validation ({unit}) |", "|---|---|---|---|"]
    for row in exported["models"]:
        fails = "" if row["holds"] else ", does not hold"
        lines.append(
            f"| {row['network']} {row['arithmetic']}{fails} | {row['bytes'] / 1000:.1f} | {row['latency_ms']:.3f} |"
            f" {row['validation']:.{places([row['validation']])}f} |"
        )
    return "\n".join(lines) + "\n"


def _limits(origin: Lineage) -> str:
    fakes = " Its fakes come from one GAN of the same training images and add no new knowledge of the world."
    copies = "".join(f" {sentence}, so that errors measured on them flatter." for sentence in origin.copies)
    return (
        "## Limits\n\nOne data split, one teacher, one GAN and one bank stand behind these numbers; the intervals are over"
        f" student seeds alone.{fakes if origin.fakes else ''}{copies} Images unlike the training images get an answer too, and"
        " its confidence then means nothing.\n"
    )
