"""Every link leads somewhere: pages, anchors and files by looking, addresses on the web by their shape (no network)."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from markdown.extensions.toc import slugify
from scripts import build_docs

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
PAGES = WRITTEN | build_docs.generated()
OTHERS = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")}
_CODE = re.compile(r"^(`{3,}).*?^\1[ \t]*$|(?<!`)`[^`\n]+`(?!`)", re.M | re.S)
_FENCE = re.compile(r"^(`{3,}).*?^\1[ \t]*$", re.M | re.S)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def links(page: str) -> list[str]:
    """Targets of all links and pictures; code holds none, but a link may be called by a name in `code`."""
    return _LINK.findall(_CODE.sub(lambda code: "code" if not code[0].startswith("```") else "", page))


def anchors(page: str) -> set[str]:
    """The ids of a page's headings, as mkdocs makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", _FENCE.sub("", page), re.M):
        given = re.search(r"\{ #([\w.-]+) \}", heading)
        text = re.sub(r"\[([^\]]+)\]\([^)]+\)|[`*\\]", r"\1", heading.partition(" { #")[0])
        found.add(given[1] if given else slugify(text, "-"))
    return found


@pytest.mark.parametrize("name", PAGES)
def test_a_page_links_to_what_exists(name: str) -> None:
    for target in links(PAGES[name]):
        if urlsplit(target).scheme:
            continue
        path, _, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
        if place.endswith(".md"):
            assert place in PAGES, f"{name} links to {target}"
            assert not anchor or anchor in anchors(PAGES[place]), f"{name} links to {target}"
        else:
            assert (ROOT / "docs" / place).is_file(), f"{name} shows {target}"


@pytest.mark.parametrize("name", OTHERS)
def test_what_stands_outside_links_to_files(name: str) -> None:
    for target in links(OTHERS[name]):
        if urlsplit(target).scheme:
            continue
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists(), f"{name} links to {target}"
        if anchor:
            assert anchor in anchors((ROOT / path).read_text(encoding="utf-8")), f"{name} links to {target}"


def test_addresses_are_well_formed() -> None:
    for name, page in (PAGES | OTHERS).items():
        for target in links(page):
            parts = urlsplit(target)
            if not parts.scheme:
                continue
            assert parts.scheme == "https", f"{name}: {target}"
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), f"{name}: {target}"
            if parts.netloc == "arxiv.org":
                assert re.fullmatch(r"/abs/\d{4}\.\d{4,5}", parts.path), f"{name}: {target}"


def test_a_broken_link_would_be_seen() -> None:
    assert links("see [x](no-such.md#here) and `[not](a-link.md)`") == ["no-such.md#here"]
    assert anchors("# One, two\n\n## `sparring` x { #own.id }\n\n```sh\n# no heading\n```\n") == {"one-two", "own.id"}
