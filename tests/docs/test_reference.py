"""The reference of the documentation site leaves nothing out: commands, settings, presets, stages, metrics, public names."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from cgankd_docs import commands, files, library, links, mathml, pages, presets, settings
from docutils import nodes

import cgankd
from cgankd.config import AUGMENTS, NETS, to_dict
from cgankd.config.data import SOURCES
from cgankd.config.nets import FIXED_NETS, ZOOS
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_body
from pipelines.commands.app import app
from pipelines.files.layout import OUTPUTS, STAGES
from pipelines.files.params import flatten, load_config, preset_names
from pipelines.search.config import SearchedConfig
from tests.conftest import ROOT
from tests.nets.predictors.layers import measured

REFERENCE = ROOT / "docs/reference"
SETTINGS = settings.settings()
BY_NAME = {setting.name: setting for setting in SETTINGS}


def made(name: str) -> str:
    """A page of the reference with what is made from the code."""
    path = REFERENCE / f"{name}.md"
    return pages.filled(path, path.read_text(encoding="utf-8"))


def all_commands(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from all_commands(inner, f"{words} {name}")


def usage_of(section: str) -> str:
    """The words of the command that a section begins with, without what it takes."""
    return re.split(r" [A-Z\[]|\n", section, maxsplit=1)[0]


COMMANDS = dict(all_commands(typer.main.get_command(app), "cgankd"))


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_has_its_usage_meaning_and_options(words: str) -> None:
    page = made("commands")
    section = next((part for part in page.split("```text\n")[1:] if usage_of(part) == words), None)
    assert section is not None, f"{words} is not there"
    command = COMMANDS[words]
    assert commands.in_code(command.help) in section and len(command.help.split()) >= 3
    for parameter in command.params:
        shown = (parameter.metavar or parameter.name).upper().strip("[].")
        name = parameter.opts[0] if parameter.param_type_name == "option" else shown
        assert f"```{{option}} {name}" in section, f"{words} {name} is not there"
        assert len(parameter.help.split()) >= 3, f"{words} {name} says too little"


def test_options_show_value_default_and_environment() -> None:
    page = made("commands")
    assert "```{option} --trials TRIALS\n" in page
    assert "```{option} --port PORT\nPort on this machine.\n\n{.facts}\ndefault `5000`\n" in page
    assert "also as environment variable `CGANKD_SEARCH_STORAGE`" in page
    assert "```{option} --track, --no-track\n" in page and "on by default" in page
    assert "short for `--set` data.root" in page


def test_every_environment_variable_is_told() -> None:
    page = made("commands")
    sources = [*(ROOT / "cgankd").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]
    used = {name for path in sources for name in re.findall(r"\bCGANKD_[A-Z_]+", path.read_text(encoding="utf-8"))}
    assert used and used <= set(re.findall(r"`(CGANKD_[A-Z_]+)`", page))


def test_every_setting_of_every_preset_is_there(tmp_path: Path) -> None:
    for preset in preset_names():
        cfg = load_config(ROOT / f"pipelines/presets/{preset}.yaml")
        for name in flatten(to_dict(cfg)):
            plain = re.sub(r"^student\.arms\.\w+", "student.arms.NAME", name)
            known = plain in BY_NAME or plain == "student.arms.NAME" or ".distiller_options" in plain
            assert known, f"{preset}: {name}"


def test_every_field_of_every_section_is_there() -> None:
    seen = set()

    def walk(cls: type, prefix: str) -> None:
        for field in dataclasses.fields(cls):
            seen.add(f"{prefix}{field.name}")
            inner = settings.below(settings.typing.get_type_hints(cls)[field.name])
            if inner is not None:
                walk(inner[0], f"{prefix}{field.name}{inner[1]}.")

    walk(SearchedConfig, "")
    assert seen == set(BY_NAME) and len(seen) > 180
    page = made("settings")
    sections = {name for name in seen if "." not in name and BY_NAME[name].section}
    assert all(f"```{{confval}} {name}\n" in page for name in seen - sections)
    assert all(f"\n## {name}\n" in page for name in sections)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_says_what_it_means(setting: settings.Setting) -> None:
    if "." in setting.name or not setting.section:
        assert len(setting.meaning.split()) >= 3, f"{setting.name}: write a sentence below the field"
    assert setting.type and setting.default


def test_a_setting_shows_type_default_and_example() -> None:
    rho, scope, options = (BY_NAME[name] for name in ("bank.rho", "bank.filter_scope", "student.distillers[].options"))
    assert (rho.type, rho.default, rho.example) == ("number", "required", "0.9")
    assert scope.type == "`label` or `global`"
    assert (BY_NAME["bank.block_size"].default, options.default) == ("`100`", "`{}`")
    assert BY_NAME["data.label_period"].type == "number or `null`"
    assert BY_NAME["student.seeds"].type == "list of whole numbers"
    assert BY_NAME["search.space.NAME.kind"].meaning == "int, float or categorical."


def test_sections_say_who_reads_them() -> None:
    assert (
        settings.readers("bank")
        == "Read by the stage `bank`; `ratio` and `student` and `evaluate` read `bank.label_bin` of it."
    )
    assert "`prepare`" in settings.readers("seed") and "`student`" in settings.readers("seed")
    assert "`cgankd search`" in settings.readers("search")


def test_names_of_augmentations_and_nets_are_told() -> None:
    page = made("settings")
    assert all(f"\n| `{name}` |" in page for name in AUGMENTS)
    assert all(f"`{name}`" in settings.entry(BY_NAME["student.net"]) for name in NETS)


def test_the_page_of_nets_states_their_numbers_and_operations() -> None:
    page = (ROOT / "docs/nets.md").read_text(encoding="utf-8")
    assert all(f"\n| `{name}` |" in page for name in FIXED_NETS) and all(f"`{zoo}`" in page for zoo in ZOOS)
    columns = (("", 32, 100), ("imagenet100:", 128, 100), ("utkface:", 64, 1), ("cifar10:", 32, 10))
    columns += (("tiny-imagenet:", 64, 200), ("rc49:", 64, 1))  # type: ignore[assignment]
    for name in ("resnet20", "vgg11", "mobilenetv2", "shufflenetv2"):
        cells = []
        for zoo, size, outputs in columns:
            cells.append("")
            if not zoo or name in ZOOS[zoo[:-1]].nets:
                with torch.device("meta"):
                    numbers, macs = measured(make_body(zoo + name, NetShape(outputs, 3, size), width=None), size)
                cells[-1] = f" {numbers / 1e6:.2f} / {macs / 1e6:,.1f}"
        assert f"\n| `{name}` |{' |'.join(cells)} |\n" in page, name


def test_every_source_of_images_has_its_layout() -> None:
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    assert all(f"| [`{name}`](#{name}) |" in page and f"\n### {name}\n" in page for name in SOURCES)


def test_every_preset_is_there_with_its_own_words() -> None:
    page = made("presets")
    for name in preset_names():
        assert f"\n## {name}\n" in page and f"| [{name}](#{name}) |" in page
    assert "scikit-learn's 1,797 real scans" in page
    assert presets.as_text("others: --set student.net=vgg8.") == "others: `--set student.net=vgg8`."


def test_every_stage_and_artifact_is_there() -> None:
    page = made("files")
    for stage in STAGES:
        assert f"\n### {stage}\n" in page
        for name in OUTPUTS[stage]:
            assert f"| `artifacts/{name}` | {stage} |" in page
    bank = next(stage for stage in files.stages() if stage.name == "bank")
    assert "artifacts/ratio.safetensors" in bank.reads and bank.metrics == ("metrics/bank.json",)
    assert "- Plots: `plots/teacher/teacher.csv`" in page


def described(stage: str) -> list[re.Pattern[str]]:
    """The keys of a stage's tables in metrics.md; words in capitals stand for any name."""
    text = (REFERENCE / "metrics.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n?)*)", text, re.MULTILINE))
    rows = re.findall(r"^\| (`[^|]+`) \|", sections[stage] + sections["Health checks"], re.MULTILINE)
    keys = [key for row in rows for key in re.findall(r"`([^`]+)`", row)]
    return [re.compile(re.sub(r"[A-Z]{3,}", r"\\w+", re.escape(key))) for key in keys]


def keys_of(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("path", sorted((ROOT / "metrics").glob("*.json")), ids=lambda path: path.stem)
def test_every_metric_is_described(path: Path) -> None:
    known = described(path.stem)
    keys = list(keys_of(json.loads(path.read_text(encoding="utf-8"))))
    assert keys and [key for key in keys if not any(pattern.fullmatch(key) for pattern in known)] == []


def test_a_metric_without_a_description_is_found() -> None:
    assert not any(pattern.fullmatch("drawz") for pattern in described("bank"))
    assert any(pattern.fullmatch("filter_only.kept") for pattern in described("bank"))


def test_the_library_page_has_every_public_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.names() == list(getattr(cgankd, "__all__", ()))
    page = made("library")
    assert all(f"cgankd.{name}\n" in page for name in cgankd.__all__)
    monkeypatch.setattr(cgankd, "PUBLIC", {"Words": dict.fromkeys(["a_class", "a_function", "a_value"], "task")})
    for name, value in (("a_class", Path), ("a_function", len), ("a_value", 3)):
        monkeypatch.setattr(cgankd, name, value, raising=False)
    page = made("library")
    assert ".. autoclass:: cgankd.a_class\n   :members:" in page
    assert ".. autofunction:: cgankd.a_function\n" in page and ".. autodata:: cgankd.a_value\n" in page


ALSO = {"reference": {"../distillers", "../data", "../nets"}}
"""Section -> pages of other folders that stand in its list."""


@pytest.mark.parametrize("section", ["tutorials", "howto", "explanation", "reference"])
def test_the_first_page_of_a_section_lists_its_pages(section: str) -> None:
    """Each page stands once in the list, with a line of its own, and once in the contents for the side bar."""
    folder = ROOT / "docs" / section
    there = {page.stem for page in folder.glob("*.md")} - {"index"} | ALSO.get(section, set())
    text = (folder / "index.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^- \[[^\]]+\]\((\S+)\.md\)(?:\\\*)?: (.+)$", text, re.MULTILINE))
    (tree,) = re.findall(r"^```\{toctree\}\n:hidden:\n\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert set(listed) == there and sorted(tree.split()) == sorted(there)
    assert list(listed) == tree.split() and all(len(line.split()) >= 4 for line in listed.values())


def test_pages_that_are_made_from_the_code_are_marked() -> None:
    text = (REFERENCE / "index.md").read_text(encoding="utf-8")
    filled = {page.stem for page in REFERENCE.glob("*.md") if pages.MARK.search(page.read_text(encoding="utf-8"))}
    assert set(re.findall(r"\((\S+)\.md\)\\\*: ", text)) == filled


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.html").write_text('<p id="here">')
    body = (
        '<a href="there.html#here"></a><a href="there.html#gone"></a><a href="gone.html"></a><a href="#self" id="self">'
        '</a><a href="https://arxiv.org/abs/1"></a><a href="https://nodots/"></a><a href="htp://a.b"></a>'
        '<script src="https://cdn.example.com/x.js"></script><img src="there.html"><link rel="stylesheet" href="a.css">'
    )
    (tmp_path / "page.html").write_text(body)
    (tmp_path / "a.css").write_text('@import url("https://fonts.example.com/css");')
    assert links.mistakes(tmp_path) == [
        "page.html: fetches https://cdn.example.com/x.js",
        "page.html: there.html#gone has no such anchor",
        "page.html: gone.html is not there",
        "page.html: https://nodots/ is no well-formed address",
        "page.html: htp://a.b is no well-formed address",
        "a.css: fetches from elsewhere",
    ]


def test_equations_become_mathml() -> None:
    node = nodes.math_block()
    assert "<mfrac>" in mathml.mathml(r"\frac{a}{b}", display=True, node=node)
    lines = mathml.mathml(r"a &= \begin{cases} 1 & x \\ 0 & y \end{cases} \\ b &= c", display=True, node=node)
    assert lines.count("<mtable") == 2
    assert mathml.aligned(r"\begin{cases} 1 & x \\ 0 & y \end{cases}").startswith(r"\begin{cases}")
