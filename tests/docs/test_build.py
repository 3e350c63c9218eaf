"""`make docs`: the site builds, without a warning and without asking the network for anything."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from scripts import build_docs

pytestmark = pytest.mark.slow

LOADED = re.compile(
    r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)"|<link[^>]+rel="stylesheet"[^>]+href="(https?:[^"]+)"'
)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the site goes; pages are put together in the project's cache, as `make docs` does."""
    monkeypatch.setattr(build_docs, "PAGES", build_docs.ROOT / ".cache" / "docs")
    return tmp_path / "site"


@pytest.mark.filterwarnings("default")
def test_the_site_builds(build: Path) -> None:
    build_docs.build(build)
    pages = list(build.rglob("*.html"))
    names = {str(page.relative_to(build)) for page in pages}
    assert {name.replace(".md", ".html") for name in build_docs.generated()} <= names
    for page in pages:
        assert LOADED.findall(page.read_text(encoding="utf-8")) == [], page
    assert "prints" in (build / "tutorial.html").read_text(encoding="utf-8")


def test_a_page_is_run_again_when_it_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build_docs, "OUTPUTS", tmp_path)
    ran = []
    run = build_docs.docs_run.with_outputs
    monkeypatch.setattr(build_docs.docs_run, "with_outputs", lambda *given: ran.append(given[1]) or run(*given))
    for page in ("```python\nprint(1)\n```", "```python\nprint(1)\n```", "```python\nprint(2)\n```"):
        text = build_docs.shown(page, "page")
    assert ran == ["page", "page"]
    assert "\n2\n```" in text


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("link", ["no-such-page.md", "threat-model.md#no-such-anchor"])
def test_a_broken_link_fails(build: Path, monkeypatch: pytest.MonkeyPatch, link: str) -> None:
    from mkdocs.exceptions import Abort

    collect = build_docs.collect

    def with_a_broken_link(folder: Path) -> dict[str, str]:
        monkeypatch.setattr(build_docs, "shown", lambda text, name: text)
        made = collect(folder)
        index = folder / "index.md"
        index.write_text(f"{index.read_text(encoding='utf-8')}\n[broken]({link})\n", encoding="utf-8")
        return made

    monkeypatch.setattr(build_docs, "collect", with_a_broken_link)
    with pytest.raises(Abort):
        build_docs.build(build)
    shutil.rmtree(build_docs.PAGES)
