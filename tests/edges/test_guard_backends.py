"""Where the model runs: torch, onnxruntime, or another server; and what is told while that one is slow or gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from tests.edges.test_guard_service import STARTER, infer
from tests.helpers_guard import KEY, SHAPE, ready, running
from tests.helpers_onnx import convolutional

from sparring.defenses import Stack
from sparring.errors import ConfigError, ModelError
from sparring.guard import Engine
from sparring.guard.building import attacked, engine_of
from sparring.guard.upstream import Upstream, UpstreamError
from sparring.loading import load_config, load_model


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_GUARD_KEY", KEY)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A second guard, a process of its own, that shows scores."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "sparring.toml").write_text(
        '[model]\nspec = "digits-cnn"\n[guard]\nshow_scores = true\ndatabase = "sqlite:///e.db"\n'
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        url = ready(process)
        yield f"{url}/v2/models/model", process
        process.send_signal(signal.SIGCONT)
        process.terminate()


def test_another_server_computes_what_the_model_would(other, digits_data, tmp_path) -> None:
    (tmp_path / "sparring.toml").write_text(
        f'[data]\nsource = "digits"\n[guard]\nupstream = "{other[0]}"\ndatabase = "sqlite:///{tmp_path}/e.db"\n'
    )
    config, images = load_config(tmp_path / "sparring.toml"), digits_data[0][:40]
    assert config.guard is not None
    with running(lambda: engine_of(config), database=config.guard.database) as service, torch.no_grad():
        assert service.guard.batcher.inline_most == 0, "never in the event loop: it may take its time"
        said = infer(service.client(), images, True).json()["outputs"]
        logits = load_model("digits-cnn")(images)
        assert said[0]["data"] == logits.argmax(1).tolist()
        assert torch.allclose(torch.tensor(said[1]["data"]), logits.softmax(1).amax(1), atol=1e-3)
        assert not any(output["name"] == "scores" for output in said)
        service.settle()
        assert service.guard.store.count() == 40


def test_a_slow_upstream_is_503_for_some_and_no_standstill_for_the_rest(other, digits_data, tmp_path) -> None:
    url, process = other
    with running(
        lambda: Engine(Stack(Upstream(url, 0.7)), SHAPE), database=f"sqlite:///{tmp_path}/e.db", events="closed"
    ) as service:
        client = service.client()
        assert infer(client, digits_data[0][:3], True).status_code == 200
        process.send_signal(signal.SIGSTOP)
        try:
            waiting = Thread(target=lambda: infer(service.client(2), digits_data[0][:1], True))
            waiting.start()
            start = time.monotonic()
            assert client.get("/healthz").status_code == 200
            assert time.monotonic() - start < 0.4, "the model's thread waits, the service does not"
            waiting.join()
            answer = infer(client, digits_data[0][:1], True)
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "2"
            assert "upstream" not in answer.text
        finally:
            process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 10
        while infer(client, digits_data[0][:1], True).status_code != 200:
            assert time.monotonic() < deadline
        service.settle()
        assert service.guard.store.count() == 4, "what was acknowledged, and nothing else"


@contextmanager
def answering(body: bytes, status: int = 200, header: str | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if header is not None:
                self.send_header("Inference-Header-Content-Length", header)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("body", "status", "header", "error"),
    [
        (b"", 200, None, ModelError),
        (b"[]", 200, None, ModelError),
        (b'{"outputs": []}', 200, None, ModelError),
        (b'{"outputs": [{"name": "label", "datatype": "INT64", "shape": [1], "data": [1]}]}', 200, None, ModelError),
        (b'{"outputs": [{"datatype": "FP32", "shape": [1, 3], "data": [1, 2]}]}', 200, None, ModelError),
        (b'{"outputs": [{"datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]}', 200, None, ModelError),
        (b'{"outputs": [{"datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}', 200, "x", ModelError),
        (b'{"outputs": [{"datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}', 500, None, UpstreamError),
        (b'{"outputs": [{"datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}', 302, None, UpstreamError),
    ],
)
def test_what_no_upstream_should_answer(body: bytes, status: int, header: str | None, error: type[ModelError]) -> None:
    with answering(body, status, header) as url, pytest.raises(error):
        Upstream(url)(torch.zeros(1, 1, 8, 8))


def test_nobody_there_is_said_so() -> None:
    with pytest.raises(UpstreamError, match="ConnectError"):
        Upstream("http://127.0.0.1:9")(torch.zeros(1, 1, 8, 8))


def declared(folder: Path, more: str = "", spec: str = "net.onnx") -> object:
    convolutional(folder / "net.onnx")
    (folder / "sparring.toml").write_text(
        f'[model]\nspec = "{folder / spec}"\n{more}\n'
        f'[guard]\nshape = [1, 8, 8]\nruntime = "onnxruntime"\ndatabase = "sqlite:///{folder}/e.db"\n'
    )
    return load_config(folder / "sparring.toml")


def test_onnxruntime_gives_what_the_graph_in_torch_gives(digits_data, tmp_path) -> None:
    config, images = declared(tmp_path, '[stack]\ntransforms = [{ kind = "bit_depth", bits = 4 }]'), digits_data[0][:20]
    with running(lambda: engine_of(config), database=config.guard.database) as service:
        assert not service.guard.engine.native
        said = infer(service.client(), images, True).json()["outputs"]
        rebuilt = attacked(config, service.guard.engine)
        found = rebuilt(images)
        assert said[0]["data"] == found.labels.tolist()
        assert torch.allclose(torch.tensor(said[1]["data"]), found.logits.softmax(1).amax(1), atol=1e-3)
        assert torch.autograd.grad(rebuilt.as_model()(images.requires_grad_()).sum(), images)[0].abs().max() > 0
        service.settle()
        assert service.guard.store.count() == 20


def test_onnxruntime_is_refused_where_it_cannot_serve(tmp_path) -> None:
    with pytest.raises(ConfigError, match="onnx files"):
        engine_of(declared(tmp_path, spec="digits-cnn"))
    with pytest.raises(ConfigError, match="no detectors"):
        engine_of(declared(tmp_path, '[stack]\ndetectors = [{ kind = "max_softmax" }]'))
