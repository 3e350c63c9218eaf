"""A model behind HTTP: the cap is exact, nothing is asked twice, faults are survived, strangers get nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers_http import TRICKLES, Service, labelled, network, serving, toml
from torch import Tensor, nn
from typer.testing import CliRunner

import sparring as sp
from sparring import bridges
from sparring.attacks import parse
from sparring.black_box import access_of
from sparring.bridges.http import Remote, load_endpoint, open_endpoint
from sparring.bridges.http.estimate import bill
from sparring.cli import app
from sparring.errors import ConfigError, DataError, EndpointError, InputError, QueriesSpentError, UnsupportedError

RESET = "reset"


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return network()


@pytest.fixture
def service(net: nn.Module) -> Iterator[Service]:
    with serving(net) as running:
        yield running


@pytest.fixture
def data(net: nn.Module) -> tuple[Tensor, Tensor]:
    return labelled(net)


def remote(file: Path, pauses: list[float] | None = None) -> Remote:
    noted = [] if pauses is None else pauses
    return Remote(load_endpoint(file), sleep=noted.append)


ATTACKS = {
    "square:queries=25": ("scores", lambda s: {"scores": s[0].tolist()}),
    "hopskipjump:queries=30,samples=4": ("label", lambda s: {"scores": int(s.argmax())}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_spends_the_cap_exactly_and_resumes_without_asking_twice(
    attack: str, service: Service, data: tuple[Tensor, Tensor], net: nn.Module, tmp_path: Path
) -> None:
    answers, service.reply = ATTACKS[attack]
    threat = sp.ThreatModel("linf", 0.02)
    access = "logits" if answers == "scores" else "labels"
    there = sp.evaluate(sp.BlackBox(net, access, 3), *data, threat, attacks=[attack], batch_size=4)
    for cap in (57, 83):
        file = service.declared(tmp_path, max_queries=cap, answers=answers, classes=3)
        with pytest.raises(QueriesSpentError, match=f"cap of {cap} pictures"):
            sp.evaluate(open_endpoint(file), *data, threat, attacks=[attack], batch_size=4)
        assert len(service.pictures) == cap
    service.faults = [(429, {}, b""), (503, {}, b""), RESET]
    file = service.declared(tmp_path, max_queries=5000, answers=answers, classes=3)
    box = open_endpoint(file)
    box.inner.client.sleep = lambda _: None  # type: ignore[union-attr]
    here = sp.evaluate(box, *data, threat, attacks=[attack], batch_size=4)
    assert [r.broken_by for r in here.records] == [r.broken_by for r in there.records]
    assert [r.distance for r in here.records] == pytest.approx([r.distance for r in there.records])
    assert len(service.answered) == len(set(service.answered)), "a picture was paid for twice"
    assert len(service.pictures) == len(service.answered) + 3
    again = len(service.pictures)
    sp.evaluate(open_endpoint(file), *data, threat, attacks=[attack], batch_size=4)
    assert len(service.pictures) == again


def test_faults_are_survived_with_growing_pauses(
    service: Service, data: tuple[Tensor, Tensor], net: nn.Module, tmp_path: Path
) -> None:
    service.faults = [(429, {"retry-after": "7"}, b""), (500, {}, b"oops"), RESET, 0.6]
    pauses: list[float] = []
    model = remote(service.declared(tmp_path, timeout=0.3), pauses)
    assert torch.allclose(model(data[0][:1]), net(data[0][:1]), atol=1e-5)
    assert pauses == [7.0, 1.0, 2.0, 4.0]
    assert len(service.pictures) == 5 == model.ledger.totals()[0], "every attempt is on the bill"


def test_a_server_that_stays_silent_ends_the_run_and_keeps_what_it_said(
    service: Service, data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    file = service.declared(tmp_path, retries=2)
    model = remote(file)
    model(data[0][:2])
    service.always = (503, {}, b"")
    with pytest.raises(EndpointError, match="no answer in 3 attempts, at last it answered 503"):
        model(data[0])
    service.always = None
    remote(file)(data[0])
    assert len(service.answered) == len(set(service.answered)) == 6


def test_attempts_count_when_the_cap_is_near(service: Service, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    service.always = (429, {}, b"")
    with pytest.raises(QueriesSpentError):
        remote(service.declared(tmp_path, max_queries=3, retries=9))(data[0][:1])
    assert len(service.pictures) == 3


def test_processes_share_the_cap(service: Service, tmp_path: Path) -> None:
    file = service.declared(tmp_path, max_queries=20)

    def ask(number: int) -> None:
        images = torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(number))
        with contextlib.suppress(QueriesSpentError):
            for image in images:
                remote(file)(image[None])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(service.pictures) == 20


def test_batches_fit_the_cap(service: Service, tmp_path: Path) -> None:
    service.reply = lambda scores: {"out": [{"s": row} for row in scores.tolist()]}
    file = service.declared(tmp_path, max_queries=7, batch=4, body={"instances": ["{array}"]}, response="out.*.s")
    images = torch.rand(9, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with pytest.raises(QueriesSpentError):
        remote(file)(images)
    assert len(service.pictures) == 7
    assert len(service.requests) == 2
    images[5] = images[0]
    assert remote(file)(images[:6]).shape == (6, 3)


@pytest.mark.parametrize(
    ("keys", "exact"),
    [
        ({"body": {"image": "{array}"}}, True),
        ({"body": {"image": "{png}"}}, False),
        ({"body": {"image": "{data_url}", "threshold": 0.5}}, False),
        ({"body": "{png}"}, False),
        ({"upload": "file"}, False),
    ],
)
def test_every_form_carries_the_picture(
    keys: dict[str, Any], exact: bool, service: Service, net: nn.Module, tmp_path: Path
) -> None:
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    keys = {"response": "scores"} | keys
    found = remote(service.declared(tmp_path, **keys))(images)
    seen = images if exact else (images * 255).round() / 255
    assert torch.allclose(found, net(seen), atol=1e-5)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("datatype", ["FP32", "UINT8"])
def test_the_open_inference_protocol(
    layout: str, datatype: str, service: Service, net: nn.Module, tmp_path: Path
) -> None:
    service.reply = lambda scores: {
        "outputs": [
            {"name": "other", "data": []},
            {"name": "probs", "shape": list(scores.shape), "data": scores.flatten().tolist()},
        ]
    }
    keys = {"protocol": "v2", "model": "net", "layout": layout, "datatype": datatype, "batch": 3, "response": "probs"}
    model = remote(service.declared(tmp_path, url=service.url.removesuffix("/classify"), version="2", **keys))
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    seen = images if datatype == "FP32" else (images * 255).round() / 255
    assert torch.allclose(model(images), net(seen), atol=1e-5)
    assert {path for path, _ in service.requests} == {"/v2/models/net/versions/2/infer"}
    assert len(service.requests) == 2


def test_answers_by_name_and_as_labels(
    service: Service, data: tuple[Tensor, Tensor], net: nn.Module, tmp_path: Path
) -> None:
    names = ["ant", "bee", "cat"]
    told = {"names": names, "response": ""}
    service.reply = lambda s: [{"label": names[i], "score": float(s.softmax(1)[0, i])} for i in (2, 0, 1)]
    model = remote(service.declared(tmp_path, answers="probabilities", cache="a", **told))
    assert torch.allclose(model(data[0]), net(data[0]).log_softmax(1), atol=1e-5)
    label = remote(service.declared(tmp_path, answers="label", cache="b", **told))
    assert label(data[0]).equal(data[1])
    service.reply = lambda s: [{"label": names[int(s.argmax())], "score": 1.0}]
    with pytest.raises(EndpointError, match="left out 2 of 3 classes"):
        remote(service.declared(tmp_path, answers="probabilities", cache="c", **told))(data[0])
    service.reply = lambda s: ["dog"]
    with pytest.raises(EndpointError, match="unknown class 'dog'"):
        remote(service.declared(tmp_path, answers="label", cache="d", **told))(data[0])


def test_a_redirect_is_not_followed(
    service: Service, net: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    with serving(net) as elsewhere:
        service.always = (307, {"location": elsewhere.url}, b"")
        with pytest.raises(EndpointError, match="redirects elsewhere"):
            remote(service.declared(tmp_path))(data[0])
        assert elsewhere.pictures == []


def test_proxies_of_the_environment_are_not_used(
    service: Service, data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert remote(service.declared(tmp_path))(data[0]).shape == (6, 3)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, {}, b"<html>"), "something else than JSON"),
        ((200, {}, b"[" * 200_000), "something else than JSON"),
        ((200, {}, b'{"result": 1}'), "no 'scores': at 'scores' there is result"),
        ((200, {}, b'{"scores": 1}'), "no numbers"),
        ((200, {}, b'{"scores": [NaN, 1]}'), "answered NaN"),
        ((200, {}, b'{"scores": ["a", "b"]}'), "no numbers"),
        ((200, {}, b" " * (16 * 2**20 + 1)), "more than 16777216 bytes"),
        ((401, {}, b"who are\nyou?"), "answered 401: 'who are you"),
        ((200, {}, b'{"scores": [Infinity, 1, 2]}'), "NaN or infinity"),
        ((200, {}, b'{"scores": [1' + b"0" * 400 + b", 2]}"), "no numbers"),
        ((200, {}, b'{"scores": [true, false]}'), "no numbers"),
        ((200, {}, b'{"scores": "12"}'), "no numbers"),
        ((200, {}, b'{"scores": [0.7]}'), "1 scores per picture, \\[0.7\\]: every class needs one"),
        ((200, {"content-encoding": "gzip, gzip"}, b"x"), "compressed as 'gzip, gzip'"),
        ((503, {"retry-after": "99999999"}, b""), "asks for a pause of 99999999 s"),
        ((429, {"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}, b""), "asks for a pause of"),
    ],
)
def test_an_answer_of_another_shape_is_explained(
    answer: Any, message: str, service: Service, data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    service.always = answer
    with pytest.raises(EndpointError, match=message):
        remote(service.declared(tmp_path))(data[0])
    assert len(service.pictures) == 1


@pytest.mark.parametrize("header", ["nan", "inf", "-3", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_pause_that_says_nothing_is_the_usual_one(
    header: str, service: Service, data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    service.faults = [(503, {"retry-after": header}, b"")]
    pauses: list[float] = []
    remote(service.declared(tmp_path), pauses)(data[0][:1])
    assert pauses == [0.5]


@pytest.mark.parametrize("fault", TRICKLES)
def test_an_answer_that_trickles_in_is_given_up(
    fault: str, service: Service, data: tuple[Tensor, Tensor], net: nn.Module, tmp_path: Path
) -> None:
    """A byte now and then is no answer, though every one begins the library's timeout anew."""
    service.faults = [fault]
    model = remote(service.declared(tmp_path, timeout=0.15))
    assert torch.allclose(model(data[0][:1]), net(data[0][:1]), atol=1e-5)
    service.always = fault
    with pytest.raises(EndpointError, match=r"in 2 attempts, at last an answer took more than 0\.3 s"):
        remote(service.declared(tmp_path, timeout=0.15, retries=1))(data[0][1:2])
    assert model.ledger.totals() == (4, 1)


def test_what_never_left_is_not_on_the_bill(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        service = Service(lambda images: images, url=f"http://127.0.0.1:{port}/classify")
        model = remote(service.declared(tmp_path, max_queries=1, retries=3))
        with pytest.raises(EndpointError, match="in 4 attempts, at last ConnectError"):
            model(data[0][:1])
    assert model.ledger.totals() == (0, 0)


def test_answers_of_another_length_are_not_kept(service: Service, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """The cache would hold rows that fit no table."""
    model = remote(service.declared(tmp_path))
    model(data[0][:2])
    service.reply = lambda scores: {"scores": [*scores[0].tolist(), 0.0]}
    for again in (model, remote(service.declared(tmp_path))):
        with pytest.raises(EndpointError, match="answered 4 scores, where 3"):
            again(data[0])
    with pytest.raises(EndpointError, match="answered 4 scores, where 3"):
        remote(service.declared(tmp_path, classes=3, cache="new"))(data[0])
    assert model.ledger.totals()[1] == 2


@pytest.mark.parametrize("label", [1.5, True, float("inf"), 10**400, -1, [], [[1, 2], [3]], None, {}])
def test_a_label_is_a_whole_number(label: Any, service: Service, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    service.reply = lambda _: {"scores": label}
    with pytest.raises(EndpointError, match=r"no numbers|answered label|no 'scores'"):
        remote(service.declared(tmp_path, answers="label", classes=3))(data[0])


@pytest.mark.parametrize("scores", [[-3.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
def test_what_cannot_be_probabilities_is_refused(
    scores: list[float], service: Service, data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    service.reply = lambda _: {"scores": scores}
    with pytest.raises(EndpointError, match='declare answers = "scores"'):
        remote(service.declared(tmp_path, answers="probabilities"))(data[0])


@pytest.mark.parametrize(
    "outputs", [[1], {"o": {"data": [1, 2]}}, [{"name": "o", "data": [[1, 2], [3]]}], [], [{"name": "o"}], "o", None]
)
def test_an_answer_that_breaks_the_open_protocol_is_explained(
    outputs: Any, service: Service, data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    service.reply = lambda _: {"outputs": outputs}
    for response in ("", "o"):
        keys = {"protocol": "v2", "model": "net", "response": response, "cache": f"c{response}"}
        with pytest.raises(EndpointError, match=r"127\.0\.0\.1|the answer has no"):
            remote(service.declared(tmp_path, **keys))(data[0])


@pytest.mark.parametrize("token", ["s3cret\nX-Injected: 1", "s3cr\u00e9t\u20ac", "s3cret\x00"])
def test_a_secret_that_cannot_be_sent_is_not_shown(
    token: str, service: Service, data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ) | {"SPARRING_TEST_TOKEN": token})
    model = remote(service.declared(tmp_path, headers={"Authorization": "Bearer ${SPARRING_TEST_TOKEN}"}))
    with pytest.raises(ConfigError, match="header 'Authorization'") as caught:
        model(data[0])
    assert "s3c" not in str(caught.value)
    assert model.ledger.totals() == (0, 0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"url": "http://127.0.0.1:99999/x"}, "[Pp]ort"),
        ({"url": "https://example.org/x"}, "permission is missing"),
        ({"url": "ftp://127.0.0.1/x"}, "url must begin"),
        ({"url": "http://me:pw@127.0.0.1/x"}, "name or password"),
        ({"url": "http://127.0.0.1/x?api_key=abc"}, "secret in plain text"),
        ({"headers": {"X-Api-Key": "abc"}}, "looks like a secret"),
        ({"url": "http://example.org", "permission": "mine", "headers": {"Authorization": "${T}"}}, "use https"),
        ({"max_queries": None}, "max_queries is missing"),
        ({"max_queries": 0}, "max_queries: "),
        ({"max_querys": 5}, "did you mean 'max_queries'"),
        ({"answers": "label"}, "how many classes"),
        ({"protocol": "v2"}, "name of the model"),
        ({"body": {"image": "here"}}, "holds no picture"),
        ({"batch": 4}, "need a list"),
        ({"upload": "file", "body": {"image": "{png}"}}, "say what is sent"),
    ],
)  # fmt: skip
def test_a_declaration_is_checked(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    keys = {"url": "http://127.0.0.1:1/", "max_queries": 5, "body": {"image": "{png}"}} | keys
    file = tmp_path / "endpoint.toml"
    file.write_text("\n".join(f"{key} = {toml(value)}" for key, value in keys.items() if value is not None))
    with pytest.raises(ConfigError, match=message):
        open_endpoint(file)


def test_secrets_come_from_the_environment_and_stay_out_of_sight(
    service: Service, data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = remote(service.declared(tmp_path, headers={"Authorization": "Bearer ${SPARRING_TEST_TOKEN}"}))
    with pytest.raises(ConfigError, match="SPARRING_TEST_TOKEN: it is not set"):
        model(data[0])
    monkeypatch.setenv("SPARRING_TEST_TOKEN", "s3cret")
    model(data[0][:1])
    assert service.requests[0][1]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(model) + str(model.declared)
    assert all(b"s3cret" not in file.read_bytes() for file in tmp_path.glob("*.sqlite*"))


def test_pictures_are_paced(service: Service, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    now, slept = 100.0, []
    model = remote(service.declared(tmp_path, per_second=4.0))

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    model.client.clock, model.client.sleep = (lambda: now), sleep
    model(data[0])
    assert slept == pytest.approx([0.25] * 5)


def test_another_model_has_other_answers(service: Service, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    remote(service.declared(tmp_path))(data[0])
    remote(service.declared(tmp_path, url=service.url + "2"))(data[0])
    assert len(service.pictures) == 12


def test_the_bill_stays_when_the_declaration_changes(
    service: Service, data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    """Who tries response paths until one fits has sent pictures all the same."""
    with pytest.raises(EndpointError, match="no 'result'"):
        remote(service.declared(tmp_path, response="result"))(data[0])
    remote(service.declared(tmp_path))(data[0][:3])
    again = remote(service.declared(tmp_path, classes=3, max_queries=5, timeout=1.0))
    again(data[0][:3])
    assert again.ledger.totals() == (4, 3)
    with pytest.raises(QueriesSpentError, match="cap of 5"):
        again(data[0])
    assert len(service.pictures) == 5


def test_a_broken_cache_is_explained(service: Service, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    (tmp_path / "endpoint.answers.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(DataError, match="name another file"):
        remote(service.declared(tmp_path))(data[0])
    assert service.pictures == []


def test_what_was_not_committed_is_not_there(tmp_path: Path, service: Service) -> None:
    """A process that dies in the middle of writing leaves the file as it was."""
    model = remote(service.declared(tmp_path))
    with contextlib.suppress(KeyboardInterrupt), model.ledger._open() as file:
        file.execute("insert into bill values (?, 5)", (model.ledger.account,))
        raise KeyboardInterrupt
    assert model.ledger.totals() == (0, 0)
    assert sqlite3.connect(model.ledger.path).execute("pragma integrity_check").fetchone() == ("ok",)


def test_images_beyond_the_box_are_not_sent(service: Service, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        remote(service.declared(tmp_path))(torch.full((1, 1, 4, 4), 2.0))
    assert service.pictures == []


def test_the_command_attacks_an_endpoint_and_says_where_it_sends(
    service: Service, data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    monkeypatch.chdir(tmp_path)
    service.declared(tmp_path, max_queries=500, price=0.01)
    model = sp.load_model("endpoint.toml")
    assert access_of(model) == "logits"
    assert any("allowed to test" in line for line in bridges.remarks(model))
    np.savez("data.npz", images=data[0].numpy(), labels=data[1].numpy())
    command = ["attack", "--model", "endpoint.toml", "--data", "data.npz", "--eps", "0.3", "-a", "square:queries=20"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "allowed to test" in result.stderr
    assert "attack success" in result.stdout
    assert 6 < len(service.pictures) <= 6 * 22 + 8


def test_a_dry_run_sends_nothing_and_tells_everything(
    service: Service, data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARRING_TEST_TOKEN", "s3cret")
    keys = {"headers": {"Authorization": "Bearer ${SPARRING_TEST_TOKEN}"}, "price": 0.5, "per_second": 2.0}
    file = service.declared(tmp_path, max_queries=500, **keys)
    command = ["endpoint", str(file), "-a", "square:queries=20", "-n", "6", "--size", "4", "--channels", "1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    for part in (service.url, "Bearer ${SPARRING_TEST_TOKEN}", "at most 140 pictures", "70.00", "1.2 minutes", "500"):
        assert part in result.output, part
    assert "s3cret" not in result.output
    assert service.pictures == []
    sent = CliRunner().invoke(app, [*command, "--send"])
    assert "answer: [" in sent.output
    assert len(service.pictures) == 1
    with pytest.raises(UnsupportedError, match="needs gradients"):
        CliRunner().invoke(app, ["endpoint", str(file), "-a", "pgd"], catch_exceptions=False)


def test_the_estimate_is_an_upper_bound(service: Service, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    for attack in ("square:queries=9", "hopskipjump:queries=12,samples=4"):
        box = open_endpoint(service.declared(tmp_path, max_queries=5000, cache=attack))
        before = len(service.pictures)
        sp.evaluate(box, *data, sp.ThreatModel("linf", 1e-3), attacks=[attack])
        assert isinstance(box.inner, Remote)
        (said, *_) = bill(box.inner, [parse(attack)], len(data[0]))
        assert len(service.pictures) - before <= int(said.split()[2])


def test_a_declared_endpoint_is_found_beside_its_declaration(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.declared(tmp_path)
    (tmp_path / "sparring.toml").write_text('[model]\nspec = "endpoint.toml"\n')
    monkeypatch.chdir("/")
    config = sp.loading.load_config(tmp_path / "sparring.toml")
    assert sp.loading.declared_model(config)(torch.rand(2, 1, 4, 4)).shape == (2, 3)
