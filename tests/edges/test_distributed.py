"""Several processes give the records of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, os, sys
import torch
import sparring as sp

torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 24), torch.nn.ReLU(), torch.nn.Linear(24, 4))
images = torch.rand(600, 1, 4, 4, generator=torch.Generator().manual_seed(1))
labels = model(images).argmax(1)
if sys.argv[2] == "wrong":
    labels[0] = 7
out = None if sys.argv[2] == "none" else sys.argv[2]
out = None if out == "wrong" else out
found = sp.evaluate(model, images, labels, sp.ThreatModel("linf", 0.03), effort="standard", out=out)
rows = [[r.index, r.digest, r.broken_by, r.margin, r.forwards, r.backwards] for r in found.records]
rank = os.environ.get("RANK", "0")
with open(f"{sys.argv[1]}-{rank}.json", "w") as file:
    json.dump([rows, found.missed_bound, sorted(found.adversarials), found.stages[1].tried], file)
"""


def run(tmp_path: Path, name: str, out: str, processes: int) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, str(script)]
    if processes > 1:
        launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
        launch.append(str(script))
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(
        [*launch, str(tmp_path / name), out], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_two_processes_give_the_records_of_one(tmp_path: Path) -> None:
    assert run(tmp_path, "one", "none", 1).returncode == 0
    done = run(tmp_path, "two", "none", 2)
    assert done.returncode == 0, done.stderr
    one, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one-0", "two-0", "two-1"))
    assert first == second
    assert first == one  # to the last bit: two processes work on the pieces that one does


def test_two_processes_resume_what_they_wrote(tmp_path: Path) -> None:
    for name in ("before", "after"):
        done = run(tmp_path, name, str(tmp_path / "records"), 2)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "before-0.json").read_text() == (tmp_path / "after-0.json").read_text()
    assert len(list((tmp_path / "records").glob("*/records*.jsonl"))) == 2


def test_the_failure_of_one_process_ends_them_all(tmp_path: Path) -> None:
    done = run(tmp_path, "wrong", "wrong", 2)
    assert done.returncode != 0
    assert "label 7 does not exist" in done.stderr
