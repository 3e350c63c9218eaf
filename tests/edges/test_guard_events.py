"""Events, alerts and replicas: nothing acknowledged is lost, nothing is told twice, two replicas see one client."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, update
from tests.edges.test_guard_service import infer
from tests.helpers_guard import KEY, SHAPE, Postgres, Receiver, need_postgres, running
from torch import Tensor, nn

from sparring.defenses import Stack
from sparring.guard import Engine
from sparring.guard.alerts import Alerts, Notice
from sparring.guard.events.store import Store
from sparring.guard.events.tables import ALERTS, EVENTS, METADATA, REAUDITS, SANCTIONS, VERDICTS
from sparring.guard.events.writer import Writer
from sparring.guard.reaudits.comparison import empty
from sparring.guard.watch import benign
from sparring.guard.watch.profile import Profile, calibrate


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_GUARD_KEY", KEY)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    need_postgres()
    server = Postgres(tmp_path_factory.mktemp("pg"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def profile(digits_net: nn.Module, digits_data: tuple[Tensor, Tensor]) -> Profile:
    engine = Engine(Stack(digits_net), SHAPE)
    learned = calibrate(engine, benign.sessions(digits_data[0][:300], 40, torch.Generator().manual_seed(0)))
    engine.close()
    return learned


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/e.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").url
    opened = Store(url)
    with opened.begin() as connection:
        for table in reversed(METADATA.sorted_tables):
            connection.execute(table.delete())
    yield opened
    opened.close()


def row(number: int, at: float = 1.0) -> dict[str, object]:
    return {
        **dict.fromkeys(("client", "trace", "replica", "model", "stack"), "x"),
        **dict.fromkeys(("confidence", "margin", "rough", "latency"), 0.5),
        **dict.fromkeys(("top", "scores"), "[]"),
        **dict.fromkeys(("thumbnail", "embedding"), b"\0\1"),
        **{"key": f"k-{number}", "at": at, "label": 1, "decision": "accept", "flagged": False, "picture": False},
    }


def test_the_migrations_build_the_tables_that_the_code_uses(store) -> None:
    with store.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    Store(store.engine.url.render_as_string(hide_password=False)).close()  # a second time changes nothing


def test_events_are_written_once_in_batches_and_a_repeated_one_is_one(store) -> None:
    writer = Writer(store)
    told: list[bool] = []
    for number in range(500):
        assert writer.offer([row(number)], told.append)
    assert writer.offer([row(7)], told.append)
    writer.close()
    assert store.count() == 500
    assert told == [True] * 501
    assert not writer.offer([row(1000)]), "after the end"
    assert writer.dropped == 1


def test_retention_deletes_what_is_old_and_nothing_else(store) -> None:
    now = time.time()
    with store.begin() as connection:
        store.add(EVENTS, [row(1, now - 40 * 86400), row(2, now - 86400)], connection)
        store.add(VERDICTS, [{"key": f"k-{n}", "label": 1, "by": "x", "at": now} for n in (1, 2)], connection)
        store.put(SANCTIONS, {"client": "a", "action": "block", "until": now - 1, "why": "x"}, connection)
        store.put(SANCTIONS, {"client": "b", "action": "block", "until": now + 99, "why": "x"}, connection)
    assert store.retain(30) == {"verdicts": 1, "events": 1, "alerts": 0, "sanctions": 1}
    assert [r["key"] for r in store.rows(select(EVENTS))] == ["k-2"]


def test_what_many_replicas_claim_is_given_to_one(store) -> None:
    claimed = []
    for _ in range(3):
        with store.begin() as connection:
            claimed.append(store.claim(REAUDITS, empty("k", "stack"), connection))
    assert claimed == [True, False, False]


def test_a_full_queue_drops_and_says_so(tmp_path) -> None:
    store = Store(f"sqlite:///{tmp_path}/e.db")
    writer = Writer(store, most=10, linger=0.5)
    taken = [writer.offer([row(number)]) for number in range(30)]
    assert taken.count(True) == 10
    assert writer.dropped == 20
    writer.close()
    assert store.count() == 10
    store.close()


def test_a_store_that_is_locked_for_a_while_loses_nothing(tmp_path) -> None:
    """As a slow database, or another writer's long transaction."""
    store = Store(f"sqlite:///{tmp_path}/e.db")
    other = sqlite3.connect(tmp_path / "e.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer = Writer(store)
    writer.offer([row(1)])
    time.sleep(0.4)
    assert store.count() == 0
    other.execute("COMMIT")
    other.close()
    writer.close()
    assert store.count() == 1
    store.close()


def test_a_full_disk_refuses_in_closed_mode_and_recovers(digits_net, digits_data, tmp_path) -> None:
    """SQLite's own page limit stands for the disk."""
    with running(digits_net, database=f"sqlite:///{tmp_path}/e.db", events="closed") as service:
        client = service.client()
        assert infer(client, digits_data[0][:1], True).status_code == 200
        store = service.guard.store
        limit = {"pages": 1}

        from sqlalchemy import event

        @event.listens_for(store.engine, "checkout")
        def full(connection, *_) -> None:
            connection.execute(f"PRAGMA max_page_count={limit['pages']}")

        accepted, refused = 1, 0
        object.__setattr__(service.guard.settings, "body_seconds", 10.0)
        for start in range(0, 40):
            with httpx.Client(base_url=service.url, timeout=0.7) as impatient:
                try:
                    code = infer(impatient, digits_data[0][start : start + 5], True).status_code
                except httpx.TimeoutException:
                    code = 0
            accepted += 5 * (code == 200)
            refused += code == 503
            if refused >= 2:
                break
        assert refused >= 2, "no answer without its event"
        assert client.get("/readyz").status_code == 503
        limit["pages"] = 10**6
        deadline = time.monotonic() + 10
        while client.get("/readyz").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert infer(client, digits_data[0][:1], True).status_code == 200
        service.settle()
        assert store.count() >= accepted + 1


def test_an_open_guard_answers_while_postgresql_is_dead_and_stores_afterwards(
    digits_net, digits_data, postgres
) -> None:
    with running(digits_net, database=postgres.url) as service:
        client = service.client()
        before = service.guard.store.count()
        for start in range(5):
            assert infer(client, digits_data[0][start : start + 1], True).status_code == 200
        service.settle()
        postgres.kill()
        for start in range(20):
            assert infer(client, digits_data[0][start : start + 1], True).status_code == 200
        time.sleep(0.3)
        assert service.guard.writer.waiting > 0
        postgres.start()
        service.settle()
        assert service.guard.store.count() == before + 25
        assert service.guard.writer.dropped == 0


def test_a_closed_guard_keeps_every_acknowledged_event_through_postgresqls_death(
    digits_net, digits_data, postgres
) -> None:
    with running(digits_net, database=postgres.url, events="closed") as service:
        client, accepted = service.client(), 0
        before = service.guard.store.count()
        for round_ in range(12):
            if round_ == 4:
                postgres.kill()
            if round_ == 8:
                postgres.start()
                deadline = time.monotonic() + 10
                while not service.guard.writer.healthy and time.monotonic() < deadline:
                    time.sleep(0.05)
            with httpx.Client(base_url=service.url, timeout=0.5) as impatient:
                try:
                    accepted += infer(impatient, digits_data[0][round_ : round_ + 1], True).status_code == 200
                except httpx.TimeoutException:
                    continue
        assert client.get("/readyz").status_code == 200
        service.settle()
        assert accepted >= 6, "a busy machine may be too slow for one or two"
        assert service.guard.store.count() - before >= accepted


@pytest.mark.parametrize("events", ["open", "closed"])
def test_a_slow_database_delays_closed_answers_only_and_loses_nothing(
    digits_net, digits_data, postgres, events: str
) -> None:
    """Another one's transaction holds the table for a while."""
    with running(digits_net, database=postgres.url, events=events) as service:
        client, store = service.client(), service.guard.store
        assert infer(client, digits_data[0][:1], True).status_code == 200
        service.settle()
        before = store.count()
        with ThreadPoolExecutor(1) as pool:
            with store.begin() as connection:
                connection.exec_driver_sql("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
                waiting = pool.submit(infer, client, digits_data[0][:3], True)
                time.sleep(0.6)
                assert waiting.done() is (events == "open")
                assert client.get("/healthz").status_code == 200
            assert waiting.result().status_code == 200
        service.settle()
        assert store.count() == before + 3
        assert service.guard.writer.dropped == 0


def test_kill_9_of_the_process_loses_nothing_that_was_acknowledged(digits_data, tmp_path) -> None:
    from tests.edges.test_guard_service import STARTER

    (tmp_path / "sparring.toml").write_text(
        '[model]\nspec = "digits-cnn"\n[guard]\nevents = "closed"\ndatabase = "sqlite:///events.db"\n'
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        with httpx.Client(base_url=f"http://127.0.0.1:{int(process.stdout.readline())}", timeout=20) as client:
            deadline, accepted = time.monotonic() + 30, 0
            while time.monotonic() < deadline:
                try:
                    accepted += (
                        infer(client, digits_data[0][accepted % 50 : accepted % 50 + 1], True).status_code == 200
                    )
                except httpx.TransportError:
                    time.sleep(0.05)
                if accepted == 60:
                    break
        process.send_signal(signal.SIGKILL)
    store = Store(f"sqlite:///{tmp_path}/events.db")
    assert accepted == 60
    assert store.count() == 60
    store.close()


def test_two_replicas_over_one_postgresql_see_one_clients_stream_as_one(
    digits_net, digits_data, postgres, profile, tmp_path
) -> None:
    """Half of a bisection goes to each; neither half alone says anything."""
    profile.save(tmp_path / "p.json")
    settings = {"database": postgres.url, "profile": tmp_path / "p.json"}
    with running(digits_net, **settings) as one, running(digits_net, **settings) as two:
        low, high = digits_data[0][0:1], digits_data[0][1:2]
        replicas = (one.client(77), two.client(77))
        for step in range(14):
            middle = (low + high) / 2
            assert infer(replicas[step % 2], middle, True).status_code == 200
            low, high = (middle, high) if step % 3 else (low, middle)
            (one, two)[step % 2].settle()
            time.sleep(0.35)  # the other replica looks four times a second
        who = one.guard.door.hashed("127.0.0.77")
        evidence = [service.guard.watcher.evidence(who) for service in (one, two)]
        counts = [service.guard.watcher.streams[who].count for service in (one, two)]
    assert counts == [14, 14]
    for kind, value in evidence[0].items():
        assert evidence[1][kind] == pytest.approx(value, abs=1e-3), kind


def notice(kind: str = "search", client: str = "c" * 32) -> Notice:
    return Notice(kind, client, "warning", "does something")


def test_an_alert_is_sent_once_signed_resolved_and_sent_again_after_its_cool_down(store) -> None:
    receiver = Receiver(b"secret", refuse=1)
    options = {
        "webhook": receiver.url,
        "secret": b"secret",
        "cool_down": 1.5,
        "quiet": 4.0,
        "sanction": ("block", 60.0),
        "model": "m",
    }
    first, second = Alerts(store, **options), Alerts(store, **options)
    try:
        for _ in range(5):
            first.tell(notice())
            second.tell(notice())
        firing = receiver.wait(1)
        time.sleep(0.3)
        assert [body["status"] for body in firing] == ["firing"], "once, from one of two replicas, after one refusal"
        (alert,) = firing[0]["alerts"]
        assert alert["labels"] == {
            "alertname": "sparring_search",
            "client": "c" * 32,
            "severity": "warning",
            "job": "sparring-guard",
            "model": "m",
        }
        assert alert["endsAt"] == "0001-01-01T00:00:00Z"
        assert [r["action"] for r in store.rows(select(SANCTIONS))] == ["block"]
        time.sleep(1.0)
        first.tell(notice())
        assert [body["status"] for body in receiver.wait(2)] == ["firing", "firing"]
        assert [body["status"] for body in receiver.wait(3)] == ["firing", "firing", "resolved"]
        assert receiver.bodies[2]["alerts"][0]["endsAt"] > alert["startsAt"]
        assert receiver.bodies[2]["alerts"][0]["fingerprint"] == alert["fingerprint"]
        assert all(receiver.valid)
    finally:
        first.close()
        second.close()
        receiver.close()


def test_alerts_go_out_while_the_database_is_gone(tmp_path, caplog) -> None:
    store, receiver = Store(f"sqlite:///{tmp_path}/e.db"), Receiver(b"s")
    with store.begin() as connection:
        connection.execute(update(ALERTS).values(seen=0.0))
        ALERTS.drop(connection)
    alerts = Alerts(store, webhook=receiver.url, secret=b"s")
    alerts.tell(notice())
    assert len(receiver.wait(1)) == 1
    alerts.close()
    receiver.close()
    store.close()
    assert "alert warning search" in caplog.text
