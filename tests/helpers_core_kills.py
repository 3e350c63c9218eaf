"""Run by test_core_records in a process of its own: children die at chosen or random moments, the run goes on."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparring as sp
from sparring.errors import InputError
from sparring.evaluation import Evaluation, evaluate, task

torch.set_num_threads(1)
task.chunk_size = lambda *_: 8
G = torch.Generator().manual_seed(0)
IMAGES = torch.rand(40, 1, 3, 3, generator=G)
NET = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))
with torch.no_grad():
    NET[1].weight.copy_(torch.randn(3, 9, generator=G))
    NET[1].bias.copy_(-NET[1].weight.sum(1) / 2)
    LABELS = NET(IMAGES).argmax(1)
ATTACKS = ["random_noise:draws=2", "fgsm", "pgd:steps=2,restarts=2"]


class Slow(nn.Module):
    """Sleeps `delay` seconds and calls `event` on every forward pass."""

    delay = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.net = NET

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(Slow.delay)
        EVENT("model")
        return self.net(images)


def nothing(name: str) -> None:
    """No event is watched."""


EVENT: Callable[[str], None] = nothing
MODEL = Slow()


def run(out: Path | None) -> Evaluation:
    return evaluate(MODEL, IMAGES, LABELS, sp.ThreatModel("linf", 0.06), attacks=ATTACKS, out=out)


def in_child(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
            os._exit(3)
        os._exit(0)
    return child


def die_at(out: Path, moment: int) -> None:
    """Ask for SIGKILL at the moment-th event: a model call, or before or after a sync or a rename."""
    global EVENT
    seen = 0

    def count(name: str) -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            count("before")
            result = function(*args, **kwargs)
            count("after")
            return result

        return call

    EVENT = count
    os.fsync, os.replace = watched(os.fsync), watched(os.replace)
    run(out)


def same(found: Evaluation, whole: Evaluation) -> bool:
    return (
        found.complete
        and found.records == whole.records
        and list(found.adversarials) == list(whole.adversarials)
        and all(torch.equal(found.adversarials[i], whole.adversarials[i]) for i in whole.adversarials)
        and [(s.attack, s.tried, s.broke, s.rejected) for s in found.stages]
        == [(s.attack, s.tried, s.broke, s.rejected) for s in whole.stages]
    )


def kills(whole: Evaluation, folder: Path) -> dict[str, Any]:
    outcome: dict[str, Any] = {"wrong": [], "kills": 0}
    for moment in [*range(1, 40, 4), *range(41, 120, 13)]:
        out = folder / f"moment-{moment}"
        _, status = os.waitpid(in_child(lambda: die_at(out, moment)), 0)  # noqa: B023
        outcome["kills"] += os.WIFSIGNALED(status)
        if not (same(run(out), whole) and same(run(out), whole)):
            outcome["wrong"].append(f"moment {moment}")
    chooser = random.Random(0)
    out = folder / "often"
    Slow.delay = 0.004
    for _ in range(4):
        child = in_child(lambda: run(out))
        time.sleep(chooser.uniform(0.03, 0.2))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        outcome["kills"] += os.WIFSIGNALED(status)
    Slow.delay = 0.0
    if not same(run(out), whole):
        outcome["wrong"].append("random kills")
    return outcome


def full_disks(whole: Evaluation, folder: Path) -> dict[str, Any]:
    outcome: dict[str, Any] = {"wrong": [], "refused": 0}
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for limit in (1, 1700, 4500, 9000, 11500):
        out = folder / f"limit-{limit}"

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))  # noqa: B023
            try:
                run(out)  # noqa: B023
            except InputError:
                os._exit(7)

        _, status = os.waitpid(in_child(limited), 0)
        code = os.waitstatus_to_exitcode(status)
        outcome["refused"] += code == 7
        if code not in (0, 7):
            outcome["wrong"].append(f"limit {limit}: exit code {code}")
        try:
            if not same(run(out), whole):
                outcome["wrong"].append(f"limit {limit}: other records")
        except Exception as error:  # noqa: BLE001
            outcome["wrong"].append(f"limit {limit}: {type(error).__name__}: {error}"[:200])
    return outcome


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    try:
        work = {"kills": kills, "full": full_disks}[sys.argv[1]]
        whole = run(None)
        broken = len(whole.adversarials)
        print(json.dumps({**work(whole, folder), "broken": broken, "images": len(whole.records)}))  # noqa: T201
    finally:
        shutil.rmtree(folder, ignore_errors=True)
