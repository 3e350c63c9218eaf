"""What the page says of other libraries is their code and runs there; what it says of ours runs here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
from scripts import docs_run

import sparring as sp

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
PEERS = ROOT / ".bench-venv" / "bin" / "python"
LIBRARIES = ("foolbox", "torchattacks", "ART", "AutoAttack", "adversarial-library")
ROW = re.compile(r"^\| `(.+?)` \| `(.+?)` \|$", re.M)
_BEFORE = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, "bench")
import torch
from torch import nn
import peers
if LIBRARY == "adversarial-library":
    peers._stub_missing("torchvision", models=peers.types.ModuleType("torchvision.models"))
    peers._stub_missing("visdom", Visdom=None)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10)).eval()
images = torch.rand(6, 1, 8, 8)
labels = model(images).argmax(1)
targets = (labels + 1) % 10
"""


def section(library: str) -> str:
    """What the page says of one library."""
    return re.split(r"^## ", PAGE.split(f"\n## {library}\n")[1], maxsplit=1, flags=re.M)[0]


def rows(library: str) -> list[tuple[str, str]]:
    """Their expression and ours; keyword arguments by themselves are not expressions."""
    return [(a, b) for a, b in ROW.findall(section(library)) if "=..." not in a and not re.match(r"\w+=", a)]


@pytest.mark.parametrize("library", LIBRARIES)
def test_our_column_means_something(library: str) -> None:
    labels = torch.tensor([0, 1])
    known = {"sp": sp, "model": torch.nn.Flatten(), "labels": labels, "targets": labels + 1}
    found = rows(library)
    assert found or library == "AutoAttack"
    for _, ours in found:
        assert eval(ours, dict(known)) is not None, ours


def test_every_library_has_both_blocks() -> None:
    for library in LIBRARIES:
        languages = [block.language for block in docs_run.blocks(section(library))]
        assert languages[:2] == ["py", "python"], library


@pytest.mark.slow
@pytest.mark.skipif(not PEERS.exists(), reason="needs the peers: bench/run.sh installs them")
@pytest.mark.parametrize("library", LIBRARIES)
def test_their_code_runs(library: str) -> None:
    block = next(block for block in docs_run.blocks(section(library)) if block.language == "py")
    lines = [
        f"LIBRARY = {library!r}",
        _BEFORE,
        block.text,
        "import art.defences.preprocessor, art.defences.trainer" if library == "ART" else "",
    ]
    if library == "ART":
        lines.append("classifier._optimizer = torch.optim.SGD(model.parameters(), 0.1)")
        lines.append("import art.attacks.evasion, art.estimators.certification.randomized_smoothing")
    if library == "adversarial-library":
        lines.append("import adv_lib.attacks")
    lines += [f"assert ({theirs}) is not None" for theirs, _ in rows(library)]
    ran = subprocess.run(
        [str(PEERS), "-c", "\n".join(lines)], capture_output=True, text=True, cwd=ROOT, timeout=600, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
