"""Attacks without gradients, ours beside the peers', at as many queries: strength, distance and time.

    .bench-venv/bin/python bench/black_box.py                    # an hour or two; bench/run.sh makes the environment
    .bench-venv/bin/python bench/black_box.py --images 30 --repeats 1 --races square hopskipjump

Every race is a duel. The peer runs first with its own settings; its questions to the model are counted, and ours gets
as many per image, on average no more. CPU seconds of one thread, median over repeats that take turns; each repeat has
its own seed. Every candidate is checked here, in float64, and scored by a fresh forward pass: fooled = right before,
wrong after, inside the budget where there is one. Distances are medians over all images that were right before; one
that was not fooled counts as infinitely far. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

import models
import peers
import sparring as sp
from racing import BATCHES, SEED, Contestant, Target, clock, predict
from speed import HERE, circumstances

ORDER = {"linf": math.inf, "l2": 2, "l1": 1}
SLACK = 1e-6


class Counted(nn.Module):
    """The network, and how many images it was asked about."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.images = inner, 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.inner(images.float())  # with numpy 2, ART's label-only attacks ask in float64


@dataclass
class Duel:
    """`peer` prepares the other library's attack; `mine` makes ours from a number of queries. `eps` None: the nearest
    adversarial is looked for. `quick` is the peer with few queries, to choose its batch size by.
    """

    name: str
    library: str
    net: str
    norm: str
    eps: float | None
    peer: peers.Prepare
    mine: Callable[[int], sp.attacks.Attack]
    limit_time: float = 1.0
    quick: peers.Prepare | None = None


@dataclass
class Side:
    seconds: list[float] = field(default_factory=list)
    queries: list[float] = field(default_factory=list)
    fooled: list[float] = field(default_factory=list)
    median: list[float] = field(default_factory=list)

    def record(self) -> dict[str, object]:
        return vars(self) | {name: statistics.median(values) for name, values in self.means().items()}

    def means(self) -> dict[str, list[float]]:
        return {"seconds_median": self.seconds, "fooled_median": self.fooled, "distance_median": self.median}


def duels() -> dict[str, list[Duel]]:
    square, hop, edge, spsa, simba = [], [], [], [], []
    at = sp.attacks
    for net, linf, l2, l1 in (("standard", 0.1, 1.0, 8.0), ("pgd", 0.1, 1.5, 12.0)):
        for norm, eps in (("linf", linf), ("l2", l2), ("l1", l1)):
            makers = {"torchattacks": peers.torchattacks_square, "pyautoattack": peers.autoattack_square}
            makers["ART"] = peers.art_square
            for library, make in makers.items():
                if norm == "l1" and library == "torchattacks":
                    continue  # it has none
                square.append(
                    Duel(
                        f"Square {norm} {eps:g}",
                        library,
                        net,
                        norm,
                        eps,
                        make(norm, eps, 500),
                        lambda q: at.Square(queries=q),
                        0.7 if norm == "linf" else 1.0,
                        make(norm, eps, 20),
                    )
                )
    for steps in (4, 9):
        for norm in ("l2", "linf"):
            for library, make in (("foolbox", peers.foolbox_hopskipjump), ("ART", peers.art_hopskipjump)):
                mine = lambda q: at.HopSkipJump(queries=q)  # noqa: E731
                hop.append(
                    Duel(f"HopSkipJump {norm}, {steps} steps", library, "standard", norm, None, make(norm, steps), mine)
                )
    for library, make, steps in (("foolbox", peers.foolbox_boundary, 1500), ("ART", peers.art_boundary, 40)):
        mine = lambda q: at.Boundary(queries=q)  # noqa: E731
        edge.append(Duel(f"Boundary, {steps} steps", library, "standard", "l2", None, make(steps), mine))
    for net in ("standard", "pgd"):
        for kind in (at.SPSA, at.NES):
            mine = lambda q, kind=kind: kind(queries=q)  # noqa: E731
            spsa.append(
                Duel(
                    f"{kind.__name__} linf 0.1",
                    "torchattacks SPSA",
                    net,
                    "linf",
                    0.1,
                    peers.torchattacks_spsa(0.1, 64, 8),
                    mine,
                )
            )
    for basis in ("pixel", "dct"):
        mine = lambda q, basis=basis: at.SimBA(queries=q, basis=basis)  # noqa: E731
        simba.append(Duel(f"SimBA {basis}", "ART", "standard", "l2", 10.0, peers.art_simba(basis, 400), mine))
    return {"square": square, "hopskipjump": hop, "boundary": edge, "spsa": spsa, "simba": simba}


# --- one duel --------------------------------------------------------------


def run(duel: Duel, net: nn.Module, images: Tensor, labels: Tensor, repeats: int) -> tuple[Side, Side]:
    model = Counted(net).eval()
    attack = duel.peer(model)
    batch = len(images)
    if duel.quick is not None and len(images) > BATCHES[0]:
        short = duel.quick(model)
        batch = _best_batch(Contestant(duel.library, lambda b, s: short(images, labels, b)))
    theirs = Contestant(duel.library, lambda b, s: attack(images, labels, b), batch=batch)
    sides = Side(), Side()
    for repeat in range(repeats):
        queries = _turn(sides[0], theirs, duel, model, images, labels, SEED + repeat)
        tool = duel.mine(max(3, math.ceil(queries)))
        mine = Contestant("sparring", lambda b, s, tool=tool: _ours(tool, duel, model, images, labels, s))
        _turn(sides[1], mine, duel, model, images, labels, SEED + repeat)
    return sides


def _best_batch(contestant: Contestant) -> int:
    trials = {batch: [clock(contestant, batch, seed)[0] for seed in range(3)] for batch in BATCHES}
    return min(trials, key=lambda batch: statistics.median(trials[batch]))


def _ours(tool: sp.attacks.Attack, duel: Duel, model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    threat, goal = sp.ThreatModel(duel.norm, duel.eps or 1.0), sp.Untargeted(labels)
    if duel.eps is None:
        return tool.minimize(model, images, goal, threat, generator=generator)
    return tool(model, images, goal, threat, generator=generator)


def _turn(
    side: Side, contestant: Contestant, duel: Duel, model: Counted, images: Tensor, labels: Tensor, seed: int
) -> float:
    """One run, timed and scored; returns the questions per image: the most that one image cost where images leave,
    so that ours is allowed what the peer's unbroken images were.
    """
    model.images = 0
    seconds, found = clock(contestant, contestant.batch or 0, seed)
    asked = model.images / len(images)
    exact = found.detach().double()
    far = torch.linalg.vector_norm((exact - images.double()).flatten(1), ORDER[duel.norm], dim=1)
    inside = (exact >= 0).flatten(1).all(1) & (exact <= 1).flatten(1).all(1)
    if duel.eps is not None:
        inside &= far <= duel.eps * (1 + SLACK) + SLACK
    right = predict(model.inner, images) == labels
    met = (predict(model.inner, found.detach().float()) != labels) & inside
    side.seconds.append(seconds)
    side.queries.append(asked)
    side.fooled.append(100 * float((met & right).sum() / right.sum()))
    side.median.append(float(torch.where(met, far, torch.inf)[right].median()))
    return 500 if duel.name.startswith("Square") else asked


# --- the report ------------------------------------------------------------


def judged(duel: Duel, theirs: Side, mine: Side) -> list[Target]:
    name = f"{duel.name} ({duel.net}) against {duel.library}"
    ratio = statistics.median(a / b for a, b in zip(mine.seconds, theirs.seconds, strict=True))
    fooled, least = statistics.mean(mine.fooled), statistics.mean(theirs.fooled)
    targets = [
        Target.at_least(f"{name}: fooled %, minus the peer's", fooled - least, 0.0),
        Target.at_most(f"{name}: time ratio", ratio, duel.limit_time),
    ]
    if duel.eps is None or duel.name.startswith("SimBA"):
        far = statistics.mean(mine.median) / statistics.mean(theirs.median)
        targets.append(Target.at_most(f"{name}: median distance ratio", far, 1.02))
    return targets


def show(duel: Duel, theirs: Side, mine: Side) -> None:
    print(f"\n{duel.name}, {duel.net} net\n{'':16} {'queries':>8} {'CPU s':>8} {'fooled %':>9} {'median':>8}")
    for who, side in ((duel.library, theirs), ("sparring", mine)):
        cells = (statistics.mean(side.queries), statistics.median(side.seconds), statistics.mean(side.fooled))
        print(
            f"{who:14} {cells[0]:8.0f} {cells[1]:8.2f} {cells[2]:9.1f} {statistics.mean(side.median):8.4f}", flush=True
        )


def main() -> int:
    races = duels()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="Square takes 2.5 times as many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--races", nargs="+", default=list(races), choices=list(races))
    parser.add_argument("--models", nargs="+", default=["standard", "pgd"], choices=["standard", "pgd"])
    parser.add_argument("--out", default=None, help="where the JSON goes (default: bench/results/black-box-DATE.json)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # the peers' own
    report = circumstances(options)
    nets = {kind: models.cached("small", kind) for kind in options.models}
    records, targets = [], []
    for race in options.races:
        images, labels = models.load_split("t10k", int(options.images * (2.5 if race == "square" else 1)))
        for duel in races[race]:
            if duel.net not in nets:
                continue
            theirs, mine = run(duel, nets[duel.net], images, labels, options.repeats)
            show(duel, theirs, mine)
            facts = {key: getattr(duel, key) for key in ("name", "library", "net", "norm", "eps")}
            records.append(facts | {"images": len(images), "peer": theirs.record(), "sparring": mine.record()})
            targets += judged(duel, theirs, mine)
    print()
    print(*targets, sep="\n")
    report |= {"duels": records, "targets": [asdict(target) for target in targets]}
    where = Path(options.out) if options.out else HERE / "results" / f"black-box-{report['date'][:10]}.json"
    where.parent.mkdir(exist_ok=True)
    where.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {where}")
    return 0 if all(target.passed for target in targets) else 1


if __name__ == "__main__":
    raise SystemExit(main())
