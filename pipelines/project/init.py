"""`cgankd init`: a ready project from a folder or a list of the user's own images."""

from __future__ import annotations

import io
import os
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from csv import writer
from dataclasses import dataclass
from pathlib import Path

from cgankd.config import ConfigError
from cgankd.data.readers.list_columns import Columns
from cgankd.data.readers.survey import Fit, square_copy
from pipelines.files.params import preset_text, set_values, write_text
from pipelines.files.pinned import template, write_pin
from pipelines.project.dvc_file import project_stages
from pipelines.project.fitted import fitted, image_size
from pipelines.project.own_data import KINDS, OwnData, look_at_csv, look_at_folder
from pipelines.search.config import load_searched

PRESETS = {True: "own-scalar", False: "own-classes"}
COPIES = "data/images"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user asks for beside the images themselves; None leaves it to the data."""

    task: str | None = None
    """class or scalar, of a list whose labels do not tell."""
    size: int | None = None
    """Pixels a side."""
    fit: str | None = None
    """How copies are made square: crop or pad."""
    copying: bool = False
    """Whether the project gets copies even where nothing has to be changed."""
    columns: Columns = Columns()
    """The columns of a list."""


NOTHING = Wish()


@dataclass(frozen=True)
class Plan:
    """What the user asked for, checked: the data, the size of its images and whether the project gets copies."""

    folder: Path
    data: OwnData
    size: int
    copying: bool
    fit: Fit

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
    if fit is not None and fit not in ("crop", "pad"):
        raise ConfigError(f"--square must be crop or pad, but is {fit!r}")
    if size is not None and not (16 <= size <= 256 and size & (size - 1) == 0):
        raise ConfigError(f"--image-size must be a power of two from 16 to 256, but is {size}")
    folder = folder.resolve()
    given = (images or csv or Path()).resolve()
    if given.is_relative_to(folder):
        raise ConfigError(f"{given} lies inside {folder}; name another folder for the project, outside of the data")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not an empty folder; name a new one, for nothing is overwritten")
    _outside(folder, {given} if images else set())
    data = look_at_csv(given, task, wish.columns) if csv else look_at_folder(given, task)
    # Beside a list is where a project may well lie, and nothing but the list tells what an image is.
    _outside(folder, {path.resolve().parent for path in data.paths} - {given.parent})
    odd = data.survey.not_square
    if odd and fit is None:
        raise ConfigError(
            f"{len(odd)} of {len(data.paths)} images are not square, such as {odd[0]}; add --square crop (their middle)"
            " or --square pad (all of them, on a square): the project then has copies of its own"
        )
    copying = wish.copying or fit is not None
    return Plan(folder, data, image_size(data, size, copying=copying), copying, "pad" if fit == "pad" else "crop")


def _outside(folder: Path, tops: set[Path]) -> None:
    """Raise ConfigError where the project would lie in a folder of images, which then takes it for a class."""
    for top in sorted(tops):
        if folder.is_relative_to(top):
            raise ConfigError(f"{folder} lies inside the images in {top}; name a folder outside of them")


def summary(plan: Plan) -> list[str]:
    """What was found and decided, for the user."""
    data, survey = plan.data, plan.data.survey
    colour = "grey" if survey.grey else "colour"
    change = "" if survey.median_side == plan.size else f" (median side {survey.median_side}; --image-size changes it)"
    lines = [
        f"{len(data.paths)} images, {colour}; labels: {KINDS[data.scalar]} ({data.why}{data.switch})",
        f"image size {plan.size}{change}",
    ]
    if data.scalar:
        lines.append(f"labels from {data.numbers[0]:g} to {data.numbers[-1]:g}")
    return [*lines, *data.said]


def init(plan: Plan, say: Callable[[str], None]) -> None:
    """Write the project: params.yaml, dvc.yaml, code.json, README, git and DVC with a first commit."""
    folder, data = plan.folder, plan.data
    if shutil.which("git") is None:
        raise ConfigError("git is not installed; a project needs it")
    folder.mkdir(parents=True, exist_ok=True)
    root, watched = _data_files(plan, say)
    params = folder / "params.yaml"
    write_text(params, preset_text(PRESETS[data.scalar]).replace(_head(data.scalar), _new_head(plan), 1))
    columns = Columns() if plan.copying else data.columns
    own = {"data.root": root, "data.path_column": columns.path, "data.label_column": columns.label}
    set_values(params, fitted(data, plan.size) | own | {"tracking.preset": plan.name})
    load_searched(params)
    write_text(folder / "dvc.yaml", project_stages(watched))
    for name in ("gitignore", "dvcignore"):
        write_text(folder / f".{name}", template(name))
    write_text(folder / "README.md", _readme(plan, root))
    write_pin(folder)
    _repository(plan, say)


def _head(scalar: bool) -> str:
    """The comment at the top of the preset, which tells how to do by hand what init does."""
    return "".join(line for line in preset_text(PRESETS[scalar]).splitlines(keepends=True)[:5] if line.startswith("#"))


def _new_head(plan: Plan) -> str:
    data = plan.data
    return (
        f"# {plan.name}: {len(data.paths)} images, labels are {KINDS[data.scalar]} ({data.why}). Fitted by `cgankd init`;"
        "\n# steps and widths are those of a small set on two cores: raise them for more images.\n"
    )


def _data_files(plan: Plan, say: Callable[[str], None]) -> tuple[str, list[str]]:
    """data.root of the project and what `prepare` watches beside it; copies are made here where they are wanted."""
    data = plan.data
    if not plan.copying:
        return str(data.root), [] if data.source != "csv" else _image_folder(data, plan.folder)
    top = plan.folder / COPIES
    listing = io.StringIO()
    rows = writer(listing, lineterminator="\n")
    rows.writerow(["path", "label"])
    for number, (path, label) in enumerate(zip(data.paths, data.labels, strict=True)):
        target = top / f"{number:06d}.png"
        if data.source != "csv":
            inside = path.relative_to(data.root).parent
            target = top / inside / f"{path.stem}-{number:06d}.png"
        square_copy(path, target, size=plan.size, grey=data.survey.grey, fit=plan.fit)
        rows.writerow([f"images/{number:06d}.png", label])
    say(f"{len(data.paths)} images copied to {COPIES}, {plan.size}x{plan.size} pixels each")
    if data.source != "csv":
        return COPIES, []
    write_text(plan.folder / "data" / "labels.csv", listing.getvalue())
    return "data/labels.csv", [COPIES]


def _image_folder(data: OwnData, project: Path) -> list[str]:
    """The folder of a list's images, where it holds hardly more than them; DVC reads every file of it."""
    top = Path(os.path.commonpath([path.resolve().parent for path in data.paths]))
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
        colour="grey" if data.survey.grey else "colour",
        labels=labels,
        root=str(data.root),
        watching=watching,
    )


def _repository(plan: Plan, say: Callable[[str], None]) -> None:
    """git and DVC with a first commit, under a name of the tool's where the user has given git none."""
    folder = plan.folder
    _run(folder, "git", "-c", "init.defaultBranch=main", "init", "--quiet")
    _run(folder, sys.executable, "-m", "dvc", "init", "--quiet")
    write_text(folder / ".dvc" / "config", "[core]\n    analytics = false\n    check_update = false\n")
    if plan.copying:
        _run(folder, sys.executable, "-m", "dvc", "add", "--quiet", COPIES)
    _run(folder, "git", "add", "--all")
    known = (
        subprocess.run(["git", "config", "user.email"], cwd=folder, capture_output=True, check=False).returncode == 0
    )
    names = [] if known else ["-c", "user.name=cgankd", "-c", "user.email=cgankd@localhost"]
    _run(folder, "git", *names, "commit", "--quiet", "--message", f"Project made by cgankd init from {plan.data.root}")
    say(f"{folder} is a git and DVC repository with a first commit")


def _run(folder: Path, *command: str) -> None:
    """Run a tool in a folder. Raises ConfigError where it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"DVC_NO_ANALYTICS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        words = " ".join(command[2:] if command[0] == sys.executable else command)
        raise ConfigError(f"`{words}` failed in {folder}: {' '.join(done.stdout.split())[-300:]}")
