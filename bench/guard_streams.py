"""What the guard sees, over HTTP, on the PGD-trained Fashion-MNIST net at linf 0.1.

    python bench/guard_streams.py            # about five minutes on one core

Calibrated on the first half of the test set; attacks and benign sessions use the second half. The films here are made
by code of their own, not by the one that calibrates: pans of constant speed, shakes, zooms, fades, still cameras with
noise, scenes that cut. Results go to bench/results/guard-streams.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from guard_ring import Child, engine
from models import EPS, load_split
from sparring.guard import calibrate
from sparring.guard.events.store import Store
from sparring.guard.events.tables import ALERTS
from sparring.guard.spar.remote import connection
from sparring.guard.spar.session import Ring, spar, summary
from sparring.guard.v2 import HEADER
from sparring.guard.watch import benign

RESULTS = Path(__file__).resolve().parent / "results"


def frames(image: np.ndarray, n: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """A film of one scene (28, 28)."""
    shown = []
    direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.4)
    period, reach = rng.uniform(5, 30), rng.uniform(0.2, 2.0)
    for t in range(n):
        seen = image
        if kind == "pan":
            seen = ndimage.shift(image, (speed * t * np.sin(direction), speed * t * np.cos(direction)), order=1)
        if kind == "shake":
            phase = 2 * np.pi * t / period
            seen = ndimage.shift(image, (reach * np.sin(phase), reach * np.cos(1.3 * phase)), order=1)
        if kind == "zoom":
            scale = 1 + 0.15 * np.sin(2 * np.pi * t / (4 * period))
            seen = ndimage.affine_transform(image, np.eye(2) * scale, offset=14 * (1 - scale), order=1)
        if kind == "fade":
            seen = image * (1 - 0.5 * t / n)
        noise = {"still": 0.02, "fade": 0.005, "pan": 0.01}.get(kind, 0.01) * rng.uniform(0.3, 1)
        shown.append(seen + noise * rng.standard_normal(seen.shape))
    return (np.clip(np.stack(shown), 0, 1) * 255).round() / 255


def benign_sessions(images: Tensor, n: int, rng: np.random.Generator) -> Iterator[tuple[str, Tensor]]:
    """Half single shots of different images, half films."""
    kinds = ("pan", "shake", "zoom", "fade", "still")
    for number in range(n):
        length = int(rng.integers(20, 201))
        if number % 2 == 0:
            yield "shots", images[torch.from_numpy(rng.choice(len(images), length, replace=False))]
            continue
        kind, parts = kinds[number // 2 % 5], []
        while sum(map(len, parts)) < length:
            scene = images[int(rng.integers(len(images))), 0].numpy()
            parts.append(frames(scene, int(rng.integers(15, 201)), kind, rng))
        yield kind, torch.from_numpy(np.concatenate(parts)[:length, None]).float()


def send(client: httpx.Client, url: str, images: Tensor) -> None:
    raw = images.contiguous().numpy().astype("<f4").tobytes()
    given = {"name": "images", "datatype": "FP32", "shape": list(images.shape)}
    text = json.dumps({"inputs": [given | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
    client.post(url, content=text + raw, headers={HEADER: str(len(text))}).raise_for_status()


def alarms(store: Store) -> set[tuple[str, str]]:
    return {(row["kind"], row["client"]) for row in store.rows(ALERTS.select())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=60, help="of each attack")
    parser.add_argument("--queries", type=int, default=250)
    parser.add_argument("--benign", type=int, default=400)
    parser.add_argument("--port", type=int, default=18777)
    given = parser.parse_args()
    torch.set_num_threads(1)
    images, labels = load_split("t10k")
    net = engine("small")
    right = (net.stack.model(images[5000:]).argmax(1) == labels[5000:]).nonzero().flatten() + 5000
    wrong = sorted(set(range(5000, 10000)) - set(right.tolist()))
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, generator = Path(name), torch.Generator().manual_seed(0)
        sessions = benign.sessions(images[:5000], 400, generator)
        calibrate(net, sessions, benign.scenes(images[:5000], generator)).save(folder / "profile-small.json")
        child = Child("guard", "small", folder / "g", given.port)
        store = Store(f"sqlite:///{folder}/g/events.db")
        url = f"{child.url}/v2/models/model/infer"
        try:
            rng, number, false = np.random.default_rng(7), 0, []
            shown: Counter[str] = Counter()
            for kind, session in benign_sessions(images[5000:], given.benign, rng):
                before = alarms(store)
                with connection(child.url, number) as client:
                    for part in session.split(10):
                        send(client, url, part)
                number, shown[kind] = number + 1, shown[kind] + 1
                new = alarms(store) - before
                false += [(kind, len(session), sorted(new))] if new else []
            time.sleep(2)
            result["benign"] = {"sessions": dict(shown), "alarms": len(alarms(store)), "which": false}
            print(json.dumps(result["benign"]))
            result["noisy misclassified"] = []
            for deviation in (0.02, 0.05):
                for _ in range(10):
                    chosen = torch.from_numpy(rng.choice(wrong, 50, replace=False))
                    noisy = (
                        images[chosen] + deviation * torch.from_numpy(rng.standard_normal((50, 1, 28, 28))).float()
                    ).clamp(0, 1)
                    before = alarms(store)
                    with connection(child.url, number) as client:
                        for count, image in enumerate(noisy.split(1), 1):
                            send(client, url, image)
                            time.sleep(0.01)
                            if len(alarms(store)) > len(before):
                                at = count
                                break
                        else:
                            time.sleep(0.5)
                            at = 50 if len(alarms(store)) > len(before) else 999
                    number += 1
                    result["noisy misclassified"].append((deviation, at))
            print(json.dumps(result["noisy misclassified"]))
            ring = Ring(url, 10, EPS, given.queries, 120)
            for kind in ("square", "hopskipjump", "nes", "careful"):
                n = given.sessions if kind in ("square", "hopskipjump") else max(5, given.sessions // 6)
                chosen = right[torch.from_numpy(rng.choice(len(right), n, replace=False))]
                longer = Ring(url, 10, EPS, 4 * given.queries, 120) if kind == "careful" else ring
                bouts = spar(longer, kind, images[chosen], labels[chosen], store, cover=images[5000:], first=number)
                number += n
                result[kind] = summary(bouts) | {"kinds": dict(Counter(bout.kind for bout in bouts))}
                print(kind, json.dumps(result[kind]))
        finally:
            store.close()
            child.stop()
    (RESULTS / "guard-streams.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
