"""`cgankd init`: a ready project from a folder or a list of the user's own images."""

from __future__ import annotations

import io
import os
import string
from collections import Counter
from collections.abc import Callable
from csv import writer
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from cgankd.config.data import COLOUR, COLUMN, FOLDER
from cgankd.data.readers.class_words import by_class
from cgankd.data.readers.decode import copy_image
from cgankd.data.readers.list_columns import Columns
from cgankd.data.readers.survey import WHITE
from cgankd.data.readers.walk import same_form
from pipelines.files.params import preset_text, set_values, write_text
from pipelines.files.pinned import template, write_pin
from pipelines.project.appearing import appearing
from pipelines.project.dvc_file import project_stages
from pipelines.project.fitted import fitted
from pipelines.project.own_data import KINDS, OwnData, look_at_csv, look_at_folder
from pipelines.project.own_groups import divided, group_names
from pipelines.project.own_images import (
    FITS,
    Rules,
    Wanted,
    about_images,
    few_lines,
    looked_over,
    unlabelled,
    usable,
    with_unlabelled,
)
from pipelines.project.pretrained import members, proposal
from pipelines.project.repository import check_git, make_repository
from pipelines.project.whole_turn import check_period, class_question, question, turn_lines
from pipelines.search.config import load_searched

PRESETS = {True: "own-scalar", False: "own-classes"}
COPIES = "data/images"
GROUP = "group"
"""Column of groups in the list of copies."""


@dataclass(frozen=True, kw_only=True)
class Wish(Wanted):
    """What the user asks for beside the images themselves; None leaves it to the data."""

    task: str | None = None
    """class or scalar, of a list whose labels do not tell."""
    label_period: float | None = None
    """Length of a turn of labels that go round, which then are measured."""
    copying: bool = False
    """Whether the project gets copies even where nothing has to be changed."""
    columns: Columns = Columns()
    """The columns of a list."""
    groups: str | None = None
    """Which images belong together, as `data.groups` says it."""
    unlabelled: Path | None = None
    """Folder of images without labels."""


NOTHING = Wish()


@dataclass(frozen=True)
class Plan:
    """What the user asked for, checked: the data, what becomes of its images and whether the project gets copies.

    `skipped` are files left out because they are no good, with the reason.
    """

    folder: Path
    data: OwnData
    rules: Rules
    copying: bool
    skipped: tuple[str, ...] = ()
    groups: str | None = None
    """`data.groups`, for the images where they lie now."""
    unlabelled: Path | None = None
    unlabelled_skipped: bool = False

    @property
    def changes(self) -> dict[str, Any]:
        """Settings by dotted name that differ from the preset, but for what depends on where the project is."""
        channels = self.rules.channels
        return fitted(self.data, self.size, channels) | self.rules.changes() | members(channels)

    @property
    def size(self) -> int:
        return self.rules.image_size

    @property
    def name(self) -> str:
        return self.folder.name


def make_plan(folder: Path, images: Path | None, csv: Path | None, wish: Wish = NOTHING) -> Plan:
    """Look at everything before anything is written. Raises ConfigError with what is wrong and its cure."""
    task, size, fit = wish.task, wish.size, wish.fit
    if images is not None and csv is not None:
        raise ConfigError(f"both --images {images} and --csv {csv} were given; keep the one that has your labels")
    if images is not None and wish.columns != Columns():
        raise ConfigError("--path-column and --label-column are for --csv FILE; the folders of --images are the labels")
    if images is None and csv is None:
        raise ConfigError("name your images with one of --images FOLDER or --csv FILE")
    if task not in (None, *KINDS.values()):
        raise ConfigError(f"--task must be one of {', '.join(KINDS.values())}, but is {task!r}")
    check_period(wish.label_period, wish.task, listed=csv is not None)
    if fit is not None and fit not in FITS:
        raise ConfigError(f"--square must be crop, pad or stretch, but is {fit!r}")
    if COLOUR.fullmatch(wish.background) is None:
        raise ConfigError(f"--background must be a colour such as {WHITE}, but is {wish.background!r}")
    if size is not None and not (16 <= size <= 256 and size & (size - 1) == 0):
        raise ConfigError(f"--image-size must be a power of two from 16 to 256, but is {size}")
    folder = folder.resolve()
    given = (images or csv or Path()).resolve()
    if given.is_relative_to(folder):
        raise ConfigError(f"{given} lies inside {folder}; name another folder for the project, outside of the data")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not an empty folder; name a new one, for nothing is overwritten")
    _outside(folder, {given} if images else set())
    data = _looked_at(given, wish, listed=csv is not None)
    # Beside a list is where a project may well lie, and nothing but the list tells what an image is.
    _outside(folder, {Path(os.path.realpath(path)).parent for path in data.paths} - {given.parent})
    more = None if wish.unlabelled is None else unlabelled(wish.unlabelled, folder, data)
    data, rules, skipped = looked_over(data, wish)
    plan = Plan(folder, data, rules, wish.copying or data.own_list, (*data.skipped, *skipped), wish.groups)
    lines = divided(data, PRESETS[data.scalar], plan.changes | {"data.groups": wish.groups})
    if more is not None:
        said, wrong = usable(more, rules, skip_broken=wish.skip_broken)
        plan, lines = replace(plan, unlabelled=more.place, unlabelled_skipped=wrong), (*lines, *said)
    return replace(plan, data=replace(data, said=(*data.said, *lines)))


def _looked_at(given: Path, wish: Wish, *, listed: bool) -> OwnData:
    if not listed:
        return _asked(look_at_folder(given, wish.task, wish.groups), wish)
    period = wish.label_period
    task = wish.task if period is None else KINDS[True]
    data = look_at_csv(given, task, wish.columns, wish.groups, skip_broken=wish.skip_broken)
    if not data.scalar:
        return _asked(data, wish)
    if period is None:
        return replace(data, said=(*data.said, *question(data.numbers)))
    return replace(data, label_period=period, why=f"--label-period {period:g}" if wish.task is None else data.why)


def _asked(data: OwnData, wish: Wish) -> OwnData:
    """Classes with a question where their names could be a turn; none where the user says that they are classes."""
    said = class_question(sorted(set(data.labels)), listed=data.source == "csv") if wish.task is None else []
    return replace(data, said=(*data.said, *said))


def _outside(folder: Path, tops: set[Path]) -> None:
    """Raise ConfigError where the project would lie in a folder of images, which then takes it for a class."""
    for top in sorted(tops):
        if folder.is_relative_to(top):
            raise ConfigError(f"{folder} lies inside the images in {top}; name a folder outside of them")


def summary(plan: Plan) -> list[str]:
    """What was found and decided, for the user."""
    data, survey = plan.data, plan.data.survey
    colour = "grey" if plan.rules.channels == 1 else "colour"
    change = "" if survey.median_side == plan.size else f" (median side {survey.median_side}; --image-size changes it)"
    lines = [
        f"{len(data.paths)} images, {colour}; labels: {KINDS[data.scalar]} ({data.why}{data.switch})",
        f"image size {plan.size}{change}",
    ]
    if data.scalar:
        lines.append(f"labels from {data.numbers[0]:g} to {data.numbers[-1]:g}")
        lines += turn_lines(data)
    else:
        lines.append(f"images by class: {by_class(Counter(data.labels))}")
    if plan.skipped:
        what = "files or lines" if data.skipped else "files"
        lines += [f"{len(plan.skipped)} {what} skipped (--skip-broken):", *few_lines(plan.skipped)]
    return [*lines, *about_images(data.survey, plan.rules), *data.said, *proposal(plan.rules.channels)]


def init(plan: Plan, say: Callable[[str], None]) -> None:
    """Write the project: params.yaml, dvc.yaml, code.json, README, git and DVC with a first commit."""
    check_git()
    with appearing(plan.folder) as place:
        _write(replace(plan, folder=place), plan, lambda text: say(text.replace(str(place), str(plan.folder))))


def _write(plan: Plan, wanted: Plan, say: Callable[[str], None]) -> None:
    """All files of a project in `plan.folder`, which will be `wanted.folder`."""
    folder, data = plan.folder, plan.data
    root, watched = _data_files(plan, wanted.folder, say)
    watched += [str(wanted.unlabelled)] if wanted.unlabelled else []
    params = folder / "params.yaml"
    write_text(params, preset_text(PRESETS[data.scalar]).replace(_head(data.scalar), _new_head(wanted), 1))
    set_values(params, plan.changes | _own_values(wanted, root) | with_unlabelled(plan.unlabelled, data.scalar))
    load_searched(params)
    write_text(folder / "dvc.yaml", project_stages(watched))
    for name in ("gitignore", "dvcignore"):
        write_text(folder / f".{name}", template(name))
    write_text(folder / "README.md", _readme(wanted, root))
    write_pin(folder)
    message = f"Project made by cgankd init from {data.root}"
    make_repository(folder, COPIES if plan.copying else None, message, say)


def _own_values(plan: Plan, root: str) -> dict[str, Any]:
    broken = plan.unlabelled_skipped or (plan.skipped and not plan.copying)  # no copy of a labelled one is
    skipping = {"data.skip_broken": True} if broken else {}
    columns = Columns() if plan.copying else plan.data.columns
    named = {"data.path_column": columns.path, "data.label_column": columns.label}
    groups = plan.groups
    if plan.copying and groups is not None:
        groups = f"{COLUMN}{GROUP}" if plan.data.source == "csv" else FOLDER
    return {"data.root": root, "tracking.preset": plan.name, "data.groups": groups} | skipping | named


def _head(scalar: bool) -> str:
    """The comment at the top of the preset, which tells how to do by hand what init does."""
    return "".join(line for line in preset_text(PRESETS[scalar]).splitlines(keepends=True)[:5] if line.startswith("#"))


def _new_head(plan: Plan) -> str:
    data = plan.data
    return (
        f"# {plan.name}: {len(data.paths)} images, labels are {KINDS[data.scalar]} ({data.why}). Fitted by `cgankd init`;"
        "\n# steps and widths are those of a small set on two cores: raise them for more images.\n"
    )


def _data_files(plan: Plan, project: Path, say: Callable[[str], None]) -> tuple[str, list[str]]:
    """data.root of the project and what `prepare` watches beside it; copies are made here where they are wanted."""
    data = plan.data
    if not plan.copying:
        return str(data.root), [] if data.source != "csv" else _image_folder(data, project)
    top = plan.folder / COPIES
    listing = io.StringIO()
    rows = writer(listing, lineterminator="\n")
    groups = group_names(data.grouping) if data.grouping else []
    rows.writerow(["path", "label", *([GROUP] if groups else [])])
    for number, (path, label) in enumerate(zip(data.paths, data.labels, strict=True)):
        target = top / f"{number:06d}.png"
        if data.source != "csv":
            inside = path.relative_to(data.root).parent
            if groups:
                inside = _class_folder(inside, label) / groups[number]
            target = top / inside / f"{path.stem}-{number:06d}.png"
        copy_image(path, target, plan.rules)
        rows.writerow([f"images/{number:06d}.png", label, *groups[number : number + 1]])
    say(f"{len(data.paths)} images copied to {COPIES}, {plan.size}x{plan.size} pixels each")
    if data.source != "csv":
        return COPIES, []
    write_text(plan.folder / "data" / "labels.csv", listing.getvalue())
    return "data/labels.csv", [COPIES]


def _class_folder(inside: Path, label: str) -> Path:
    """The class folder, with that of a split above it, of a path below the folder of all images."""
    depth = max(depth for depth, name in enumerate(inside.parts[:2]) if same_form(name) == label)
    return Path(*inside.parts[: depth + 1])


def _image_folder(data: OwnData, project: Path) -> list[str]:
    """The folder of a list's images, where it holds hardly more than them; DVC reads every file of it."""
    top = Path(os.path.commonpath([Path(os.path.realpath(path)).parent for path in data.paths]))
    if project == top or project.is_relative_to(top):
        return []
    most, count = 2 * len(data.paths) + 10, 0
    for path in top.rglob("*"):
        count += path.is_file()
        if count > most:
            return []
    return [str(top)]


def _readme(plan: Plan, root: str) -> str:
    data = plan.data
    low, high = (data.numbers[0], data.numbers[-1]) if data.scalar else (0.0, 0.0)
    labels = f"a label from {low:g} to {high:g}" if data.scalar else f"{len(set(data.labels))} classes"
    watching = (
        f"The images lie in `{root}`, outside this folder; DVC notices when they change, but keeps no copy of them."
    )
    if plan.copying:
        watching = f"The images are copies in `{COPIES}`, kept by DVC (`dvc push` takes them to a remote of yours)."
    return string.Template(template("README.md")).substitute(
        name=plan.name,
        count=len(data.paths),
        size=plan.size,
        colour="grey" if plan.rules.channels == 1 else "colour",
        labels=labels,
        root=str(data.root),
        watching=watching,
    )
