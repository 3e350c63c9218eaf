"""Re-audits: what became weaker raises an alert, once, from one replica, until it is mended or accepted."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.edges.test_guard_service import STARTER
from tests.helpers_guard import KEY, Receiver, running
from torch import Tensor, nn
from typer.testing import CliRunner

from sparring.cli import app
from sparring.defenses import Stack
from sparring.defenses.detectors import MaxSoftmax
from sparring.guard.alerts import Alerts
from sparring.guard.events.store import Store
from sparring.guard.events.tables import REAUDITS
from sparring.guard.metrics import Metrics
from sparring.guard.reaudits.comparison import accept, accepted, compared, empty, latest
from sparring.guard.reaudits.schedule import Reaudits
from sparring.guard.reaudits.task import reaudited
from sparring.loading import load_data
from sparring.threat import ThreatModel

STACK = "a1" * 32


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_GUARD_KEY", KEY)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path}/e.db")
    yield opened
    opened.close()


def stands(count: int, n: int = 100) -> dict[str, int]:
    return {f"{i:016x}": int(i < count) for i in range(n)}


def done(key: str, count: int, worse: bool = False, at: float | None = None) -> dict[str, object]:
    more = {"stood": json.dumps(stands(count)), "share": count / 100, "verdict": f"{count} stand", "task": "t"}
    return {**empty(key, STACK, "done"), **more, "worse": worse, "at": time.time() if at is None else at}


def test_only_more_than_chance_and_more_than_a_point_is_worse() -> None:
    before = done("k", 60)
    assert not compared(stands(60), None).worse
    for count, worse in ((60, False), (54, False), (53, False), (52, True), (30, True), (90, False)):
        assert compared(stands(count), before).worse is worse, count
    assert "8 fell and 0 rose" in compared(stands(52), before).said


def test_a_stack_is_audited_and_a_weaker_one_is_called_so(digits_net: nn.Module, store: Store) -> None:
    data, threat = load_data("digits", n=60), ThreatModel("linf", 0.03)
    options = {"images": 30, "effort": "quick"}
    first = reaudited(Stack(digits_net), STACK, data, threat, store, **options)
    assert first["accepted"]
    assert first["share"] > 0.6
    frail = copy.deepcopy(digits_net)
    frail.load_state_dict(shaken(digits_net.state_dict()))
    worse = reaudited(Stack(frail), "b2" * 32, data, threat, store, **options)
    assert worse["worse"], worse["verdict"]
    assert accepted(store, worse["task"])["key"] == first["key"]
    accept(store, worse["key"])
    assert accepted(store, worse["task"])["key"] == worse["key"]
    assert not latest(store, stack="b2" * 32)[0]["worse"], "what was accepted is no alarm any more"


def shaken(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that a bad training run might have left."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: tensor + 2 * tensor.std() * torch.randn(tensor.shape, generator=generator) if tensor.dim() > 1 else tensor
        for name, tensor in weights.items()
    }


@pytest.mark.slow
def test_a_stack_with_detectors_is_attacked_as_a_whole(digits_net, digits_data, store) -> None:
    detector = MaxSoftmax().fit(digits_net, digits_data[0][:200], fpr=0.05)
    data = load_data("digits", n=60)
    row = reaudited(
        Stack(digits_net, [], [detector]), STACK, data, ThreatModel("linf", 0.05), store, images=30, effort="quick"
    )
    assert 0 < row["share"] < 1


def follower(store: Store, alerts: Alerts, *command: str, hours: float = 0.0) -> Reaudits:
    return Reaudits(store, alerts, Metrics(), lambda: STACK, hours, command)


def test_a_regression_alerts_until_a_later_one_holds(store: Store) -> None:
    receiver = Receiver(b"s")
    alerts = Alerts(store, webhook=receiver.url, secret=b"s", cool_down=0, quiet=0.2)
    reaudits = follower(store, alerts)
    try:
        for number, (count, worse) in enumerate([(60, False), (30, True), (61, False)]):
            with store.begin() as connection:
                store.add(REAUDITS, [done(f"k{number}", count, worse)], connection)
            for _ in range(3):
                reaudits.look(time.time())
            if worse:
                (body,) = receiver.wait(1)
                assert body["alerts"][0]["labels"]["alertname"] == "sparring_regression"
                assert body["alerts"][0]["labels"]["severity"] == "critical"
                assert "30 stand" in body["alerts"][0]["annotations"]["summary"]
                time.sleep(0.5)
                assert len(receiver.bodies) == 1, "silence does not end it"
        assert [body["status"] for body in receiver.wait(2)] == ["firing", "resolved"]
        assert reaudits.share == 0.61
    finally:
        alerts.close()
        receiver.close()


WRITES = """
import sqlite3, sys
key = sys.argv[sys.argv.index("--key") + 1]
with sqlite3.connect(sys.argv[1]) as base:
    base.execute("UPDATE reaudits SET state = 'done', verdict = 'written', worse = 1 WHERE key = ?", (key,))
sys.exit(1)
"""


def test_one_replica_audits_each_stack_once_in_its_time(store: Store, tmp_path: Path) -> None:
    alerts = Alerts(store)
    command = (sys.executable, "-c", WRITES, str(tmp_path / "e.db"))
    one, two = (follower(store, alerts, *command, hours=1.0) for _ in range(2))
    try:
        now = time.time()
        for _ in range(50):
            one.look(now)
            two.look(now)
            if latest(store):
                break
            time.sleep(0.1)
        one.look(now)
        assert [row["verdict"] for row in latest(store, 9)] == ["written"]
        two.look(now + 3600)
        assert len(store.rows(REAUDITS.select())) == 2
        assert alerts.raised == {"regression": 1}
    finally:
        for each in (one, two):
            each.close()
        alerts.close()


def test_a_reaudit_that_fails_is_said_and_not_taken_for_one_that_held(store: Store, caplog) -> None:
    alerts = Alerts(store)
    reaudits = follower(store, alerts, sys.executable, "-c", "import sys; sys.exit(2)", hours=1.0)
    try:
        deadline = time.monotonic() + 10
        while "exit 2" not in caplog.text and time.monotonic() < deadline:
            reaudits.look(time.time())
            time.sleep(0.05)
        assert [row["state"] for row in store.rows(REAUDITS.select())] == ["failed"]
        assert latest(store) == []
        assert reaudits.metrics.reaudits.labels("failed")._value.get() == 1
    finally:
        reaudits.close()
        alerts.close()


def test_the_command_and_the_page(digits_net, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sparring.toml").write_text(
        '[model]\nspec = "digits-cnn"\n[guard]\ndatabase = "sqlite:///e.db"\nreaudit_images = 20\n'
    )
    told = CliRunner().invoke(app, ["guard", "reaudit"], catch_exceptions=False)
    assert told.exit_code == 0
    assert "of 20 images stand" in told.output
    assert (tmp_path / "sparring-reaudit" / "report.html").stat().st_size > 10_000
    with running(digits_net, database=f"sqlite:///{tmp_path}/e.db") as service:
        page = service.client().get("/operator/").text
        assert "of 20 images stand" in page
        assert "accepted" in page
    with pytest.raises(Exception, match="SIGHUP"):
        CliRunner().invoke(app, ["guard", "reaudit", "--stack", "0" * 64], catch_exceptions=False)


NETS = """
from sparring.loading import load_model
from torch import nn

def make():
    return load_model("digits-cnn")
"""


@pytest.mark.slow
def test_a_running_guard_that_is_given_a_weaker_model_says_so(tmp_path: Path) -> None:
    """The real command, the real schedule, a real receiver: weights are replaced and SIGHUP is sent."""
    from sparring.loading import load_model

    receiver = Receiver(b"secret-of-the-webhook")
    weights = tmp_path / "w.safetensors"
    save_file(load_model("digits-cnn").state_dict(), weights)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "sparring.toml").write_text(
        '[model]\nspec = "nets.py:make"\nweights = "w.safetensors"\n[data]\nsource = "digits"\n'
        '[threat]\nnorm = "linf"\neps = 0.05\n'
        f'[guard]\ndatabase = "sqlite:///e.db"\nwebhook = "{receiver.url}"\nreaudit_hours = 24\nreaudit_images = 100\n'
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SPARRING_GUARD_WEBHOOK_SECRET": "secret-of-the-webhook"}
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            store, deadline = Store(f"sqlite:///{tmp_path}/e.db"), time.monotonic() + 240
            while not latest(store) and time.monotonic() < deadline:
                time.sleep(0.5)
            (first,) = latest(store)
            assert first["accepted"]
            save_file(shaken(load_file(weights)), weights)
            process.send_signal(signal.SIGHUP)
            firing = receiver.wait(1, 240)
            assert firing[0]["alerts"][0]["labels"]["alertname"] == "sparring_regression"
            assert receiver.valid == [True]
            assert 'guard_reaudits_total{outcome="worse"} 1.0' in httpx.get(f"{url}/metrics").text
            assert latest(store)[0]["share"] < first["share"]
            store.close()
        finally:
            process.terminate()
            process.wait(30)
            receiver.close()
