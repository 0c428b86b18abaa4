"""Puts what is made from the code into the pages.

A line `<!-- made: NAME -->` gives way to Markdown made by the maker of that name; words after the name are handed to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes

from cgankd_docs import commands, files, library, presets, settings

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARK = re.compile(r"^<!-- made: ([a-z-]+)((?: [a-z0-9./-]+)*) -->$", re.MULTILINE)
MAKERS: dict[str, Callable[[Path, list[str]], str]] = {
    "commands": commands.page,
    "settings": settings.page,
    "files": files.page,
    "artifacts": files.artifacts,
    "presets": presets.page,
    "library": library.page,
}
"""Name of a mark -> what makes its Markdown from the page's file and the words after the name."""


def filled(path: Path, text: str) -> str:
    """The text of a page with its marks replaced. An unknown name is a KeyError, which ends the build."""
    return MARK.sub(lambda mark: MAKERS[mark[1]](path, mark[2].split()), text)


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the marks of a page that is read."""
    source[0] = filled(Path(app.env.doc2path(docname)), source[0])


def wrap(app: Sphinx, doctree: nodes.document) -> None:
    """Let the formulas of the KD losses, which are running text, go on in the next line where the page is narrow."""
    if app.env.docname == "distillers":
        for node in doctree.findall(nodes.literal_block):
            node["classes"] += ["wrap"] if node.get("language") == "text" else []


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to the build."""
    app.connect("source-read", fill)
    app.connect("doctree-read", wrap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
