"""What the guard costs, and what it sees.

    python bench/guard.py load                # against an endpoint that only decodes, and against the bare model
    python bench/guard_streams.py            # attacks and benign sessions, on the PGD-trained net
    python bench/guard.py soak --minutes 10   # memory and events at half of the maximum load

Results go to bench/results/guard-*.json.
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
import tempfile
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

from models import cached, load_split

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
os.environ.setdefault("SPARRING_GUARD_KEY", "a key for the bench, not a secret")


def png(image: Tensor) -> bytes:
    pixels = (image * 255).round().byte().numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(stream, "PNG")
    return stream.getvalue()


# --- servers, each in a process of its own ---------------------------------


def engine(net: str) -> Any:
    from sparring.defenses import Stack
    from sparring.guard import Engine
    from sparring.loading import load_model

    if net == "imagenet-lite0":
        return Engine(Stack(load_model(net)), (3, 224, 224))
    return Engine(Stack(cached(net, "pgd").eval()), (1, 28, 28))


def serve(kind: str, net: str, folder: Path, port: int) -> None:
    """Child process: the guard, or an endpoint of the same framework and server that only decodes the picture."""
    torch.set_num_threads(1)
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
    shape = (3, 224, 224) if net == "imagenet-lite0" else (1, 28, 28)
    app = FastAPI()

    @app.post("/v1/predict")
    async def only_decode(request: Request) -> Response:
        image = decoded(await request.body(), shape, 10**8)
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
        command = [sys.executable, __file__, "serve", "--kind", kind, "--net", net, "--folder", str(folder)]
        self.process = subprocess.Popen([*command, "--port", str(port)], env={**os.environ, "OMP_NUM_THREADS": "1"})
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


async def worker(port: int, bodies: list[bytes], until: float, times: list[float], pause: float, offset: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    i, due = offset, time.perf_counter() + pause * (offset % 97) / 97
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
        jobs = [worker(child.port, bodies, until, times, pause, 7 * i) for i in range(workers)]
        await asyncio.gather(*jobs)

    before = child.seconds()
    asyncio.run(run())
    return {
        "cpu_ms": 1000 * (child.seconds() - before) / len(times),
        "rate": len(times) / seconds,
        "median_ms": 1000 * statistics.median(times),
        "p99_ms": 1000 * float(np.quantile(times, 0.99)),
        "requests": len(times),
    }


def request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Content-Length: {len(body)}",
        *(f"{k}: {v}" for k, v in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def pictures(images: Tensor) -> list[bytes]:
    return [request("/v1/predict", png(image), {"Content-Type": "image/png"}) for image in images]


def tensors(images: Tensor, size: int) -> list[bytes]:
    bodies = []
    for part in images.split(size):
        raw = part.contiguous().numpy().astype("<f4").tobytes()
        given = {"name": "images", "datatype": "FP32", "shape": list(part.shape)}
        said = {
            "inputs": [given | {"parameters": {"binary_data_size": len(raw)}}],
            "parameters": {"binary_data_output": True},
        }
        text = json.dumps(said).encode()
        bodies.append(
            request("/v2/models/model/infer", text + raw, {"Inference-Header-Content-Length": str(len(text))})
        )
    return bodies


def bare(net: str, images: Tensor, size: int, seconds: float) -> float:
    """Images per second of the model alone, the best of both memory layouts."""
    model, best = engine(net).stack.model.eval(), 0.0
    for layout in (torch.contiguous_format, torch.channels_last):
        batches = [part.to(memory_format=layout) for part in images.split(size)]
        with torch.inference_mode():
            model(batches[0])
            count, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds:
                count += len(model(batches[count % len(batches)]))
            best = max(best, count / (time.perf_counter() - start))
    return best


def profile_for(net: str, images: Tensor, folder: Path) -> None:
    from sparring.guard import calibrate
    from sparring.guard.watch.benign import scenes, sessions

    path = folder / f"profile-{net}.json"
    count, lengths = (30, (20, 30)) if net == "imagenet-lite0" else (200, (20, 200))
    generator = torch.Generator().manual_seed(0)
    scenes_ = scenes(images, generator)
    calibrate(engine(net), sessions(images, count, generator, lengths), scenes_).save(path)


def load(net: str, seconds: float, port: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    if net == "imagenet-lite0":
        generator = torch.Generator().manual_seed(0)
        images = torch.rand((64, 3, 224, 224), generator=generator)
    else:
        images = load_split("t10k", 5000)[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile_for(net, images, folder)
        guard, plain = Child("guard", net, folder / "g", port), Child("plain", net, folder / "p", port + 1)
        try:
            singles, many = pictures(images[:1000]), tensors(images[: 64 * (1 if net == "imagenet-lite0" else 20)], 64)
            for child in (guard, plain):
                loaded(child, singles, 1, 8)
            rounds = [
                {
                    "guard": loaded(guard, singles, seconds, 16),
                    "decode only": loaded(plain, singles, seconds, 16),
                    "guard, 64 at once": 64 * loaded(guard, many, seconds, 2)["rate"],
                    "bare model, 64 at once": bare(net, images[: 64 * len(many)], 64, seconds / 2),
                }
                for _ in range(3)
            ]
            single = statistics.median(r["guard"]["rate"] / r["decode only"]["rate"] for r in rounds)
            batched = statistics.median(r["guard, 64 at once"] / r["bare model, 64 at once"] for r in rounds)
            most = statistics.median(r["guard"]["rate"] for r in rounds)
            alone, half = loaded(guard, singles, seconds, 1), loaded(guard, singles, 3 * seconds, 32, most / 2)
            result = {
                "net": net,
                "rounds": rounds,
                "single: guard / decode only": single,
                "64 at once: guard / bare model": batched,
                "alone": alone,
                "at half of the maximum": half,
                "p99 / (3 x median alone + deadline)": half["p99_ms"] / (3 * alone["median_ms"] + 2),
                "memory MiB": guard.memory(),
            }
        finally:
            guard.stop()
            plain.stop()
    return result


def soak(net: str, minutes: float, port: int) -> dict[str, Any]:
    """At half of the maximum rate: memory every ten seconds, and at the end the events beside the accepted requests."""
    from sparring.guard.events.store import Store

    torch.set_num_threads(1)
    images = load_split("t10k", 5000)[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile_for(net, images, folder)
        guard = Child("guard", net, folder / "g", port)
        try:
            singles = pictures(images[:1000])
            first = loaded(guard, singles, 4, 16)
            rows, total = [], int(first["requests"])
            for _ in range(max(1, round(6 * minutes))):
                row = loaded(guard, singles, 10, 32, first["rate"] / 2)
                total += int(row["requests"])
                rows.append(row | {"memory MiB": guard.memory()})
        finally:
            guard.stop()
        store = Store(f"sqlite:///{folder}/g/events.db")
        events = store.count()
        store.close()
    return {"net": net, "rounds": rows, "accepted": total, "events": events}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "soak", "serve"])
    parser.add_argument("--net", default="small")
    parser.add_argument("--kind", default="guard")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--port", type=int, default=18765)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--minutes", type=float, default=10)
    given = parser.parse_args()
    if given.what == "serve":
        serve(given.kind, given.net, given.folder, given.port)
        return
    if given.what == "soak":
        result = soak(given.net, given.minutes, given.port)
    else:
        result = load(given.net, given.seconds, given.port)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"guard-{given.what}-{given.net}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
