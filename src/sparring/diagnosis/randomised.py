"""What a model with randomness is worth: attacked in expectation, judged by fresh draws (Athalye et al. 2018)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.attacks import EOT, PGD, Attack, MultiTargeted
from sparring.batching import plan
from sparring.goal import Untargeted
from sparring.model import Model, frozen_eval, logits_of
from sparring.rng import forked
from sparring.threat import ThreatModel

DRAWS, MOST = 50, 200
"""Fresh draws by which clean and attacked images are judged, at least and at most; none is the attack's own."""
PRECISE = 0.003
"""Standard error of a mean over draws that ends them: models that draw once for a whole batch need many."""
CHOOSING = 16
"""Other draws, by which the worst of several candidates is chosen."""
LEFT = 0.05
"""An image that is right in fewer of its choosing draws needs no further attack."""
ATTACKS: tuple[Attack, ...] = (
    EOT(PGD(steps=40, loss="margin"), draws=8),
    EOT(PGD(steps=40, early_stop=False), draws=8),
    EOT(MultiTargeted(targets=3, steps=30), draws=8),
)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Share of right draws per image, clean and under the worst candidate, float64 (N,); the class most often answered
    to that candidate, the attack it came from (-1: none moved it), and the candidates themselves. costs: of every
    attack, and last of the judging, what it took: (forwards, backwards, seconds).
    """

    clean: Tensor
    worst: Tensor
    answers: Tensor
    chosen: Tensor
    points: Tensor
    draws: int
    costs: tuple[tuple[int, int, float], ...]


class _Metered(nn.Module):
    """A model that counts the images that pass forward, and those that may pass backward."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0
        self.started = time.perf_counter()

    def forward(self, images: Tensor) -> object:
        self.forwards += len(images)
        self.backwards += len(images) * images.requires_grad
        return self.model(images)

    def read(self) -> tuple[int, int, float]:
        """What it counted since the last reading."""
        found = self.forwards, self.backwards, time.perf_counter() - self.started
        self.forwards, self.backwards, self.started = 0, 0, time.perf_counter()
        return found


def drawn(
    model: Model,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    attacks: Sequence[Attack] = ATTACKS,
    known: Tensor | None = None,
    seed: int = 0,
) -> Drawn:
    """Attack every image (N, C, H, W) in expectation; the worst candidate counts by its mean over `DRAWS` fresh draws.

    known: candidates (N, C, H, W) found earlier. The global random state is as it was afterwards.
    """
    points, chosen = images.clone(), torch.full((len(images),), -1)
    goal, costs, model = Untargeted(labels), [], _Metered(model)
    with forked(), frozen_eval(model):
        torch.manual_seed(seed)
        share = _share(model, images, labels, CHOOSING)[0]
        if known is not None:
            share = _better(model, goal, threat, images, known, points, share, chosen, torch.arange(len(images)), 0)
        for number, attack in enumerate(attacks):
            rows = (share > LEFT).nonzero().flatten()
            if len(rows):
                generator = torch.Generator().manual_seed(seed + 1)
                found = attack(model, images[rows], goal.select(rows), threat, generator=generator)
                share = _better(model, goal, threat, images, found, points, share, chosen, rows, number)
            costs.append(model.read())
        clean, _, draws = _judged(model, images, labels)
        worst, answers, again = _judged(model, points, labels)
        costs.append(model.read())
    # Of two means over draws the smaller one is too low by chance: one that no attack moved has but one.
    worst = torch.where(chosen < 0, clean, worst)
    return Drawn(clean, worst, answers, chosen, points, min(draws, again), tuple(costs))


def _better(
    model: Model,
    goal: Untargeted,
    threat: ThreatModel,
    images: Tensor,
    found: Tensor,
    points: Tensor,
    share: Tensor,
    chosen: Tensor,
    rows: Tensor,
    number: int,
) -> Tensor:
    """Take over candidates of the images `rows` that are right less often; the shares after that."""
    allowed = threat.contains(images[rows], found).cpu()
    now = _share(model, found, goal.labels[rows], CHOOSING)[0]
    taken = allowed & (now < share[rows])
    points[rows[taken]], chosen[rows[taken]] = found[taken], number
    share = share.clone()
    share[rows[taken]] = now[taken]
    return share


def _share(model: Model, points: Tensor, labels: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Share of right draws (N,), and the commonest answer (N,)."""
    given = _answers(model, points, draws)
    return (given == labels.cpu()).double().mean(0), given.mode(0).values


def _judged(model: Model, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """The same, from as many draws as make the mean over the images precise; and how many those were."""
    given = _answers(model, points, DRAWS)
    while len(given) < MOST:
        right = (given == labels.cpu()).double()
        if float(right.mean(1).std()) <= PRECISE * len(given) ** 0.5:
            break
        given = torch.cat([given, _answers(model, points, DRAWS)])
    return (given == labels.cpu()).double().mean(0), given.mode(0).values, len(given)


def _answers(model: Model, points: Tensor, draws: int) -> Tensor:
    """Classes (draws, N), on the CPU."""
    size = plan(model, points).batch_size
    with torch.no_grad():
        parts = [
            torch.stack([logits_of(model, part).argmax(1) for _ in range(draws)]) for part in torch.split(points, size)
        ]
    return torch.cat(parts, 1).cpu()
