"""Attacks on a service that fails all the time, and on a client that is killed: the bill is exact, answers are kept."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers_http import Service, labelled, network, serving

import sparring as sp
from sparring.black_box import BlackBox
from sparring.bridges.http import Remote, open_endpoint
from sparring.errors import QueriesSpentError

FAULTS = [
    (429, {}, b""),
    (429, {"retry-after": "3"}, b"slow down"),
    *[(status, {}, b"<html>no</html>") for status in (408, 500, 502, 503, 504)],
    "reset",
    "cut",
]
ATTACKS = {
    "square:queries=25": ("scores", "logits", lambda s: {"scores": s[0].tolist()}),
    "hopskipjump:queries=30,samples=4": ("label", "labels", lambda s: {"scores": int(s.argmax())}),
}
THREAT = sp.ThreatModel("linf", 0.02)


NET = network()
DATA = labelled(NET)


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(NET) as running:
        yield running


def often(seed: int, n: int = 3000) -> list[Any]:
    """Every third request meets a fault, some meet several in a row."""
    draw = random.Random(seed)
    return [draw.choice(FAULTS) if draw.random() < 0.33 else None for _ in range(n)]


def impatient(file: Path, pauses: list[float] | None = None) -> BlackBox:
    box = open_endpoint(file)
    assert isinstance(box.inner, Remote)
    box.inner.client.sleep = (lambda _: None) if pauses is None else pauses.append
    return box


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_survives_a_service_that_fails_every_third_time(
    attack: str, service: Service, tmp_path: Path
) -> None:
    answers, access, service.reply = ATTACKS[attack]
    there = sp.evaluate(BlackBox(NET, access, 3), *DATA, THREAT, attacks=[attack])
    service.faults, pauses = often(0), []
    keys = {"answers": answers, "classes": 3, "retries": 12}
    for cap in (41, 90):
        with pytest.raises(QueriesSpentError, match=f"cap of {cap} pictures"):
            sp.evaluate(impatient(service.declared(tmp_path, max_queries=cap, **keys)), *DATA, THREAT, attacks=[attack])
        assert len(service.pictures) == cap, "what reached the server, faults included, is what was allowed"
    service.faults[:0] = [FAULTS[1], FAULTS[3], FAULTS[3]]
    box = impatient(service.declared(tmp_path, max_queries=5000, **keys), pauses)
    here = sp.evaluate(box, *DATA, THREAT, attacks=[attack])
    assert [(r.broken_by, r.prediction) for r in here.records] == [(r.broken_by, r.prediction) for r in there.records]
    assert [r.distance for r in here.records] == pytest.approx([r.distance for r in there.records])
    assert isinstance(box.inner, Remote)
    spent, kept = box.inner.ledger.totals()
    assert spent == len(service.pictures)
    assert kept == len(service.answered) == len(set(service.answered)), "a picture was paid for twice"
    assert pauses[:3] == [3.0, 1.0, 2.0], "as long as the service asked, and longer for every fault in a row"
    again = len(service.pictures)
    sp.evaluate(impatient(tmp_path / "endpoint.toml"), *DATA, THREAT, attacks=[attack])
    assert len(service.pictures) == again


def test_a_batch_with_too_few_answers_is_not_kept(service: Service, tmp_path: Path) -> None:
    keys = {"batch": 3, "body": {"instances": ["{array}"]}, "response": "out.*"}
    for wrong in (lambda s: {"out": s[:2].tolist()}, lambda s: {"out": [*s.tolist(), [0, 0, 0]]}, lambda s: {"out": 3}):
        service.reply = wrong
        box = impatient(service.declared(tmp_path, **keys))
        with pytest.raises(sp.errors.EndpointError, match=r"answers to 3 pictures|at '\*' there is 3"):
            box(DATA[0])
        assert isinstance(box.inner, Remote)
        assert box.inner.ledger.totals()[1] == 0
    assert box.inner.ledger.totals()[0] == len(service.pictures) == 9


CHILD = """
import sys, numpy as np, torch, sparring as sp
from sparring.bridges import open_endpoint
torch.set_num_threads(1)
held = np.load("data.npz")
data = torch.from_numpy(held["images"]), torch.from_numpy(held["labels"])
found = sp.evaluate(open_endpoint("endpoint.toml"), *data, sp.ThreatModel("linf", 0.02), attacks=[sys.argv[1]])
print([(r.broken_by, r.prediction) for r in found.records])
"""


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_client_that_is_killed_goes_on_without_asking_twice(attack: str, service: Service, tmp_path: Path) -> None:
    """SIGKILL in the middle of the work, twice: only an answer on its way at that moment is asked for again."""
    answers, access, service.reply = ATTACKS[attack]
    there = sp.evaluate(BlackBox(NET, access, 3), *DATA, THREAT, attacks=[attack])
    service.declared(tmp_path, max_queries=400, answers=answers, classes=3)
    np.savez(tmp_path / "data.npz", images=DATA[0].numpy(), labels=DATA[1].numpy())
    command = [sys.executable, "-c", CHILD, attack]
    for _ in range(2):
        before = len(service.pictures)
        child = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(service.pictures) < before + 25 and child.poll() is None:
            time.sleep(0.001)
        assert child.poll() is None, "it ended before it was killed"
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([(r.broken_by, r.prediction) for r in there.records])
    twice = [n - 1 for n in Counter(service.answered).values() if n > 1]
    assert sum(twice) <= 2, "one answer per kill may have been lost on its way"
    spent, kept = open_endpoint(tmp_path / "endpoint.toml").inner.ledger.totals()  # type: ignore[union-attr]
    assert len(service.pictures) <= spent <= len(service.pictures) + 2, "a picture may be on the bill that never left"
    assert kept == len(set(service.answered))
