"""The operators' pages in a real browser, reviews that become a folder, sparring over HTTP, the commands."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest
import torch
from sqlalchemy import select
from tests.edges.test_guard_service import infer
from tests.helpers_guard import KEY, SHAPE, Running, running
from torch import Tensor, nn
from typer.testing import CliRunner

from sparring.cli import app
from sparring.defenses import Policy, Stack
from sparring.defenses.detectors import MaxSoftmax
from sparring.errors import ConfigError
from sparring.guard import Engine, calibrate
from sparring.guard.clients import new_token
from sparring.guard.events.tables import EVENTS
from sparring.guard.spar.calm import false_alarms
from sparring.guard.spar.remote import check_target
from sparring.guard.spar.session import Ring, spar, summary
from sparring.guard.watch import benign

PAGES = ("/operator/", "/operator/alerts", "/operator/review", "/operator/simulator")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_GUARD_KEY", KEY)


@pytest.fixture(scope="module")
def watched(
    digits_net: nn.Module, digits_data: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A guard with a detector, a profile, a quarantine, and traffic."""
    folder = tmp_path_factory.mktemp("operators")
    os.environ["SPARRING_GUARD_KEY"] = KEY
    images = digits_data[0]
    detector = MaxSoftmax().fit(digits_net, images[:200], fpr=0.1)

    def build() -> Engine:
        return Engine(Stack(digits_net, [], [detector], Policy(flagged="review")), SHAPE)

    engine = build()
    generator = torch.Generator().manual_seed(0)
    sessions = benign.sessions(images[:300], 120, generator, (20, 60))
    calibrate(engine, sessions, benign.scenes(images[:300], generator)).save(folder / "p.json")
    engine.close()
    with running(
        build, database=f"sqlite:///{folder}/e.db", quarantine=folder / "q", profile=folder / "p.json", cool_down=0
    ) as service:
        infer(service.client(9), images[300:340], True)
        service.settle()
        yield service
    del os.environ["SPARRING_GUARD_KEY"]


@pytest.mark.browser
def test_the_pages_in_a_browser(watched, browser) -> None:
    who = watched.guard.door.hashed("127.0.0.9")
    page = browser.new_page(viewport={"width": 400, "height": 800})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    for path in (*PAGES, f"/operator/clients/{who}"):
        answer = page.goto(watched.url + path)
        assert answer.status == 200, path
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, path
        assert page.locator("h1").count() == 1
        assert page.evaluate("document.querySelectorAll('script').length") == 0
    page.locator("img").first.scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    assert page.locator("img").first.evaluate("image => image.complete && image.naturalWidth") == 8
    assert problems == []
    page.goto(watched.url + "/operator/review")
    before = page.locator("li form").count()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip", "the keyboard reaches the content first"
    page.locator("select").first.select_option("-1")
    page.locator("form button").first.press("Enter")
    page.wait_for_load_state()
    assert page.locator("li form").count() == before - 1
    page.close()


def test_hostile_names_stay_text(watched) -> None:
    answer = watched.client().get("/operator/clients/%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    assert answer.status_code in (200, 404)
    assert "<script>" not in answer.text
    assert "default-src 'none'" in watched.client().get("/operator/").headers["Content-Security-Policy"]
    assert watched.client().get("/operator/pictures/..%2F..%2Fetc%2Fpasswd").status_code == 404
    assert watched.client().get("/operator/simulator?search=nan&x=1e999&fine=-5").status_code == 200


def test_a_verdict_needs_our_own_form_and_a_real_event(watched) -> None:
    key = watched.guard.store.rows(select(EVENTS.c.key).where(EVENTS.c.picture).limit(1))[0]["key"]
    form = {"key": key, "label": "3"}
    assert watched.client().post("/operator/review", data=form, headers={"Origin": "http://evil"}).status_code == 403
    for wrong in ({"key": "none", "label": "1"}, {"key": key, "label": "10"}, {"key": key, "label": "x"}, {}):
        assert watched.client().post("/operator/review", data=wrong).status_code == 400
    assert watched.client().post("/operator/review", data=form).status_code == 303


def test_reviews_become_a_folder_that_harden_reads(watched, tmp_path) -> None:
    from sparring.guard.reviews import export_folder, judge
    from sparring.loading import load_data

    keys = [row["key"] for row in watched.guard.store.rows(select(EVENTS.c.key).where(EVENTS.c.picture).limit(4))]
    for number, key in enumerate(keys):
        judge(watched.guard.store, key, number % 2, 10, "me")
    assert export_folder(watched.guard.store, watched.guard.settings, watched.guard.engine, tmp_path / "out") >= len(
        keys
    )
    data = load_data(str(tmp_path / "out"))
    assert data.images[0:1].shape[2:] == (8, 8)
    assert {"0", "1"} <= set(data.class_names)


def test_a_login_opens_the_pages_to_operators_only(digits_net, tmp_path) -> None:
    token, boss = new_token(tmp_path / "t", "team", "client"), new_token(tmp_path / "t", "boss", "operator")
    with running(digits_net, database=f"sqlite:///{tmp_path}/e.db", tokens=tmp_path / "t") as service:
        client = service.client()
        assert client.get("/operator/").headers["location"] == "/operator/login"
        assert client.post("/operator/login", data={"token": token}).status_code == 401
        entered = client.post("/operator/login", data={"token": boss})
        assert entered.status_code == 303
        assert "HttpOnly" in entered.headers["set-cookie"]
        assert client.get("/operator/").status_code == 200
        client.cookies.set("sparring_guard", "boss|99999999999|" + "0" * 64, domain="127.0.0.1")
        assert (
            service.client(cookies={"sparring_guard": "boss|99999999999|" + "0" * 64}).get("/operator/").status_code
            == 303
        )


def test_sparring_over_http_finds_alerts_and_nothing_is_confused(watched, digits_net, digits_data) -> None:
    images, labels = digits_data
    right = (digits_net(images).argmax(1) == labels).nonzero().flatten()[-4:]
    ring = Ring(f"{watched.url}/v2/models/model/infer", 10, 0.02, 150, 20)
    bouts = spar(ring, "hopskipjump", images[right], labels[right], watched.guard.store, first=100)
    assert summary(bouts)["alert before success"] >= 3
    assert all(bout.queries <= 150 for bout in bouts)
    assert all(bout.alert is None or bout.alert <= bout.queries for bout in bouts)
    careful = spar(
        ring, "careful", images[right[:1]], labels[right[:1]], watched.guard.store, cover=images[:50], first=200
    )
    assert careful[0].queries >= 100
    calm = false_alarms(ring, images[:100], watched.guard.store, sessions=4, first=300)
    assert calm["false alarms"] == 0
    assert calm["refused"] == 0
    assert 80 <= calm["images"] <= 240
    again = torch.cat([images[:1] + 0.5**step * (images[1:2] - images[:1]) for step in range(60)])
    with pytest.MonkeyPatch.context() as patch:  # what is benign is another module's to say: here it is an attack
        patch.setattr(benign, "sessions", lambda *_: iter([again]))
        assert false_alarms(ring, again, watched.guard.store, sessions=1, first=310)["false alarms"] >= 1


def test_an_alerted_client_meets_what_the_policy_says(digits_net, digits_data, tmp_path) -> None:
    from sparring.guard.events.tables import SANCTIONS

    want = {"block": 403, "challenge": 403, "throttle": 429, "label": 200}
    with running(digits_net, database=f"sqlite:///{tmp_path}/e.db") as service:
        for number, action in enumerate(want, 20):
            who = service.guard.door.hashed(f"127.0.0.{number}")
            service.guard.follower.sanctions[who] = (action, 1e12)
            with service.guard.store.begin() as connection:
                service.guard.store.put(
                    SANCTIONS, {"client": who, "action": action, "until": 1e12, "why": "x"}, connection
                )
            answers = [infer(service.client(number), digits_data[0][:1]) for _ in range(3)]
            assert answers[-1].status_code == want[action], action
            if action == "label":
                assert answers[-1].json()["outputs"][1]["data"] == [0.0]
            if action == "challenge":
                assert re.fullmatch("[0-9a-f]{32}", answers[-1].headers["X-Guard-Challenge"])
        assert infer(service.client(99), digits_data[0][:1]).status_code == 200


def test_a_challenge_that_is_solved_opens_the_door() -> None:
    from sparring.guard import gate

    asked = gate.challenge(b"k" * 16, "client", 5)
    answer = next(str(number) for number in range(10**7) if gate.solved(asked, str(number)))
    assert not gate.solved(asked, "")
    assert not gate.solved(gate.challenge(b"k" * 16, "other", 5), answer)


def test_only_this_machine_or_a_confirmed_host_is_attacked(monkeypatch) -> None:
    check_target("http://127.0.0.1:1", "")
    check_target("http://localhost:1", "")
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [(0, 0, 0, "", ("10.0.0.1", 0))])
    with pytest.raises(ConfigError, match="--i-own"):
        check_target("https://guard.example", "")
    with pytest.raises(ConfigError):
        check_target("https://guard.example", "other.example")
    check_target("https://guard.example", "guard.example")
    with pytest.raises(ConfigError):
        check_target("ftp://127.0.0.1", "")


def test_the_commands(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sparring.toml").write_text('[model]\nspec = "digits-cnn"\n[guard]\ndatabase = "sqlite:///e.db"\n')
    runner = CliRunner()

    def command(*arguments: str) -> str:
        done = runner.invoke(app, ["guard", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert len(command("token", "me", "--operator").strip()) > 40
    assert "me operator " in (tmp_path / "sparring-tokens.txt").read_text()
    assert "saved p.json" in command("calibrate", "--sessions", "20", "--out", "p.json")
    assert json.loads((tmp_path / "p.json").read_text())["sessions"] == 20
    assert "deleted 0 verdicts, 0 events" in command("retain", "--days", "1")
    with pytest.raises(ConfigError, match="token"):
        runner.invoke(app, ["guard", "--host", "0.0.0.0"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="already"):
        runner.invoke(app, ["guard", "token", "me"], catch_exceptions=False)
