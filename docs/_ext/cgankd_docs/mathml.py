"""Equations as MathML, made when the site is built: every present browser shows it without a script."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

LOG = logging.getLogger(__name__)
ENVIRONMENT = re.compile(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL)
CONVERTER = LatexToMathML(fancy_error=False, annotation=True)


def mathml(latex: str, *, display: bool, node: nodes.Node) -> str:
    """The equation as a <math> element; a warning, which ends a strict build, where it cannot be read."""
    latex = aligned(latex) if display else latex
    try:
        return str(CONVERTER.convert_with_local_state(latex.strip(), displaystyle=display))
    except LatexError as error:
        LOG.warning("equation cannot be read: %s: %s", latex.strip(), error, location=node)
        return f"<code>{nodes.unescape(latex)}</code>"


def aligned(latex: str) -> str:
    """The equation within an environment that knows & and \\\\, where it uses them outside of one."""
    bare = ENVIRONMENT.sub("", latex)
    return f"\\begin{{aligned}}{latex.strip()}\\end{{aligned}}" if "&" in bare or "\\\\" in bare else latex


def inline(self: HTML5Translator, node: nodes.math) -> None:
    """An equation in a line of text."""
    self.body.append(mathml(node.astext(), display=False, node=node))
    raise nodes.SkipNode


def block(self: HTML5Translator, node: nodes.math_block) -> None:
    """An equation of its own, with its number where it has one."""
    self.body.append(self.starttag(node, "div", CLASS="equation"))
    self.body.append(mathml(node.astext(), display=True, node=node))
    if node["number"]:
        self.body.append(f'<span class="eqno">({node["number"]})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Make MathML a renderer that conf.py can name."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
