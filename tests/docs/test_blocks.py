"""Documentation that runs: every code block of the README, of docs/ and of the pages made from the tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from scripts import docs_attacks, docs_certificates, docs_defenses, docs_findings, docs_run, docs_training

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}
ATTACKS = {name: page for name, page in docs_attacks.pages().items() if not name.endswith("index.md")}
HEAVY = ("docs/ship.md", "docs/break.md", "docs/teach.md")
"""These repeat what other pages run, with whole audits and trainings; the build of the site runs them, too."""
OTHERS = docs_defenses.pages() | docs_training.pages() | docs_certificates.pages()
ENTRIES = {name: page for name, page in OTHERS.items() if not name.endswith("index.md")}
FINDINGS = {name: page for name, page in docs_findings.pages().items() if "## A model that shows it" in page}
QUICK = ("findings/narrow-input-range.md", "findings/at-chance.md")
"""An audit takes seconds: these show that the others can run, too."""


@pytest.fixture(autouse=True)
def _global_seed_as_before() -> Iterator[None]:
    """A page may seed torch as its reader would."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in HEAVY else []) for n in WRITTEN])
def test_a_page_runs(name: str, tmp_path: Path) -> None:
    ran = docs_run.execute(WRITTEN[name].read_text(encoding="utf-8"), name, tmp_path)
    if name == "README.md":
        assert "False ['at-chance'" in ran[0][1], "the README says what this prints"


@pytest.mark.parametrize("name", ATTACKS)
def test_the_example_of_an_attack_runs(name: str, tmp_path: Path) -> None:
    ran = docs_run.execute(ATTACKS[name], name, tmp_path)
    python = [printed for block, printed in ran if block.language == "python"]
    assert len(python) == 1
    assert "attacked" in python[0]
    assert (tmp_path / "sparring-attack" / "result.json").is_file() or "sp.perturbations." in ATTACKS[name]


@pytest.mark.parametrize("name", ENTRIES)
def test_the_example_of_an_entry_runs(name: str, tmp_path: Path) -> None:
    ((_, printed),) = docs_run.execute(ENTRIES[name], name, tmp_path)
    assert {"transforms": "adaptive", "detectors": "% flagged", "training": "PGD-10", "certificates": "subject:"}[
        name.partition("/")[0]
    ] in printed


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in FINDINGS])
def test_the_example_of_a_finding_raises_it(name: str, tmp_path: Path) -> None:
    ((_, printed),) = docs_run.execute(FINDINGS[name], name, tmp_path)
    assert printed.startswith(("resolved:", "unresolved:")), name


@pytest.mark.slow
def test_the_example_of_all_findings_runs(tmp_path: Path) -> None:
    ((_, printed),) = docs_run.execute(docs_findings.pages()["findings/index.md"], "findings/index.md", tmp_path)
    assert "sp.evaluate(" in printed, "the script that shows it again"


def test_only_shells_and_paths_are_left_out() -> None:
    """A block of python is never skipped, and a block that stands for itself has a language."""
    for name, path in WRITTEN.items():
        for block in docs_run.blocks(path.read_text(encoding="utf-8")):
            assert block.language, f"{name}, line {block.line}: name the language"
            assert not (block.skipped and block.language == "python"), f"{name}, line {block.line}"
            assert block.language != "py" or name == "docs/coming-from.md", f"{name}, line {block.line}: python, not py"


PAGE = """
```python title="mine.py"
VALUE = 3
```
```python
from mine import VALUE
print(VALUE)
```
<!-- not executed: an example -->
```sh
rm -rf everything
```
```sh
sparring --version
sparring audit --eps nonsense   # exits 2
```
"""


def test_the_runner_itself(tmp_path: Path) -> None:
    ran = docs_run.execute(PAGE, "page", tmp_path)
    assert [block.language for block, _ in ran] == ["python", "sh"]
    assert ran[0][1] == "3\n"
    assert ran[1][1].startswith("sparring ")
    assert '```text title="prints"\n3\n```' in docs_run.with_outputs(PAGE, "page", tmp_path)


@pytest.mark.parametrize(
    ("page", "error"),
    [
        ("```python\n1 / 0\n```", ZeroDivisionError),
        ("```sh\nsparring audit --eps nonsense\n```", ValueError),
        ("```sh\nrm -rf everything\n```", ValueError),
    ],
)
def test_a_page_that_fails_is_noticed(page: str, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error):
        docs_run.execute(page, "page", tmp_path)
