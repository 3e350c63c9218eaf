"""Servers in processes of their own, a load generator that costs little, and requests to send: for guard.py and
guard_streams.py.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from models import cached
from sparring.batching import laid_out

CLIENTS = 8
"""Addresses that the connections come from."""
SHAPES = {"small": (1, 28, 28), "imagenet-lite0": (3, 224, 224)}
os.environ.setdefault("SPARRING_GUARD_KEY", "a key for the bench, not a secret")


def picture(image: Tensor, kind: str) -> bytes:
    pixels = (image * 255).round().byte().numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(stream, kind)
    return stream.getvalue()


# --- servers, each in a process of its own ---------------------------------


def engine(net: str) -> Any:
    from sparring.defenses import Stack
    from sparring.guard import Engine
    from sparring.loading import load_model

    model = load_model(net) if net == "imagenet-lite0" else cached(net, "pgd").eval()
    return Engine(Stack(model), SHAPES[net])


def serve(kind: str, net: str, folder: Path, port: int) -> None:
    """Child process: the guard, or an endpoint of the same framework and server that only decodes the picture."""
    from sparring.guard.pictures import decoded
    from sparring.guard.serve import serve as serve_guard
    from sparring.guard.service import Guard
    from sparring.loading.guard_table import GuardTable

    if kind == "guard":
        profile = folder.parent / f"profile-{net}.json"
        more = {"profile": profile} if profile.exists() else {}
        settings = GuardTable(database=f"sqlite:///{folder}/events.db", port=port, cool_down=1e6, **more)
        serve_guard(Guard(lambda: engine(net), settings), "127.0.0.1", port)
        return
    torch.set_num_threads(1)
    app = FastAPI()

    @app.post("/v1/predict")
    async def only_decode(request: Request) -> Response:
        image = decoded(await request.body(), SHAPES[net], 10**8)
        return Response(json.dumps({"mean": float(image[0, 0, 0])}), media_type="application/json")

    @app.get("/readyz")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


class Child:
    def __init__(self, kind: str, net: str, folder: Path, port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self.url, self.folder = f"http://127.0.0.1:{port}", folder
        command = [sys.executable, __file__, "--kind", kind, "--net", net, "--folder", str(folder)]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self.process = subprocess.Popen([*command, "--port", str(port)], env=environment)
        for _ in range(600):
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise SystemExit("the server did not start")

    def memory(self) -> float:
        """Resident MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def seconds(self) -> float:
        """CPU seconds, of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


# --- load: a minimal HTTP/1.1 client, so that the generator costs little ----


async def worker(port: int, bodies: list[bytes], until: float, times: list[float], pause: float, number: int) -> None:
    address = (f"127.0.0.{2 + number % CLIENTS}", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=address, limit=2**20)
    i, due = 7 * number, time.perf_counter() + pause * (7 * number % 97) / 97
    while time.perf_counter() < until:
        if pause:
            if due > time.perf_counter():
                await asyncio.sleep(due - time.perf_counter())
            start, due = due, due + pause  # from when it was due: a stalled server cannot hide its queue
        else:
            start = time.perf_counter()
        writer.write(bodies[i % len(bodies)])
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(head.decode())
        length = int(head.lower().partition(b"\ncontent-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        times.append(time.perf_counter() - start)
        i += 1
    writer.close()


def loaded(child: Child, bodies: list[bytes], seconds: float, workers: int, rate: float = 0.0) -> dict[str, float]:
    """Closed loop of `workers` connections, or an open one of `rate` requests a second."""
    times: list[float] = []
    pause = workers / rate if rate else 0.0

    async def run() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*[worker(child.port, bodies, until, times, pause, i) for i in range(workers)])

    before, start = child.seconds(), time.perf_counter()
    asyncio.run(run())
    return {
        "cpu_ms": 1000 * (child.seconds() - before) / len(times),
        "rate": len(times) / (time.perf_counter() - start),
        "median_ms": 1000 * statistics.median(times),
        "p99_ms": 1000 * float(np.quantile(times, 0.99)),
        "requests": len(times),
    }


def request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def pictures(images: Tensor, kind: str = "PNG") -> list[bytes]:
    return [request("/v1/predict", picture(image, kind), {"Content-Type": f"image/{kind.lower()}"}) for image in images]


def tensors(images: Tensor, size: int, datatype: str = "FP32") -> list[bytes]:
    bodies = []
    for part in images.split(size):
        values = part.contiguous().numpy()
        raw = (values * 255).round().astype("u1").tobytes() if datatype == "UINT8" else values.astype("<f4").tobytes()
        given = {"name": "images", "datatype": datatype, "shape": list(part.shape)}
        said = {
            "inputs": [given | {"parameters": {"binary_data_size": len(raw)}}],
            "parameters": {"binary_data_output": True},
        }
        text = json.dumps(said).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        bodies.append(request("/v2/models/model/infer", text + raw, headers))
    return bodies


def bare(model: Any, images: Tensor, size: int, seconds: float) -> float:
    """Images per second of the model alone, the best of both memory layouts."""
    best = 0.0
    for channels_last in (False, True):
        batches = [laid_out(part, channels_last) for part in images.split(size) if len(part) == size]
        with torch.inference_mode():
            model(batches[0])
            count, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds / 2:
                count += len(model(batches[count // size % len(batches)]))
            best = max(best, count / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for flag, kind in (("kind", str), ("net", str), ("folder", Path), ("port", int)):
        parser.add_argument(f"--{flag}", type=kind, required=True)
    given = parser.parse_args()
    serve(given.kind, given.net, given.folder, given.port)


if __name__ == "__main__":
    main()
