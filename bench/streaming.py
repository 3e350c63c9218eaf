"""Peak memory against the number of images: 224 x 224 pictures streamed from disk through a tiny model.

    python bench/streaming.py                    # 1,000 and 10,000 pictures
    python bench/streaming.py --counts 1000 50000

Every count runs in a process of its own, on a folder of pictures (made once, below bench/.cache), as
`sp.load_data(folder)` gives them: decoded when they are needed. The peak is the kernel's (ru_maxrss). Records and
adversarials go to disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
PICTURES = HERE / ".cache" / "pictures-224"


def make(count: int) -> Path:
    """A folder of `count` pictures in two class folders; coarse noise, so that a file stays small."""
    folder = PICTURES / str(count)
    if (folder / "done").exists():
        return folder
    for i in range(count):
        place = folder / f"class{i % 2}" / f"{i:06d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(i).integers(0, 256, (7, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse.repeat(32, 0).repeat(32, 1)).save(place, compress_level=1)
    (folder / "done").touch()
    return folder


def measure(count: int) -> dict[str, float]:
    import torch
    from torch import nn

    import sparring as sp

    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(16), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 12 * 12, 2))
    images, labels = sp.load_data(str(PICTURES / str(count)))
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as out:
        found = sp.evaluate(model, images, labels, sp.ThreatModel("linf", "8/255"), attacks=["fgsm"], out=out)
    return {
        "images": len(found.records),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "before_mib": before / 1024,
        "seconds": time.perf_counter() - started,
        "robust": found.robust_accuracy.value,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one)))
        return
    rows = []
    for count in chosen.counts:
        make(count)
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(count)], capture_output=True, text=True, check=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print({key: round(value, 2) for key, value in rows[-1].items()}, flush=True)
    record = HERE / "results" / "streaming.json"
    record.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
