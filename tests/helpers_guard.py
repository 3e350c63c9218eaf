"""A real guard on a real socket, for the guard's tests: uvicorn in a thread, a database in a folder, clients with
addresses of their own, a real PostgreSQL and a real webhook receiver.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sparring.defenses import Stack
from sparring.guard import Engine, Guard
from sparring.guard.serve import server
from sparring.loading.guard_table import GuardTable

KEY = "0123456789abcdef0123456789abcdef"
SHAPE = (1, 8, 8)
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)


def png(image: Tensor, kind: str = "PNG") -> bytes:
    """One image (C, H, W) as a picture file."""
    pixels = (image * 255).round().byte().numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(stream, kind)
    return stream.getvalue()


@dataclass
class Running:
    """A guard that serves, and how to reach it."""

    guard: Guard
    url: str
    clients: list[httpx.Client] = field(default_factory=list)

    def client(self, number: int = 1, **options: Any) -> httpx.Client:
        """A client with the address 127.0.0.`number`."""
        transport = httpx.HTTPTransport(local_address=f"127.0.0.{number}")
        self.clients.append(httpx.Client(base_url=self.url, transport=transport, timeout=20, **options))
        return self.clients[-1]

    def settle(self) -> None:
        """Wait until everything answered is stored."""
        self.guard.books.settle()
        deadline = time.monotonic() + 10
        while self.guard.writer.waiting and time.monotonic() < deadline:
            time.sleep(0.01)


@contextmanager
def running(build: nn.Module | Callable[[], Engine], **settings: Any) -> Iterator[Running]:
    """A guard around a net for digits, or around what `build` makes, on a free port of loopback."""
    made = (lambda: Engine(Stack(build), SHAPE)) if isinstance(build, nn.Module) else build
    guard = Guard(made, GuardTable(**settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = server(guard, "127.0.0.1", port)
    thread = threading.Thread(target=host.run, daemon=True)
    thread.start()
    while not host.started:
        assert thread.is_alive()
        time.sleep(0.01)
    serving = Running(guard, f"http://127.0.0.1:{port}")
    try:
        yield serving
    finally:
        for client in serving.clients:
            client.close()
        host.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class Receiver:
    """A webhook receiver that checks signatures; `refuse` answers 503 so many times first."""

    def __init__(self, secret: bytes, refuse: int = 0) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.valid: list[bool] = []
        self.refuse = refuse
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.refuse > 0:
                    outer.refuse -= 1
                    self.send_response(503)
                else:
                    stamp = self.headers["X-Sparring-Timestamp"].encode()
                    mac = hmac.new(secret, stamp + b"." + body, hashlib.sha256).hexdigest()
                    outer.valid.append(hmac.compare_digest(f"sha256={mac}", self.headers["X-Sparring-Signature"]))
                    outer.bodies.append(json.loads(body))
                    self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def wait(self, count: int, seconds: float = 10.0) -> list[dict[str, Any]]:
        deadline = time.monotonic() + seconds
        while len(self.bodies) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.bodies

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Postgres:
    """A PostgreSQL server of our own in `folder`, on a socket in it; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        assert POSTGRES is not None
        self.bin, self.folder = POSTGRES.parent, folder
        self.user = "postgres" if os.getuid() == 0 else None
        folder.mkdir(parents=True, exist_ok=True)
        if self.user:
            shutil.chown(folder, self.user)
        for parent in (folder, *folder.parents):
            if parent.owner() == "root" and parent != Path("/") and str(parent).count("/") > 1:
                parent.chmod(parent.stat().st_mode | 0o011)
        self._run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "guard", "--no-sync")
        self.start()
        self._run("createdb", "-h", str(folder), "-U", "guard", "events")

    @property
    def url(self) -> str:
        return f"postgresql://guard@/events?host={self.folder}"

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-o", options, "-l", log, "-w", "start", seconds=20)

    def kill(self) -> None:
        """As a crash would: no checkpoint, no goodbye."""
        number = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(number, 9)
        while Path(f"/proc/{number}").exists() and "Z" not in Path(f"/proc/{number}/stat").read_text().split()[2]:
            time.sleep(0.02)
        time.sleep(0.5)  # its children notice
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)  # a zombie would count as running

    def stop(self) -> None:
        """At the end; one that a test left killed has nothing to stop, and one that is gone needs no second try."""
        left = self.folder / "data" / "postmaster.pid"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-t", "20", "stop", seconds=20, gone=left
        )

    def _run(self, name: str, *arguments: str, seconds: float = 0.0, gone: Path | None = None) -> None:
        """Run one of PostgreSQL's programs, again for `seconds` while it fails (pg_ctl's child keeps its output), or
        until the file `gone` is.
        """
        deadline = time.monotonic() + seconds
        while gone is None or gone.exists():
            done = subprocess.run(
                [str(self.bin / name), *arguments],
                user=self.user,
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                timeout=60,
            )
            if done.returncode == 0:
                return
            assert time.monotonic() < deadline, name
            time.sleep(0.2)


def need_postgres() -> None:
    """Skip, saying so, where PostgreSQL's programs are missing; fail with CI=true."""
    if POSTGRES is None:
        reason = "PostgreSQL is missing: run scripts/system-packages.sh"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def ready(process: subprocess.Popen[str]) -> str:
    """The address of a guard in a process of its own, which prints its port, once it takes requests."""
    assert process.stdout is not None
    url = f"http://127.0.0.1:{int(process.stdout.readline())}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.05)
    return url
