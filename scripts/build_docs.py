"""Builds the documentation into site/: hand-written pages, executed, and pages made from the code.

    .venv/bin/python scripts/build_docs.py

Needs no network. Fails on any warning: a broken link, an anchor that does not exist, a page outside the navigation,
a code block that raises.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts import (  # noqa: E402
    docs_attacks,
    docs_certificates,
    docs_commands,
    docs_defenses,
    docs_findings,
    docs_reference,
    docs_run,
    docs_training,
)

from sparring.attacks import ATTACKS  # noqa: E402
from sparring.auditing import FINDINGS  # noqa: E402
from sparring.certification import METHODS as CERTIFICATES  # noqa: E402
from sparring.defenses.detectors import DETECTORS  # noqa: E402
from sparring.defenses.transforms import TRANSFORMS  # noqa: E402
from sparring.hardening import METHODS  # noqa: E402

PAGES = ROOT / ".cache" / "docs"
"""Where hand-written and generated pages meet; mkdocs.yml reads them there."""
OUTPUTS = ROOT / ".cache" / "docs-outputs"
"""Pages with what their code printed: a build runs only what has changed."""
TABLES = (docs_attacks, docs_defenses, docs_training, docs_certificates, docs_findings)
"""One page per entry of a table, each with an example that runs."""
ROOMS: dict[str, Collection[str]] = {
    "attacks": ATTACKS,
    "transforms": TRANSFORMS,
    "detectors": DETECTORS,
    "training": METHODS,
    "certificates": CERTIFICATES,
    "findings": FINDINGS,
}
"""Folder of pages to the table whose every entry has one there."""


def generated() -> dict[str, str]:
    """Every page that is made from the code: path below docs/ to Markdown."""
    return entries() | docs_commands.pages() | docs_reference.pages()


def entries() -> dict[str, str]:
    """The pages of the tables. Raises `LookupError` where an entry has none."""
    made = {name: text for maker in TABLES for name, text in maker.pages().items()}
    without = [f"{room}/{name}" for room, table in ROOMS.items() for name in table if f"{room}/{name}.md" not in made]
    if without:
        raise LookupError(f"no page is made for {', '.join(without)}")
    return made


def shown(page: str, name: str) -> str:
    """The page with what its code prints; kept for as long as neither page nor code changes."""
    kept = OUTPUTS / hashlib.sha256(f"{_code_digest()}\n{name}\n{page}".encode()).hexdigest()
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        text = docs_run.with_outputs(page, name, Path(scratch))
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    kept.write_text(text, encoding="utf-8")
    return text


@functools.cache
def _code_digest() -> str:
    """Of everything that what a page prints depends on: our code, how pages are run, and the libraries."""
    files = [*sorted((ROOT / "src").rglob("*.py")), Path(docs_run.__file__)]
    found = hashlib.sha256(b"\0".join(path.read_bytes() for path in files))
    for library in ("torch", "numpy", "scikit-learn"):
        found.update(importlib.metadata.version(library).encode())
    return found.hexdigest()


def collect(folder: Path) -> dict[str, str]:
    """Fill `folder` with all pages, the hand-written ones and those of the tables with what their code prints."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder)
    made = generated()
    pages = {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*.md")}
    run = {*pages, *entries()}
    for name, text in (pages | made).items():
        if name in run:
            text = shown(text, name)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return made


def navigation(entries: list[Any], made: dict[str, str]) -> list[Any]:
    """The `nav` of mkdocs.yml with `folder/*` replaced by the generated pages of that folder, the index first."""
    return [_expanded(entry, made) for entry in entries]


def _expanded(entry: Any, made: dict[str, str]) -> Any:
    if isinstance(entry, dict):
        return {title: _expanded(value, made) for title, value in entry.items()}
    if isinstance(entry, list):
        return navigation(entry, made)
    if not entry.endswith("/*"):
        return entry
    inside = [name for name in made if name.startswith(entry[:-1])]
    index = entry[:-1] + "index.md"
    return [index, *({Path(name).stem: name} for name in sorted(inside) if name != index)]


def build(site: Path) -> None:
    """The whole site; raises where mkdocs would warn."""
    os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config

    made = collect(PAGES)
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(site))
    config.nav = navigation(config.nav or [], made)
    config.plugins.on_startup(command="build", dirty=False)
    build_site(config)
    config.plugins.on_shutdown()


def main() -> None:
    """Build into site/."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("sparring").setLevel(logging.ERROR)  # alerts of the guard in the tutorial are none of ours
    site = ROOT / "site"
    build(site)
    print(f"built {site}/index.html")


if __name__ == "__main__":
    main()
