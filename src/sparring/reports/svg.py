"""Matplotlib figures as inline SVG that follows the page: its colours, its fonts, light and dark."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Placeholders that figures are drawn with, and the CSS variables of the page that replace them.
COLOURS = {
    "ink": "#0a0b01",
    "ink-2": "#0a0b02",
    "line": "#0a0b03",
    "s1": "#0a0b11",
    "s2": "#0a0b12",
    "s3": "#0a0b13",
    "s4": "#0a0b14",
    "s5": "#0a0b15",
    "s6": "#0a0b16",
}

_LOCK = threading.Lock()
_HREF = "{http://www.w3.org/1999/xlink}href"
_PAGE_DECIDES = {"font-family", "font-size", "font"}


@contextmanager
def settings() -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever the user's matplotlibrc says; theirs come back after."""
    import matplotlib

    with _LOCK, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
        matplotlib.rcParams["svg.hashsalt"] = "sparring"  # the same ids every time
        matplotlib.rcParams["text.parse_math"] = False
        yield


def inline(figure: Figure, *, key: str, title: str, description: str) -> str:
    """The figure as an ``<svg>`` element for an HTML page; equal figures give equal text.

    Call it within `settings`. `key` (unique on the page) prefixes every id; screen readers read out the title
    and the description.
    """
    root = ElementTree.fromstring(_draw(figure))  # noqa: S314 - what matplotlib has just written
    root.attrib = {"viewBox": root.attrib["viewBox"]}
    _strip(root)
    used = {target for element in root.iter() for target in _targets(element)}
    for element in root.iter():
        _rewrite(element, key, used)
    _describe(root, key, title, description)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _draw(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return stream.getvalue()


def _strip(root: ElementTree.Element) -> None:
    """Remove the metadata and matplotlib's style sheet, which would apply to the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in {"metadata", "style"}:
                parent.remove(child)


def _targets(element: ElementTree.Element) -> list[str]:
    found = re.findall(r"url\(#([^)]+)\)", " ".join(element.attrib.values()))
    return [*found, *([element.attrib[_HREF][1:]] if _HREF in element.attrib else [])]


def _rewrite(element: ElementTree.Element, key: str, used: set[str]) -> None:
    """Drop the namespaces (HTML needs none) and ids nobody refers to; prefix the others; theme the style."""
    element.tag = element.tag.rpartition("}")[2]
    if element.attrib.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    attributes = {}
    for name, value in element.attrib.items():
        if name == "id" and value not in used:
            continue
        if name == "id":
            value = f"{key}-{value}"
        elif name == _HREF:
            name, value = "href", f"#{key}-{value[1:]}"
        elif name == "style":
            value = _theme(value)
        attributes[name] = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", value)
    element.attrib = attributes


def _theme(style: str) -> str:
    declarations = (part.strip() for part in style.split(";"))
    kept = "; ".join(d for d in declarations if d.partition(":")[0] not in _PAGE_DECIDES)
    for variable, placeholder in COLOURS.items():
        kept = kept.replace(placeholder, f"var(--{variable})")
    return kept


def _describe(root: ElementTree.Element, key: str, title: str, description: str) -> None:
    root.attrib |= {"role": "img", "aria-labelledby": f"{key}-title {key}-description"}
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{key}-{'title' if tag == 'title' else 'description'}"})
        element.text = text
        root.insert(position, element)
