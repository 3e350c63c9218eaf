"""What changed in the model: accuracies with intervals, the loss along the attack, other norms, input gradients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparring.attacks import PGD
from sparring.estimate import Estimate
from sparring.evaluation import evaluate
from sparring.goal import Untargeted
from sparring.hardening.data import Images
from sparring.hardening.watch import in_pieces_of
from sparring.model import frozen_eval
from sparring.threat import ThreatModel

LOOKED_AT = 200
"""Images for everything but the audit."""


@dataclass(frozen=True)
class Bend:
    """The cross-entropy on the way to a PGD-10 adversarial x + d, averaged over images.

    rise: L(x+d) - L(x). predicted: the gradient's forecast of it, g·d. bend: L(x) - 2·L(x+d/2) + L(x+d), 0 where the
    loss is a straight line: the curvature along the attack, over the whole budget.
    """

    rise: float
    predicted: float
    bend: float


@dataclass(frozen=True)
class OtherNorm:
    """A budget that the model was not trained for: loss and accuracy under PGD-20, before and after.

    The loss is that after all 20 steps, of images that withstand as of those that do not.
    """

    norm: str
    eps: float
    loss_before: float
    loss_after: float
    accuracy_before: Estimate
    accuracy_after: Estimate


@dataclass(frozen=True)
class Audit:
    """An evaluation in short: what was run, and what it left."""

    effort: str
    clean: Estimate
    robust: Estimate
    attacks: tuple[str, ...]
    missed_bound: float | None


def audited(
    model: nn.Module, images: Images, labels: Tensor, threat: ThreatModel, effort: str, seed: int, out: Path | None
) -> Audit:
    """The model under the attacks of `effort`; `out` keeps records, from which an interrupted one goes on."""
    found = evaluate(model, images, labels, threat, effort=effort, seed=seed, keep=False, out=out)
    attacks = tuple(stage.attack for stage in found.stages)
    return Audit(effort, found.clean_accuracy, found.robust_accuracy, attacks, found.missed_bound)


def bent(model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Bend:
    """How the loss runs along the attack."""
    seen = in_pieces_of(model, lambda x, y: _bent(model, x, y, threat), images, labels)
    return Bend(*seen.mean(0).tolist())


def _bent(model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
    """Rise, forecast and bend of every image, (N, 3)."""
    forced = PGD(steps=10, early_stop=False)(model, images, Untargeted(labels), threat)
    change = forced - images
    with frozen_eval(model):
        at = images.clone().requires_grad_()
        with torch.enable_grad():
            first = cross_entropy(model(at), labels, reduction="none")
            (grad,) = torch.autograd.grad(first.sum(), at)
        with torch.no_grad():
            middle = cross_entropy(model(images + change / 2), labels, reduction="none")
            last = cross_entropy(model(forced), labels, reduction="none")
    first = first.detach()
    predicted = (grad * change).flatten(1).sum(1)
    return torch.stack([last - first, predicted, first - 2 * middle + last], 1)


def other_budgets(threat: ThreatModel, size: int) -> list[ThreatModel]:
    """Budgets of about the same severity in the other norms, for images of `size` numbers.

    A rule of thumb, no law: l2 = linf·√size/2 and l1 = linf·size/8, close to the usual choices on 28 x 28 pictures
    (linf 0.1, l2 1.4, l1 10).
    """
    factors = {"linf": 1.0, "l2": size**0.5 / 2, "l1": size / 8}
    if threat.norm not in factors:
        return []
    base = threat.eps / factors[threat.norm]
    return [
        ThreatModel(norm, float(f"{base * factor:.3g}"), threat.bounds, threat.mask)
        for norm, factor in factors.items()
        if norm != threat.norm
    ]


def in_other_norms(
    before: nn.Module, after: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int
) -> list[OtherNorm]:
    """Both models under PGD-20 in the norms that were not trained for: a quick look, an upper bound of accuracy."""
    rows = []
    for other in other_budgets(threat, images[0].numel()):
        seen = [_under_pgd(model, images, labels, other, seed) for model in (before, after)]
        rows.append(OtherNorm(other.norm, other.eps, seen[0][0], seen[1][0], seen[0][1], seen[1][1]))
    return rows


def _under_pgd(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int
) -> tuple[float, Estimate]:
    found = evaluate(model, images, labels, threat, attacks=[PGD(steps=20)], seed=seed)
    climbed = PGD(steps=20, early_stop=False)(model, images, Untargeted(labels), threat)
    with frozen_eval(model), torch.no_grad():
        logits = in_pieces_of(model, model, climbed)
    return float(cross_entropy(logits, labels)), found.robust_accuracy


def loss_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the cross-entropy at every image."""
    with frozen_eval(model), torch.enable_grad():
        at = images.clone().requires_grad_()
        (grad,) = torch.autograd.grad(cross_entropy(model(at), labels, reduction="sum"), at)
    return grad
