"""Faults on the real command in processes of its own: replicas killed under load, a disk that is really full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.edges.test_guard_service import STARTER, infer
from tests.helpers_guard import KEY, Postgres, need_postgres, ready
from torch import Tensor

from sparring.guard.events.store import Store


@contextmanager
def process(folder: Path, database: str, events: str = "closed") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A guard of the demo net that is ready, and its address."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sparring.toml").write_text(
        f'[model]\nspec = "digits-cnn"\n[guard]\nevents = "{events}"\ndatabase = "{database}"\n'
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SPARRING_GUARD_KEY": KEY}
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as started:
        try:
            url = ready(started)
            yield url, started
        finally:
            started.kill()


class Load:
    """Clients that send one image after another, and count what was acknowledged."""

    def __init__(self, urls: list[str], images: Tensor, each: int = 3) -> None:
        self.accepted = self.other = 0
        self._images, self._stop, self._lock = images, threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(url, i)) for url in urls for i in range(each)]
        for thread in self._threads:
            thread.start()

    def _run(self, url: str, number: int) -> None:
        with httpx.Client(base_url=url, timeout=10) as client:
            while not self._stop.is_set():
                try:
                    fine = infer(client, self._images[number : number + 2], True).status_code == 200
                except httpx.TransportError:
                    fine = False
                    time.sleep(0.05)
                with self._lock:
                    self.accepted += 2 * fine
                    self.other += not fine

    def end(self) -> int:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.accepted


@pytest.mark.slow
def test_kill_9_of_one_replica_under_load_loses_nothing_acknowledged(
    digits_data, tmp_path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    need_postgres()
    server = Postgres(tmp_path_factory.mktemp("pg"))
    store = Store(server.url)
    try:
        with process(tmp_path / "a", server.url) as (first, victim), process(tmp_path / "b", server.url) as (second, _):
            load = Load([first, second], digits_data[0])
            time.sleep(2)
            victim.send_signal(signal.SIGKILL)
            before = load.accepted
            time.sleep(2)
            accepted = load.end()
            assert before > 50
            assert accepted > before, "the other one goes on"
            assert load.other > 0, "the killed one does not"
            time.sleep(0.5)
            assert accepted <= store.count() <= accepted + 2 * 3, "at most what was on its way when it died"
    finally:
        store.close()
        server.stop()


@pytest.mark.slow
def test_a_disk_that_is_full_refuses_and_goes_on_once_there_is_room(digits_data, tmp_path) -> None:
    """A file system of three megabytes; needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("a file system of one's own can be mounted by root only")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(b"\0" * 2 * 2**20)
        with process(tmp_path / "g", f"sqlite:///{disk}/e.db") as (url, _):
            load = Load([url], digits_data[0])
            deadline = time.monotonic() + 60
            while httpx.get(f"{url}/readyz").status_code == 200 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert httpx.get(f"{url}/readyz").status_code == 503, "full, and said so"
            assert httpx.get(f"{url}/healthz").status_code == 200
            ballast.unlink()
            while httpx.get(f"{url}/readyz").status_code != 200 and time.monotonic() < deadline:
                time.sleep(0.1)
            before = load.accepted
            time.sleep(0.5)
            accepted = load.end()
            assert accepted > before > 0, "it goes on"
        store = Store(f"sqlite:///{disk}/e.db")
        assert store.count() >= accepted
        store.close()
    finally:
        subprocess.run(["umount", str(disk)], check=False)
