"""README: short, with every link to a file that is there, and the answers to a newcomer's first questions."""

from __future__ import annotations

import re

from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_is_short() -> None:
    assert len(TEXT.split()) <= 900


def test_every_link_and_path_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    paths = re.findall(r"`((?:cgankd|docs|pipelines)/[\w/.-]+)`", TEXT)
    assert len(links) > 12 and "cgankd/bank/m2_filter.py" in paths
    assert [name for name in links + paths if not (ROOT / name).exists()] == []


def test_a_newcomer_finds_the_way() -> None:
    for words in ("## Your own images", "verdict.md", "m2_filter.py", "`bank.rho`", "kd-losses.md"):
        assert words in TEXT
    assert "make repro" in TEXT.split("## What you get")[0]


def test_links_lead_to_pages_that_hold_something() -> None:
    """No site is hosted, so no link of the README leads to a page that is filled from the code only when the site is built."""
    pages = {ROOT / link for link in re.findall(r"\]\(([^)#]+\.md)\)", TEXT) if "://" not in link}
    assert len(pages) > 12
    assert [page.name for page in pages if "<!-- made: " in page.read_text(encoding="utf-8")] == []
