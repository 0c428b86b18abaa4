"""Checks the finished pages: every link inside the site has its target, and nothing is fetched from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LOG = logging.getLogger(__name__)
HOST = re.compile(r"(localhost|[a-z0-9-]+(\.[a-z0-9-]+)+)(:\d+)?", re.IGNORECASE)
STYLE_FETCH = re.compile(r"@import|url\(\s*[\"']?(?:https?:)?//", re.IGNORECASE)
FETCHING = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src", "video": "src"}


class Page(HTMLParser):
    """The ids of a page and the addresses it names: those followed by a click, and those fetched to show it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag names."""
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if FETCHING.get(tag) in found and found.get("rel") not in ("search", "index", "next", "prev", "canonical"):
            self.fetched.append(found[FETCHING[tag]])


def mistakes(folder: Path) -> list[str]:
    """What is wrong with the links of a built site, one sentence each."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    found = [problem for path, page in pages.items() for problem in _of_page(folder, path, page, pages)]
    for path in sorted(folder.rglob("*.css")):
        if STYLE_FETCH.search(path.read_text(encoding="utf-8")):
            found.append(f"{path.relative_to(folder)}: fetches from elsewhere")
    return found


def _of_page(folder: Path, path: Path, page: Page, pages: dict[Path, Page]) -> list[str]:
    where = path.relative_to(folder)
    found = []
    for address in page.fetched:
        if urlsplit(address).netloc:
            found.append(f"{where}: fetches {address}")
    for address in page.links + [a for a in page.fetched if not urlsplit(a).netloc]:
        parts = urlsplit(address)
        if parts.scheme in ("mailto", "data"):
            continue
        if parts.scheme or parts.netloc:
            if parts.scheme not in ("http", "https") or not HOST.fullmatch(parts.netloc) or " " in address:
                found.append(f"{where}: {address} is no well-formed address")
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.is_file():
            found.append(f"{where}: {address} is not there")
        elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
            found.append(f"{where}: {address} has no such anchor")
    return found


def check(app: Sphinx, error: Exception | None) -> None:
    """Warn of each mistake; a strict build ends on it."""
    if error is None and app.builder.format == "html":
        for mistake in mistakes(Path(app.outdir)):
            LOG.warning(mistake)


def setup(app: Sphinx) -> dict[str, Any]:
    """Check when the pages are written."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
