"""The floor plan of the house: what each part is for, what it may import, which service it alone knows.

One source: tests/test_architecture.py checks the code against it, and CONTRIBUTING.md prints it
(`python -m tests.floors` writes its tables anew).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONTRIBUTING = ROOT / "CONTRIBUTING.md"


@dataclass(frozen=True)
class Part:
    """One wing of pipelines/ or hall of cgankd/."""

    purpose: str
    may: tuple[str, ...]
    """Other parts it may import; all of them lie below it."""
    services: tuple[str, ...] = ()
    """Packages that are imported nowhere else, save in other parts that name them too."""


WINGS: dict[str, Part] = {
    "commands": Part(
        "the words a user types; nothing but Typer",
        (
            "report",
            "repeat",
            "sizes",
            "project",
            "search",
            "audit",
            "ship",
            "device",
            "stages",
            "runtime",
            "files",
            "locks",
            "tracking",
        ),
        ("typer",),
    ),
    "report": Part(
        "what a person looks at: the page, the comparison, `show`",
        ("sizes", "project", "search", "ship", "stages", "networks", "runtime", "files", "tracking"),
        ("jinja2",),
    ),
    "repeat": Part(
        "one thing many times: the whole pipeline over draws and what holds over them, all shards of a bank",
        ("project", "stages", "rounds", "networks", "engines", "runtime", "files", "pictures", "tracking"),
    ),
    "sizes": Part(
        "students of other nets and widths: what each costs and answers, which one fits",
        ("search", "ship", "device", "stages", "students", "runtime", "files", "pictures", "tracking"),
        ("optuna",),
    ),
    "project": Part(
        "a project of one's own: `init`, `doctor`, the files they write",
        ("search", "networks", "engines", "runtime", "files", "tracking"),
    ),
    "search": Part(
        "the study: trials, pool, best, curves",
        ("stages", "students", "networks", "engines", "runtime", "files", "locks", "pictures", "tracking"),
        ("optuna", "optuna_dashboard", "sqlalchemy"),
    ),
    "audit": Part("is the bank any good", ("networks", "runtime", "files", "pictures")),
    "ship": Part(
        "export, model card, registry, serve, predict",
        ("device", "networks", "files", "tracking"),
        ("mlflow", "uvicorn"),
    ),
    "device": Part(
        "the student as files for phones and boards, each run by its own runtime",
        (),
        ("litert_torch", "ai_edge_quantizer", "ai_edge_litert", "tflite_micro", "executorch", "torchao", "onnxruntime"),
    ),
    "stages": Part(
        "the seven stages, one module each, as in dvc.yaml and params.yaml",
        ("students", "rounds", "teachers", "networks", "engines", "runtime", "files", "pictures", "tracking"),
    ),
    "rounds": Part(
        "what fakes are drawn with, rounds near what a probe student finds hard, blocks that survive a kill, shards",
        ("networks", "runtime", "files"),
    ),
    "teachers": Part("the members of a teacher: their trainings, put together", ("networks", "runtime", "files")),
    "students": Part("training one arm at one seed, anywhere", ("networks", "files", "locks")),
    "networks": Part(
        "nets as files: rebuilt from what a stage saved, or brought by the user",
        ("runtime", "files"),
    ),
    "engines": Part(
        "where independent jobs run: worker processes of this machine, or a Ray cluster",
        ("runtime", "files", "locks", "tracking"),
        ("ray", "fsspec"),
    ),
    "runtime": Part(
        "what every stage run stands on: context, machine, progress",
        ("files", "locks", "tracking"),
    ),
    "files": Part(
        "what lies in a work folder: params.yaml, artifacts, the code's pin, the run behind a result",
        ("tracking",),
        ("ruamel",),
    ),
    "locks": Part(
        "one writer at a time in a work folder, also of several ranks, and what a killed one left half written", ()
    ),
    "pictures": Part("every picture, in one style", (), ("matplotlib",)),
    "tracking": Part("MLflow, and the JSON lines beside it", (), ("mlflow", "sqlalchemy")),
}
"""pipelines/, top to bottom. Each may also import its own modules and all of cgankd/ but `cgankd.__main__`."""

BASE = ("config", "types", "rng")
HALLS: dict[str, Part] = {
    "export": Part(
        "the module that is shipped, and its ONNX and torch.export forms",
        (*BASE, "data.pixels", "data.regular", "labels.answers", "labels.circle"),
        ("onnx", "onnxruntime"),
    ),
    "measure": Part("numbers that judge a bank, an arm, a gain", (*BASE, "data", "labels.answers", "labels.circle")),
    "distill": Part(
        "what runs a KD loss: engine, options, composites",
        (*BASE, "data", "distill.losses", "fit.device", "fit.ranks", "labels.circle"),
    ),
    "distill.losses": Part(
        "the catalogue of KD losses, a module a family", (*BASE, "data", "distill", "labels.circle")
    ),
    "bank": Part(
        "M1's rejection, M2's filter and labels, the pool they are cut from",
        (*BASE, "data.batches", "data.store.banks"),
    ),
    "ratio": Part(
        "M1's features and conditional density ratio",
        (
            *BASE,
            "data",
            "nets",
            "nets.gans",
            "fit.device",
            "fit.loop",
            "fit.pieces",
            "fit.ranks",
            "fit.schedule",
            "fit.watch",
            "labels.circle",
            "labels.targets",
        ),
    ),
    "gan": Part(
        "training the conditional GAN, and drawing from it or from the user's own",
        (
            *(*BASE, "data", "nets.gans", "nets.predictors.resnet"),
            *("fit.device", "fit.ema", "fit.loop", "fit.pieces", "fit.ranks", "fit.room", "fit.schedule", "fit.watch"),
            *("labels.circle", "labels.targets"),
        ),
    ),
    "fit": Part("the loop that trains a teacher or student, and the plan of the device", (*BASE, "data")),
    "labels": Part(
        "the seam: what differs between class and scalar labels, which labels count as near",
        (*BASE, "nets.gans.label_embed"),
    ),
    "nets": Part("feature extractor and ratio net of M1", (*BASE, "nets.predictors")),
    "nets.predictors": Part("teachers and students by name", (*BASE, "data.regular"), ("timm",)),
    "nets.gans": Part("generators, discriminators, label embeddings", BASE),
    "data.readers": Part("sources: public sets, folders, lists, the user's own", (*BASE, "data", "data.store")),
    "data.store": Part("data sets, pools and banks in HDF5", (*BASE, "data"), ("h5py",)),
    "data": Part("a data set in memory, batches, augmentation, pixels", BASE),
    "rng": Part("draws as functions of (seed, what for, step)", ()),
    "types": Part("the words everybody uses: Split, Task, Outputs, ...", ()),
    "config": Part("every setting, a dataclass a section of params.yaml", ()),
}
"""cgankd/, top to bottom. `cgankd/__init__.py` exports names of them; `cgankd/__main__.py` opens the command line."""


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of cgankd and pipelines; a package goes by its own name."""
    found: dict[str, Path] = {}
    for package in ("cgankd", "pipelines"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def names_imported(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each import of a file, those inside functions too; (module, "") of `import module`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


@cache
def imported(module: str) -> frozenset[str]:
    """The modules of this repository that a module imports."""
    known = modules()
    found = set()
    for source, name in names_imported(known[module]):
        for candidate in (f"{source}.{name}", source):
            if candidate in known:
                found.add(candidate)
                break
    return frozenset(found)


@cache
def reached(module: str) -> frozenset[str]:
    """A module with all that it imports, directly or not, and the packages they lie in."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting.extend(imported(name))
        above = name.rpartition(".")[0]
        if above in modules():
            waiting.append(above)
    return frozenset(seen)


def wing_of(module: str) -> str | None:
    """ "pipelines.search.best" -> "search"; None for what lies in no wing."""
    parts = module.split(".")
    return parts[1] if parts[0] == "pipelines" and len(parts) > 2 else None


def hall_of(module: str) -> str:
    """ "cgankd.data.store.files" -> "data.store", "cgankd.data.pixels" -> "data", "cgankd.labels.task" -> "task"."""
    parts = module.split(".")[1:]
    inner = ".".join(parts[:2])
    return inner if inner in HALLS else parts[0]


def arrows() -> dict[tuple[str, str], int]:
    """(wing, other wing) -> imports of modules of the one by modules of the other."""
    count: dict[tuple[str, str], int] = {}
    for module in modules():
        for other in imported(module):
            pair = wing_of(module), wing_of(other)
            if pair[0] and pair[1] and pair[0] != pair[1]:
                count[pair[0], pair[1]] = count.get((pair[0], pair[1]), 0) + 1
    return count


def size(package: str) -> tuple[int, int]:
    """Modules and lines of a wing or hall, without those of halls inside it."""
    top = package.split(".")[0]
    if top == "pipelines":
        own = [m for m in modules() if wing_of(m) == package.split(".")[1]]
    else:
        own = [m for m in modules() if m.startswith("cgankd.") and hall_of(m) == package.removeprefix("cgankd.")]
    own = [m for m in own if modules()[m].name != "__init__.py"]
    return len(own), sum(len(modules()[m].read_text().splitlines()) for m in own)


def table(package: str, parts: dict[str, Part]) -> str:
    """The parts as a Markdown table, top to bottom."""
    head = "| part | for | may import | alone knows |\n|---|---|---|---|\n"
    lines = []
    for name, part in parts.items():
        may = [other for other in part.may if other not in BASE]
        base = "base" if package == "cgankd" and set(BASE) <= set(part.may) else ""
        below = ", ".join(f"`{other}`" for other in may)
        cell = ", ".join(filter(None, (base, below))) or "nothing"
        knows = ", ".join(part.services)
        lines.append(f"| `{name.replace('.', '/')}` | {part.purpose} | {cell} | {knows} |")
    return head + "\n".join(lines) + "\n"


def printed(text: str) -> str:
    """CONTRIBUTING.md with both tables as they are now."""
    for package, parts in (("pipelines", WINGS), ("cgankd", HALLS)):
        begin, end = f"<!-- floors of {package} -->\n", f"<!-- end of {package} -->"
        before, found, rest = text.partition(begin)
        assert found, f"CONTRIBUTING.md has no line {begin.strip()}"
        text = before + begin + table(package, parts) + end + rest.partition(end)[2]
    return text


def counted() -> str:
    """Modules, lines and arrows of today, for a person."""
    rows = [(f"pipelines/{name}", *size(f"pipelines.{name}")) for name in WINGS]
    rows += [(f"cgankd/{name.replace('.', '/')}", *size(f"cgankd.{name}")) for name in HALLS]
    sizes = "\n".join(f"{name}: {count} modules, {lines} lines" for name, count, lines in rows)
    between = "\n".join(f"{a} -> {b}: {n}" for (a, b), n in sorted(arrows().items()))
    return f"{sizes}\n\nimports between wings, {sum(arrows().values())} in all\n{between}\n"


if __name__ == "__main__":
    CONTRIBUTING.write_text(printed(CONTRIBUTING.read_text()))
    sys.stdout.write(counted())
