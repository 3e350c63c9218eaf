"""Takes the screenshots of docs/images from the report of `sparring demo`. Run it when the report changes its looks.

    .venv/bin/python scripts/docs_images.py

Needs Debian's chromium (scripts/system-packages.sh installs it).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
WIDTH = 1200
COLOURS = 128
PARTS = {"report-head": ("header", ".score"), "report-findings": ("#findings", "#attacks")}
"""Name of the picture: from the top of which part of the report to the end of which."""


def main() -> None:
    """Audit the demo model, open the report, photograph its parts."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [Path(sys.executable).with_name("sparring"), "demo", "--no-open", "--out", scratch]
        subprocess.run(command, check=True, capture_output=True)
        _photograph(Path(scratch) / "report.html")


def _photograph(report: Path) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000}, color_scheme="light")
        page.goto(report.as_uri())
        for name, (first, last) in PARTS.items():
            top, bottom = page.locator(first).bounding_box(), page.locator(last).bounding_box()
            if top is None or bottom is None:
                raise RuntimeError(f"the report has no {first} or {last} any more")
            clip = {"x": 0, "y": top["y"], "width": WIDTH, "height": bottom["y"] + bottom["height"] - top["y"]}
            path = IMAGES / f"{name}.png"
            page.screenshot(path=path, clip=clip, full_page=True)
            _shrink(path)
        browser.close()


def _shrink(path: Path) -> None:
    """A palette is enough for a page of text and bars."""
    Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    main()
