"""Speed and strength of FGSM and PGD-40, ours beside the peers', on the bench's two networks.

    bench/run.sh                # ten minutes, and as many once to train the nets; see bench/results/
    bench/run.sh --quick        # tries the harness out on weak nets; its numbers mean nothing

CPU seconds of one thread, median of repeats that take turns within one process, so that a busy machine hits
all alike. Each repeat has its own seed. Strength stands beside time: every candidate is checked here in
float64 against box and budget and scored by a fresh forward pass, whoever made it; an image counts as robust
if the model is right on it before and after. Exit code 1 if a judged target is missed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import models
import ours
import peers
from racing import Contestant, Target, choose_batch, honest, predict, race, table, warm_up

HERE = Path(__file__).resolve().parent
REPEATS = {"FGSM": 6, "PGD": 1}  # FGSM is over in a tenth of a second: more of them for the same noise
AGREEMENT_IMAGES = 2_000  # 99.9 % of 500 images would allow no difference at all


# --- the yardstick ---------------------------------------------------------


def bare(model: nn.Module, images: Tensor, labels: Tensor, batch: int, *, verify: bool) -> Tensor:
    """One forward and one backward pass to the input, and one more forward if `verify`: FGSM's least work."""
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        x = x.detach().requires_grad_()
        torch.autograd.grad(cross_entropy(model(x), y, reduction="sum"), x)
        if verify:
            predict(model, x, batch)
    return images


# --- the two races ---------------------------------------------------------


def fgsm_race(kind: str, model: nn.Module, images: Tensor, labels: Tensor, repeats: int) -> tuple[list, list[Target]]:
    floor = Contestant("bare", lambda b, s: bare(model, images, labels, b, verify=False), scored=False)
    yardstick = Contestant("bare + verifying forward", lambda b, s: bare(model, images, labels, b, verify=True), False)
    rivals = []
    for name, make in peers.FGSM.items():
        attack = make()(model)
        rivals.append(Contestant(name, lambda b, s, attack=attack: attack(images, labels, b)))
    for contestant in (floor, yardstick, *rivals):
        contestant.batch = choose_batch(contestant)
    mine = [] if ours.MISSING else ours.fgsm_contestants(model, images, labels)
    warm_up(mine)
    everyone = [floor, yardstick, *rivals, *mine]
    race(everyone, model, images, labels, repeats)
    table(f"FGSM, {kind} net, {len(images)} images (ratio: to bare + verifying forward)", everyone, yardstick.median)
    if not mine:
        return everyone, []
    ratio = mine[1].median / yardstick.median  # like for like: both with the verifying forward
    return everyone, [
        Target.at_most(f"FGSM ({kind}) / (bare + verifying forward)", ratio, 1.10),
        *agreement(kind, model),
        *honest(kind, mine),
    ]


def agreement(kind: str, model: nn.Module) -> list[Target]:
    images, labels = models.load_split("t10k", AGREEMENT_IMAGES)
    found = predict(model, ours.fgsm(model, images, labels))
    targets = []
    for name in ("foolbox", "torchattacks"):
        theirs = predict(model, peers.FGSM[name]()(model)(images, labels, 125))
        percent = 100 * float((found == theirs).float().mean())
        targets.append(Target.at_least(f"FGSM ({kind}) predictions equal {name}'s, %", percent, 99.9))
    return targets


def pgd_race(kind: str, model: nn.Module, images: Tensor, labels: Tensor, repeats: int) -> tuple[list, list[Target]]:
    rivals = []
    for name, make in peers.PGD.items():
        short = make(4)(model)  # enough steps to choose the batch size by
        trial = Contestant(name, lambda b, s, attack=short: attack(images, labels, b))
        attack = make()(model)
        rival = Contestant(name, lambda b, s, attack=attack: attack(images, labels, b), judged=name in peers.JUDGED)
        rival.batch = choose_batch(trial)
        rivals.append(rival)
    mine = [] if ours.MISSING else ours.pgd_contestants(model, images, labels)
    warm_up(mine)
    race([*rivals, *mine], model, images, labels, repeats)
    judged = [rival for rival in rivals if rival.judged]
    fastest = min(judged, key=lambda rival: rival.median)
    table(f"PGD-40, {kind} net, {len(images)} images (ratio: to {fastest.name})", [*rivals, *mine], fastest.median)
    if not mine:
        return rivals, []
    strongest = min(rival.strength for rival in judged)
    limit = {"pgd": 0.5, "standard": 0.15}[kind]
    return [*rivals, *mine], [
        Target.at_most(f"PGD-40 ({kind}) / {fastest.name}", mine[0].median / fastest.median, limit),
        Target.at_most(f"PGD-40 ({kind}) robust %, minus the lowest peer's", mine[0].strength - strongest, 0.2),
        *honest(kind, mine),
    ]


# --- the report ------------------------------------------------------------


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def circumstances(options: argparse.Namespace) -> dict[str, object]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu_model(), "system": platform.platform(), "threads": torch.get_num_threads()},
        "versions": peers.versions() | {"python": platform.python_version(), "sparring": ours.version()},
        "settings": vars(options) | {"eps": peers.EPS, "steps": peers.STEPS, "step_size": peers.STEP_SIZE},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="weak nets, 100 images, 2 repeats, no record")
    parser.add_argument("--net", default="small", choices=list(models.NETS), help="wide takes five times as long")
    parser.add_argument("--models", nargs="+", default=["standard", "pgd"], choices=["standard", "pgd"])
    parser.add_argument("--attacks", nargs="+", default=["FGSM", "PGD"], choices=["FGSM", "PGD"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--out", default=None, help="where the JSON goes (default: bench/results/speed-NET-DATE.json)")
    options = parser.parse_args()
    if options.quick:
        options.images, options.repeats = 100, 2
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # the peers' own

    report = circumstances(options)
    nets = {kind: models.cached(options.net, kind, quick=options.quick) for kind in options.models}
    images, labels = models.load_split("t10k", options.images)
    races, targets = {}, []
    for attack in options.attacks:
        for kind, model in nets.items():
            run = {"FGSM": fgsm_race, "PGD": pgd_race}[attack]
            contestants, judged = run(kind, model, images, labels, options.repeats * REPEATS[attack])
            races[f"{attack} {kind}"] = [contestant.record() for contestant in contestants]
            targets += judged

    print()
    if ours.MISSING:
        print(f"sparring is not in the race ({ours.MISSING}): nothing judged")
    print(*targets, sep="\n")
    report |= {"races": races, "targets": [asdict(target) for target in targets]}
    where = Path(options.out) if options.out else HERE / "results" / f"speed-{options.net}-{report['date'][:10]}.json"
    if options.out or not options.quick:
        where.parent.mkdir(exist_ok=True)
        where.write_text(json.dumps(report, indent=2) + "\n")
        print(f"written to {where}")
    return 0 if all(target.passed for target in targets) else 1


if __name__ == "__main__":
    raise SystemExit(main())
