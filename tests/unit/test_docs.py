"""Every link of the documentation leads somewhere, and every file that it names is there."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import support
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = support.ROOT
PAGES = sorted(
    path
    for top in ("*.md", "docs/**/*.md", "csrc/**/*.md", "packages/**/*.md", "benchmarks/**/*.md")
    for path in ROOT.glob(top)
)
# What a reader finds in the sources: a path from one of these folders on. The change log tells of
# files that are gone.
NAMED = re.compile(
    r"(?<![\w./-])(?:benchmarks|cmake|csrc|docs|packages|recipe|scripts|src|tests|variants)"
    r"/[\w./{},*+-]*[\w}*]"
)
LEFT_OUT = ("CHANGELOG.md",)


def tokens(page: Path) -> Iterator[Token]:
    parser = MarkdownIt("commonmark").enable("table")
    for token in parser.parse(page.read_text()):
        yield token
        yield from token.children or ()


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    found: dict[str, int] = {}
    names = set()
    heading = False
    for token in tokens(page):
        if token.type == "inline" and heading:
            texts = (t for t in token.children or () if t.type in ("text", "code_inline"))
            text = "".join(t.content for t in texts)
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            count = found.get(slug, 0)
            names.add(f"{slug}-{count}" if count else slug)
            found[slug] = count + 1
        heading = token.type == "heading_open"
    return names


def links(page: Path) -> Iterator[str]:
    for token in tokens(page):
        target = token.attrGet("href") or token.attrGet("src")
        if target is not None:
            yield str(target)


def named_files(page: Path) -> Iterator[str]:
    for token in tokens(page):
        if token.type in ("code_inline", "fence"):
            yield from NAMED.findall(token.content)


def patterns(name: str) -> Iterator[str]:
    """``a/{b,c}/NAME.py`` as patterns of files: capitals stand for any name."""
    parts = re.split(r"\{([^{}]*)\}", name)
    choices = [part.split(",") if odd % 2 else [part] for odd, part in enumerate(parts)]
    for choice in itertools.product(*choices):
        yield re.sub(r"(?<![a-z])[A-Z][A-Z0-9]+(?![a-z])", "*", "".join(choice))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in links(page):
        url = urlsplit(link)
        if url.scheme or url.netloc:
            continue
        target = page.parent / unquote(url.path) if url.path else page
        if not target.exists() or (
            url.fragment and (target.suffix != ".md" or url.fragment not in anchors(target))
        ):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_it_names_are_there(page: Path) -> None:
    if page.name in LEFT_OUT:
        pytest.skip("tells of files that are gone")
    missing = [
        name
        for name in named_files(page)
        for pattern in patterns(name)
        if next(ROOT.glob(pattern), None) is None
    ]
    assert missing == []


def test_every_page_of_a_reader_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / urlsplit(link).path).resolve() for link in links(index)}
    folders = (index.parent / reader for reader in ("users", "packagers", "developers"))
    assert {page for folder in folders for page in folder.rglob("*.md")} <= listed
