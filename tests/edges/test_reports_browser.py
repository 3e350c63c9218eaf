"""The HTML report in a real browser: no request, no error, no sideways scrolling, readable plots."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.edges import reports_factory as factory

pytestmark = pytest.mark.browser
MAKERS = (factory.sample, factory.bare, factory.hostile, factory.photos)
PLOT_TEXT = """() => [...document.querySelectorAll('.drawn svg')].flatMap(svg => {
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    return [...svg.querySelectorAll('text')].map(t => scale * parseFloat(getComputedStyle(t).fontSize));
})"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    return {make.__name__: make().save(folder / f"{make.__name__}.html") for make in MAKERS}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", [make.__name__ for make in MAKERS])
def test_the_page_stands_on_its_own(browser, files, name: str, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    try:
        page.goto(files[name].as_uri())
        assert [url for url in requests if not url.startswith("data:")] == [files[name].as_uri()]
        assert problems == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelectorAll('script').length") == 0
        sizes = page.evaluate(PLOT_TEXT)
        assert all(10.9 < size < 18 for size in sizes)
        assert bool(sizes) == (name != "bare")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(c) for c in paper[4:-1].split(",")) > 384) == (scheme == "light")
    finally:
        page.close()


@pytest.mark.parametrize("name", ["sample", "hostile"])
def test_the_tables_of_attacks_and_classes_are_whole_at_every_width(browser, files, name: str) -> None:
    """As a table where there is room, as cards elsewhere; a sideways scroll would hide columns."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    hidden = """() => [...document.querySelectorAll('.scroll:has(.cards)')]
        .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.getAttribute('aria-label'))"""
    try:
        page.goto(files[name].as_uri())
        for width in (1600, 1280, 1160, 1150, 1000, 960, 860, 760, 640, 500, 400, 340):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(hidden) == [], width
    finally:
        page.close()


def test_a_script_unfolds(browser, files) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})
    try:
        page.goto(files["sample"].as_uri())
        assert not page.locator("pre").is_visible()
        page.locator("summary").click()
        assert page.locator("pre").is_visible()
        assert page.locator("pre").inner_text().strip() == factory.REPLAY.strip()
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
    finally:
        page.close()
