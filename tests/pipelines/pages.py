"""Checks that every HTML page of this project must pass: it parses, fetches nothing, and says what its pictures show."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Every tag with its attributes; raises on tags that are closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("p", "li"):  # may stay open by the rules of HTML; the templates close them
            assert tag in self.open, f"</{tag}> without its beginning"
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def attributes(text: str, tag: str, name: str) -> list[str | None]:
    """One attribute of every tag of a kind."""
    return [attrs.get(name) for kind, attrs in Page(text).tags if kind == tag]


def check_page(text: str) -> None:
    """Well formed, one file, no script, every picture and chart described, ids unique, anchors that lead somewhere."""
    found = Page(text)
    assert found.open == [], found.open
    kinds = {kind for kind, _ in found.tags}
    assert not kinds & {"script", "link", "iframe", "object"}
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for kind, attrs in found.tags:
        if kind == "img":
            assert attrs["alt"] and str(attrs["src"]).startswith("data:image/png;base64,")
        if kind == "svg":
            assert attrs["role"] == "img" and set(str(attrs["aria-labelledby"]).split()) <= set(ids)
        if kind == "a":
            assert str(attrs["href"]).removeprefix("#") in ids
    assert len(re.findall("<title", text)) == 1 + sum(kind == "svg" for kind, _ in found.tags)
    assert "nan" not in re.sub(r"base64,[^\"]*|[a-z]*nan[a-z]+", "", text.lower())
