"""Links within the documentation lead somewhere."""

from __future__ import annotations

import re

_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchor(heading):
    """GitHub's name of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_links(manual_page):
    broken = []
    for link in _LINK.findall(manual_page.text):
        file, _, fragment = link.partition("#")
        target = manual_page.path.parent / file if file else manual_page.path
        if "://" in link or (target.exists() and not fragment):
            continue
        headings = _HEADING.findall(target.read_text("utf-8")) if target.exists() else []
        if fragment not in map(anchor, headings):
            broken.append(link)
    assert not broken


def test_every_page_is_in_the_index(doc_page):
    index = doc_page("README.md")
    linked = set(_LINK.findall(index.text))
    there = {path.name for path in index.path.parent.glob("*.md")} - {"README.md"}
    assert linked == there
