"""The bench's networks: built, trained and cached by this script alone.

Nothing here uses sparring, on purpose: the yardstick must not come from what it measures.

    python bench/models.py            # train what is missing, print accuracies
    python bench/models.py --quick    # minutes -> seconds; weaker nets, a cache of their own
    python bench/models.py --force    # train again
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
EPS = 0.1
# Where Debian's `dataset-fashion-mnist` puts its files.
DATA = Path(os.environ.get("SPARRING_BENCH_DATA", "/usr/share/datasets/fashion-mnist"))


# --- data ------------------------------------------------------------------


def read_idx(path: Path) -> np.ndarray:
    """One gzipped idx file (http://yann.lecun.com/exdb/mnist) of unsigned bytes, as an array."""
    with gzip.open(path, "rb") as file:
        raw = file.read()
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an idx file of unsigned bytes")
    rank = raw[3]
    shape = np.frombuffer(raw, dtype=">i4", count=rank, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)


def load_split(split: str, n: int | None = None) -> tuple[Tensor, Tensor]:
    """The first `n` images, float32 in [0, 1] of shape (n, 1, 28, 28), and labels of `"train"` or `"t10k"`."""
    if not DATA.is_dir():
        raise SystemExit(
            f"{DATA} is missing: run scripts/system-packages.sh (Debian's dataset-fashion-mnist), "
            "or set SPARRING_BENCH_DATA to a folder with Fashion-MNIST's four idx .gz files."
        )
    images = read_idx(DATA / f"{split}-images-idx3-ubyte.gz")[:n]
    labels = read_idx(DATA / f"{split}-labels-idx1-ubyte.gz")[:n]
    return torch.from_numpy(images.copy()).float().div(255).unsqueeze(1), torch.from_numpy(labels.copy()).long()


# --- network ---------------------------------------------------------------


def small() -> nn.Sequential:
    """Two convolutions and two linear layers, 206,922 parameters: the net of our records."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def wide() -> nn.Sequential:
    """Four convolutions, 206,617 parameters: as many weights, but an evaluation costs five times as much."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 45),
        nn.ReLU(),
        nn.Linear(45, 10),
    )


NETS = {"small": small, "wide": wide}


# --- a plain PGD, for training and for the accuracies in the log -----------


def pgd(model: nn.Module, images: Tensor, labels: Tensor, *, steps: int, step_size: float, eps: float = EPS) -> Tensor:
    """Madry et al. 2018: sign steps on the cross-entropy from a random start, in the linf ball and in [0, 1]."""
    low, high = (images - eps).clamp_(0, 1), (images + eps).clamp_(0, 1)
    adversarials = (images + torch.empty_like(images).uniform_(-eps, eps)).clamp_(0, 1)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)  # no weight gradients while crafting
    for _ in range(steps):
        adversarials.requires_grad_()
        loss = cross_entropy(model(adversarials), labels, reduction="sum")
        (grad,) = torch.autograd.grad(loss, adversarials)
        adversarials = adversarials.detach().add_(grad.sign_(), alpha=step_size).clamp_(low, high)
    for parameter, flag in zip(model.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
    return adversarials


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch: int = 125) -> float:
    with torch.no_grad():
        hits = sum(
            int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(batch), labels.split(batch), strict=True)
        )
    return hits / len(labels)


def pgd_accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch: int = 125) -> float:
    torch.manual_seed(0)
    pairs = zip(images.split(batch), labels.split(batch), strict=True)
    adversarials = torch.cat([pgd(model, x, y, steps=40, step_size=0.01) for x, y in pairs])
    return accuracy(model, adversarials, labels, batch)


# --- training --------------------------------------------------------------


def train(
    net: str, kind: str, *, images: int, epochs: int, budget_s: float, batch: int = 100, lr: float = 2e-3
) -> nn.Module:
    """Adam with a one-cycle rate; stops at the first epoch's end past `budget_s` CPU seconds."""
    torch.manual_seed(0)
    x_all, y_all = load_split("train", images)
    model = NETS[net]().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    steps = epochs * (len(x_all) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps, pct_start=0.2)
    start = time.process_time()
    for epoch in range(epochs):
        order = torch.randperm(len(x_all))
        total = 0.0
        for index in order.split(batch)[: len(x_all) // batch]:
            x, y = x_all[index], y_all[index]
            if kind == "pgd":
                x = pgd(model, x, y, steps=7, step_size=0.025)
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        spent = time.process_time() - start
        print(
            f"{net} {kind} epoch {epoch + 1}/{epochs} loss {total * batch / len(x_all):.3f} {spent:.0f} CPU s",
            flush=True,
        )
        if spent > budget_s:
            print(f"{kind}: out of its {budget_s:.0f} CPU s, stopping early", flush=True)
            break
    return model.to(memory_format=torch.contiguous_format).eval()


RECIPES = {
    ("small", "standard"): {"images": 60_000, "epochs": 4, "budget_s": 300.0},
    ("small", "pgd"): {"images": 60_000, "epochs": 8, "budget_s": 900.0},
    ("wide", "standard"): {"images": 60_000, "epochs": 2, "budget_s": 600.0},
    ("wide", "pgd"): {"images": 20_000, "epochs": 4, "budget_s": 900.0},
}
QUICK = {
    "standard": {"images": 10_000, "epochs": 3, "budget_s": 60.0},
    "pgd": {"images": 5_000, "epochs": 2, "budget_s": 60.0},
}


def place(net: str, kind: str, quick: bool) -> Path:
    return CACHE / f"{net}-{kind}{'-quick' if quick else ''}.safetensors"


def cached(net: str, kind: str, *, quick: bool = False, force: bool = False) -> nn.Sequential:
    """`net` "small" or "wide", trained the "standard" or the "pgd" way; from the cache, or trained now."""
    path = place(net, kind, quick)
    if force or not path.is_file():
        CACHE.mkdir(exist_ok=True)
        recipe = QUICK[kind] if quick else RECIPES[net, kind]
        start = time.process_time()
        trained = train(net, kind, **recipe)
        seconds = round(time.process_time() - start, 1)
        x, y = load_split("t10k", 2_000 if quick else None)
        facts = {
            "net": net,
            "kind": kind,
            "recipe": recipe,
            "parameters": sum(p.numel() for p in trained.parameters()),
            "train_cpu_s": seconds,
            "torch": torch.__version__,
            "clean_accuracy": accuracy(trained, x, y),
            "pgd40_accuracy_500": pgd_accuracy(trained, x[:500], y[:500]),
            "pgd40_accuracy_1000": pgd_accuracy(trained, x[:1000], y[:1000]),
        }
        path.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
        save_file(trained.state_dict(), path)
    model = NETS[net]()
    model.load_state_dict(load_file(path))
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small nets for trying the bench out")
    parser.add_argument("--force", action="store_true", help="train again even if cached")
    parser.add_argument("--net", default="small", choices=list(NETS))
    parser.add_argument("kinds", nargs="*", default=["standard", "pgd"], help="standard, pgd (default: both)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind in options.kinds:
        cached(options.net, kind, quick=options.quick, force=options.force)
        print(place(options.net, kind, options.quick).with_suffix(".json").read_text())


if __name__ == "__main__":
    main()
