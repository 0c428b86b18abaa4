"""The how-to pages: quoted messages are the program's own, settings are settings, and the KD loss to copy is a KD loss."""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from cgankd.config import to_dict
from cgankd.config.guides import GuidesConfig
from cgankd.config.settings import from_dict
from cgankd.distill import Outputs
from cgankd.distill.base import Batch, Distiller
from cgankd.distill.methods import METHODS
from pipelines.files.distillers import check_distillers
from pipelines.search.config import SearchedConfig, SizesConfig
from tests.conftest import ROOT, preset

HOWTO = ROOT / "docs/howto"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VARIES = "\0"
FOREIGN = {
    # what others than this program say -> who
    "No module named 'pipelines...": "Python",
    "failed to reproduce 'prepare': [Errno 2] No such file or directory: ... pipelines/prepare.py": "DVC",
}


def template(node: ast.expr) -> str | None:
    """The text of a string, with a mark where an f-string puts a value; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else VARIES for part in node.values)
    return None


@functools.cache
def said_by_the_program() -> tuple[str, ...]:
    """Every text in the code that could be a message."""
    paths = [path for top in ("cgankd", "pipelines") for path in (ROOT / top).rglob("*.py")]
    nodes = (node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = (template(node) for node in nodes if isinstance(node, ast.expr))
    return tuple(text for text in found if text)


def is_said(quoted: str) -> bool:
    """Some text of the code has the parts of a quotation between its "..." in this order."""
    parts = [part for part in quoted.split("...") if part.strip()]
    pattern = re.compile(".*?".join(re.escape(part) for part in parts), re.DOTALL)
    # Parts that belong together have no value of the f-string inside them.
    return any(pattern.search(text) for text in said_by_the_program())


def quotations() -> list[str]:
    text = (HOWTO / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^### `(.+)`$", text, re.MULTILINE) + re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE)


@pytest.mark.parametrize("quoted", [quoted for quoted in quotations() if quoted not in FOREIGN])
def test_quoted_messages_are_said_by_the_program(quoted: str) -> None:
    assert is_said(quoted), f"nothing in the code says {quoted!r}"


def test_quotations_are_many_and_a_false_one_is_seen() -> None:
    assert set(FOREIGN) <= set(quotations())
    assert len(quotations()) == len(set(quotations())) >= 50
    assert not is_said("data.root ... has ... images and no sub-folders")
    assert not is_said("sub-folders ... data.root ... images but no")


def own_loss() -> str:
    """The module that the page on KD losses has for copying."""
    (code,) = (text for kind, text in FENCE.findall((HOWTO / "kd-losses.md").read_text()) if kind == "python")
    return code


@pytest.fixture()
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, type[Distiller]]:
    """Name and class of that module's KD loss, which may also have been kept in the tree."""
    path = tmp_path / "logit_mse.py"
    path.write_text(own_loss())
    spec = importlib.util.spec_from_file_location("logit_mse_of_the_page", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    ((name, method),) = module.METHODS.items()
    assert name not in METHODS or METHODS[name].__module__ == "cgankd.distill.losses.logit_mse"
    monkeypatch.setitem(METHODS, name, method)
    return name, method


@pytest.mark.usefixtures("own_method")
def test_settings_on_the_pages_are_settings() -> None:
    """The yaml blocks of the how-to pages, laid over the digits, are a configuration."""
    pages = {path.name: path.read_text(encoding="utf-8") for path in sorted(HOWTO.glob("*.md"))}
    blocks = [(name, block) for name, text in pages.items() for kind, block in FENCE.findall(text) if kind == "yaml"]
    assert len(blocks) >= 4
    for page, text in blocks:
        values = copy.deepcopy(preset("digits")) | {"sizes": to_dict(SizesConfig())}
        for section, settings in YAML(typ="safe").load(text).items():
            known = {"distiller_options", "distillers", "file", "weights", "input_size", "unlabelled"}
            known |= {field.name for field in dataclasses.fields(GuidesConfig)}
            known |= {"rounds", "near", "probe"}
            assert set(settings) <= set(values[section]) | known, page
            values[section] |= settings
        check_distillers(from_dict(SearchedConfig, values, ""))


def test_the_kd_loss_to_copy_works(own_method: tuple[str, type[Distiller]]) -> None:
    """The module on the page is found by its METHODS, and its loss is the formula it states."""
    name, method = own_method
    assert name == method.name and issubclass(method, Distiller)
    assert method().accepts(0) and method().accepts(10)
    student, teacher = (
        torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True),
        torch.tensor([[0.0, 0.0], [3.0, 1.0]]),
    )
    batch = Batch({}, torch.tensor([0, 1]), is_fake=torch.tensor([False, True]))
    (term,) = method(loss_weight=0.5, fake_weight=0.0).losses(Outputs(student), Outputs(teacher), batch).values()
    assert float(term.detach()) == pytest.approx(0.5 * (1 + 4) / 2)  # the fake row weighs nothing
    term.backward()
    assert (
        student.grad is not None and student.grad[0].tolist() == [0.5, 1.0] and student.grad[1].tolist() == [0.0, 0.0]
    )


def test_modules_that_moved_are_where_the_page_says() -> None:
    """Each former name is gone, and each new folder holds the module."""
    text = (HOWTO / "troubleshooting.md").read_text(encoding="utf-8").split("### `No module named")[1].split("###")[0]
    moves = {
        "cgankd.task": "cgankd.labels",
        "cgankd.data.chairs": "cgankd.data.readers",
        "cgankd.distill.attention": "cgankd.distill.losses",
        "cgankd.nets.vgg": "cgankd.nets.predictors",
        "pipelines.prepare": "pipelines.stages",
    }
    for former, folder in moves.items():
        assert f"`{former}`" in text and f"`{folder}`" in text
        assert not (ROOT / f"{former.replace('.', '/')}.py").exists()
        assert (ROOT / folder.replace(".", "/") / f"{former.rsplit('.', 1)[1]}.py").is_file()


def test_paths_named_on_the_pages_are_there() -> None:
    named = re.compile(r"`((?:cgankd|pipelines|tests|benchmarks|docs)/[\w/.-]+)`")
    pages = [path for part in ("tutorials", "howto", "explanation") for path in (ROOT / "docs" / part).glob("*.md")]
    found = {(path.name, name) for path in pages for name in named.findall(path.read_text(encoding="utf-8"))}
    assert len(found) > 50
    assert sorted((page, name) for page, name in found if not (ROOT / name).exists()) == []


@pytest.mark.parametrize("check", [("check",), ("format", "--check")], ids=" ".join)
def test_the_kd_loss_to_copy_passes_the_linter_where_it_is_put(check: tuple[str, ...]) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            *check,
            "--no-cache",
            "--stdin-filename",
            "cgankd/distill/losses/logit_mse.py",
            "-",
        ],
        cwd=ROOT,
        input=own_loss(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_arms_to_add_stand_on_the_page(own_method: tuple[str, type[Distiller]]) -> None:
    """The two arms of the last step are like those of the other losses in the preset."""
    blocks = [text for kind, text in FENCE.findall((HOWTO / "kd-losses.md").read_text()) if kind == "yaml"]
    arms, others = YAML(typ="safe").load(blocks[-1])["student"]["arms"], preset("digits-distillers")["student"]["arms"]
    name, _ = own_method
    expected = {"real": {}} | {f"{row}_{name}": others[f"{row}_kd"] | {"distiller": name} for row in ("real", "raw")}
    assert arms == expected


def test_pages_do_not_count_kd_losses() -> None:
    """A number would be wrong as soon as somebody follows the page and adds one."""
    for page in (ROOT / "README.md", HOWTO / "kd-losses.md"):
        assert not re.search(r"\d+ KD losses|There are \d+", page.read_text(encoding="utf-8")), page.name
