"""The guard's service on a real socket: answers, limits, back-pressure, reload, shutdown."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from tests.helpers_guard import KEY, SHAPE, Running, png, running
from torch import Tensor, nn

from sparring.defenses import Policy, Stack
from sparring.defenses.detectors import MaxSoftmax
from sparring.defenses.transforms import BitDepth
from sparring.guard import Engine
from sparring.guard.clients import new_token
from sparring.guard.v2 import HEADER
from sparring.loading.guard_table import GuardTable


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_GUARD_KEY", KEY)


@pytest.fixture(scope="module")
def serving(digits_net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("guard")
    with running(digits_net, database=f"sqlite:///{folder}/events.db", events="closed") as service:
        yield service


def infer(client: httpx.Client, images: Tensor, binary: bool = False, **more: object) -> httpx.Response:
    given: dict[str, object] = {"name": "images", "datatype": "FP32", "shape": list(images.shape)}
    if not binary:
        body = {"inputs": [given | {"data": images.flatten().tolist()}], **more}
        return client.post("/v2/models/model/infer", json=body)
    raw = images.numpy().tobytes()
    text = json.dumps({"inputs": [given | {"parameters": {"binary_data_size": len(raw)}}], **more}).encode()
    return client.post("/v2/models/model/infer", content=text + raw, headers={HEADER: str(len(text))})


def test_every_way_to_send_a_picture_gets_the_models_answer(serving, digits_net, digits_data) -> None:
    images = (digits_data[0][:4] * 255).round() / 255
    want = digits_net(images).argmax(1).tolist()
    client = serving.client()
    one = client.post("/v1/predict", content=png(images[0]), headers={"Content-Type": "image/png"}).json()
    assert [p["label"] for p in one["predictions"]] == want[:1]
    assert set(one["predictions"][0]) == {"label", "name", "confidence"}, "nothing inner is shown"
    form = client.post("/v1/predict", files=[("images", png(image)) for image in images]).json()
    assert [p["label"] for p in form["predictions"]] == want
    coded = [base64.b64encode(png(image)).decode() for image in images]
    assert [p["label"] for p in client.post("/v1/predict", json={"images": coded}).json()["predictions"]] == want
    for binary in (False, True):
        answer = infer(client, images, binary).json()
        assert answer["outputs"][0]["data"] == want
    webp = client.post(
        "/v1/predict", content=png(images[0].expand(3, -1, -1), "WEBP"), headers={"Content-Type": "image/webp"}
    )
    assert webp.status_code == 200


def test_binary_outputs_follow_the_extension(serving, digits_net, digits_data) -> None:
    images = digits_data[0][:5]
    answer = infer(serving.client(), images, True, id="mine", parameters={"binary_data_output": True})
    end = int(answer.headers[HEADER])
    said, raw = json.loads(answer.content[:end]), answer.content[end:]
    assert said["id"] == "mine"
    sizes = [output["parameters"]["binary_data_size"] for output in said["outputs"]]
    assert sum(sizes) == len(raw)
    assert np.frombuffer(raw[: sizes[0]], "<i8").tolist() == digits_net(images).argmax(1).tolist()
    only = infer(serving.client(), images, False, outputs=[{"name": "confidence"}]).json()
    assert [output["name"] for output in only["outputs"]] == ["confidence"]


def test_every_accepted_image_is_one_event(serving, digits_data) -> None:
    before, client = serving.guard.store.count(), serving.client()
    for size in (1, 3, 8):
        assert infer(client, digits_data[0][:size], True).status_code == 200
    assert serving.guard.store.count() == before + 12, "closed: stored before the answer"


def test_health_metadata_metrics_and_documents(serving, digits_data) -> None:
    client = serving.client()
    for path in (
        "/healthz",
        "/readyz",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/model",
        "/openapi.json",
        "/docs",
    ):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "server" not in answer.headers
    assert client.get("/v2/models/model").json()["inputs"][0]["shape"] == [-1, *SHAPE]
    assert client.get("/v2/models/other").status_code == 404
    infer(client, digits_data[0][:2])
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    assert {"guard_requests", "guard_request_seconds", "guard_images", "guard_queue_images"} <= set(families)
    counted = [s for s in families["guard_images"].samples if s.name == "guard_images_total"]
    assert sum(sample.value for sample in counted) == serving.guard.store.count()


def test_requests_at_the_same_time_share_batches(serving, digits_data) -> None:
    want = serving.guard.engine(digits_data[0][:40]).labels.tolist()
    clients = [serving.client(number + 2) for number in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(infer, clients[i % 8], digits_data[0][i : i + 1], True) for i in range(40)]
    assert [job.result().json()["outputs"][0]["data"][0] for job in jobs] == want


class Slow(nn.Module):
    """Takes its time, and as long as it is told to wait."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.go = inner, threading.Event()
        self.go.set()

    def forward(self, images: Tensor) -> Tensor:
        self.go.wait(10)
        return self.inner(images)


def test_a_full_queue_answers_429_and_what_was_taken_is_finished(digits_net, digits_data, tmp_path) -> None:
    slow = Slow(digits_net)
    with running(slow, database=f"sqlite:///{tmp_path}/e.db", queue_most=4, batch_most=2) as service:
        service.guard.batcher.inline_most = 0  # it was quick when it was timed
        slow.go.clear()
        clients = [service.client(i + 1) for i in range(12)]
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            jobs = [pool.submit(infer, client, digits_data[0][:1], True) for client in clients]
            time.sleep(0.5)
            slow.go.set()
        codes = [job.result().status_code for job in jobs]
        full = [job.result() for job in jobs if job.result().status_code == 429]
        assert codes.count(200) == 4
        assert len(full) == 8
        assert all(answer.headers["Retry-After"] == "1" for answer in full)


def test_a_stalled_upload_is_ended_and_holds_up_nobody(serving, digits_data, monkeypatch) -> None:
    object.__setattr__(serving.guard.settings, "body_seconds", 0.5)
    try:

        def trickle() -> Iterator[bytes]:
            yield png(digits_data[0][0])[:20]
            time.sleep(1.2)
            yield b"x"

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            stalled = pool.submit(
                serving.client(2).post, "/v1/predict", content=trickle(), headers={"Content-Type": "image/png"}
            )
            start = time.monotonic()
            assert infer(serving.client(), digits_data[0][:1]).status_code == 200
            assert time.monotonic() - start < 0.5
            assert stalled.result().status_code == 408
    finally:
        object.__setattr__(serving.guard.settings, "body_seconds", 10.0)


def test_withheld_images_say_nothing_but_a_reference(digits_net, digits_data, tmp_path) -> None:
    images = digits_data[0]
    detector = MaxSoftmax().fit(digits_net, images[:200], fpr=0.3)
    stack = Stack(digits_net, [BitDepth(bits=4)], [detector], Policy(flagged="review"))
    flagged = stack(images[200:260]).flagged
    assert 0 < int(flagged.sum()) < 60
    with running(
        lambda: Engine(stack, SHAPE), database=f"sqlite:///{tmp_path}/e.db", quarantine=tmp_path / "q"
    ) as service:
        answer = infer(service.client(), images[200:260], True).json()["outputs"]
        said = {output["name"]: output["data"] for output in answer}
        assert said["abstained"] == flagged.tolist()
        assert all(
            label == -1 and sure == 0
            for label, sure, hidden in zip(said["label"], said["confidence"], said["abstained"], strict=True)
            if hidden
        )
        which = int(flagged.nonzero()[0])
        one = (
            service.client()
            .post("/v1/predict", content=png(images[200 + which]), headers={"Content-Type": "image/png"})
            .json()
        )
        assert one["predictions"] == [{"abstained": True, "reference": f"{one['trace']}-0"}]
        service.settle()
        assert service.guard.quarantine is not None
        assert service.guard.quarantine.get(f"{one['trace']}-0") is not None


def test_tokens_are_asked_for_and_kept_only_as_hashes(digits_net, digits_data, tmp_path) -> None:
    tokens = tmp_path / "tokens"
    token, boss = new_token(tokens, "team", "client"), new_token(tokens, "boss", "operator")
    assert token not in tokens.read_text()
    with running(digits_net, database=f"sqlite:///{tmp_path}/e.db", tokens=tokens) as service:
        images = digits_data[0][:1]
        assert infer(service.client(), images).status_code == 401
        for wrong in ("Bearer no", "Basic abc", f"Bearer {token}x", "Bearer"):
            assert infer(service.client(headers={"Authorization": wrong}), images).status_code == 401
        assert infer(service.client(headers={"Authorization": f"Bearer {token}"}), images).status_code == 200
        assert service.client(headers={"Authorization": f"Bearer {token}"}).get("/metrics").status_code == 401
        assert service.client(headers={"Authorization": f"Bearer {boss}"}).get("/metrics").status_code == 200


@pytest.mark.parametrize(("proxies", "clients"), [((), 1), (("127.0.0.0/8",), 3)])
def test_forwarded_addresses_count_only_behind_listed_proxies(
    digits_net, digits_data, tmp_path, proxies, clients
) -> None:
    with running(digits_net, database=f"sqlite:///{tmp_path}/e.db", proxies=proxies, events="closed") as service:
        for said in ("9.9.9.1", "9.9.9.2", "5.5.5.5, 9.9.9.3", "6.6.6.6,9.9.9.3, 127.0.0.9"):
            infer(service.client(headers={"X-Forwarded-For": said}), digits_data[0][:1])
        from sqlalchemy import select

        from sparring.guard.events.tables import EVENTS

        assert len({row["client"] for row in service.guard.store.rows(select(EVENTS.c.client))}) == clients


def test_reload_serves_the_new_stack_and_survives_a_broken_one(digits_net, digits_data, tmp_path) -> None:
    from sparring.errors import ConfigError

    made = [Engine(Stack(digits_net), SHAPE), Engine(Stack(digits_net, [BitDepth(bits=1)]), SHAPE)]

    def build() -> Engine:
        if not made:
            raise ConfigError("broken")
        return made.pop(0)

    with running(build, database=f"sqlite:///{tmp_path}/e.db") as service:
        first = service.guard.engine.digest
        assert service.guard.reload()
        second = service.guard.engine.digest
        assert second != first
        assert infer(service.client(), digits_data[0][:1]).json()["model_version"] == second[:12]
        assert not service.guard.reload()
        assert service.guard.engine.digest == second


def test_sigterm_under_load_finishes_what_was_taken(digits_data, tmp_path: Path) -> None:
    """The real command in a process of its own: nothing accepted is lost, SIGHUP reloads, kill -9 loses no event."""
    (tmp_path / "sparring.toml").write_text(
        '[model]\nspec = "digits-cnn"\n[guard]\nport = 0\nevents = "closed"\ndatabase = "sqlite:///events.db"\n'
    )
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=20) as client:
                deadline = time.monotonic() + 30
                while True:
                    try:
                        if client.get("/readyz").status_code == 200:
                            break
                    except httpx.TransportError:
                        assert time.monotonic() < deadline
                        time.sleep(0.05)
                process.send_signal(signal.SIGHUP)
                fine, stop = [0], threading.Event()

                def load() -> None:
                    while not stop.is_set():
                        try:
                            if infer(client, digits_data[0][:1], True).status_code == 200:
                                fine[0] += 1
                        except httpx.TransportError:
                            return

                worker = threading.Thread(target=load)
                worker.start()
                time.sleep(1.0)
                process.send_signal(signal.SIGTERM)
                process.wait(20)
                stop.set()
                worker.join()
            assert process.returncode in (0, -signal.SIGTERM)
            assert "reloaded" in process.stderr.read()
        finally:
            process.kill()
    from sparring.guard.events.store import Store

    store = Store(f"sqlite:///{tmp_path}/events.db")
    assert fine[0] > 10
    assert 0 <= store.count() - fine[0] <= 1, "one answer may have been on its way"
    store.close()


STARTER = """
import socket, sys
from sparring.cli.guard import app
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
print(port, flush=True)
app(["--port", str(port)])
"""


def test_settings_are_refused_early(digits_net, tmp_path) -> None:
    from sparring.errors import ConfigError, SparringError
    from sparring.guard import Guard

    for settings in (
        {"database": "mysql://x/y"},
        {"database": "nonsense"},
        {"proxies": ("x",)},
        {"tokens": tmp_path / "none"},
    ):
        with pytest.raises(ConfigError):
            Guard(
                lambda: Engine(Stack(digits_net), SHAPE),
                GuardTable(**{"database": f"sqlite:///{tmp_path}/e.db", **settings}),
            )
    with pytest.raises(SparringError, match="calibrate"):
        Guard(
            lambda: Engine(Stack(digits_net), SHAPE),
            GuardTable(database=f"sqlite:///{tmp_path}/e.db", profile=tmp_path / "p"),
        )


def test_the_engine_leaves_the_model_as_it_was(digits_net) -> None:
    hooks = [len(part._forward_pre_hooks) for part in digits_net.modules()]
    engine = Engine(Stack(digits_net), SHAPE)
    engine(torch.rand(3, *SHAPE))
    engine.close()
    assert [len(part._forward_pre_hooks) for part in digits_net.modules()] == hooks


def test_a_large_batch_is_asked_in_parts_and_answered_as_one(digits_net, digits_data) -> None:
    engine = Engine(Stack(digits_net), SHAPE)
    whole = engine(digits_data[0][:50])
    engine._most = 8
    parts = engine(digits_data[0][:50])
    for name in ("labels", "top", "flagged", "withheld", "scores"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name
    for name in ("confidence", "margin", "logits", "features"):
        assert np.allclose(getattr(parts, name), getattr(whole, name), atol=1e-4), name
    engine.close()
