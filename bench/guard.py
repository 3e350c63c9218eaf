"""What the guard costs.

    python bench/guard.py load                # the four ratios, against their bars: about four minutes on two cores
    python bench/guard.py load --net small    # without imagenet-lite0
    python bench/guard.py soak --minutes 10   # memory and events at half of the maximum load

Decode only: an endpoint of the same framework and server that decodes the picture, and nothing else. Everything runs in
rounds by turns, and the median of each round's ratio counts, so that a machine that changes its speed matters little.
CPU times are those of the server's process. Results go to bench/results/guard/. What the guard sees: guard_streams.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guard_ring import Child, bare, engine, loaded, pictures, tensors
from models import load_split

RESULTS = Path(__file__).resolve().parent / "results" / "guard"
CONNECTIONS = 32
DEADLINE = 2.0
"""Milliseconds, [guard] batch_wait."""


def profile_for(net: str, images: Tensor, folder: Path) -> None:
    from sparring.guard import calibrate
    from sparring.guard.watch.benign import scenes, sessions

    count, lengths = (30, (5, 10)) if net == "imagenet-lite0" else (100, (20, 120))
    generator = torch.Generator().manual_seed(0)
    distinct = scenes(images, generator)
    calibrate(engine(net), sessions(images, count, generator, lengths), distinct).save(folder / f"profile-{net}.json")


def small_load(seconds: float, port: int, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)  # as the guard chooses for a net of this size
    images, model = load_split("t10k", 5000)[0], engine("small").stack.model
    singles, many = pictures(images[:1000]), tensors(images[:1280], 64)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile_for("small", images, folder)
        guard, plain = Child("guard", "small", folder / "g", port), Child("plain", "small", folder / "p", port + 1)
        try:
            for child in (guard, plain):
                loaded(child, singles, 1, CONNECTIONS)
            found = [
                {
                    "guard": loaded(guard, singles, seconds, CONNECTIONS),
                    "decode only": loaded(plain, singles, seconds, CONNECTIONS),
                    "guard, 64 at once": loaded(guard, many, seconds, 4),
                    "bare model, 64 at once": {"rate": bare(model, images[:1280], 64, seconds)},
                }
                for _ in range(rounds)
            ]
            most = statistics.median(r["guard"]["rate"] for r in found)
            alone = [loaded(guard, singles, seconds / 2, 1) for _ in range(3)]
            half = [loaded(guard, singles, 2 * seconds, CONNECTIONS, most / 2) for _ in range(3)]
            memory = guard.memory()
        finally:
            guard.stop()
            plain.stop()
    median = statistics.median(one["median_ms"] for one in alone)
    p99 = statistics.median(one["p99_ms"] for one in half)
    return {
        "single: guard / decode only": _ratio(found, "guard", "decode only"),
        "64 at once: guard / bare model": 64 * _ratio(found, "guard, 64 at once", "bare model, 64 at once"),
        "p99 at half load / (3 x median alone + deadline)": p99 / (3 * median + DEADLINE),
        "cpu ms per single request": {kind: _cpu(found, kind) for kind in ("guard", "decode only")},
        "cpu ms per 64 at once": {
            "guard": _cpu(found, "guard, 64 at once"),
            "bare model": 64e3 / statistics.median(r["bare model, 64 at once"]["rate"] for r in found),
        },
        "median alone, p99 at half load, ms": [median, p99],
        "memory MiB": memory,
        "rounds": found,
        "alone": alone,
        "half": half,
    }


def large_load(seconds: float, port: int, rounds: int) -> dict[str, Any]:
    """imagenet-lite0: torch's own number of threads for the guard; for the model alone the best number and batch."""
    from sparring.loading import load_data

    net = "imagenet-lite0"
    images = load_data("photos", size=224).images[0:16]
    images = images[torch.arange(32) % len(images)]
    model, threads = engine(net).stack.model, os.cpu_count() or 1
    best: dict[tuple[int, int], float] = {}
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        best |= {(count, size): bare(model, images, size, seconds / 2) for size in (1, 4, 8, 16, 32)}
    count, size = max(best, key=lambda key: best[key])
    torch.set_num_threads(count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile_for(net, images, folder)
        guard = Child("guard", net, folder / "g", port)
        try:
            many, singles = tensors(images, 16, "UINT8"), pictures(images, "JPEG")
            loaded(guard, many, 1, 2)
            found = [
                {
                    "guard": loaded(guard, many, 2 * seconds, 3),
                    "guard, single JPEG": loaded(guard, singles, 2 * seconds, CONNECTIONS),
                    "bare model": {"rate": bare(model, images, size, 2 * seconds)},
                }
                for _ in range(rounds)
            ]
            memory = guard.memory()
        finally:
            guard.stop()
    return {
        "imagenet-lite0: guard / bare model's best": 16 * _ratio(found, "guard", "bare model"),
        "imagenet-lite0, single JPEG uploads: guard / bare model's best": _ratio(
            found, "guard, single JPEG", "bare model"
        ),
        "bare model, images a second by threads and batch": {f"{k[0]} x {k[1]}": rate for k, rate in best.items()},
        "memory MiB": memory,
        "rounds": found,
    }


def _ratio(rounds: list[dict[str, Any]], one: str, other: str) -> float:
    return statistics.median(r[one]["rate"] / r[other]["rate"] for r in rounds)


def _cpu(rounds: list[dict[str, Any]], kind: str) -> float:
    return statistics.median(r[kind]["cpu_ms"] for r in rounds)


BARS = {
    "single: guard / decode only": (">=", 0.6),
    "64 at once: guard / bare model": (">=", 0.6),
    "imagenet-lite0: guard / bare model's best": (">=", 0.85),
    "p99 at half load / (3 x median alone + deadline)": ("<=", 1.0),
}


def soak(minutes: float, port: int) -> dict[str, Any]:
    """At half of the maximum rate: memory every ten seconds, and at the end the events beside the accepted requests."""
    from sparring.guard.events.store import Store

    torch.set_num_threads(1)
    images = load_split("t10k", 5000)[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile_for("small", images, folder)
        guard = Child("guard", "small", folder / "g", port)
        try:
            singles = pictures(images[:1000])
            first = loaded(guard, singles, 4, CONNECTIONS)
            rows, total = [], int(first["requests"])
            for _ in range(max(6, round(6 * minutes))):
                row = loaded(guard, singles, 10, CONNECTIONS, first["rate"] / 2)
                total += int(row["requests"])
                rows.append(row | {"memory MiB": guard.memory()})
        finally:
            guard.stop()
        store = Store(f"sqlite:///{folder}/g/events.db")
        events = store.count()
        store.close()
    memory = [row["memory MiB"] for row in rows]
    quarter = max(1, len(memory) // 4)
    early, late = statistics.median(memory[quarter : 2 * quarter]), statistics.median(memory[-quarter:])
    flat = late - early <= 0.02 * early
    print(f"memory {early:.1f} MiB in the second quarter, {late:.1f} in the last: {'flat' if flat else 'GROWS'}")
    print(f"accepted {total}, events {events}: {'equal' if total == events else 'MISSING'}")
    return {"accepted": total, "events": events, "memory early, late, MiB": [early, late], "rounds": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "soak"])
    parser.add_argument("--net", choices=["small", "imagenet-lite0", "both"], default="both")
    parser.add_argument("--port", type=int, default=18765)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=10)
    given = parser.parse_args()
    result: dict[str, Any] = {}
    if given.what == "soak":
        result = soak(given.minutes, given.port)
    else:
        if given.net in ("small", "both"):
            result |= small_load(given.seconds, given.port, given.rounds)
        if given.net in ("imagenet-lite0", "both"):
            more = large_load(given.seconds, given.port, given.rounds)
            result |= {"imagenet-lite0": more} | {name: more.pop(name) for name in list(more) if name in BARS}
        for name, (sign, bar) in BARS.items():
            if name in result:
                fine = result[name] >= bar if sign == ">=" else result[name] <= bar
                print(f"{'pass' if fine else 'MISS'}  {name}: {result[name]:.3f} (bar {sign} {bar})")
        for name in ("cpu ms per single request", "cpu ms per 64 at once", "median alone, p99 at half load, ms"):
            print(f"      {name}: {result.get(name)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    name = given.what if given.net == "both" or given.what == "soak" else f"{given.what}-{given.net}"
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
