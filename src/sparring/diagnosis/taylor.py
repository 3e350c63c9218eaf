"""The loss along FGSM's direction beside its first-order line, and how much it bends (Goodfellow et al. 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.attacks import FGSM, PGD
from sparring.diagnosis.result import FirstOrder, Line
from sparring.diagnosis.work import answers, by_parts
from sparring.errors import ModelError, UnsupportedError
from sparring.goal import Untargeted
from sparring.losses import resolve
from sparring.model import Model, frozen_eval, logits_of
from sparring.norms import per_image
from sparring.threat import ThreatModel

STEPS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Multiples of eps at which the lines are drawn."""
DUAL = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}
POWER_ITERATIONS, FEW_ITERATIONS = 30, 8
"""For images, and for those of more than `LARGE` numbers."""
LARGE = 50_000
POINT = 0.01


def losses_of(model: Model, points: Tensor, labels: Tensor, loss: str) -> Tensor:
    """The loss (N,) of every image."""
    return losses_from(logits_of(model, points), labels, loss)


def losses_from(logits: Tensor, labels: Tensor, loss: str) -> Tensor:
    """The loss (N,) of logits (N, K)."""
    return resolve(loss, logits.shape[1], targeted=False)[0](logits, Untargeted(labels))


def gradient(model: Model, images: Tensor, labels: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """Loss (N,) and its input gradient (N, C, H, W)."""
    return _joined(by_parts(lambda x, y: _gradient(model, x, y, loss), images, labels))


def _gradient(model: Model, images: Tensor, labels: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        values = losses_of(model, x, labels, loss)
        (grad,) = torch.autograd.grad(values.sum(), x, allow_unused=True) if values.requires_grad else (None,)
    if grad is None:
        raise UnsupportedError(
            "the model's answers lead back to its input by no gradient: an audit looks for a way around, and "
            "sp.bpda(model, ...) goes around a part that you name"
        )
    return values.detach(), grad


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([first for first, _ in parts]), torch.cat([second for _, second in parts])


def hessian_times(model: Model, images: Tensor, labels: Tensor, loss: str, direction: Tensor) -> Tensor:
    """Hessian of the loss times `direction`, image by image, exact where the model can be differentiated twice."""
    return torch.cat(by_parts(lambda *part: _hessian_times(model, loss, *part), images, labels, direction))


def _hessian_times(model: Model, loss: str, images: Tensor, labels: Tensor, direction: Tensor) -> Tensor:
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        (grad,) = torch.autograd.grad(losses_of(model, x, labels, loss).sum(), x, create_graph=True)
        if not grad.requires_grad:
            return torch.zeros_like(images)
        (product,) = torch.autograd.grad((grad * direction).sum(), x, allow_unused=True)
    return torch.zeros_like(images) if product is None else product.detach()


def curvature_along(model: Model, images: Tensor, labels: Tensor, loss: str, direction: Tensor) -> Tensor:
    """The loss's second derivative along `direction`, d'Hd / d'd (N,); 0 where the direction is zero."""
    product = hessian_times(model, images, labels, loss, direction)
    size = direction.flatten(1).square().sum(1)
    return (product * direction).flatten(1).sum(1) / torch.where(size > 0, size, torch.ones_like(size))


def top_curvature(
    model: Model, images: Tensor, labels: Tensor, loss: str, iterations: int = POWER_ITERATIONS
) -> Tensor:
    """The eigenvalue of the loss's Hessian with the largest size (N,), estimated by power iteration: from below in
    size, and blind to what happens beyond the next kink of a ReLU. Where one of either sign is as large, the size is
    still right.
    """
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(images.shape[1:], generator=generator, dtype=torch.float64).to(images).expand_as(images)
    value = torch.zeros(len(images), dtype=images.dtype, device=images.device)
    for _ in range(iterations):
        vector = vector / per_image(vector.flatten(1).norm(dim=1).clamp_min(1e-30), images)
        product = hessian_times(model, images, labels, loss, vector)
        along = (product * vector).flatten(1).sum(1)
        value = torch.copysign(product.flatten(1).norm(dim=1), along)
        vector = product
    return value


def first_order(
    model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, loss: str = "cross_entropy", top: int = 8
) -> FirstOrder:
    """The picture for every image (N, C, H, W); `top`: images whose largest curvature is estimated. linf, l2 and l1."""
    with frozen_eval(model):
        start, grad = gradient(model, images, labels, loss)
        open_ = grad if threat.mask is None else grad * threat.mask.to(grad)
        dual = open_.flatten(1).norm(p=DUAL[threat.norm], dim=1)
        budgets = [threat.eps * step for step in STEPS]
        true, clipped = [], []
        for eps in budgets:
            step = threat.with_eps(eps).steepest_step(images, grad)
            true.append(losses_from(answers(model, images + step), labels, loss))
            clipped.append(start + (grad * step).flatten(1).sum(1))
        whole = threat.steepest_step(images, grad)
        bends = curvature_along(model, images, labels, loss, whole)
        iterations = POWER_ITERATIONS if images[0].numel() < LARGE else FEW_ITERATIONS
        tops = top_curvature(model, images[:top], labels[:top], loss, iterations).tolist() if top else []
        unanswered = int((~torch.stack(true, 1).isfinite()).any(1).sum())
        if unanswered:
            raise ModelError(
                f"the loss is not finite along the gradient of {unanswered} of {len(images)} images, within "
                f"{threat.norm} {budgets[-1]:g} of them: the model answers NaN or infinity there"
            )
        at = STEPS.index(1.0)
        columns = [torch.stack(part, 1).tolist() for part in (true, clipped)]
        lines = tuple(
            Line(
                index=i,
                eps=tuple(budgets),
                true=tuple(columns[0][i]),
                clipped=tuple(columns[1][i]),
                unclipped=tuple(float(start[i]) + eps * float(dual[i]) for eps in budgets),
                gap=columns[0][i][at] - columns[1][i][at],
                curvature=float(bends[i]),
                top=tops[i] if i < len(tops) else None,
            )
            for i in range(len(images))
        )
        one, ten = _successes(model, images, labels, threat, budgets)
    ahead = (eps for eps, a, b in zip(budgets, one, ten, strict=True) if b >= a + POINT)
    return FirstOrder(
        loss=loss,
        lines=lines,
        lowered=tuple((true[at] < start).nonzero().flatten().tolist()),
        eps=tuple(budgets),
        one_step=one,
        ten_steps=ten,
        stops_paying=next(ahead, None),
    )


def _successes(
    model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, budgets: list[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Share of the images right at first that one step breaks, and ten of the same loss."""
    goal, found = Untargeted(labels), []
    right = answers(model, images).argmax(1) == labels
    for attack in (FGSM(), PGD(steps=10, random_start=False)):
        shares = []
        for eps in budgets:
            moved = attack(model, images, goal, threat.with_eps(eps))
            wrong = answers(model, moved).argmax(1) != labels
            shares.append(float((wrong & right).sum() / right.sum().clamp_min(1)))
        found.append(tuple(shares))
    return found[0], found[1]
