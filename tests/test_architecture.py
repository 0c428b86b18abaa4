"""The rules of the house (CONTRIBUTING): who may import whom, and habits no reviewer should have to watch for."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

LIBRARY = sorted((ROOT / "cgankd").rglob("*.py"))
EDGE = sorted((ROOT / "pipelines").rglob("*.py"))

SECTIONS = {p.stem for p in LIBRARY if p.stem.startswith("config_")}
"""Sections of the settings that have a file of their own."""
FOUNDATION = {"types", "settings", "config", "rng"} | SECTIONS
ALLOWED = {
    "types": set(),
    "settings": set(),
    "config": {"settings"} | SECTIONS,
    **{name: {"settings"} | SECTIONS for name in SECTIONS},
    "rng": set(),
    "vicinity": FOUNDATION,
    "data": FOUNDATION | {"data"},
    "nets": FOUNDATION | {"nets"},
    "task": FOUNDATION | {"vicinity", "nets.label_embed"},
    "fit": FOUNDATION | {"data", "nets", "fit"},
    "gan": FOUNDATION | {"data", "nets", "gan", "fit.device", "fit.ema", "fit.schedule"},
    "bank": FOUNDATION | {"data", "nets", "bank", "fit.device", "fit.ema", "fit.schedule"},
    "distill": FOUNDATION | {"data", "nets", "distill", "fit.device"},
    "measure": FOUNDATION | {"data", "nets", "measure"},
    "export": FOUNDATION | {"data.pixels"},
    "__main__": {"*"},
    "__init__": set(),
}
THIRD_PARTY = {
    "torch",
    "numpy",
    "h5py",
    "torchvision",
    "PIL",
    "sklearn",
    "scipy",
    "safetensors",
    "onnx",
    "onnxruntime",
    "timm",
}
ONE_PLACE: dict[str, str | tuple[str, ...]] = {
    "h5py": "cgankd/data/store",
    "mlflow": ("pipelines/tracking", "pipelines/ship/registry.py"),
    "jinja2": "pipelines/report/page.py",
    "onnx": "cgankd/export.py",
    "onnxruntime": "cgankd/export.py",
    "typer": "pipelines/cli",
    "ruamel": "pipelines/files/params.py",
    "matplotlib": "pipelines/pictures",
    "optuna": "pipelines/search",
    "optuna_dashboard": "pipelines/search",
    "timm": "cgankd/nets/predictors/external.py",
}
STANDARD = __import__("sys").stdlib_module_names


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def home(path: Path) -> str:
    """The part of the library a file belongs to: task.py -> task, data/store.py -> data."""
    parts = path.relative_to(ROOT / "cgankd").with_suffix("").parts
    return parts[0]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_library_imports_follow_the_floor_plan(path: Path) -> None:
    allowed = ALLOWED[home(path)]
    for name in imports(path):
        top = name.split(".")[0]
        if top == "cgankd":
            inside = name.removeprefix("cgankd").lstrip(".")
            ok = any(inside == a or inside.startswith(a + ".") for a in allowed)
            assert ok, f"{path.name} may not import {name}"
        elif home(path) != "__main__":
            assert top in THIRD_PARTY or top in STANDARD, f"{path.name}: the library does not know {name}"


@pytest.mark.parametrize(("package", "only"), list(ONE_PLACE.items()))
def test_services_are_known_to_one_place_each(package: str, only: str | tuple[str, ...]) -> None:
    places = (only,) if isinstance(only, str) else only
    users = [p for p in LIBRARY + EDGE if any(n.split(".")[0] == package for n in imports(p))]
    assert [str(u) for u in users if not any(place in str(u) for place in places)] == []


def strings_compared(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for part in [node.left, *node.comparators]:
                for leaf in ast.walk(part):
                    if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
                        yield leaf.value


@pytest.mark.parametrize("path", LIBRARY + EDGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_seam_knows_the_kind_of_task(path: Path) -> None:
    if path.name in ("task.py", "config.py", "config_data.py"):
        return
    assert not {"class", "scalar"} & set(strings_compared(ast.parse(path.read_text()))), path


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_library_prints_nothing_and_keeps_no_global_state(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global), f"{path}: global statement"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}: print"
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Set | ast.Dict):
            names = [t.id for t in node.targets if isinstance(t, ast.Name)]
            assert all(n.isupper() for n in names), f"{path}: mutable module global {names}"


@pytest.mark.parametrize("path", LIBRARY + EDGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_catch_all_names_and_no_pickles(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}
    tree = ast.parse(path.read_text())
    assert "pickle" not in set(imports(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            flags = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert flags.get("weights_only") == "True", f"{path}: torch.load without weights_only=True"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
            assert "allow_pickle" not in {k.arg for k in node.keywords}


@pytest.mark.parametrize("path", LIBRARY + EDGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path: Path) -> None:
    limit = 480 if path.name == "config.py" else 330
    lines = path.read_text().splitlines()
    assert len(lines) <= limit, f"{path} has {len(lines)} lines"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 125, f"{path}: {node.name}"


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DIRECT = [
    required
    for group in [
        PROJECT["build-system"]["requires"],
        PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"].values(),
    ]
    for required in map(Requirement, group)
    if required.name != "cgankd"
]


def pins(file: str) -> dict[str, Requirement]:
    """The lines of a constraints file by name."""
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return {canonicalize_name(line.name): line for line in map(Requirement, filter(None, lines))}


@pytest.mark.parametrize("required", DIRECT, ids=lambda r: r.name)
def test_lower_bounds_are_the_lowest_versions_tested(required: Requirement) -> None:
    bound = str(required.specifier)
    assert bound.startswith(">=") and "," not in bound, f"{required}: one lower bound, no upper one"
    lowest = pins("constraints-lowest.txt").get(canonicalize_name(required.name))
    assert lowest is not None and str(lowest.specifier) == bound.replace(">=", "=="), f"{required}, tested: {lowest}"


@pytest.mark.parametrize("required", DIRECT, ids=lambda r: r.name)
def test_pins_are_within_the_bounds(required: Requirement) -> None:
    pin = pins("constraints.txt").get(canonicalize_name(required.name))
    if pin is None:
        assert str(required) in PROJECT["build-system"]["requires"], f"{required} is not in constraints.txt"
        return
    (version,) = pin.specifier
    assert version.operator == "==" and required.specifier.contains(version.version), f"{required}, pinned: {pin}"
