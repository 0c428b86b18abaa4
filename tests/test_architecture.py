"""The rules of the house (CONTRIBUTING): who may import whom, and habits no reviewer should have to watch for."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.floors import (
    CONTRIBUTING,
    HALLS,
    WINGS,
    arrows,
    hall_of,
    imported,
    modules,
    names_imported,
    printed,
    wing_of,
)

LIBRARY = sorted((ROOT / "cgankd").rglob("*.py"))
EDGE = sorted((ROOT / "pipelines").rglob("*.py"))
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
STANDARD = __import__("sys").stdlib_module_names
DOORS = {"cgankd", "cgankd.__main__", "pipelines", "pipelines.cli"}
"""Modules in no hall and no wing: the public face and the ways to the command line."""
MOST_MODULES, MOST_LINES, MOST_PARAMETERS = 13, 300, 7


@pytest.mark.parametrize("module", sorted(m for m in modules() if m.startswith("cgankd.")))
def test_library_imports_follow_the_floor_plan(module: str) -> None:
    if module in DOORS:
        return
    own = hall_of(module)
    for other in imported(module):
        assert other.startswith("cgankd."), f"{module} may not import {other}"
        hall, name = hall_of(other), other.removeprefix("cgankd.")
        assert hall == own or {hall, name} & set(HALLS[own].may), f"{module} may not import {other}"
    for source, _ in names_imported(modules()[module]):
        top = source.split(".")[0]
        assert top == "cgankd" or top in THIRD_PARTY or top in STANDARD, f"{module}: the library does not know {source}"


@pytest.mark.parametrize("module", sorted(m for m in modules() if m.startswith("pipelines.")))
def test_wings_import_what_lies_below_them(module: str) -> None:
    if module in DOORS:
        return
    own = wing_of(module) or module.removeprefix("pipelines.")
    for other in imported(module):
        wing = wing_of(other)
        assert wing in (None, own, *WINGS[own].may), f"{module} may not import {other}"
        assert other != "cgankd.__main__" and other not in ("pipelines", "pipelines.cli"), f"{module} imports {other}"


@pytest.mark.parametrize(("plan", "name"), [(p, n) for p in (WINGS, HALLS) for n in p], ids=str)
def test_the_plan_itself_leads_down(plan: dict[str, object], name: str) -> None:
    """What a part may import stands below it, so that an arrow upwards cannot even be allowed.

    A hall inside another one may go with it: the modules of the two make no circle, which the next test looks at.
    """
    order = list(plan)
    for other in plan[name].may:  # type: ignore[attr-defined]
        part = other if other in plan else other.split(".")[0] if other.split(".")[0] in plan else other
        part = next((p for p in order if other == p or other.startswith(p + ".")), part)
        family = name.split(".")[0] == part.split(".")[0]
        assert family or order.index(part) > order.index(name), f"{name} may import {other}, which is not below it"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """No circle anywhere, imports inside functions counted."""
    done: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> None:
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module in done:
            return
        path.append(module)
        for other in sorted(imported(module)):
            visit(other)
        path.pop()
        done.add(module)

    for module in modules():
        visit(module)
    assert len(done) == len(modules()) > 200


def test_every_part_is_in_the_plan_and_every_allowance_is_used() -> None:
    wings = {wing for module in modules() if (wing := wing_of(module))}
    assert wings == set(WINGS) and {hall_of(m) for m in modules() if m.startswith("cgankd.") and m not in DOORS} == set(
        HALLS
    )
    drawn = set(arrows()) | {("commands", "stages")}  # by importlib, as stages are named by the user
    assert drawn == {(name, other) for name, wing in WINGS.items() for other in wing.may}


def test_contributing_prints_the_plan() -> None:
    assert CONTRIBUTING.read_text() == printed(CONTRIBUTING.read_text()), "run `python -m tests.floors`"


SERVICES = sorted({service for part in (*WINGS.values(), *HALLS.values()) for service in part.services})


@pytest.mark.parametrize("service", SERVICES)
def test_services_are_known_to_their_part_alone(service: str) -> None:
    home = {f"pipelines.{name}" for name, wing in WINGS.items() if service in wing.services}
    home |= {f"cgankd.{name}" for name, hall in HALLS.items() if service in hall.services}
    users = {
        module
        for module, path in modules().items()
        if any(source.split(".")[0] == service for source, _ in names_imported(path))
    }
    assert users and not [user for user in users if not any(f"{user}.".startswith(f"{place}.") for place in home)]


def test_in_ship_only_the_registry_knows_mlflow() -> None:
    users = [m for m, path in modules().items() if any(s.split(".")[0] == "mlflow" for s, _ in names_imported(path))]
    assert [user for user in users if wing_of(user) == "ship"] == ["pipelines.ship.registry"]


@pytest.mark.parametrize(
    ("module", "homes"),
    [
        ("dvc", ["pipelines.project.repository"]),
        ("mlflow", ["pipelines.tracking.page"]),
        ("optuna", []),
    ],
)
def test_a_service_is_started_as_a_program_where_it_is_known(module: str, homes: list[str]) -> None:
    """`python -m dvc` and the like are knowledge of a service too."""
    words = re.compile(rf'"-m", "{module}"')
    assert [name for name, path in modules().items() if words.search(path.read_text())] == homes


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_is_seen_at_a_glance(wing: str) -> None:
    own = [module for module in modules() if wing_of(module) == wing]
    assert 1 < len(own) <= MOST_MODULES, own
    doc = ast.get_docstring(ast.parse(modules()[f"pipelines.{wing}"].read_text()))
    assert doc, f"pipelines/{wing}/__init__.py says nothing of what the wing is for"
    prefixes = re.compile(rf"^{wing.rstrip('s')}s?(_|$)")
    assert not [name for name in own if prefixes.match(name.split(".")[-1])], "names do not repeat the wing"


def strings_compared(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for part in [node.left, *node.comparators]:
                for leaf in ast.walk(part):
                    if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
                        yield leaf.value


@pytest.mark.parametrize("path", LIBRARY + EDGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_seam_knows_the_kind_of_task(path: Path) -> None:
    if path.relative_to(ROOT).as_posix() in (
        "cgankd/labels/answers.py",
        "cgankd/labels/ensemble.py",
        "cgankd/labels/task.py",
        "cgankd/config/whole.py",
        "cgankd/config/data.py",
    ):
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
    assert "pickle" not in {source for source, _ in names_imported(path)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            flags = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert flags.get("weights_only") == "True", f"{path}: torch.load without weights_only=True"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
            assert "allow_pickle" not in {k.arg for k in node.keywords}


@pytest.mark.parametrize("path", LIBRARY + EDGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= MOST_LINES, f"{path} has {len(lines)} lines"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 125, f"{path}: {node.name}"


@pytest.mark.parametrize("path", LIBRARY + EDGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_travels_together_is_one_thing(path: Path) -> None:
    """Few parameters, save where they are the user's own words: options of a KD loss or of a command."""
    if path.is_relative_to(ROOT / "pipelines" / "commands"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef):
            continue
        if node.name == "__init__" and path.is_relative_to(ROOT / "cgankd" / "distill" / "losses"):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([a for a in arguments if a.arg not in ("self", "cls")])
        assert count <= MOST_PARAMETERS, f"{path}: {node.name} has {count} parameters"


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
    pin = (pins("constraints-device.txt") | pins("constraints.txt")).get(canonicalize_name(required.name))
    if pin is None:
        assert str(required) in PROJECT["build-system"]["requires"], f"{required} is not in constraints.txt"
        return
    (version,) = pin.specifier
    assert version.operator == "==" and required.specifier.contains(version.version), f"{required}, pinned: {pin}"


def test_the_converter_holds_back_a_few_versions_alone() -> None:
    """What runs with the extra `device` is otherwise what all else was tested with."""
    plain, device = pins("constraints.txt"), pins("constraints-device.txt")
    other = {name for name, pin in plain.items() if device[name].specifier != pin.specifier}
    assert other == {"typing-extensions", "typing-inspection", "pydantic", "pydantic-core", "anyio"}
