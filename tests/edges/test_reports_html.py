"""The HTML report: one file, no request, nothing from the report becomes markup, the same page every time."""

from __future__ import annotations

import base64
import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser

import matplotlib
import pytest
from tests.edges import reports_factory as factory

from sparring.auditing.report import Curve, CurvePoint, Report
from sparring.reports import html, pictures, plots, svg, wording

VOID = {"meta", "link", "img", "wbr", "br", "hr", "input", "base"}
MAKERS = (factory.sample, factory.bare, factory.hostile, factory.photos)


class Page(HTMLParser):
    """Collects elements, ids and text; fails on tags that do not nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute: {names}"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def pages() -> dict[str, tuple[str, Page]]:
    sources = {make.__name__: html.render(make()) for make in MAKERS}
    return {name: (source, Page(source)) for name, source in sources.items()}


@pytest.mark.parametrize("name", [make.__name__ for make in MAKERS])
def test_the_page_loads_nothing(pages, name: str) -> None:
    source, page = pages[name]
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"script", "iframe", "object", "embed", "base", "form", "audio", "video", "source"})
    for tag, attributes in page.elements:
        for key in ("src", "srcset", "data", "poster", "action", "background", "xlink:href"):
            assert attributes.get(key, "data:").startswith("data:image/png;base64," if key in attributes else "data:")
        target = attributes.get("href", "#")
        assert target.startswith(("#", "data:,")) or (tag == "a" and re.match(r"https?://", target)), target
        assert not [key for key in attributes if key.startswith("on")]
    assert "@import" not in source
    assert set(re.findall(r"url\((.)", source)) <= {"#"}


def test_a_strict_policy_forbids_what_we_do_not_do(pages) -> None:
    policy = next(m["content"] for m in pages["sample"][1].all("meta") if "http-equiv" in m)
    assert policy.split("; ")[0] == "default-src 'none'"
    assert "script" not in policy
    assert "http" not in policy


@pytest.mark.parametrize("name", [make.__name__ for make in MAKERS])
def test_ids_are_unique_and_every_reference_lands(pages, name: str) -> None:
    source, page = pages[name]
    ids = Counter(a["id"] for _, a in page.elements if "id" in a)
    assert [i for i, times in ids.items() if times > 1] == []
    targets = set(re.findall(r"url\(#([^)]+)\)", source))
    for _, attributes in page.elements:
        targets.update(attributes.get("aria-labelledby", "").split())
        if attributes.get("href", "").startswith("#"):
            targets.add(attributes["href"][1:])
    assert targets <= set(ids)


@pytest.mark.parametrize("make", MAKERS)
def test_equal_reports_give_equal_pages(make, pages) -> None:
    assert html.render(make()) == pages[make.__name__][0]


def test_the_users_plot_settings_neither_matter_nor_change(pages) -> None:
    with matplotlib.rc_context({"font.size": 31, "svg.fonttype": "path", "savefig.bbox": "tight"}):
        assert html.render(factory.sample()) == pages["sample"][0]
        assert matplotlib.rcParams["font.size"] == 31


def test_hostile_text_stays_text(pages) -> None:
    source, page = pages["hostile"]
    assert "<script" not in source.replace("&lt;script", "")
    assert "alert(1)</script>" not in source
    assert "{{ 7*7 }}" in page.text
    assert "[bold red]markup[/]" in page.text
    assert not set(source) & set("\x00\x1b\u202e")
    assert not [a for a in page.all("a") if "example.org" in a.get("href", "")]


def test_the_colours_and_fonts_are_those_of_the_page(pages) -> None:
    source, _ = pages["sample"]
    assert not [placeholder for placeholder in svg.COLOURS.values() if placeholder in source]
    for drawing in re.findall(r"<svg viewBox[^>]*role=\"img\".*?</svg>", source, re.DOTALL):
        assert "font-family" not in drawing
        assert "#000000" not in drawing
        assert "<title" in drawing
        assert "<desc" in drawing


@pytest.mark.parametrize("name", [make.__name__ for make in MAKERS])
def test_there_is_one_style_sheet_and_no_metadata_of_plots(pages, name: str) -> None:
    page = pages[name][1]
    assert len(page.all("style")) == 1
    assert not page.all("metadata")


def test_the_budget_is_marked_only_where_its_norm_is(pages) -> None:
    linf, l2 = re.findall(r'id="curve\d-title".*?</table>', pages["photos"][0], re.DOTALL)
    assert "budget" in linf
    assert "budget" not in l2


def test_the_pass_mark_and_doubt_are_drawn(pages) -> None:
    def classes(name: str) -> list[str]:
        return [a.get("class", "") for _, a in pages[name][1].elements]

    assert "mark" in classes("sample")
    assert "meter-value doubt" in classes("sample")
    assert "mark" not in classes("bare")
    assert "meter-value doubt" not in classes("photos")


def test_the_head_says_what_matters(pages) -> None:
    _, page = pages["sample"]
    report = factory.sample()
    for words in (
        report.headline,
        "Do not rely on this robust accuracy",
        "97.2 %",
        "34.8 %",
        "[30.8, 39.1]",
        "n\u00a0=\u00a0500",
        "Gate failed",
        wording.CAUTION,
        "would break at most 4.9 points of robust accuracy more",
        "174 still right",
    ):
        assert words.replace("\u00a0", " ") in page.text.replace("\u00a0", " "), words


def test_findings_come_sorted_with_code_evidence_remedy_and_references(pages) -> None:
    _, page = pages["sample"]
    order = [page.text.index(f.evidence[:30]) for f in html.selections.sorted_findings(factory.sample())]
    assert order == sorted(order)
    assert "saturated-logits" in page.text
    assert "resolved" in page.text
    links = {a["href"] for a in page.all("a") if a["href"].startswith("http")}
    assert links == {
        "https://arxiv.org/abs/1902.06705",
        "https://arxiv.org/abs/1802.00420",
        "https://example.org/docs/threat",
    }


def test_a_finding_shows_its_script_letter_by_letter(pages) -> None:
    source, _ = pages["sample"]
    (script,) = re.findall(r"<pre[^>]*>(.*?)</pre>", source, re.DOTALL)
    assert unescape(script) == factory.REPLAY
    assert source.count("<details>") == 1


def test_the_comparison_names_the_images(pages) -> None:
    _, page = pages["sample"]
    for words in (
        factory.comparison().verdict,
        "attacks: fgsm then, fgsm, square:queries=500 now",
        "480 images matched by content. Left out: 20 only here.",
        "Newly broken: 25 images, the first 20; the JSON report names all",
        "Newly robust: 5 images",
        "0000000000000064",
    ):
        assert words in page.text.replace("\u00a0", " "), words
    assert "Compared with the baseline" not in pages["photos"][1].text


def test_a_targeted_audit_speaks_of_the_chosen_class() -> None:
    base = factory.sample()
    report = factory.sample(evaluation=base.evaluation.model_copy(update={"targeted": True}))
    text = Page(html.render(report)).text
    assert "312 turned into the chosen class" in text
    assert "reached the chosen class" in text
    assert "still right after" not in text


def test_what_is_missing_is_said_as_it_is() -> None:
    base = factory.sample()
    checked = Page(html.render(factory.sample(complete=False))).text
    assert "Every attack ran on every image" in checked
    stopped = base.evaluation.model_copy(update={"complete": False})
    broken_off = Page(html.render(factory.sample(complete=False, evaluation=stopped))).text
    assert "attacks that are missing could lower" in broken_off


def test_an_empty_report_says_so(pages) -> None:
    _, page = pages["bare"]
    for words in ("Incomplete.", "unknown", "n = 0", "No gate", "No findings", "No attack ran", "Not judged yet"):
        assert words in page.text.replace("\u00a0", " "), words
    for absent in ("How it falls", "Class by class", "What the perturbations look like", "Believable"):
        assert absent not in page.text, absent


def test_a_thousand_classes_are_capped_and_it_says_so(pages) -> None:
    _, page = pages["photos"]
    assert "These are the worst 20 of 1,000" in page.text
    assert "No findings" in page.text
    assert "Believable" in page.text


def test_tiny_pictures_are_shown_with_crisp_pixels(pages) -> None:
    assert {i.get("class") for i in pages["sample"][1].all("img")} == {"pixels"}
    assert {i.get("class") for i in pages["photos"][1].all("img")} == {None}
    assert all(i["alt"] and i["width"] and i["height"] for i in pages["sample"][1].all("img"))
    assert "picture unreadable" in pages["hostile"][1].text


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GIF89a" + bytes(40),
        b"\x89PNG\r\n\x1a\n",
        b"notapng!" + bytes(4) + b"IHDR" + b"\0\0\0\x08" * 2,
        b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IHDR" + bytes(8),
    ],
)
def test_what_is_no_png_is_no_picture(raw: bytes) -> None:
    assert pictures.shot(base64.b64encode(raw).decode()) is None


def test_84_series_look_different_from_each_other() -> None:
    assert len({plots.Look.of(i) for i in range(84)}) == 84


@pytest.mark.parametrize("values", [(0.0,), (0.0, 0.0), (8 / 255,), (0.1, 1e-9, 5.0), (1e6,)])
@pytest.mark.parametrize("budget", [None, 0.0, 0.05])
def test_curves_of_any_extent_can_be_drawn(values: tuple[float, ...], budget: float | None) -> None:
    points = tuple(CurvePoint(eps=v, accuracy=factory.share(0, 0)) for v in values)
    drawn = plots.curve_plot([Curve(attack="a", norm="linf", points=points)], key="k", budget=budget)
    assert drawn.svg.startswith("<svg")


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_suffices_in_both_schemes(pages, scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", pages["bare"][0], re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))
    for text in ("ink", "ink-2", "accent", "critical", "warning", "note", "ok"):
        for ground in ("ground", "paper", *([f"{text}-tint"] if f"{text}-tint" in colours else [])):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for series in ("s1", "s2", "s3", "s4", "s5", "s6"):
        assert contrast(colours[series], colours["paper"]) >= 4.5, series


def test_a_negative_verdict_is_never_dressed_up() -> None:
    """An open undermining finding shows even when the gate passed."""
    base = factory.sample()
    report = base.model_copy(update={"gate": base.gate.model_copy(update={"passed": True})})
    page = Page(html.render(Report.model_validate(report.model_dump())))
    assert "Not believable" in page.text
    assert "Gate passed" in page.text
