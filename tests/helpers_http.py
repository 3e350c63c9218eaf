"""A real classifier behind HTTP on the loopback interface, which counts what reaches it and can misbehave."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

TRICKLES = {
    "slow answer": (b"200 OK\r\ncontent-length: 100000\r\n\r\n", b" "),
    "slow headers": (b"200 OK\r\n", b"x: y\r\n"),
    "promises": (b"100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
}
Model = Callable[[Tensor], Tensor]


def network() -> nn.Module:
    """Three classes of pictures of 1 x 4 x 4."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)).eval()


def labelled(net: nn.Module) -> tuple[Tensor, Tensor]:
    """Six pictures, and what the network takes them for."""
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return images, net(images).argmax(1)


@dataclass
class Service:
    """What the server does and what it saw: every picture that arrived, in order, also those it refused."""

    model: Model
    pictures: list[bytes] = field(default_factory=list)
    answered: list[bytes] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    faults: list[Any] = field(default_factory=list)
    always: Any = None
    reply: Callable[[Tensor], Any] = lambda scores: {"scores": scores[0].tolist()}
    lock: Lock = field(default_factory=Lock)
    url: str = ""

    def declared(self, folder: Path, **keys: Any) -> Path:
        """An endpoint.toml for this server."""
        keys = {"url": self.url, "max_queries": 100, "timeout": 5.0, **keys}
        if keys.get("protocol") != "v2" and "upload" not in keys:
            keys = {"body": {"image": "{array}"}, "response": "scores", **keys}
        file = folder / "endpoint.toml"
        file.write_text("\n".join(f"{key} = {toml(value)}" for key, value in keys.items() if value is not None))
        return file


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


def read(body: bytes, kind: str) -> Tensor:
    """The pictures (N, C, H, W) of a request."""
    if kind.startswith("image/png"):
        return from_png(body)
    if kind.startswith("multipart/"):
        start = body.index(b"\x89PNG")
        return from_png(body[start : body.rindex(b"\r\n--")])
    found = json.loads(body)
    if "inputs" in found:
        (entry,) = found["inputs"]
        data = torch.tensor(entry["data"], dtype=torch.float32).view(entry["shape"])
        data = data / 255 if entry["datatype"] == "UINT8" else data
        return data.permute(0, 3, 1, 2) if entry["shape"][-1] in (1, 3) else data
    if "instances" in found:
        return torch.tensor(found["instances"])
    image = found["image"]
    if isinstance(image, str):
        return from_png(base64.b64decode(image.rpartition(",")[2]))
    return torch.tensor(image)[None]


def from_png(content: bytes) -> Tensor:
    array = np.asarray(Image.open(io.BytesIO(content)), dtype=np.float32) / 255
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)[None]


@contextmanager
def serving(model: Model) -> Iterator[Service]:
    """The service while the block runs, on a free port."""
    service = Service(model)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            pictures = read(body, self.headers["content-type"])
            names = [one.numpy().tobytes() for one in pictures]
            with service.lock:
                service.pictures += names
                service.requests.append((self.path, dict(self.headers.items())))
                fault = service.faults.pop(0) if service.faults else service.always
            if isinstance(fault, float):
                time.sleep(fault)
                fault = None
            if fault == "reset":
                self.connection.close()
                return
            if fault == "cut":  # says that more will come than does
                self.wfile.write(b'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"scores": [0.1')
                self.connection.close()
                return
            if isinstance(fault, str):
                self.trickle(*TRICKLES[fault])
                return
            status, headers, content = fault or (200, {}, None)
            if content is None and status == 200:
                with torch.no_grad():
                    content = json.dumps(service.reply(service.model(pictures))).encode()
                with service.lock:
                    service.answered += names
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def trickle(self, start: bytes, piece: bytes) -> None:
            self.wfile.write(b"HTTP/1.1 " + start)
            while True:  # until the client has had enough
                self.wfile.write(piece)
                time.sleep(0.02)

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass  # a client that hung up

    server = Quiet(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}/classify"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
