"""Settings of the documentation site; `make docs` builds it into build/docs."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

project = "cgankd"
author = "the maintainers of cgankd"
release = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "cgankd_docs.mathml",
    "cgankd_docs.pages",
    "cgankd_docs.links",
]
exclude_patterns = ["_ext", "_static"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

html_theme = "furo"
html_title = "cgankd"
html_static_path = ["_static"]
html_css_files = ["cgankd.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_math_renderer = "mathml"
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

# Docstrings are plain text in which single backticks mark code. Signatures name types of torch, which has no page here.
default_role = "code"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_display_short_literal_types = True
python_maximum_signature_line_length = 88
add_module_names = False
nitpick_ignore_regex = [("py:.*", ".*")]
