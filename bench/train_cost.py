"""What an epoch of adversarial training costs against normal training, against bare loops and against ART.

    OMP_NUM_THREADS=1 .bench-venv/bin/python bench/train_cost.py

One thread, batch 128, CPU seconds; all contestants take turns, medians over the rounds. A round trains on 2,560
images. The bare loops are written here with nothing but torch and do the same work, without averaged weights; ours
run as `sp.harden` runs them, once without averaged weights (to compare) and once with the default settings. The watch
costs extra: it looks at 500 images once per epoch, whatever the epoch's size, and is timed by itself.
Writes bench/results/train/cost.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import models
import sparring as sp
from sparring.hardening.job import Job
from sparring.hardening.recipe import chosen
from train_runs import strided, striding

RESULT = Path(__file__).resolve().parent / "results" / "train" / "cost.json"
NETS = {"strided": strided, "striding": striding, "small": models.small}
METHODS = ("clean", "fgsm_mix", "rs_fgsm", "n_fgsm", "pgd", "trades")
TARGETS = {"rs_fgsm": 1.8, "n_fgsm": 1.8, "fgsm_mix": 2.9, "pgd": 6.0}
IMAGES, BATCH, EPS = 2560, 128, 0.1
Epoch = Callable[[], object]


# --- ours --------------------------------------------------------------------


def ours(net: Callable[[], nn.Module], x: Tensor, y: Tensor, method: str, **settings: Any) -> Epoch:
    torch.manual_seed(0)
    how = chosen(method, {"epochs": 100_000, "validation": 1, "rise": 0.5, **settings})
    job = Job.build(net(), (x, y), sp.ThreatModel("linf", EPS), how, 0, None)
    trainer = job.trainer(lambda _: None)

    def epoch() -> None:
        for _ in range(trainer.per_epoch):
            trainer._train_step()

    return epoch


def watch(net: Callable[[], nn.Module], x: Tensor, y: Tensor) -> Epoch:
    from sparring.hardening.watch import look

    torch.manual_seed(0)
    threat = sp.ThreatModel("linf", EPS)
    model = sp.harden(net(), (x, y), threat, epochs=8, effort=None).model  # a net that falls at once is soon watched
    return lambda: look(model, x[:500], y[:500], threat, 0)


# --- bare --------------------------------------------------------------------


def bare(net: Callable[[], nn.Module], x_all: Tensor, y_all: Tensor, method: str) -> Epoch:
    torch.manual_seed(0)
    model = net().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    size = BATCH // 2 if method == "fgsm_mix" else BATCH

    def gradient(points: Tensor, y: Tensor) -> Tensor:
        points = points.detach().requires_grad_()
        loss = cross_entropy(model(points), y, reduction="sum")
        return torch.autograd.grad(loss, points)[0]

    def points(x: Tensor, y: Tensor) -> Tensor:
        model.requires_grad_(False)
        low, high = (x - EPS).clamp_(0, 1), (x + EPS).clamp_(0, 1)
        if method in ("rs_fgsm", "pgd"):
            at, steps, length = x + torch.empty_like(x).uniform_(-EPS, EPS), 1, 1.25 * EPS
            if method == "pgd":
                at, steps, length = at.clamp_(0, 1), 7, 2.5 * EPS / 7
            for _ in range(steps):
                at = torch.clamp(at + length * gradient(at, y).sign_(), low, high)
        elif method == "fgsm_mix":
            at = torch.clamp(x + EPS * gradient(x, y).sign_(), low, high)
        else:
            at = x
        model.requires_grad_(True)
        return at

    def epoch() -> None:
        order = torch.randperm(len(x_all))
        for rows in order.split(size)[: len(x_all) // size]:
            x, y = x_all[rows], y_all[rows]
            at = points(x, y)
            if method == "fgsm_mix":
                at, y = torch.cat([x, at]), torch.cat([y, y])
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(model(at), y).backward()
            optimizer.step()

    return epoch


class Plain(nn.Module):
    """ART's fast trainer fails on an `nn.Sequential`, whose every layer it takes for an output."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


# --- ART ---------------------------------------------------------------------


def art_trainers(net: Callable[[], nn.Module], x: Tensor, y: Tensor) -> dict[str, Epoch]:
    try:
        from art.defences.trainer import AdversarialTrainerFBFPyTorch, AdversarialTrainerMadryPGD
        from art.estimators.classification import PyTorchClassifier
    except ImportError:
        return {}
    torch.manual_seed(0)
    x_all, y_all = x.numpy(), y.numpy()

    def classifier() -> Any:
        model = Plain(net())
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        return PyTorchClassifier(
            model, nn.CrossEntropyLoss(), (1, 28, 28), 10, optimizer, clip_values=(0.0, 1.0), device_type="cpu"
        )

    fbf = AdversarialTrainerFBFPyTorch(classifier(), eps=EPS)
    madry = AdversarialTrainerMadryPGD(
        classifier(), nb_epochs=1, batch_size=BATCH, eps=EPS, eps_step=2.5 * EPS / 7, max_iter=7, num_random_init=1
    )
    labels = torch.nn.functional.one_hot(torch.from_numpy(y_all), 10).numpy()
    return {
        "ART fast": lambda: fbf.fit(x_all, labels, nb_epochs=1, batch_size=BATCH),
        "ART Madry": lambda: madry.fit(x_all, labels, nb_epochs=1, batch_size=BATCH),
    }


# --- the race ----------------------------------------------------------------


def race(net: Callable[[], nn.Module], rounds: int, n: int, *, short: bool) -> dict[str, Any]:
    x, y = models.load_split("train", n + 1)
    contestants: dict[str, Epoch] = {}
    for method in METHODS[:-1] if short else METHODS:
        contestants[f"ours {method}"] = ours(net, x, y, method, ema=0.0)
        if method in ("clean", "fgsm_mix", "rs_fgsm", "pgd"):
            contestants[f"bare {method}"] = bare(net, x[:n], y[:n], method)
    contestants["ours rs_fgsm, defaults"] = ours(net, x, y, "rs_fgsm")
    contestants["ours clean, defaults"] = ours(net, x, y, "clean")
    contestants["watch"] = watch(net, x, y)
    contestants |= {} if short else art_trainers(net, x[:n], y[:n])
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            contestants[name]()
            if turn:  # the first round warms up
                seconds[name].append(time.process_time() - start)
        print(f"  {net.__name__}: round {turn} of {rounds}", file=sys.stderr, flush=True)
    return {"images": n, "seconds": seconds, "ratios": ratios(seconds, n)}


def ratios(seconds: dict[str, list[float]], n: int) -> dict[str, float]:
    """Medians of the ratios within a round: a busy moment slows both."""

    def over(first: str, second: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[first], seconds[second], strict=True))

    found = {f"{m} / clean": over(f"ours {m}", "ours clean") for m in METHODS[1:] if f"ours {m}" in seconds}
    found |= {f"bare {m} / bare clean": over(f"bare {m}", "bare clean") for m in ("fgsm_mix", "rs_fgsm", "pgd")}
    found |= {f"{m} / bare": over(f"ours {m}", f"bare {m}") for m in ("clean", "fgsm_mix", "rs_fgsm", "pgd")}
    found["rs_fgsm / clean, defaults"] = over("ours rs_fgsm, defaults", "ours clean, defaults")
    found["watch / clean epoch of 60,000"] = over("watch", "ours clean") * n / 60_000
    for theirs, mine in (("ART fast", "rs_fgsm"), ("ART Madry", "pgd")):
        if theirs in seconds:
            found[f"{theirs} / {mine}"] = over(theirs, f"ours {mine}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=list(NETS), help=f"of {', '.join(NETS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=IMAGES, help="of a round")
    parser.add_argument("--short", action="store_true", help="neither TRADES nor ART")
    options = parser.parse_args()
    torch.set_num_threads(1)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for name in options.nets:
        known[name] = race(NETS[name], options.rounds, options.images, short=options.short)
        RESULT.write_text(json.dumps(known, indent=1) + "\n")
        for pair, ratio in known[name]["ratios"].items():
            limit = TARGETS.get(pair.removesuffix(" / clean"))
            verdict = "" if limit is None or not pair.endswith(" / clean") else f"  (at most {limit})"
            print(f"{name:10} {pair:34} {ratio:6.2f}{verdict}")


if __name__ == "__main__":
    main()
