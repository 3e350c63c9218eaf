"""Sparring's contestants, called as a user calls them: no batch size, layout or thread count of our choosing."""

from __future__ import annotations

from torch import Tensor, nn

import peers
from racing import Contestant, predict

try:
    import sparring as sp

    _ = sp.evaluate, sp.attacks.FGSM, sp.attacks.PGD
    MISSING = None
except (ImportError, AttributeError) as error:  # still being built: the peers race alone
    MISSING = f"{type(error).__name__}: {error}"


def version() -> str:
    return MISSING or sp.__version__


def fgsm(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return sp.attacks.FGSM()(model, images, sp.Untargeted(labels), sp.ThreatModel("linf", eps=peers.EPS))


def fgsm_contestants(model: nn.Module, images: Tensor, labels: Tensor) -> list[Contestant]:
    """The attack, the attack with the forward pass that verifies it, the whole evaluation."""

    def attack(batch: int, seed: int) -> Tensor:
        return fgsm(model, images, labels)

    def verified(batch: int, seed: int) -> Tensor:
        candidates = attack(batch, seed)
        predict(model, candidates, 64)  # the yardstick's last forward has its best batch too
        return candidates

    return [
        Contestant("sparring attack", attack),
        Contestant("sparring attack + verifying fwd", verified, judged=True),
        evaluation("sparring evaluate(FGSM)", sp.attacks.FGSM(), model, images, labels),
    ]


def pgd_contestants(model: nn.Module, images: Tensor, labels: Tensor) -> list[Contestant]:
    attack = sp.attacks.PGD(steps=peers.STEPS, step_size=peers.STEP_SIZE)
    return [evaluation("sparring evaluate(PGD-40)", attack, model, images, labels)]


def evaluation(name: str, attack: object, model: nn.Module, images: Tensor, labels: Tensor) -> Contestant:
    """Remembers the robust accuracy that it was told, to be held against the one found by checking."""
    reported: dict[int, float] = {}

    def run(batch: int, seed: int) -> Tensor:
        threat = sp.ThreatModel("linf", eps=peers.EPS)
        result = sp.evaluate(model, images, labels, threat, attacks=[attack], seed=seed)
        reported[seed] = 100 * result.robust_accuracy.value
        return result.adversarials.stack(images)

    return Contestant(name, run, judged=True, reported=reported)
