"""The list of pages on the first page of a section: title and first sentence of each, so that no list goes stale."""

from __future__ import annotations

import re
from pathlib import Path


def pages_of(path: Path, order: list[str]) -> str:
    """A line for each page beside `path`, and the same pages as contents for the side bar.

    Pages named in `order` come first, by name or relative path; one of them that is not there is left out.
    """
    there = [page.stem for page in sorted(path.parent.glob("*.md")) if page.stem != path.stem]
    names = [name for name in order if (path.parent / f"{name}.md").is_file()]
    names += [name for name in there if name not in order]
    if not names:
        return ""
    lines = []
    for name in names:
        title, sentence = first_words((path.parent / f"{name}.md").read_text(encoding="utf-8"))
        lines.append(f"- [{title}]({name}.md): {sentence}\n")
    return "".join(lines) + "\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```"


def first_words(text: str) -> tuple[str, str]:
    """Title and first sentence of a page."""
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    if heading is None:
        raise ValueError("a page without a title")
    paragraphs = (part.strip() for part in text[heading.end() :].split("\n\n"))
    begins = re.compile(r"(?!```)[\w`*\[]")
    words = next((" ".join(part.split()) for part in paragraphs if begins.match(part)), "")
    return heading[1].strip(), re.split(r"(?<=\.)\s(?=[A-Z`*\[])", words, maxsplit=1)[0]
