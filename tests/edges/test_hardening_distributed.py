"""Two processes train as one: same weights on both, gradients sent once per step, the first process watches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers_core import digits, small_net

import sparring as sp
from sparring.hardening import trainer
from sparring.hardening.watch import Sight

SCRIPT = """
import json, os, sys
import torch
from safetensors.torch import save_file
import sparring as sp
from sparring.hardening import trainer
from sparring.hardening.modules import plain_state
from sparring.hardening.watch import Sight
from tests.helpers_core import digits, small_net
from tests.helpers_hardening import Net

torch.set_num_threads(1)
place, method = sys.argv[1:3]
rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
images, labels = digits()
accumulated, looks, steps = [], [], []
build = trainer.Trainer.__init__

def counted(self, module, *args, **kwargs):
    build(self, module, *args, **kwargs)
    next(module.parameters()).register_post_accumulate_grad_hook(lambda _: accumulated.append(1))
    bare = self._train_step
    self._train_step = lambda: (steps.append(1), bare())[1]

trainer.Trainer.__init__ = counted
bad = Sight(.9, .95, .1 if method != 'clean' else .94, .9, 50)
sights = iter([Sight(.9, .7, .6, .9, 50), bad, *[Sight(.9, .7, .95, .9, 50)] * 3])
trainer.look = lambda *_: (looks.append(1), next(sights))[1]
torch.manual_seed(0)
net = small_net() if method == "clean" else Net()
hardened = sp.harden(
    net, (images[:300], labels[:300]), sp.ThreatModel("linf", 0.1), method=method, epochs=3, batch_size=90,
    effort="quick" if method == "clean" else None, optimizer="sgd", lr=0.02, out=place,
    test=(images[300:340], labels[300:340]),
)
save_file(plain_state(hardened.model), f"{place}-{rank}.safetensors")
facts = {"accumulated": len(accumulated), "steps": len(steps), "looks": len(looks), "changes": hardened.card.changes}
with open(f"{place}-{rank}.json", "w") as file:
    json.dump(facts, file)
"""


def launch(tmp_path: Path, name: str, method: str, processes: int) -> list[dict[str, Any]]:
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    command.append(str(script))
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    place = tmp_path / name
    done = subprocess.run(
        [*command, str(place), method], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(Path(f"{place}-{rank}.json").read_text()) for rank in range(processes)]


def test_two_processes_learn_what_one_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without random draws the averaged gradients are those of the whole batch."""
    launch(tmp_path, "two", "clean", 2)
    first, second = (load_file(tmp_path / f"two-{rank}.safetensors") for rank in (0, 1))
    sights = iter([Sight(0.9, 0.7, 0.6, 0.9, 50)] * 3)
    monkeypatch.setattr(trainer, "look", lambda *_: next(sights))
    images, labels = digits()
    one = sp.harden(
        small_net(), (images[:300], labels[:300]), sp.ThreatModel("linf", 0.1), method="clean", epochs=3, batch_size=90,
        effort=None, optimizer="sgd", lr=0.02,
    )  # fmt: skip
    for key, value in one.model.state_dict().items():
        assert torch.equal(first[key], second[key]), key
        assert torch.allclose(value, first[key], atol=1e-5), key
    assert (tmp_path / "two" / "model.safetensors").is_file()


def test_crafting_sends_nothing_and_the_first_process_decides(tmp_path: Path) -> None:
    """Both end with the same model, the statistics of its batch norm among it: they audit it together."""
    facts = launch(tmp_path, "pgd", "pgd:steps=3", 2)
    first, second = (load_file(tmp_path / f"pgd-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    for fact in facts:
        assert fact["accumulated"] == fact["steps"] == 12, "one backward pass to the weights per step"
        (change,) = fact["changes"]
        assert "back to epoch 1, then: 6 steps" in change
    assert [fact["looks"] for fact in facts] == [4, 0]
