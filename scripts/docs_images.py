"""Makes docs/images: screenshots of the report of `sparring demo`, and the cat of the README.

Run it when the report changes its looks.

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
"""A palette is enough for a page of text and bars."""
CAT = ("attack", "-m", "imagenet-lite0", "-i", "chelsea", "--eps", "2/255", "--target", "toaster")
"""The photograph is scikit-image's `chelsea`, which its author gave to the public domain (CC0)."""
PARTS = {"report-head": ("header", ".score"), "report-findings": ("#findings", "#attacks")}
"""Name of the picture: from the top of which part of the report to the end of which."""


def main() -> None:
    """Run the commands that the pictures show, keep the pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _sparring("demo", "--no-open", "--out", str(folder))
        _photograph(folder / "report.html")
        _sparring(*CAT, "--out", str(folder / "cat"))
        picture = Image.open(folder / "cat" / "panels.png").convert("RGB")
        picture.thumbnail((900, 900))
        picture.save(IMAGES / "attack-cat.jpg", quality=90)


def _sparring(*arguments: str) -> None:
    subprocess.run([Path(sys.executable).with_name("sparring"), *arguments], check=True, capture_output=True)


def _photograph(report: Path) -> None:
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
            Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
