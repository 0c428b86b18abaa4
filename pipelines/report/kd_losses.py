"""KD losses as rows of a table and as one Markdown page, from the classes themselves."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cgankd.distill.base import Distiller, Needs


PAGE_WIDTH = 88
"""Characters a line of plain text on a page."""
FULL_LINE = 96
"""A line of a docstring with at least so many characters goes on in the next; the source is filled to 120."""
COLUMNS = ("name", "task", "needs", "source", "status")


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
outputs; one with `label` refuses mixtures of two classes. *status*: `published` follows the paper's formulas,
`reconstruction` fills in what the paper leaves open, `adaptation` carries an idea over from another setting. An option
whose default is `null` takes the usual value of its other options, which the text names. In Python a loss without modules of its
own needs no `build`:

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
