"""Commands that show the KD losses: `cgankd distillers` and `cgankd distillers describe NAME`."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.errors import console, plain_errors

if TYPE_CHECKING:
    from cgankd.distill.base import Distiller, Needs

PANEL = "Settings and results"
PAGE_WIDTH = 88
"""Characters a line of plain text on a page."""
FULL_LINE = 96
"""A line of a docstring with at least so many characters goes on in the next; the source is filled to 120."""
COLUMNS = ("name", "task", "needs", "source", "status")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(help="KD losses for student.distiller, and what each is.", invoke_without_command=True)
    group.callback()(distillers)
    group.command()(describe)
    app.add_typer(group, name="distillers", rich_help_panel=PANEL)


def distillers(
    ctx: typer.Context,
    markdown: Annotated[bool, typer.Option(help="All of it as a Markdown page (docs/distillers.md).")] = False,
) -> None:
    """All KD losses: which labels they distil, what they look at, where they come from; a row each."""
    if ctx.invoked_subcommand is not None:
        return
    with plain_errors():
        from cgankd.distill.methods import METHODS

        if markdown:
            typer.echo(page(), nl=False)
            return
        rows = [row(method) for method in METHODS.values()]
        show(COLUMNS, rows)


def describe(name: Annotated[str, typer.Argument(metavar="NAME", help="A KD loss, such as kd.")]) -> None:
    """One KD loss: its equation, its options with their defaults, and what flows from teacher to student."""
    with plain_errors():
        from cgankd.config import ConfigError
        from cgankd.config.settings import nearest
        from cgankd.distill.base import describe as flows_of
        from cgankd.distill.methods import METHODS

        if name not in METHODS:
            raise ConfigError(f"there is no KD loss {name!r}{nearest(name, METHODS)} (known: {', '.join(METHODS)})")
        method = METHODS[name]
        typer.echo("\n".join(line.strip() for line in (method.__doc__ or "").strip().splitlines()))
        typer.echo("")
        for key, value in zip(COLUMNS, row(method), strict=True):
            typer.echo(f"{key}: {value}")
        typer.echo("\noptions (student.distiller_options):")
        for key, value in method.options().items():
            typer.echo(f"  {key}: {plain(value)}")
        typer.echo("\nflows:")
        flows = flows_of(method)
        if flows:
            show(tuple(flows[0]), [tuple(flow.values()) for flow in flows])


def row(method: type[Distiller]) -> tuple[str, ...]:
    """A method in one row of `COLUMNS`."""
    made = method()
    kinds = [kind for kind, num_classes in (("class", 2), ("scalar", 0)) if made.accepts(num_classes)]
    labels = "both" if len(kinds) == 2 else kinds[0]
    return (method.name, labels, needs_in_words(method.needs), method.source, method.status)


def needs_in_words(needs: Needs) -> str:
    """What the engine must provide beside both nets' outputs."""
    from dataclasses import fields

    hidden = ("logits", "views", "teacher_pred_only")
    words = [f.name for f in fields(needs) if f.name not in hidden and getattr(needs, f.name)]
    views = sorted(needs.views - {"plain"})
    return ", ".join(words + [f"view {view}" for view in views]) or "outputs"


def plain(value: object) -> str:
    """A default as params.yaml would have it."""
    if value is inspect.Parameter.empty:
        return "(to be given)"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(plain, value))}]"
    return str(value)


INTRODUCTION = """# KD losses

All KD losses, with equation, source, options and what flows from teacher to student. Made by `cgankd distillers --markdown`;
change the code, not this page.

`student.distiller` names the KD loss of all arms with `kd: true`, `student.arms.NAME.distiller` that of one arm;
`distiller_options` beside either takes the options below, and what is left out keeps the default. `student.distillers`
is a weighted list of several at once. *task*: the labels a loss distils. *needs*: what it looks at beside both nets'
outputs. *status*: `published` follows the paper's formulas, `reconstruction` fills in what the paper leaves open,
`adaptation` carries an idea over from another setting. An option whose default is `null` takes the usual value of its
other options, which the text names. In Python a loss without modules of its own needs no `build`:

```python
import torch
from cgankd.distill import Batch, Outputs, make_distiller

logits, labels = torch.randn(8, 10, requires_grad=True), torch.arange(8)
dkd = make_distiller("dkd", standardize=True)
terms = dkd.losses(Outputs(logits), Outputs(torch.randn(8, 10)), Batch({}, labels))
sum(terms.values()).backward()
```

"""


def page() -> str:
    """The KD losses as Markdown: a table of all, then each with its equation, options and flows."""
    from cgankd.distill.base import describe as flows_of
    from cgankd.distill.methods import METHODS

    rows = [row(method) for method in METHODS.values()]
    parts = [INTRODUCTION, markdown_table(COLUMNS, [(f"[{name}](#{name})", *rest) for name, *rest in rows])]
    for name, method in METHODS.items():
        text = refilled(inspect.getdoc(method) or "")
        parts.append(f"\n## {name}\n\n{method.source}; {method.status}.\n\n```text\n{text}\n```\n")
        options = [(f"`{key}`", f"`{plain(value)}`") for key, value in method.options().items()]
        parts.append("\n" + markdown_table(("option", "default"), options) if options else "\nIt has no options.\n")
        flows = flows_of(method)
        if flows:
            parts.append("\n" + markdown_table(tuple(flows[0]), [tuple(flow.values()) for flow in flows]))
    return "".join(parts)


def refilled(text: str) -> str:
    """A docstring at the width of a page: full lines flow on into the next, short ones, such as formulas, stay apart."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        flowing = ""
        for line in paragraph.splitlines():
            flowing = f"{flowing} {line.strip()}".strip()
            if len(line) < FULL_LINE:
                lines += textwrap.wrap(flowing, PAGE_WIDTH, break_on_hyphens=False)
                flowing = ""
        lines += [*textwrap.wrap(flowing, PAGE_WIDTH, break_on_hyphens=False), ""]
    return "\n".join(lines).strip()


def markdown_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as a Markdown table; a bar within a cell is escaped."""
    lines = [columns, ("---",) * len(columns), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def show(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table on a terminal; in a pipe one line a row, cells parted by tabs, headed by the columns' names."""
    if not sys.stdout.isatty():
        for cells in [columns, *rows]:
            typer.echo("\t".join(cells))
        return
    from rich import box
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for cells in rows:
        table.add_row(*cells)
    console().print(table)
